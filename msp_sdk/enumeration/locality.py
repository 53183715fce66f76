"""Where a site lies in the network, and which computers lie elsewhere, by their addresses (lesson 60).

Active Directory maps networks to its own sites by subnet objects, which any account may read: the longest one that
holds an address decides.

Example:
    >>> here = Locality(subnets=("10.1.0.0/16",))
    >>> here.covers(["10.2.0.7"]), here.covers(["10.2.0.7", "10.1.0.7"]), here.covers([])
    (False, True, True)

Source: MS-ADTS 6.1.1.2.2.2.1 (subnet object).
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Sequence

import attrs
from attrs import field, frozen

from msp_sdk.directory.entry import split_dn
from msp_sdk.directory.session import DirectorySession
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import Computer

OUT_OF_SCOPE = "out-of-scope"


@frozen
class AdSubnet:
    """A network of one of Active Directory's own sites."""

    network: str
    ad_site: str


class _Networks:
    """Finds the longest network that holds an address, among many."""

    def __init__(self, named: Iterable[tuple[str, str]]) -> None:
        self._names: defaultdict[tuple[int, int], dict[int, str]] = defaultdict(dict)
        for text, name in named:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                continue  # a stranger wrote it, such as the remains of a conflict
            key = (network.max_prefixlen, network.prefixlen)
            self._names[key][int(network.network_address) >> (key[0] - key[1])] = name
        self._lengths = sorted(self._names, reverse=True)

    def find(self, address: str) -> str | None:
        """The name of the longest network that holds an address, or None."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        number = int(parsed)
        for bits, length in self._lengths:
            if bits == parsed.max_prefixlen and (name := self._names[bits, length].get(number >> (bits - length))):
                return name
        return None


@frozen
class Locality:
    """Where a site lies. What is given of both kinds must hold; empty is everywhere.

    Attributes:
        subnets: Networks such as ``10.0.0.0/24``.
        ad_sites: Active Directory's own sites, any case.
        ad_subnets: Which networks are of which of them. An address in none of them is of no known site, and then its
            site decides nothing.
    """

    subnets: tuple[str, ...] = ()
    ad_sites: tuple[str, ...] = ()
    ad_subnets: tuple[AdSubnet, ...] = ()
    _own: _Networks = field(init=False, repr=False, eq=False)
    _sites: _Networks = field(init=False, repr=False, eq=False)
    _folded: frozenset[str] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_own", _Networks((subnet, subnet) for subnet in self.subnets))
        object.__setattr__(self, "_sites", _Networks((entry.network, entry.ad_site) for entry in self.ad_subnets))
        object.__setattr__(self, "_folded", frozenset(name.casefold() for name in self.ad_sites))

    @property
    def is_everywhere(self) -> bool:
        """True if it leaves nobody out and knows no site."""
        return not self.subnets and not self.ad_subnets

    def covers(self, addresses: Sequence[str]) -> bool:
        """False if all of these addresses lie elsewhere; of no address nobody knows."""
        return not addresses or any(map(self._holds, addresses))

    def ad_site(self, addresses: Iterable[str]) -> str | None:
        """The site of the first address that has one, or None."""
        return next((site for address in addresses if (site := self._sites.find(address))), None)

    def _holds(self, address: str) -> bool:
        if self.subnets and self._own.find(address) is None:
            return False
        site = self._sites.find(address) if self._folded else None
        return site is None or site.casefold() in self._folded


def place(computers: Iterable[Computer], locality: Locality) -> tuple[Computer, ...]:
    """The computers with their AD site; one that lies elsewhere is out of scope, unless another reason came first."""
    if locality.is_everywhere:
        return tuple(computers)
    return tuple(_placed(computer, locality) for computer in computers)


def _placed(computer: Computer, locality: Locality) -> Computer:
    reason = computer.skipped_reason
    if reason is None and not locality.covers(computer.ip_addresses):
        reason = OUT_OF_SCOPE
    return attrs.evolve(
        computer, ad_site=locality.ad_site(computer.ip_addresses) or computer.ad_site, skipped_reason=reason
    )


def read_ad_subnets(
    session: DirectorySession, configuration_dn: str, ad_sites: Sequence[str] = ()
) -> tuple[AdSubnet, ...]:
    """Which networks are of which site, of the whole forest; may be empty, where nobody has said.

    Args:
        session: Logged on.
        configuration_dn: The configuration partition.
        ad_sites: Sites that must be there, any case.

    Raises:
        ConfigError: ``scope-not-found``: the forest has no such site.
        DirectoryError: As :meth:`DirectorySession.pages`.
    """
    base = f"CN=Sites,{configuration_dn}"
    known = {entry.text("cn") or "" for page in session.pages(base, "(objectClass=site)", ("cn",)) for entry in page}
    folded = {name.casefold() for name in known}
    for name in ad_sites:
        if name.casefold() not in folded:
            raise ConfigError(
                f"the directory knows no AD site {name!r}.",
                code="scope-not-found",
                remedy=f"Its sites are: {', '.join(sorted(known))}.",
            )
    pages = session.pages(f"CN=Subnets,{base}", "(objectClass=subnet)", ("cn", "siteObject"))
    return tuple(
        found for page in pages for entry in page if (found := _subnet(entry.text("cn"), entry.text("siteObject")))
    )


def _subnet(network: str | None, site_dn: str | None) -> AdSubnet | None:
    site = split_dn(site_dn or "")
    return AdSubnet(network, site[0][1]) if network and site else None
