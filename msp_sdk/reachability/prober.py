"""Probe computers or targets: each comes back with its doors, whether it is reachable, and if not, why.

Example:
    >>> async def show(computers):
    ...     async for computer in ReachabilityProber().probe(computers):
    ...         print(computer.hostname, computer.doors, computer.unreachable_reason)
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import evolve

from msp_sdk.errors import MspError
from msp_sdk.models.computer import Computer
from msp_sdk.models.target import Target
from msp_sdk.network.probe import Door, DoorProber, Pace, ProbeOptions
from msp_sdk.reachability.diagnosis import Diagnosis, diagnose

Host = TypeVar("Host", Computer, Target)
Resolve = Callable[[str], Awaitable[Sequence[str]]]
# The port of WinRM over HTTPS; the only one that counts where a person demands HTTPS.
_HTTPS_PORT = 5986
_FOUND = ("doors", "reachable", "unreachable_reason")


class ReachabilityProber:
    """Finds out which hosts can be reached, politely.

    Args:
        options: Ports, pace and patience.
        resolve: Gives the addresses of a name, for hosts that come without; None means that they have none.
        pace: Shared with others; None means a pace of its own, as the options say.
    """

    def __init__(
        self, options: ProbeOptions | None = None, *, resolve: Resolve | None = None, pace: Pace | None = None
    ) -> None:
        self._options = options or ProbeOptions()
        self._pace = pace
        self._resolve = resolve

    async def probe(self, hosts: Iterable[Host]) -> AsyncIterator[Host]:
        """Probe each host; yields each once, as soon as it is known.

        A computer that is no target (disabled, stale, vendor-managed) is not touched: it comes back as it was.

        Args:
            hosts: Computers or targets; may be empty.
        """
        prober = DoorProber(self._options, pace=self._pace)
        pending = iter(hosts)
        done: asyncio.Queue[Host | BaseException | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for host in pending:
                    await done.put(await self._probe_one(prober, host))
            except Exception as error:  # noqa: BLE001 (handed to whoever iterates)
                await done.put(error)
            finally:
                await done.put(None)

        workers = [asyncio.create_task(work()) for _ in range(max(1, self._options.concurrency // 2))]
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

    async def _probe_one(self, prober: DoorProber, host: Host) -> Host:
        if _is_left_alone(host):
            return host
        try:
            addresses = await self._addresses(host)
        except MspError:
            # The resolver gave no answer: that says nothing of the host.
            return _with(host, Diagnosis((), reachable=None, reason="internal"), host.ip_addresses)
        return _with(host, await self._diagnose(prober, addresses, self._ports(host)), addresses)

    async def _diagnose(self, prober: DoorProber, addresses: Sequence[str], ports: Sequence[int]) -> Diagnosis:
        """Ask address after address until one has an open door; all ports of an address at once."""
        doors: list[Door] = []
        for address in addresses:
            doors += await asyncio.gather(*(prober.knock(address, port) for port in ports))
            if any(door.state == "open" for door in doors):
                break
        return diagnose(doors)

    async def _addresses(self, host: Computer | Target) -> tuple[str, ...]:
        if host.ip_addresses:
            return host.ip_addresses
        if _is_address(host.hostname):
            return (host.hostname,)
        if self._resolve is None:
            return ()
        return tuple(await self._resolve(host.fqdn or host.hostname))

    def _ports(self, host: Computer | Target) -> tuple[int, ...]:
        if isinstance(host, Target):
            if host.port is not None:
                return (host.port,)
            if host.use_ssl:
                return tuple(port for port in self._options.ports if port == _HTTPS_PORT) or self._options.ports
        return self._options.ports


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
