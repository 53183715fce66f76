"""A polite look at the appliance's own subnets for Windows hosts; only when a person asks for it.

Own subnets only, never one that is wider than a /22, never our own address, the gateways' or the broadcast's; at the
pace of the prober (200 connects a second).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.panel import hear
from msp_sdk.models.domain import Evidence, SweptHost
from msp_sdk.network.probe import DoorProber
from msp_sdk.network.resolver import Resolver

# RPC, file sharing, WinRM.
WINDOWS_DOORS = (135, 445, 5985, 5986)
WIDEST_PREFIX = 22
_NARROWEST_PREFIX = 30
_ROUTE_FIELDS = 8
_UP, _GATEWAY = 0x1, 0x2
# Networks of containers, virtual machines and tunnels are not the customer's.
_NOT_OURS = ("docker", "br-", "virbr", "veth", "tun", "wg", "lo", "cni", "podman")


@frozen
class OwnNetworks:
    """Where the appliance stands: its subnets, its own addresses, its gateways."""

    subnets: tuple[ipaddress.IPv4Network, ...] = ()
    addresses: frozenset[ipaddress.IPv4Address] = frozenset()
    gateways: frozenset[ipaddress.IPv4Address] = frozenset()


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


def read_own_networks(root: Path = Path("/")) -> OwnNetworks:
    """The networks of this machine; none where the kernel does not say."""
    try:
        networks = parse_routes((root / "proc/net/route").read_text(encoding="ascii", errors="replace"))
        local = parse_local_addresses((root / "proc/net/fib_trie").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return OwnNetworks()
    return OwnNetworks(networks.subnets, local, networks.gateways)


def plan_sweep(networks: OwnNetworks) -> tuple[tuple[str, ...], tuple[Evidence, ...]]:
    """Which addresses are looked at, in order, and which subnets are passed over, and why."""
    addresses: dict[str, None] = {}
    passed: list[Evidence] = []
    for subnet in networks.subnets:
        if subnet.prefixlen < WIDEST_PREFIX:
            passed.append(Evidence(kinds.SWEEP_SKIPPED, str(subnet), f"it is wider than a /{WIDEST_PREFIX}"))
        elif subnet.is_global:
            passed.append(Evidence(kinds.SWEEP_SKIPPED, str(subnet), "it belongs to the internet"))
        else:
            never = networks.addresses | networks.gateways
            addresses.update((str(host), None) for host in subnet.hosts() if host not in never)
    return tuple(addresses), tuple(passed)


async def sweep_subnets(
    prober: DoorProber, resolvers: Sequence[Resolver] = (), *, root: Path = Path("/")
) -> tuple[tuple[SweptHost, ...], tuple[Evidence, ...]]:
    """Look for Windows hosts in the appliance's own subnets.

    Args:
        prober: Its options hold pace and patience.
        resolvers: Asked for the names of what is found; may be empty.
        root: Where the file system begins.

    Returns:
        Hosts with at least one of Windows' doors open, by address, and what was looked at and what was not.
    """
    networks = await asyncio.to_thread(read_own_networks, root)
    addresses, passed = plan_sweep(networks)
    hosts = await sweep_addresses(prober, addresses)
    named = await asyncio.gather(*(_name(host, resolvers) for host in hosts))
    looked = Evidence(kinds.SWEEP, "own subnets", f"{len(addresses)} addresses, {len(hosts)} with Windows' doors")
    return tuple(named), (looked, *passed)


async def sweep_addresses(prober: DoorProber, addresses: Iterable[str]) -> tuple[SweptHost, ...]:
    """Knock at Windows' doors of the given addresses; those with one open, in the given order."""

    async def one(address: str) -> SweptHost | None:
        knocks = await asyncio.gather(*(prober.knock(address, port) for port in WINDOWS_DOORS))
        doors = tuple(door.port for door in knocks if door.state == "open")
        return SweptHost(address, doors) if doors else None

    found = await asyncio.gather(*(one(address) for address in addresses))
    return tuple(host for host in found if host is not None)


async def _name(host: SweptHost, resolvers: Sequence[Resolver]) -> SweptHost:
    heard = await hear(resolvers, lambda resolver: resolver.reverse_names(host.address))
    names = heard.first
    return SweptHost(host.address, host.doors, names[0]) if names else host


def _address(text: str) -> ipaddress.IPv4Address:
    """An address as the kernel prints it: the bytes of memory of a little-endian machine, as hex."""
    return ipaddress.IPv4Address(bytes.fromhex(text)[::-1])
