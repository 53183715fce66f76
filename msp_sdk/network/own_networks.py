"""Where this machine stands: its subnets, addresses and gateways, read from the kernel. No packet is sent."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from attrs import evolve, frozen

_NARROWEST_PREFIX = 30
_ROUTE_FIELDS = 8
_UP, _GATEWAY = 0x1, 0x2
_INTERFACE_FIELDS = 6
# Networks of containers, virtual machines and tunnels are not the customer's.
_NOT_OURS = ("docker", "br-", "virbr", "veth", "tun", "wg", "lo", "cni", "podman")
# A site's own share of IPv6 (RFC 6177 allows less; an address beyond it is asked for nothing but names).
_SITE_PREFIX_V6 = 48


@frozen
class OwnNetworks:
    """Where the appliance stands.

    Attributes:
        subnets: Of IPv4, on-link; those of point-to-point links are left out.
        addresses: Its own of IPv4.
        gateways: Of IPv4.
        subnets_v6: Of IPv6, on-link, without link-local ones.
    """

    subnets: tuple[ipaddress.IPv4Network, ...] = ()
    addresses: frozenset[ipaddress.IPv4Address] = frozenset()
    gateways: frozenset[ipaddress.IPv4Address] = frozenset()
    subnets_v6: tuple[ipaddress.IPv6Network, ...] = ()

    def is_own(self, address: str) -> bool:
        """True for an address of this machine itself: loopback, or one of its own of IPv4."""
        asked = ipaddress.ip_address(address.partition("%")[0])
        return asked.is_loopback or asked in self.addresses

    def is_near(self, address: str) -> bool:
        """True for an address of this network or another private one: it is not the internet's.

        Sites with public addresses inside exist, and in IPv6 they are the rule: what lies in our own subnet, or in
        our own site's prefix, is near too.
        """
        asked = ipaddress.ip_address(address.partition("%")[0])
        if not asked.is_global:
            return True
        if isinstance(asked, ipaddress.IPv4Address):
            return any(asked in subnet for subnet in self.subnets)
        return any(asked in _site_of(subnet) for subnet in self.subnets_v6)


def _site_of(subnet: ipaddress.IPv6Network) -> ipaddress.IPv6Network:
    return subnet.supernet(new_prefix=min(subnet.prefixlen, _SITE_PREFIX_V6))


def parse_routes(text: str) -> OwnNetworks:
    """Subnets and gateways of ``/proc/net/route``; what cannot be read is left out."""
    subnets: list[ipaddress.IPv4Network] = []
    gateways: set[ipaddress.IPv4Address] = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < _ROUTE_FIELDS or words[0].startswith(_NOT_OURS):
            continue
        try:
            flags = int(words[3], 16)
            destination, gateway, mask = (_address(words[index]) for index in (1, 2, 7))
            subnet = ipaddress.IPv4Network(f"{destination}/{mask}")
        except ValueError:
            continue
        if not flags & _UP:
            continue
        if flags & _GATEWAY:
            gateways.add(gateway)
        elif subnet.prefixlen <= _NARROWEST_PREFIX and subnet not in subnets:
            subnets.append(subnet)
    return OwnNetworks(tuple(subnets), gateways=frozenset(gateways))


def parse_local_addresses(text: str) -> frozenset[ipaddress.IPv4Address]:
    """The machine's own addresses of ``/proc/net/fib_trie``."""
    found: set[ipaddress.IPv4Address] = set()
    last = ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"] and len(words) > 1:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            try:
                found.add(ipaddress.IPv4Address(last))
            except ValueError:
                continue
    return frozenset(found)


def parse_interfaces_v6(text: str) -> tuple[ipaddress.IPv6Network, ...]:
    """The subnets of ``/proc/net/if_inet6``, sorted; neither link-local nor loopback ones."""
    found: set[ipaddress.IPv6Network] = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) != _INTERFACE_FIELDS or words[5].startswith(_NOT_OURS):
            continue
        try:
            address = ipaddress.IPv6Address(bytes.fromhex(words[0]))
            subnet = ipaddress.IPv6Network((address, int(words[2], 16)), strict=False)
        except ValueError:
            continue
        if not (address.is_link_local or address.is_loopback):
            found.add(subnet)
    return tuple(sorted(found))


def read_own_networks(root: Path = Path("/")) -> OwnNetworks:
    """The networks of this machine; none where the kernel does not say."""
    proc = root / "proc/net"
    networks = parse_routes(_read(proc / "route"))
    return evolve(
        networks,
        addresses=parse_local_addresses(_read(proc / "fib_trie")),
        subnets_v6=parse_interfaces_v6(_read(proc / "if_inet6")),
    )


def _read(path: Path) -> str:
    """A file of the kernel's; nothing where it has none (IPv6 may be off)."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _address(text: str) -> ipaddress.IPv4Address:
    """An address as the kernel prints it: the bytes of memory of a little-endian machine, as hex."""
    return ipaddress.IPv4Address(bytes.fromhex(text)[::-1])
