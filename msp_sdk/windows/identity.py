"""Which machine answered, and whether it is the one that was meant. No I/O."""

from __future__ import annotations

import ipaddress

from attrs import frozen

from msp_sdk.errors import WrongHostError
from msp_sdk.models.target import Target

# A NetBIOS name has at most 15 characters; Windows cuts longer host names.
NETBIOS_LENGTH = 15


@frozen
class HostIdentity:
    """What a host says of itself.

    Attributes:
        domain: NetBIOS name of its domain, or its workgroup; None when the host could not tell.
        dns_domain: None in a workgroup.
        sid: Of its computer account; in a workgroup, of the machine; None when the host could not tell.
    """

    computer_name: str
    domain: str | None = None
    dns_domain: str | None = None
    sid: str | None = None
    os_version: str = ""
    powershell_version: str = ""
    language_mode: str = ""
    is_administrator: bool = False


def is_address(name: str) -> bool:
    """True for an IP address in text."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_identity(target: Target, identity: HostIdentity) -> None:
    """Compare the machine that answered with the one that was meant (lesson 54).

    The SID decides where both sides know it: it outlives a rename. Else the name, and the domain where the target's
    is known; a host without a domain is not the one that a directory holds.

    Raises:
        WrongHostError: It is another machine.
    """
    if target.sid and identity.sid:
        if target.sid.casefold() != identity.sid.casefold():
            raise _wrong(target, identity, "its computer account is another one")
        return
    names = {name for name in (target.fqdn, target.hostname) if name and not is_address(name)}
    wanted = {name.split(".")[0].casefold()[:NETBIOS_LENGTH] for name in names}
    if wanted and identity.computer_name.casefold()[:NETBIOS_LENGTH] not in wanted:
        raise _wrong(target, identity, "its name is another one")
    if not target.domain_name:
        return
    if identity.dns_domain is None:
        if target.object_guid:
            raise _wrong(target, identity, f"it belongs to no domain, and {target.domain_name} was meant")
        # Nobody but its name says that it belongs to one.
        return
    if target.domain_name.rstrip(".").casefold() != identity.dns_domain.rstrip(".").casefold():
        raise _wrong(target, identity, f"it belongs to the domain {identity.dns_domain}")


def _wrong(target: Target, identity: HostIdentity, why: str) -> WrongHostError:
    return WrongHostError(
        f"{identity.computer_name} answered in the place of {target.fqdn or target.hostname}: {why}.",
        context={"hostname": target.hostname, "answered": identity.computer_name},
    )
