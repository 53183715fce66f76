"""Which doors are open: TCP connects, many at once, politely.

Nothing is sent over the connections. Silence is told as silence: a firewall that drops everything looks the same as
a machine that is off (lesson 56). The number of connects a second is bounded, since thousands of SYNs trip the
firewalls of small sites (lesson 62). Excluded addresses are not touched at all (lesson 61).

Example:
    >>> import asyncio
    >>> asyncio.run(DoorProber().knock("127.0.0.1", 1)).state
    'refused'
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Iterable, Sequence

from attrs import field, frozen

from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.probe_loop import ConnectLoop, Door, DoorState, Job, Place, Throttle

__all__ = ["WINRM_PORTS", "Door", "DoorProber", "DoorState", "Pace", "Place", "ProbeOptions"]

WINRM_PORTS = (5986, 5985)
_MAX_PORT = 65535


@frozen
class ProbeOptions:
    """How probing behaves.

    Attributes:
        ports: Asked at each host that names no port of its own.
        timeout_s: Silence as long as this is taken for silence; at least 1.5 lets a lost SYN be sent again.
        connects_per_second: For all hosts together; None lifts the limit.
        concurrency: Connects under way at once; None: what RLIMIT_NOFILE allows, less a quarter for everything else.
        excluded: What is never touched: neither by TCP nor by ping, and so by no ARP of our making.
    """

    ports: tuple[int, ...] = WINRM_PORTS
    timeout_s: float = 2.0
    connects_per_second: float | None = 200.0
    concurrency: int | None = None
    excluded: ExcludedNetworks = field(factory=ExcludedNetworks)


class Pace:
    """So many connects a second, and so many at once, for all who share it."""

    def __init__(self, options: ProbeOptions | None = None) -> None:
        options = options or ProbeOptions()
        self._throttle = Throttle(options.connects_per_second)
        self.connects = ConnectLoop(self._throttle, options.concurrency)

    async def turn(self) -> None:
        """Wait until it is one's turn to send something else than a connect, such as a ping."""
        wait_s = self._throttle.take(time.monotonic())
        while wait_s:
            await asyncio.sleep(wait_s)
            wait_s = self._throttle.take(time.monotonic())


class DoorProber:
    """Knocks at doors, at most so many a second.

    Args:
        options: Patience, what is excluded, and the pace where none is given.
        pace: Shared with others: what trips a firewall is the sum of all connects.
    """

    def __init__(self, options: ProbeOptions | None = None, *, pace: Pace | None = None) -> None:
        self.options = options or ProbeOptions()
        self.pace = pace or Pace(self.options)

    async def knock(self, address: str, port: int) -> Door:
        """Connect once, and close.

        Args:
            address: An IP address; names are not resolved here.
            port: 1 to 65535.
        """
        (door,) = await self.knock_ports(address, (port,))
        return door

    async def knock_ports(self, address: str, ports: Sequence[int]) -> tuple[Door, ...]:
        """Knock at several ports of an address at once; a door a port, in their order."""
        found = {door.port: door async for door in self.knock_all((address, port) for port in dict.fromkeys(ports))}
        return tuple(found[port] for port in ports)

    async def knock_all(self, places: Iterable[Place]) -> AsyncGenerator[Door, None]:
        """Knock at many doors; yields each once, as soon as it is known, in no order.

        Whoever leaves the iteration early ends it: close the iterator, and its sockets are closed.

        Args:
            places: Addresses and ports; may be empty. What is no address comes back as ``failed``.
        """
        wanted = []
        address, state = "", self._judge("")
        for place in places:
            if place[0] != address:
                address = place[0]
                state = self._judge(address)
            if state is None and 0 < place[1] <= _MAX_PORT:
                wanted.append(place)
            else:
                yield Door(*place, "excluded") if state == "excluded" else Door(*place, "failed", "EINVAL")
        if not wanted:
            return
        job, left = Job(wanted, self.options.timeout_s), len(wanted)
        self.pace.connects.submit(job)
        try:
            while left:
                await job.wake.wait()
                job.wake.clear()
                while job.arrived:
                    left -= 1
                    yield job.arrived.popleft()
        finally:
            if left:
                await asyncio.shield(self.pace.connects.cancel(job))

    def _judge(self, address: str) -> DoorState | None:
        """How the doors of an address are found without being asked; None when they are asked."""
        if not _is_address(address):
            return "failed"
        return "excluded" if self.options.excluded.covers(address) else None


def _is_address(text: str) -> bool:
    """True for an address in its one spelling: the system would look a name up, and read 10.1 as 10.0.0.1."""
    address, zone = text.partition("%")[::2]
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        if zone and not zone.isdigit():
            socket.if_nametoindex(zone)
    except (OSError, ValueError):
        return False
    return True
