"""Which doors are open: TCP connects, many at once, politely.

Nothing is sent over the connections. Silence is told as silence: a firewall that drops everything looks the same as
a machine that is off (lesson 56). The number of connects a second is bounded, since thousands of SYNs trip the
firewalls of small sites (lesson 62).

Example:
    >>> import asyncio
    >>> asyncio.run(DoorProber().knock("127.0.0.1", 1)).state
    'refused'
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from attrs import frozen

WINRM_PORTS = (5986, 5985)
DoorState = Literal["open", "refused", "silent", "failed"]

# What our own side lacks: it says nothing of the host.
_OUR_TROUBLE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)


@frozen
class ProbeOptions:
    """How probing behaves.

    Attributes:
        ports: Asked at each host that names no port of its own.
        timeout_s: Silence as long as this is taken for silence; at least 1.5 lets a lost SYN be sent again.
        connects_per_second: For all hosts together; None lifts the limit.
        concurrency: Connects under way at once; never more than half of the file descriptors we may have.
    """

    ports: tuple[int, ...] = WINRM_PORTS
    timeout_s: float = 2.0
    connects_per_second: float | None = 200.0
    concurrency: int = 500


@frozen
class Door:
    """What one connect found. ``failed`` is our own side's trouble, and says nothing of the host."""

    address: str
    port: int
    state: DoorState
    detail: str = ""


class Pace:
    """So many connects a second, and so many at once, for all who share it; use it in one event loop."""

    def __init__(self, options: ProbeOptions | None = None) -> None:
        options = options or ProbeOptions()
        self._per_second = options.connects_per_second
        self._slots = asyncio.Semaphore(max(1, min(options.concurrency, _descriptors() // 2)))
        self._next_at = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it is one's turn to connect, and hold a place while it lasts."""
        async with self._slots:
            if self._per_second is not None:
                now = asyncio.get_running_loop().time()
                at = max(self._next_at, now)
                self._next_at = at + 1 / self._per_second
                if at > now:
                    await asyncio.sleep(at - now)
            yield


class DoorProber:
    """Knocks at doors, at most so many a second.

    Args:
        options: Patience, and the pace where none is given.
        pace: Shared with others: what trips a firewall is the sum of all connects.
    """

    def __init__(self, options: ProbeOptions | None = None, *, pace: Pace | None = None) -> None:
        self.options = options or ProbeOptions()
        self._pace = pace or Pace(self.options)

    async def knock(self, address: str, port: int) -> Door:
        """Connect once, and close.

        Args:
            address: An IP address; names are not resolved here.
            port: 1 to 65535.
        """
        async with self._pace.turn():
            return await _connect(address, port, self.options.timeout_s)


async def _connect(address: str, port: int, timeout_s: float) -> Door:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as knocker:
            knocker.setblocking(False)
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.get_running_loop().sock_connect(knocker, (address, port))
            except TimeoutError:
                # A busy loop sees the end of its patience before it sees the answer that came long ago.
                if not _is_connected(knocker):
                    raise
    except ConnectionRefusedError:
        return Door(address, port, "refused")
    except TimeoutError:
        # Ours, or the kernel's own: both mean that nobody answered.
        return Door(address, port, "silent")
    except OSError as error:
        state: DoorState = "failed" if error.errno in _OUR_TROUBLE else "silent"
        return Door(address, port, state, errno.errorcode.get(error.errno or 0, "unknown"))
    return Door(address, port, "open")


def _is_connected(knocker: socket.socket) -> bool:
    """True when the kernel has the connection."""
    try:
        knocker.getpeername()
    except OSError:
        return False
    return True


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else soft
