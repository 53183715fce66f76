"""The kernel's table of neighbours (ARP and ND): who on our own subnet has a network card that answers.

The kernel fills it by itself when anything of ours goes to an address on the link; no ARP of our making is sent. An
address that is not in it is on no subnet of ours, or nothing was sent there: that says nothing.

Example:
    >>> table = read_neighbours()
    >>> table is None or isinstance(table, dict)
    True
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Literal

from attrs import frozen

# present: answered just now. absent: was asked, and nobody answered. unsettled: the kernel is still asking.
NeighbourState = Literal["present", "absent", "unsettled"]

_FRESH_S = 60.0
_TICKS_A_SECOND = 100  # the kernel's USER_HZ, the same on every machine

_RTM_NEWNEIGH, _RTM_GETNEIGH, _NLMSG_ERROR, _NLMSG_DONE = 28, 30, 2, 3
_NLM_F_REQUEST_DUMP = 0x301
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO = 1, 2, 3
_INCOMPLETE, _REACHABLE, _STALE, _DELAY, _PROBE, _FAILED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ASKING = _INCOMPLETE | _DELAY | _PROBE

_HEADER = struct.Struct("=IHHII")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_CACHEINFO = struct.Struct("=IIII")
_READ_BYTES = 65536


@frozen
class Neighbour:
    """What the table says of an address on our own link.

    Attributes:
        hardware_address: As ``00:15:5d:01:02:03``; empty when none is known.
        confirmed_s: How long ago it was last heard of, in seconds.
    """

    address: str
    state: NeighbourState
    hardware_address: str = ""
    confirmed_s: float = 0.0


def judge_entry(flags: int, hardware_address: str, confirmed_s: float) -> NeighbourState | None:
    """What an entry of the table means; None when it means nothing (a loopback, a tunnel, a fixed or an old entry).

    A hardware address that was learnt long ago proves nothing: the kernel keeps it when the machine has gone.
    """
    if flags & _FAILED:
        return "absent"
    known = flags & (_REACHABLE | _STALE | _DELAY | _PROBE) and hardware_address
    if known and confirmed_s <= _FRESH_S:
        return "present"
    return "unsettled" if flags & _ASKING else None


def parse_neighbours(data: bytes) -> Iterator[Neighbour]:
    """The entries of one datagram of a dump that mean something; what cannot be read is left out."""
    for kind, body in _messages(data):
        if kind == _RTM_NEWNEIGH and len(body) >= _NDMSG.size:
            entry = _parse_entry(body)
            if entry is not None:
                yield entry


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message of a datagram."""
    while len(data) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(data)[:2]
        if length < _HEADER.size:
            return
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _parse_entry(body: bytes) -> Neighbour | None:
    _, _, flags, _, _ = _NDMSG.unpack_from(body)
    attributes = dict(_attributes(body[_NDMSG.size :]))
    try:
        address = str(ipaddress.ip_address(attributes.get(_NDA_DST, b"")))
    except ValueError:
        return None
    hardware = attributes.get(_NDA_LLADDR, b"")
    hardware_address = hardware.hex(":") if any(hardware) else ""
    ages = attributes.get(_NDA_CACHEINFO, b"")
    confirmed_s = _CACHEINFO.unpack_from(ages)[0] / _TICKS_A_SECOND if len(ages) >= _CACHEINFO.size else float("inf")
    state = judge_entry(flags, hardware_address, confirmed_s)
    return None if state is None else Neighbour(address, state, hardware_address, confirmed_s)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def read_neighbours() -> dict[str, Neighbour] | None:
    """The table, by address; needs no right. A call of the kernel's that takes a millisecond.

    Returns:
        None where the kernel does not tell (a sandbox without netlink): that says nothing of anybody.
    """
    question = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    header = _HEADER.pack(_HEADER.size + len(question), _RTM_GETNEIGH, _NLM_F_REQUEST_DUMP, 1, 0)
    found: dict[str, Neighbour] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asker:
            asker.settimeout(1.0)
            asker.send(header + question)
            while True:
                data = asker.recv(_READ_BYTES)
                for entry in parse_neighbours(data):
                    known = found.get(entry.address)
                    # On two links at once: where somebody is counts.
                    if known is None or entry.state == "present":
                        found[entry.address] = entry
                kinds = {kind for kind, _ in _messages(data)}
                if _NLMSG_ERROR in kinds or not kinds:
                    return None
                if _NLMSG_DONE in kinds:
                    return found
    except OSError:
        return None
