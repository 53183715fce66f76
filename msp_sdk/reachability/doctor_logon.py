"""What a logon, or its refusal, says of a host: who it is, what the account may do there, its PowerShell. No I/O.

A logon that came about proves the way to the host; an error tells at which of the steps it ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from msp_sdk.errors import (
    EncryptionRefusedError,
    LogonError,
    MspError,
    NotAuthorisedHereError,
    ScriptFailedError,
    UnreachableError,
    WrongHostError,
)
from msp_sdk.models.finding import STEPS, Finding, Step, fine, not_looked_at, remark, trouble
from msp_sdk.models.reason import reason_of
from msp_sdk.windows.channel import CERTIFICATE_REASONS
from msp_sdk.windows.identity import HostIdentity
from msp_sdk.windows.ways import Way

_STEPS: tuple[Step, ...] = STEPS[STEPS.index("logon") :]
_OK: Mapping[Step, str] = {
    "logon": "The host let {user} in.",
    "shell": "The host gave it a remote shell.",
    "identity": "It is the machine that was meant.",
    "rights": "{user} is an administrator there.",
}
# Policies that a host's administrators set; ours for the process does not get past them.
_FORCED = ("MachinePolicy", "UserPolicy")
_HARMLESS = frozenset({"", "Undefined", "Unrestricted", "Bypass", "RemoteSigned"})


def left_out(why: str) -> tuple[Finding, ...]:
    """The findings of the logon and all after it, when there was none."""
    return tuple(not_looked_at(step, why) for step in _STEPS)


def of_error(error: MspError, user: str) -> tuple[Finding, ...]:
    """The findings of a logon, and of what followed, that ended in an error."""
    at = _step_of(error)
    entry = reason_of(error)
    title = error.detail if entry.code == error.code else f"{error.detail} ({error.code})"
    title = title[:1].upper() + title[1:]
    evidence: dict[str, object] = {
        name: value for name, value in error.context.items() if isinstance(value, str | int | float | bool | None)
    }
    evidence |= {"user": user, "retryable": error.retryable}
    index = _STEPS.index(at)
    before = [fine(step, _OK[step].format(user=user)) for step in _STEPS[:index]]
    after = [not_looked_at(step, f"it ended at {at}") for step in _STEPS[index + 1 :]]
    return *before, trouble(at, entry.code, title, evidence, remedy=entry.remedy), *after


def _step_of(error: MspError) -> Step:
    """The step at which an error ended the work."""
    if error.code == "needs-local-administrator":
        return "rights"
    if isinstance(error, LogonError | NotAuthorisedHereError | EncryptionRefusedError | UnreachableError):
        return "logon"
    if isinstance(error, WrongHostError):
        return "identity"
    if error.code in ("language-restricted", "unsupported-os") or isinstance(error, ScriptFailedError):
        return "powershell"
    return "logon" if error.code in CERTIFICATE_REASONS or error.code == "bad-trusted-ca" else "shell"


def of_shell(
    identity: HostIdentity, way: Way, user: str, policies: Mapping[str, str] | MspError
) -> tuple[Finding, ...]:
    """The findings of a host that was logged on to and worked with.

    Args:
        identity: As the host tells it.
        way: By which door and mechanism it was logged on to.
        user: Who logged on.
        policies: Execution policies by scope, or why they are not known.
    """
    who = (
        identity.computer_name if identity.dns_domain is None else f"{identity.computer_name} of {identity.dns_domain}"
    )
    known: dict[str, object] = {
        "computer_name": identity.computer_name,
        "domain": identity.domain,
        "dns_domain": identity.dns_domain,
        "sid": identity.sid,
        "os_version": identity.os_version,
    }
    rights = (
        fine("rights", f"{user} is an administrator there.", {"user": user, "is_administrator": True})
        if identity.is_administrator
        else trouble(
            "rights",
            "needs-local-administrator",
            f"{user} was let in, and is no administrator of the host.",
            {"user": user, "is_administrator": False},
        )
    )
    return (
        _logon(way, user),
        fine("shell", "The host gave it a remote shell."),
        fine("identity", f"It is {who}: the machine that was meant.", known),
        rights,
        _powershell(identity, policies),
    )


def _logon(way: Way, user: str) -> Finding:
    evidence: dict[str, object] = {
        "user": user,
        "address": way.address,
        "port": way.door.port,
        "mechanism": way.mechanism,
        "service": way.service or None,
        "kerberos_bar": way.barred or None,
    }
    how = f"Kerberos ({way.service})" if way.service else way.mechanism.upper()
    return fine("logon", f"The host let {user} in, by {how} on {way.door.port}.", evidence)


def _powershell(identity: HostIdentity, policies: Mapping[str, str] | MspError) -> Finding:
    evidence: dict[str, object] = {"version": identity.powershell_version, "language_mode": identity.language_mode}
    title = f"Windows PowerShell {identity.powershell_version}, {identity.language_mode}"
    if isinstance(policies, MspError):
        entry = reason_of(policies)
        said = f"{title}; its execution policies could not be read: {policies.detail}"
        return remark("powershell", entry.code, said, evidence, remedy=entry.remedy)
    evidence["execution_policies"] = dict(policies)
    forced = [scope for scope in _FORCED if policies.get(scope, "") not in _HARMLESS]
    if forced:
        said = f"{title}; Group Policy sets the execution policy to {policies[forced[0]]}."
        return remark("powershell", "execution-policy", said, evidence)
    return fine("powershell", f"{title}.", evidence)
