"""What an examination of one host found, step by step, and the one reason and remedy that it ends in. No I/O.

Example:
    >>> found = [fine("name", "srv1.corp.example is 10.1.2.3."), trouble("ports", "winrm-closed", "Both refuse.")]
    >>> judge(found).code
    'winrm-closed'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, get_args

from attrs import field, frozen

from msp_sdk.models.reason import reason

Step = Literal[
    "name",
    "dns-servers",
    "reverse-name",
    "network",
    "ports",
    "tls",
    "winrm",
    "clock",
    "rules",
    "account",
    "spn",
    "logon",
    "shell",
    "identity",
    "rights",
    "powershell",
]
STEPS: tuple[Step, ...] = get_args(Step)
"""Every step, in the order in which it is taken: cheap ones first, and a logon only when all before it allows one."""

# A public address explains whatever goes wrong there: it is some machine of the internet, such as a filter's page.
_AT_A_STRANGERS = frozenset({"ports", "tls", "winrm"})


@frozen
class Finding:
    """What one step found.

    Attributes:
        step: Stable.
        code: A reason code; None where there is nothing to say. With ``ok`` true it is a remark that stops nothing.
        ok: None when it was not looked at; the title then says why.
        title: What is the case, one sentence.
        evidence: JSON values by name; empty when it was not looked at.
        remedy: What a person can do; empty when nothing needs doing.
    """

    step: Step
    code: str | None
    ok: bool | None
    title: str
    evidence: Mapping[str, object] = field(factory=dict)
    remedy: str = ""


@frozen
class Verdict:
    """What all findings come to: one reason and one remedy. ``code`` and ``step`` are None when nothing is wrong."""

    ok: bool
    code: str | None
    step: Step | None
    title: str
    remedy: str = ""


@frozen
class Examination:
    """One host, examined.

    Attributes:
        host: As it was asked for.
        findings: One a step, in the order of :data:`STEPS`.
        duration_s: Of the whole.
    """

    host: str
    findings: tuple[Finding, ...]
    verdict: Verdict
    examined_at: datetime
    duration_s: float

    @property
    def ok(self) -> bool:
        """True when nothing stands in the way."""
        return self.verdict.ok


def fine(step: Step, title: str, evidence: Mapping[str, object] | None = None) -> Finding:
    """All is well."""
    return Finding(step, None, ok=True, title=title, evidence=evidence or {})


def remark(
    step: Step, code: str, title: str, evidence: Mapping[str, object] | None = None, *, remedy: str | None = None
) -> Finding:
    """Worth knowing, and nothing that stops the work."""
    return Finding(step, code, True, title, evidence or {}, reason(code).remedy if remedy is None else remedy)


def trouble(
    step: Step,
    code: str,
    title: str | None = None,
    evidence: Mapping[str, object] | None = None,
    *,
    remedy: str | None = None,
) -> Finding:
    """Something stands in the way. Title and remedy are those of the reason where none is given."""
    entry = reason(code)
    return Finding(
        step,
        code,
        ok=False,
        title=entry.title if title is None else title,
        evidence=evidence or {},
        remedy=entry.remedy if remedy is None else remedy,
    )


def not_looked_at(step: Step, why: str) -> Finding:
    """The step was left out."""
    return Finding(step, None, None, f"Not looked at: {why}.")


def judge(findings: Sequence[Finding]) -> Verdict:
    """The one reason behind all that was found.

    The first trouble is the one that stops the work, but for three cases: where a logon came about, all before it did
    not stop it; a certificate that our wrong clock makes look expired is the clock's fault; and what happens at a
    public address happens to a stranger.

    Args:
        findings: In the order of :data:`STEPS`; may be incomplete or empty.
    """
    logged_on = any(found.step == "logon" and found.ok for found in findings)
    since = STEPS.index("logon") if logged_on else 0
    troubles = [found for found in findings if found.ok is False and STEPS.index(found.step) >= since]
    if not troubles:
        done = "The host can be worked with." if logged_on else "Nothing that can be seen without a logon is wrong."
        return Verdict(ok=True, code=None, step=None, title=done)
    chosen = troubles[0]
    by_step = {found.step: found for found in findings}
    network, clock = by_step.get("network"), by_step.get("clock")
    if chosen.step in _AT_A_STRANGERS and network is not None and network.code == "public-address":
        chosen = network
    elif chosen.code == "certificate-expired" and clock is not None and clock.evidence.get("explains_certificate"):
        chosen = clock
    return Verdict(ok=False, code=chosen.code, step=chosen.step, title=chosen.title, remedy=chosen.remedy)
