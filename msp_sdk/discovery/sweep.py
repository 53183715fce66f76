"""A polite look at the appliance's own subnets for Windows hosts; only when a person asks for it.

Own subnets only, never one that is wider than a /22, never our own address, the gateways' or the broadcast's; at the
pace of the prober (200 connects a second).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from attrs import evolve, frozen

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.panel import hear
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.computer import Computer
from msp_sdk.models.domain import DIRECTORY_UNREAD, Domain, Evidence, SweptHost
from msp_sdk.network.own_networks import OwnNetworks, read_own_networks
from msp_sdk.network.probe import DoorProber
from msp_sdk.network.resolver import Resolver

# RPC, file sharing, WinRM.
WINDOWS_DOORS = (135, 445, 5985, 5986)
WIDEST_PREFIX = 22


@frozen
class Sweep:
    """What a look at the own subnets found.

    Attributes:
        hosts: With at least one of Windows' doors open, by address.
        evidence: What was looked at, and what was not, and why.
    """

    hosts: tuple[SweptHost, ...] = ()
    evidence: tuple[Evidence, ...] = ()


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


async def sweep_subnets(prober: DoorProber, resolvers: Sequence[Resolver] = (), *, root: Path = Path("/")) -> Sweep:
    """Look for Windows hosts in the appliance's own subnets.

    Args:
        prober: Its options hold pace and patience.
        resolvers: Asked for the names of what is found; may be empty.
        root: Where the file system begins.

    Raises:
        DiscoveryError: Our own side could not knock at a single door. Retryable.
    """
    networks = await asyncio.to_thread(read_own_networks, root)
    addresses, passed = plan_sweep(networks)
    hosts, failed_count = await sweep_addresses(prober, addresses)
    named = await asyncio.gather(*(_name(host, resolvers) for host in hosts))
    said = f"{len(addresses)} addresses, {len(hosts)} with Windows' doors"
    if failed_count:
        said += f"; {failed_count} connects failed on our own side"
    return Sweep(tuple(named), (Evidence(kinds.SWEEP, "own subnets", said), *passed))


async def sweep_addresses(prober: DoorProber, addresses: Iterable[str]) -> tuple[tuple[SweptHost, ...], int]:
    """Knock at Windows' doors of the given addresses.

    Returns:
        Those with a door open, in the given order, and how many connects failed on our own side.

    Raises:
        DiscoveryError: All of them did: nothing is known. Retryable.
    """
    wanted = tuple(dict.fromkeys(addresses))
    opened: dict[str, list[int]] = {}
    failed_count = 0
    async with aclosing(prober.knock_all((address, port) for address in wanted for port in WINDOWS_DOORS)) as doors:
        async for door in doors:
            failed_count += door.state == "failed"
            if door.state == "open":
                opened.setdefault(door.address, []).append(door.port)
    if wanted and failed_count == len(wanted) * len(WINDOWS_DOORS):
        raise DiscoveryError(
            "the own subnets could not be looked at: every connect failed on our own side.",
            code="sweep-failed",
            remedy="Look at the appliance's limits: open files, memory, local ports.",
        )
    hosts = tuple(SweptHost(address, tuple(sorted(opened[address]))) for address in wanted if address in opened)
    return hosts, failed_count


def judge_swept(
    hosts: Iterable[SweptHost], domains: Sequence[Domain], computers: Sequence[Computer] | None = None
) -> tuple[SweptHost, ...]:
    """Which of the hosts no directory holds, as far as that is known.

    Args:
        hosts: What a sweep found.
        domains: What discovery found; their controllers are left out.
        computers: What all these domains hold, each read in full; None while one of them has not been.

    Returns:
        The hosts that no directory is known to hold; the reason says whether that is certain.
    """
    controllers = {address for domain in domains for each in domain.controllers for address in each.addresses}
    held = {address for computer in computers or () for address in computer.ip_addresses}
    names = {name for computer in computers or () for name in _names_of(computer)}
    left = (
        host
        for host in hosts
        if host.address not in controllers | held
        and not (host.name and names & {host.name.casefold(), host.name.casefold().partition(".")[0]})
    )
    if domains and computers is None:
        return tuple(evolve(host, reason=DIRECTORY_UNREAD) for host in left)
    return tuple(left)


def _names_of(computer: Computer) -> set[str]:
    """How reverse DNS may call it: its full name, and its short one under whatever suffix."""
    full = (computer.fqdn or computer.hostname).casefold()
    return {full, full.partition(".")[0], computer.sam_account_name.removesuffix("$").casefold()}


async def _name(host: SweptHost, resolvers: Sequence[Resolver]) -> SweptHost:
    heard = await hear(resolvers, lambda resolver: resolver.reverse_names(host.address))
    names = heard.first
    return SweptHost(host.address, host.doors, names[0]) if names else host
