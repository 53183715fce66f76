"""Probe computers or targets: each comes back with its doors, whether it is reachable, and if not, why.

Where no door of WinRM answers, other signs of life are looked for: the network card (on our own subnet), RPC, ping.

Example:
    >>> async def show(computers):
    ...     async for computer, found in ReachabilityProber().look(computers):
    ...         print(computer.hostname, computer.doors, computer.unreachable_reason, found.evidence)
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from attrs import evolve

from msp_sdk.errors import MspError
from msp_sdk.models.computer import Computer
from msp_sdk.models.reason import reason_of
from msp_sdk.models.target import Target
from msp_sdk.network.own_networks import read_own_networks
from msp_sdk.network.probe import Door, DoorProber, DoorState, Pace, ProbeOptions
from msp_sdk.reachability.cache import LIFE_KEYS, ReachabilityCache, describe_network
from msp_sdk.reachability.diagnosis import Diagnosis, Sign, diagnose
from msp_sdk.reachability.life import LifeLooker

Host = TypeVar("Host", Computer, Target)
Resolve = Callable[[str], Awaitable[Sequence[str]]]
# The port of WinRM over HTTPS; the only one that counts where a person demands HTTPS.
_HTTPS_PORT = 5986
_FOUND = ("doors", "reachable", "unreachable_reason")
_HOSTS_AT_ONCE = 2048
_NAMES_AT_ONCE = 64
# A machine with dozens of addresses is asked for signs of life at the first few.
_LIFE_AT = 4


class ReachabilityProber:
    """Finds out which hosts can be reached, politely.

    Args:
        options: Ports, pace, patience, and what is excluded.
        resolve: Gives the addresses of a name, for hosts that come without; None means that they have none.
        pace: Shared with others; None means a pace of its own, as the options say.
        cache: What was seen of hosts before, used and added to; None: everything is looked at anew.
        is_fresh: Look anew all the same; what is seen replaces what the cache holds.
    """

    def __init__(
        self,
        options: ProbeOptions | None = None,
        *,
        resolve: Resolve | None = None,
        pace: Pace | None = None,
        cache: ReachabilityCache | None = None,
        is_fresh: bool = False,
    ) -> None:
        self._options = options or ProbeOptions()
        self._pace = pace
        self._resolve = resolve
        self._cache = cache
        self._is_fresh = is_fresh
        # Each question to DNS holds a socket, which the knocking may need.
        self._asking = asyncio.Semaphore(_names_at_once(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))

    async def probe(self, hosts: Iterable[Host]) -> AsyncGenerator[Host, None]:
        """Probe each host; yields each once, as soon as it is known.

        A computer that is no target (disabled, stale, vendor-managed) is not touched: it comes back as it was.

        Args:
            hosts: Computers or targets; may be empty.
        """
        async with aclosing(self.look(hosts)) as looked:
            async for host, _ in looked:
                yield host

    async def look(self, hosts: Iterable[Host]) -> AsyncGenerator[tuple[Host, Diagnosis | None], None]:
        """Probe each host, and say how each verdict came about; yields each once, as soon as it is known.

        Args:
            hosts: Computers or targets; may be empty.

        Yields:
            The host as :meth:`probe` gives it, and its diagnosis; None for one that was left alone.
        """
        wanted = list(hosts)
        pending = iter(wanted)
        done: asyncio.Queue[tuple[Host, Diagnosis | None] | BaseException | None] = asyncio.Queue()
        if self._cache is not None:
            self._cache.notice_network(describe_network(await asyncio.to_thread(read_own_networks)))
        prober = DoorProber(self._options, pace=self._pace)
        async with LifeLooker(prober) as looker:

            async def work() -> None:
                try:
                    for host in pending:
                        await done.put(await self._look_at(prober, looker, host))
                except Exception as error:  # noqa: BLE001 (handed to whoever iterates)
                    await done.put(error)
                finally:
                    await done.put(None)

            workers = [asyncio.create_task(work()) for _ in range(min(len(wanted), _HOSTS_AT_ONCE))]
            try:
                running = len(workers)
                while running:
                    result = await done.get()
                    if result is None:
                        running -= 1
                    elif isinstance(result, BaseException):
                        raise result
                    else:
                        yield result
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _look_at(self, prober: DoorProber, looker: LifeLooker, host: Host) -> tuple[Host, Diagnosis | None]:
        if _is_left_alone(host):
            return host, None
        try:
            addresses = await self._addresses(host)
        except MspError as error:
            # The resolver gave no answer: that says nothing of the host.
            unknown = Diagnosis((), reachable=None, reason=reason_of(error).code)
            return _with(host, unknown, host.ip_addresses), unknown
        found = await self._diagnose(prober, looker, addresses, self._ports(host))
        return _with(host, found, addresses), found

    async def _diagnose(
        self, prober: DoorProber, looker: LifeLooker, addresses: Sequence[str], ports: Sequence[int]
    ) -> Diagnosis:
        """Ask address after address until one has an open door; all ports of an address at once."""
        seen: list[Sign] = []
        for address in addresses:
            seen += await self._doors(prober, address, ports)
            if any(sign.said == "open" for sign in seen):
                break
        doors = [_door(sign) for sign in seen]
        life: list[Sign] = []
        if not any(sign.is_alive for sign in seen):
            silent = dict.fromkeys(
                sign.address for sign in seen if sign.said == "silent" and not looker.is_left_out(sign.address)
            )
            for address in tuple(silent)[:_LIFE_AT]:
                life += await self._life(looker, address)
        found = diagnose(doors, life)
        return evolve(found, evidence=(*seen, *life))

    async def _doors(self, prober: DoorProber, address: str, ports: Sequence[int]) -> list[Sign]:
        """What is behind the doors of an address: remembered, or looked at now; in the order of the ports."""
        known: dict[int, Sign] = {}
        if self._cache is not None and not self._is_fresh and not self._options.excluded.covers(address):
            known = {port: sign for port in ports if (sign := self._cache.get("tcp", address, port)) is not None}
        asked = [port for port in ports if port not in known]
        for door in await prober.knock_ports(address, asked) if asked else ():
            known[door.port] = Sign("tcp", address, door.state, door.port, door.detail)
            if self._cache is not None:
                self._cache.put(known[door.port])
        return [known[port] for port in ports]

    async def _life(self, looker: LifeLooker, address: str) -> Sequence[Sign]:
        if self._cache is not None:
            known = [sign for kind, port in LIFE_KEYS if (sign := self._cache.get(kind, address, port)) is not None]
            if known and not self._is_fresh:
                return known
        signs = await looker.look(address)
        if self._cache is not None:
            self._cache.put_life(address, signs)
        return signs

    async def _addresses(self, host: Computer | Target) -> tuple[str, ...]:
        if host.ip_addresses:
            return host.ip_addresses
        if _is_address(host.hostname):
            return (host.hostname,)
        if self._resolve is None:
            return ()
        async with self._asking:
            return tuple(await self._resolve(host.fqdn or host.hostname))

    def _ports(self, host: Computer | Target) -> tuple[int, ...]:
        if isinstance(host, Target):
            if host.port is not None:
                return (host.port,)
            if host.use_ssl:
                return tuple(port for port in self._options.ports if port == _HTTPS_PORT) or self._options.ports
        return self._options.ports


def _names_at_once(soft_limit: int) -> int:
    """How many names are looked up at one time."""
    if soft_limit == resource.RLIM_INFINITY:
        return _NAMES_AT_ONCE
    return max(1, min(_NAMES_AT_ONCE, soft_limit // 8))


def _with(host: Host, found: Diagnosis, addresses: tuple[str, ...]) -> Host:
    changes: dict[str, Any] = {
        "doors": found.doors,
        "reachable": found.reachable,
        "unreachable_reason": found.reason,
        "ip_addresses": addresses,
    }
    provenance = _provenance(host, changes)
    if provenance is not None:
        changes["provenance"] = provenance
    return evolve(host, **changes)


def _provenance(host: Computer | Target, changes: Mapping[str, Any]) -> dict[str, str] | None:
    """Where a target's fields come from after probing; a computer keeps no such list."""
    if isinstance(host, Computer):
        return None
    sources = {name: source for name, source in host.provenance.items() if name not in _FOUND}
    for name, value in changes.items():
        if value not in (None, ()) and (name != "ip_addresses" or not host.ip_addresses):
            sources[name] = "probe"
    return dict(sorted(sources.items()))


def _is_left_alone(host: Computer | Target) -> bool:
    return isinstance(host, Computer) and host.skipped_reason is not None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _door(sign: Sign) -> Door:
    """The door that a sign was made of."""
    states: dict[str, DoorState] = {"open": "open", "refused": "refused", "silent": "silent", "excluded": "excluded"}
    return Door(sign.address, sign.port or 0, states.get(sign.said, "failed"), sign.detail)
