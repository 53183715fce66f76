"""Pings, and the kernel's table of neighbours: what each message means, and what none may be taken for."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

import pytest

from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.neighbours import Neighbour, judge_entry, parse_neighbours, read_neighbours
from msp_sdk.network.own_networks import OwnNetworks
from msp_sdk.network.ping import Pinger, make_echo, read_reply
from msp_sdk.network.probe import DoorProber, ProbeOptions
from msp_sdk.reachability import LifeLooker

INCOMPLETE, REACHABLE, STALE, DELAY, PROBE, FAILED, NOARP, PERMANENT = (1 << bit for bit in range(8))
CARD = "00:15:5d:01:02:03"
NONCE = bytes(range(16))


@pytest.mark.parametrize(
    ("flags", "card", "confirmed_s", "state"),
    [
        (REACHABLE, CARD, 3, "present"),
        (STALE, CARD, 40, "present"),
        (DELAY, CARD, 2, "present"),
        # A card that answered an hour ago proves nothing, and the kernel has yet to ask.
        (STALE, CARD, 3600, None),
        (DELAY, CARD, 3600, "unsettled"),
        (PROBE, CARD, 3600, "unsettled"),
        (INCOMPLETE, "", 3600, "unsettled"),
        (FAILED, "", 3600, "absent"),
        (FAILED, CARD, 3600, "absent"),
        # Tunnels, loopbacks and what a person wrote down.
        (NOARP, CARD, 0, None),
        (PERMANENT, CARD, 0, None),
        (REACHABLE, "", 0, None),
    ],
)
def test_only_a_card_that_answered_just_now_is_present(flags: int, card: str, confirmed_s: float, state):
    assert judge_entry(flags, card, confirmed_s) == state


def message(address: str, flags: int, card: str = "", confirmed_ticks: int = 100) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    body = struct.pack("=BxxxiHBB", family, 2, flags, 0, 1)
    for kind, value in (
        (1, socket.inet_pton(family, address)),
        (2, bytes.fromhex(card.replace(":", ""))),
        (3, struct.pack("=IIII", confirmed_ticks, 0, 0, 0)),
    ):
        if value:
            attribute = struct.pack("=HH", 4 + len(value), kind) + value
            body += attribute + bytes(-len(attribute) % 4)
    return struct.pack("=IHHII", 16 + len(body), 28, 2, 1, 0) + body


def test_a_dump_of_both_families_is_read():
    data = message("10.0.0.1", REACHABLE, CARD) + message("fd00::1", FAILED) + message("10.0.0.2", PERMANENT, CARD)
    assert list(parse_neighbours(data)) == [
        Neighbour("10.0.0.1", "present", CARD, 1.0),
        Neighbour("fd00::1", "absent", "", 1.0),
    ]


def test_no_cut_or_bent_message_breaks_the_reading():
    data = message("10.0.0.1", REACHABLE, CARD) + message("fd00::1", FAILED)
    for end in range(len(data)):
        assert len(list(parse_neighbours(data[:end]))) <= 2
    for place in range(len(data)):
        for value in (0, 1, 255):
            list(parse_neighbours(data[:place] + bytes([value]) + data[place + 1 :]))


def test_the_kernels_own_table_is_read():
    assert isinstance(read_neighbours(), dict)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_only_a_reply_is_a_reply(family: socket.AddressFamily):
    request = make_echo(family, NONCE)
    reply = bytes([0 if family == socket.AF_INET else 129]) + request[1:]
    header = bytes([0x46]) + bytes(23)
    assert read_reply(family, reply, has_ip_header=False) == NONCE
    assert read_reply(family, header + reply, has_ip_header=True) == NONCE
    assert read_reply(family, request, has_ip_header=False) is None
    for broken in (b"", reply[:-1], reply + b"x", header[:10], header):
        assert read_reply(family, broken, has_ip_header=False) is None
        assert read_reply(family, broken, has_ip_header=True) is None


def test_the_checksum_of_a_request_is_right():
    words = struct.unpack("!12H", make_echo(socket.AF_INET, NONCE))
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_loopback_answers_a_ping_where_the_kernel_lends_us_one():
    async def ping() -> str:
        async with Pinger() as pinger:
            return (await pinger.ping("127.0.0.1", timeout_s=5)).state

    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except OSError:
        # Without the right it must say so, and not "silent".
        assert asyncio.run(ping()) in ("answered", "unavailable")
    else:
        assert asyncio.run(ping()) == "answered"


def test_nothing_is_looked_at_where_a_person_excluded_it():
    async def look() -> tuple[object, str]:
        options = ProbeOptions(excluded=ExcludedNetworks.parse(["127.0.0.0/8"]))
        async with LifeLooker(DoorProber(options)) as looker:
            return await looker.look("127.0.0.1"), (await looker.ping("127.0.0.1")).said

    assert asyncio.run(look()) == ((), "excluded")


def test_no_sign_of_our_own_is_taken_for_one_of_a_silent_host():
    # Our kernel answers a ping at each address that is ours, whoever is meant to be there.
    async def look() -> tuple[object, ...]:
        async with LifeLooker(DoorProber(ProbeOptions())) as looker:
            return await looker.look("127.0.0.9")

    assert asyncio.run(look()) == ()
    own = OwnNetworks(addresses=frozenset({ipaddress.IPv4Address("10.1.0.5")}))
    asked = ("10.1.0.5", "10.1.0.6", "127.9.9.9", "::1", "fe80::1%eth0")
    assert [own.is_own(address) for address in asked] == [True, False, True, True, False]
