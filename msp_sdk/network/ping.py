"""ICMP echo: does anybody answer at an address. One packet, and a second one should the first be lost.

The kernel lends an unprivileged ping socket where ``net.ipv4.ping_group_range`` allows it; root gets a raw one; else
there is no ping, and the answer says so instead of "silent".

Example:
    >>> import asyncio
    >>> async def look() -> str:
    ...     async with Pinger() as pinger:
    ...         return (await pinger.ping("127.0.0.1", timeout_s=0.5)).state
    >>> asyncio.run(look()) in ("answered", "unavailable")
    True
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import struct
from types import TracebackType
from typing import Literal, Self

from attrs import frozen

PingState = Literal["answered", "silent", "unavailable", "excluded"]

_HEADER = struct.Struct("!BBHHH")
_NONCE_BYTES = 16
# What is asked, and what is an answer to it.
_TYPES = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
_PROTOCOLS = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_READ_BYTES = 2048
_SENDS = 2
# Said by our own kernel: nothing went out.
_OURS = frozenset({errno.EACCES, errno.EPERM, errno.ENOBUFS, errno.ENETUNREACH, errno.EINVAL, errno.EADDRNOTAVAIL})


@frozen
class Ping:
    """What came of it. ``unavailable``: this machine could not ask; it says nothing of the host."""

    address: str
    state: PingState
    detail: str = ""


def make_echo(family: socket.AddressFamily, nonce: bytes) -> bytes:
    """An echo request that carries ``nonce``; over IPv6 the kernel writes its checksum."""
    kind = _TYPES[family][0]
    packet = _HEADER.pack(kind, 0, 0, 0, 1) + nonce
    return packet if family == socket.AF_INET6 else _HEADER.pack(kind, 0, _checksum(packet), 0, 1) + nonce


def read_reply(family: socket.AddressFamily, packet: bytes, *, has_ip_header: bool) -> bytes | None:
    """The nonce of an echo reply; None for everything else, our own request and broken packets among it."""
    if has_ip_header:
        packet = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(packet) != _HEADER.size + _NONCE_BYTES or packet[0] != _TYPES[family][1]:
        return None
    return packet[_HEADER.size :]


def _checksum(packet: bytes) -> int:
    """The checksum of RFC 1071 over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Pinger:
    """Sends pings from one socket a family. An asynchronous context, in one event loop; closed at its end."""

    def __init__(self) -> None:
        self._sockets: dict[socket.AddressFamily, socket.socket | str] = {}
        self._waiting: dict[bytes, tuple[str, asyncio.Future[None]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for entry in self._sockets.values():
            if isinstance(entry, socket.socket):
                asyncio.get_running_loop().remove_reader(entry)
                entry.close()
        self._sockets.clear()

    async def ping(self, address: str, *, timeout_s: float) -> Ping:
        """Ask twice at most, half of the time apart.

        Args:
            address: An IP address; names are not resolved here.
            timeout_s: For both together.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        asker = self._socket(family)
        if isinstance(asker, str):
            return Ping(address, "unavailable", asker)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[nonce] = (address.partition("%")[0], answered)
        try:
            for _ in range(_SENDS):
                try:
                    asker.sendto(make_echo(family, nonce), (address, 0))
                except OSError as error:
                    name = errno.errorcode.get(error.errno or 0, "unknown")
                    return Ping(address, "unavailable" if error.errno in _OURS else "silent", name)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s / _SENDS):
                        await asyncio.shield(answered)
                if answered.done():
                    return Ping(address, "answered")
            return Ping(address, "silent")
        finally:
            del self._waiting[nonce]
            answered.cancel()

    def _socket(self, family: socket.AddressFamily) -> socket.socket | str:
        """The socket of this family, or why there is none."""
        if family not in self._sockets:
            self._sockets[family] = self._open(family)
        return self._sockets[family]

    def _open(self, family: socket.AddressFamily) -> socket.socket | str:
        why = ""
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                asker = socket.socket(family, kind | socket.SOCK_NONBLOCK, _PROTOCOLS[family])
            except OSError as error:
                why = errno.errorcode.get(error.errno or 0, "unknown")
                continue
            has_ip_header = kind == socket.SOCK_RAW and family == socket.AF_INET
            asyncio.get_running_loop().add_reader(asker, self._read, asker, family, has_ip_header)
            return asker
        return why

    def _read(self, asker: socket.socket, family: socket.AddressFamily, has_ip_header: bool) -> None:  # noqa: FBT001 (a callback)
        # Errors of earlier packets come out here too; they belong to nobody any more.
        with contextlib.suppress(OSError):
            while True:
                packet, peer = asker.recvfrom(_READ_BYTES)
                nonce = read_reply(family, packet, has_ip_header=has_ip_header)
                address, answered = self._waiting.get(nonce or b"", ("", None))
                if answered is not None and not answered.done() and peer[0].partition("%")[0] == address:
                    answered.set_result(None)
