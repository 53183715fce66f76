"""Which other domains a directory knows: those of its forest, and those that it trusts or is trusted by.

This only finds them. Each is read from its own controllers: the global catalog leaves out what decides what a
computer is.

Source: MS-ADTS 6.1.1.2.1.1 (crossRef), 6.1.6.7 (trustedDomain).
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from msp_sdk.directory.entry import Entry, dn_to_domain
from msp_sdk.directory.session import DirectorySession

TrustDirection = Literal["inbound", "outbound", "both", "disabled"]

_DOMAINS = "(&(objectClass=crossRef)(systemFlags:1.2.840.113556.1.4.803:=3))"
_DIRECTIONS: tuple[TrustDirection, ...] = ("disabled", "inbound", "outbound", "both")
_MIT_REALM = 3
_WITHIN_FOREST = 0x20


@frozen
class KnownDomain:
    """A domain that a directory names.

    Attributes:
        name: Its DNS name, lower case.
        netbios_name: As the directory has it.
        direction: ``inbound``: it trusts ours; ``outbound``: ours trusts it. None for one that was found by its
            place in the forest.
        in_forest: It belongs to the same forest.
    """

    name: str
    netbios_name: str | None = None
    direction: TrustDirection | None = None
    in_forest: bool = False


def read_forest_domains(session: DirectorySession, configuration_dn: str) -> tuple[KnownDomain, ...]:
    """The domains of the forest, ours among them.

    Raises:
        DirectoryError: As :meth:`DirectorySession.pages`.
    """
    attributes = ("dnsRoot", "nCName", "nETBIOSName")
    pages = session.pages(f"CN=Partitions,{configuration_dn}", _DOMAINS, attributes)
    found = (
        KnownDomain(name.lower(), entry.text("nETBIOSName"), in_forest=True)
        for page in pages
        for entry in page
        if (name := entry.text("dnsRoot") or dn_to_domain(entry.text("nCName")))
    )
    return tuple(found)


def read_trusted_domains(session: DirectorySession, base_dn: str) -> tuple[KnownDomain, ...]:
    """The domains at the other end of a trust; realms that are no Active Directory are left out.

    Raises:
        DirectoryError: As :meth:`DirectorySession.pages`.
    """
    attributes = ("trustPartner", "flatName", "trustDirection", "trustType", "trustAttributes")
    pages = session.pages(f"CN=System,{base_dn}", "(objectClass=trustedDomain)", attributes)
    return tuple(found for page in pages for entry in page if (found := _trusted(entry)))


def _trusted(entry: Entry) -> KnownDomain | None:
    name = entry.text("trustPartner")
    if name is None or "." not in name or entry.number("trustType") == _MIT_REALM:
        return None
    return KnownDomain(
        name.lower(),
        entry.text("flatName"),
        _DIRECTIONS[(entry.number("trustDirection") or 0) & 3],
        in_forest=bool((entry.number("trustAttributes") or 0) & _WITHIN_FOREST),
    )
