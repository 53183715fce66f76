"""The checks: what a host answered, judged. No I/O.

An answer that is incomplete is an ``error``, never a ``pass``.

Example:
    >>> judge_firewall({"profiles": [], "service_state": "running"}, "server").status
    'error'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import field, frozen

from msp_sdk.models.compliance import CheckStatus
from msp_sdk.models.computer import ComputerRole

# Definitions older than this no longer know what goes round; Microsoft brings new ones several times a day.
MAX_SIGNATURE_AGE_DAYS = 7


@frozen
class Finding:
    """What a check found."""

    status: CheckStatus
    evidence: Mapping[str, object] = field(factory=dict)


Judge = Callable[[Mapping[str, object], ComputerRole], Finding]


@frozen
class Check:
    """A check.

    Attributes:
        name: As it is reported.
        script: The registered script whose answer it judges.
        controls: What it bears on; ``CIS`` is the CIS Controls v8, ``NIST`` is SP 800-53.
    """

    name: str
    script: str
    judge: Judge
    controls: tuple[str, ...]


def judge_firewall(value: Mapping[str, object], role: ComputerRole) -> Finding:
    """Every profile of the Windows Firewall is on and its service runs."""
    del role
    profiles: dict[str, bool] = {}
    entries = value.get("profiles")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("enabled"), bool):
            profiles[str(entry.get("name"))] = bool(entry["enabled"])
    evidence: dict[str, object] = {"profiles": profiles, "service_state": value.get("service_state")}
    state = value.get("service_state")
    if isinstance(state, str) and state != "running":
        return Finding("fail", {**evidence, "detail": "the firewall's service does not run."})
    if not profiles:
        return Finding("error", {**evidence, "reason": "script-failed", "detail": "the host named no profile."})
    off = sorted(name for name, enabled in profiles.items() if not enabled)
    if off:
        return Finding("fail", {**evidence, "off": off})
    if state != "running":
        return Finding("fail", {**evidence, "detail": "the firewall's service is not there."})
    return Finding("pass", evidence)


def judge_defender(value: Mapping[str, object], role: ComputerRole) -> Finding:
    """Microsoft Defender protects in real time with fresh definitions, or another product is in its place."""
    del role
    names = ("antivirus_enabled", "real_time_protection", "signature_age_days", "tamper_protection", "other_products")
    evidence = {name: value.get(name) for name in ("present", *names) if value.get(name) is not None}
    present, protects = value.get("present"), value.get("real_time_protection")
    if not isinstance(present, bool) or (present and not isinstance(protects, bool)):
        return Finding("error", {**evidence, "reason": "script-failed", "detail": "the answer is incomplete."})
    if not (present and value.get("antivirus_enabled") is True and protects is True):
        if value.get("other_products"):
            return Finding("not_applicable", {**evidence, "detail": "another antivirus is in its place."})
        unknown = value.get("other_products") is None
        detail = "Defender does not protect this host, and " + (
            "whether another product does, Windows does not tell here." if unknown else "no other product is on."
        )
        return Finding("fail", {**evidence, "detail": detail})
    age = value.get("signature_age_days")
    if not isinstance(age, int) or age > MAX_SIGNATURE_AGE_DAYS:
        return Finding("warning", {**evidence, "detail": "the definitions are old."})
    if value.get("tamper_protection") is not True:
        known = value.get("tamper_protection") is False
        detail = "tamper protection is off." if known else "this version of Defender has no tamper protection."
        return Finding("warning", {**evidence, "detail": detail})
    return Finding("pass", evidence)


CHECKS: tuple[Check, ...] = (
    Check("firewall", "scan-firewall", judge_firewall, ("CIS 4.4", "CIS 4.5", "NIST SC-7")),
    Check(
        "defender",
        "scan-defender",
        judge_defender,
        ("HIPAA 164.308(a)(5)(ii)(B)", "CIS 10.1", "CIS 10.2", "NIST SI-3"),
    ),
)
