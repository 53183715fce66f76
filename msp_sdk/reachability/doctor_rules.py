"""By which mechanism a credential may be used on a host, if by any, and why not. No I/O.

The rules themselves are those of the work (:mod:`msp_sdk.windows.doors`); here they are asked before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from msp_sdk.errors import LogonNotAllowedError
from msp_sdk.models.credential import Credential
from msp_sdk.models.finding import Finding, fine, not_looked_at, remark, trouble
from msp_sdk.models.reason import reason
from msp_sdk.models.target import Target
from msp_sdk.windows.doors import Door, HostPolicy, check_logon_place, check_ntlm


@frozen
class Ways:
    """What is left of the ways to a host after looking at its doors.

    Attributes:
        doors: Open ones that answered as WinRM, in the order in which the work takes them.
        distrusted: Those of them whose certificate nobody believes.
        kerberos_bar: The reason why there is no Kerberos here; None when there is.
    """

    doors: tuple[Door, ...] = ()
    distrusted: frozenset[int] = frozenset()
    kerberos_bar: str | None = None

    @property
    def believed(self) -> tuple[Door, ...]:
        """Doors where NTLM may be tried at all: nothing is sent to a certificate that nobody believes."""
        return tuple(door for door in self.doors if door.port not in self.distrusted)


def look_at_rules(  # noqa: PLR0911 (one return a rule)
    target: Target, credential: Credential | None, policy: HostPolicy, ways: Ways
) -> Finding:
    """Which way the work would go, by its own rules."""
    evidence: dict[str, object] = {
        "doors": [door.port for door in ways.doors],
        "distrusted": sorted(ways.distrusted),
        "kerberos_bar": ways.kerberos_bar,
        "allow_ntlm": policy.allow_ntlm,
        "allow_domain_admin_on_hosts": policy.allow_domain_admin_on_hosts,
        "role": target.role,
        "credential_type": None if credential is None else credential.type,
    }
    if not ways.doors:
        return not_looked_at("rules", "no door of WinRM can be used")
    if credential is None:
        return _for_anybody(ways, policy, evidence)
    try:
        check_logon_place(target, credential, policy)
    except LogonNotAllowedError as error:
        return trouble("rules", error.code, error.detail, evidence, remedy=error.remedy)
    bar = ways.kerberos_bar
    if bar is None and ways.believed:
        # Sealed Kerberos beats a certificate that nobody believes; else HTTPS comes first.
        port = ways.believed[0].port
        return fine("rules", f"Kerberos on {port}.", {**evidence, "mechanism": "kerberos", "port": port})
    door = ways.doors[0]
    if door.port in ways.distrusted:
        return trouble("rules", "certificate-untrusted", _distrust(ways, credential), evidence)
    if bar is None:
        return not_looked_at("rules", "no door of WinRM can be used")
    try:
        check_ntlm(target, credential, policy, tls=door.tls, why=bar)
    except LogonNotAllowedError as error:
        return trouble("rules", error.code, error.detail, evidence, remedy=error.remedy)
    how = "NTLM, bound to the TLS channel," if door.tls else "NTLM, every message sealed,"
    told = f" No Kerberos: {reason(bar).title}" if credential.is_domain else ""
    return fine("rules", f"{how} on {door.port}.{told}", {**evidence, "mechanism": "ntlm", "port": door.port})


def _distrust(ways: Ways, credential: Credential) -> str:
    who = credential.username
    bar = ""
    if credential.is_domain and ways.kerberos_bar:
        bar = f" Kerberos, which needs no certificate, cannot be had: {reason(ways.kerberos_bar).title}"
    return f"{who} is not shown to a certificate that nobody believes.{bar}"


def _for_anybody(ways: Ways, policy: HostPolicy, evidence: dict[str, object]) -> Finding:
    """Without a credential: which kinds of accounts could log on."""
    first = ways.doors[0]
    ntlm = first.port not in ways.distrusted
    domain = ways.kerberos_bar is None or (ntlm and (first.tls or policy.allow_ntlm))
    evidence |= {"domain_accounts": domain, "local_accounts": ntlm}
    if domain and ntlm:
        return fine("rules", "Accounts of the domain and of the host itself could log on.", evidence)
    if domain:
        return fine("rules", "Accounts of the domain could log on (Kerberos); the host's own could not.", evidence)
    if ntlm:
        title = "The host's own accounts could log on; those of a domain could not, without Kerberos or HTTPS."
        return remark("rules", "ntlm-not-allowed", title, evidence)
    return trouble("rules", "certificate-untrusted", "Nobody could log on: the certificate is not believed.", evidence)


def doors_left(wanted: Sequence[Door], open_ports: Sequence[int], unusable: frozenset[int]) -> tuple[Door, ...]:
    """The doors that remain: open, and not found to be unusable."""
    return tuple(door for door in wanted if door.port in open_ports and door.port not in unusable)
