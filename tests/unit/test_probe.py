"""Knocking at real doors: open, refused, truly silent; and at what pace."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from msp_sdk.network.probe import DoorProber, Pace, ProbeOptions

FAST = ProbeOptions(timeout_s=0.4, connects_per_second=None)


@contextmanager
def silent_port(address: str = "127.0.0.1") -> Iterator[int]:
    """A port whose accept queue is full: Linux drops further SYNs, as a firewall does."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.bind((address, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        time.sleep(0.05)
        yield port


def closed_port() -> int:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def test_open_door_is_open():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        door = asyncio.run(DoorProber(FAST).knock("127.0.0.1", server.getsockname()[1]))
    assert door.state == "open"


def test_refused_door_is_refused():
    assert asyncio.run(DoorProber(FAST).knock("127.0.0.1", closed_port())).state == "refused"


def test_dropped_packets_are_silence():
    # Lesson 56.
    with silent_port() as port:
        begun = time.monotonic()
        door = asyncio.run(DoorProber(FAST).knock("127.0.0.1", port))
    assert door.state == "silent"
    assert time.monotonic() - begun >= 0.35


def test_open_door_over_ipv6_is_open():
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(server):
        assert asyncio.run(DoorProber(FAST).knock("::1", server.getsockname()[1])).state == "open"


def test_connects_are_paced():
    # Lesson 62: 20 connects at 100 a second take their time, whatever the concurrency.
    port = closed_port()

    async def knock_all() -> float:
        prober = DoorProber(ProbeOptions(timeout_s=1, connects_per_second=100, concurrency=50))
        begun = time.monotonic()
        await asyncio.gather(*(prober.knock("127.0.0.1", port) for _ in range(20)))
        return time.monotonic() - begun

    assert asyncio.run(knock_all()) >= 0.18


def test_all_who_share_a_pace_are_paced_together():
    port = closed_port()

    async def knock_all() -> float:
        options = ProbeOptions(timeout_s=1, connects_per_second=100)
        pace = Pace(options)
        probers = [DoorProber(options, pace=pace) for _ in range(4)]
        begun = time.monotonic()
        await asyncio.gather(*(prober.knock("127.0.0.1", port) for prober in probers for _ in range(5)))
        return time.monotonic() - begun

    assert asyncio.run(knock_all()) >= 0.18


def test_polite_pace_is_the_default():
    assert ProbeOptions().connects_per_second == 200


def test_answer_that_came_while_the_loop_was_busy_is_no_silence():
    async def run() -> str:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        prober = DoorProber(ProbeOptions(timeout_s=0.1, connects_per_second=None))
        knock = asyncio.create_task(prober.knock("127.0.0.1", port))
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        state = (await knock).state
        server.close()
        await server.wait_closed()
        return state

    assert asyncio.run(run()) == "open"
