"""Addresses that nothing of ours may touch, as a person lists them: networks and single addresses. No I/O.

Example:
    >>> excluded = ExcludedNetworks.parse(["10.0.9.0/24", "10.0.0.7"])
    >>> excluded.covers("10.0.9.200"), excluded.covers("10.0.0.8")
    (True, False)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Self

from attrs import frozen

from msp_sdk.errors import ConfigError


@frozen
class ExcludedNetworks:
    """Networks, in the order in which they were listed; none excludes nothing."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Read networks (``10.0.9.0/24``) and addresses; a network may be written by any address in it.

        Raises:
            ConfigError: An entry is neither (``bad-config``): nothing is probed on half a list.
        """
        networks = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip(), strict=False))
            except ValueError as error:
                raise ConfigError(
                    f"{entry.strip()!r} is neither a network nor an address.",
                    code="bad-config",
                    remedy="Write networks as 10.0.9.0/24 and addresses as 10.0.9.7.",
                ) from error
        return cls(tuple(networks))

    def covers(self, address: str) -> bool:
        """True for an address of one of the networks, however it is written; False for what is no address."""
        if not self.networks:
            return False
        try:
            asked = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(asked, ipaddress.IPv6Address) and asked.ipv4_mapped is not None:
            asked = asked.ipv4_mapped
        return any(asked.version == network.version and asked in network for network in self.networks)
