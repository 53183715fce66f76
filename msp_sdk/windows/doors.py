"""Where a host is knocked at, what it may be called, and which credential may be shown there, and how. No I/O."""

from __future__ import annotations

import ipaddress
from typing import Literal

from attrs import frozen

from msp_sdk.errors import LogonNotAllowedError, UnreachableError
from msp_sdk.models.credential import Credential, is_local_name
from msp_sdk.models.reason import reason
from msp_sdk.models.target import Target
from msp_sdk.windows.identity import is_address

HTTPS_PORT = 5986
HTTP_PORT = 5985
_PLAIN_PORTS = frozenset({HTTP_PORT, 80})
# WinRM's own name first: HTTP/ may have been given to a web application's account.
SERVICES = ("host", "HTTP")

Mechanism = Literal["kerberos", "ntlm"]


@frozen
class HostPolicy:
    """What the site allows on hosts.

    Attributes:
        allow_ntlm: NTLM with a domain credential also without TLS (the messages are sealed either way).
        allow_domain_admin_on_hosts: A ``domain_admin`` also on hosts that are no controllers.
        trusted_cas: PEM texts; a host's certificate must lead to one of them, or be listed itself.
    """

    allow_ntlm: bool = False
    allow_domain_admin_on_hosts: bool = False
    trusted_cas: tuple[str, ...] = ()


@frozen
class Door:
    """A port, and whether TLS is spoken there."""

    port: int
    tls: bool


def doors(target: Target) -> tuple[Door, ...]:
    """The doors to try, in order: HTTPS, then HTTP with sealed messages (lesson 36).

    A port that a person set is the only one; ``use_ssl`` leaves HTTPS alone. What a probe found open comes first; a
    probe grows old, so the other one is tried after it.
    """
    if target.port is not None:
        return (Door(target.port, tls=target.use_ssl or target.port not in _PLAIN_PORTS),)
    wanted = (Door(HTTPS_PORT, tls=True), Door(HTTP_PORT, tls=False))
    if target.use_ssl:
        return wanted[:1]
    return tuple(sorted(wanted, key=lambda door: bool(target.doors) and door.port not in target.doors))


def addresses(target: Target) -> tuple[str, ...]:
    """The addresses to connect to, in order. Names are never resolved here (lesson 57).

    Raises:
        UnreachableError: There is none (``no-address``).
    """
    if target.ip_addresses:
        return target.ip_addresses
    if is_address(target.hostname):
        return (target.hostname.strip("[]"),)
    raise UnreachableError(
        f"no address of {name_of(target)} is known.",
        code="no-address",
        retryable=False,
        remedy=reason("no-address").remedy,
    )


def name_of(target: Target) -> str:
    """The name for authentication, certificates and messages."""
    return target.fqdn or target.hostname


def certificate_names(target: Target) -> tuple[str, ...]:
    """The names of which a host's certificate must hold one."""
    names = [name for name in (target.fqdn, target.hostname) if name and not is_address(name)]
    return tuple(dict.fromkeys(name.rstrip(".").casefold() for name in names)) or (_plain(target.hostname),)


def names_match(wanted: tuple[str, ...], found: tuple[str, ...]) -> bool:
    """True when a certificate that holds ``found`` is good for one of ``wanted``; ``*`` stands for one label."""
    for pattern in (_plain(name) for name in found):
        for name in wanted:
            if pattern == name:
                return True
            head, dot, rest = name.partition(".")
            if head and dot and pattern == f"*.{rest}" and "." in rest:
                return True
    return False


def _plain(name: str) -> str:
    """A name folded; an address in its one canonical spelling."""
    if is_address(name):
        return str(ipaddress.ip_address(name.strip("[]").partition("%")[0]))
    return name.rstrip(".").casefold()


def out_of_reach(target: Target) -> str:
    """What a probe found that says that a host is out of reach: which doors, where, and how they behaved."""
    ports = [door.port for door in doors(target)]
    names = " and ".join(str(port) for port in ports)
    where = f" at {', '.join(target.ip_addresses[:3])}" if target.ip_addresses else ""
    one = len(ports) == 1
    if target.unreachable_reason == "no-address":
        return "when it was last probed no address of it was known, so no door was tried."
    if target.unreachable_reason == "address-excluded":
        return f"its address is excluded, so nothing was sent{where}."
    if target.doors:
        found = ", ".join(str(port) for port in target.doors)
        return (
            f"when it was last probed{where}, {found} stood open, but {names} {'is' if one else 'are'} what we may use."
        )
    if target.unreachable_reason == "winrm-closed":
        return f"when it was last probed{where}, {'port' if one else 'ports'} {names} refused the connection."
    return f"when it was last probed{where}, {'port' if one else 'ports'} {names} gave no answer."


def check_logon_place(target: Target, credential: Credential, policy: HostPolicy) -> None:
    """Whether this credential may be shown to this host at all.

    Raises:
        LogonNotAllowedError: ``domain-admin-not-allowed``, or ``not-a-local-account``; nothing was sent.
    """
    if (
        credential.type == "local_admin"
        and credential.host is None
        and (target.role == "domain_controller" or not is_local_name(credential.username))
    ):
        # A refusal by one host says nothing of the next one's local account. Of a domain's account it would: its
        # strikes add up over all hosts, and a controller's "local" accounts are the domain's.
        raise _not_allowed("not-a-local-account", target, credential)
    if (
        credential.type == "domain_admin"
        and target.role != "domain_controller"
        and not policy.allow_domain_admin_on_hosts
    ):
        raise _not_allowed("domain-admin-not-allowed", target, credential)


def logon_name(credential: Credential) -> str:
    r"""The name as it is shown to a host: a local account without its dot could be taken for one of the domain."""
    if credential.type == "local_admin" and "\\" not in credential.username and "@" not in credential.username:
        return f".\\{credential.username}"
    return credential.username


def service_host(target: Target) -> str | None:
    """The name by which a KDC is asked for a host: a full one, or what the directory has; never an address."""
    for name, is_from_directory in ((target.fqdn, target.object_guid is not None), (target.hostname, False)):
        plain = (name or "").rstrip(".").casefold()
        if plain and not is_address(plain) and ("." in plain or is_from_directory):
            return plain
    return None


def kerberos_bar(target: Target, credential: Credential, *, is_kdc_known: bool) -> str | None:
    """Why Kerberos cannot apply to a credential at a host, before anybody is asked; None where it can.

    Returns:
        A reason: ``local-account``, ``no-service-principal`` or ``kdc-unknown``.
    """
    if not credential.is_domain:
        return "local-account"
    if service_host(target) is None:
        return "no-service-principal"
    return None if is_kdc_known else "kdc-unknown"


def passes_by(target: Target, mechanism: Mechanism, door: Door) -> bool:
    """Whether a door with a certificate that nobody believes is passed by: sealed Kerberos without TLS is better.

    That is no way around a certificate for another name, which says that another machine is there.
    """
    return mechanism == "kerberos" and door.tls and any(not other.tls for other in doors(target))


def check_ntlm(target: Target, credential: Credential, policy: HostPolicy, *, tls: bool, why: str) -> None:
    """Whether NTLM with this credential is allowed over this door.

    Args:
        target: Where.
        credential: Whose.
        policy: What the site allows.
        tls: The door speaks TLS, so that the logon is bound to its certificate.
        why: The reason why Kerberos does not apply.

    Raises:
        LogonNotAllowedError: ``ntlm-not-allowed``; nothing was sent.
    """
    if credential.is_domain and not tls and not policy.allow_ntlm:
        error = _not_allowed("ntlm-not-allowed", target, credential)
        raise LogonNotAllowedError(
            f"{error.detail} No Kerberos: {reason(why).title}",
            code=error.code,
            remedy=f"{error.remedy} Or for Kerberos: {reason(why).remedy}",
            context={"hostname": name_of(target), "kerberos": why},
        )


def _not_allowed(code: str, target: Target, credential: Credential) -> LogonNotAllowedError:
    entry = reason(code)
    return LogonNotAllowedError(
        f"{credential.username} was not shown to {name_of(target)}: {entry.title}", code=code, remedy=entry.remedy
    )
