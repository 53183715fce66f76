"""Knocking at real doors: open, refused, truly silent; and at what pace."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from msp_sdk.errors import ConfigError
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.probe import DoorProber, Pace, ProbeOptions
from msp_sdk.network.probe_loop import Throttle, room_for_sockets
from msp_sdk.testing.loopback import take_address

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


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a count of names)


def lowest_free_descriptor() -> int:
    with socket.socket() as next_one:
        return next_one.fileno()


def wait_until_no_thread_is_left() -> None:
    until = time.monotonic() + 5
    while any(thread.name == "msp-probe" for thread in threading.enumerate()):
        assert time.monotonic() < until, "a thread of the prober is left over"
        time.sleep(0.01)


def test_each_of_thousands_of_doors_is_found_as_it_is_and_nothing_is_left_over():
    address = take_address()
    with closing(socket.create_server((address, 0), backlog=4096)) as server:
        port = server.getsockname()[1]
        threads, descriptors = threading.active_count(), open_descriptors()

        async def knock_all() -> dict[str, int]:
            counts = {"open": 0, "refused": 0}
            places = [(address, port if number % 4 == 0 else closed) for number in range(4000)]
            async for door in DoorProber(FAST).knock_all(places):
                assert (door.port == port) == (door.state == "open")
                counts[door.state] += 1
            return counts

        closed = closed_port_of(address)
        assert asyncio.run(knock_all()) == {"open": 1000, "refused": 3000}
        wait_until_no_thread_is_left()
        assert (threading.active_count(), open_descriptors()) == (threads, descriptors)


def closed_port_of(address: str) -> int:
    with closing(socket.socket()) as holder:
        holder.bind((address, 0))
        return int(holder.getsockname()[1])


def test_a_cancelled_look_has_given_its_sockets_back_when_it_returns():
    async def cancel_it(port: int) -> tuple[int, int]:
        before = open_descriptors()
        prober = DoorProber(ProbeOptions(timeout_s=60, connects_per_second=None))
        look = asyncio.create_task(anext(prober.knock_all([("127.0.0.1", port)] * 50)))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if (during := open_descriptors()) >= before + 50:
                break
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        return during - before, open_descriptors() - before

    with silent_port() as port:
        during, after = asyncio.run(asyncio.wait_for(cancel_it(port), 30))
    wait_until_no_thread_is_left()
    # The thread's own two descriptors may still be there.
    assert (during >= 50, after <= 2) == (True, True)


def test_whoever_leaves_early_ends_what_is_under_way():
    with silent_port() as port, closing(socket.create_server(("127.0.0.1", 0))) as server:

        async def first_only() -> str:
            prober = DoorProber(ProbeOptions(timeout_s=60, connects_per_second=None))
            doors = prober.knock_all([("127.0.0.1", port)] * 50 + [("127.0.0.1", server.getsockname()[1])])
            first = await anext(doors)
            await doors.aclose()
            return first.state

        before = open_descriptors()
        assert asyncio.run(first_only()) == "open"
        wait_until_no_thread_is_left()
        assert open_descriptors() == before


def test_a_lost_syn_is_sent_again_within_the_default_patience():
    # The listener's queue is full when the first SYN comes, and has room when the kernel sends the second one.
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)

        async def knock() -> str:
            prober = DoorProber(ProbeOptions(connects_per_second=None))
            knocking = asyncio.create_task(prober.knock(*address))
            await asyncio.sleep(0.2)
            listener.listen(64)
            for _ in range(2):
                listener.accept()[0].close()
            return (await knocking).state

        assert asyncio.run(knock()) == "open"


def test_running_out_of_descriptors_slows_down_and_is_never_called_silence():
    address = take_address()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(socket.create_server((address, 0), backlog=4096)) as server, silent_port() as full:
        port = server.getsockname()[1]

        async def knock_all() -> list[tuple[int, str]]:
            # The silent ones hold every descriptor that is left until they are given up.
            places = [(address, port)] + [("127.0.0.1", full)] * 60 + [(address, port)] * 40
            doors = DoorProber(ProbeOptions(timeout_s=0.5, connects_per_second=400)).knock_all(places)
            found = [await anext(doors)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor() + 20, hard))
            return [(door.port, door.state) for door in found + [door async for door in doors]]

        with ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            found = asyncio.run(knock_all())
    assert found.count((port, "open")) == 41
    assert found.count((full, "silent")) == 60


def test_without_any_descriptor_each_door_has_failed_and_nobody_waits_for_ever():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def knock() -> list[tuple[str, str]]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), hard))
        try:
            doors = await DoorProber(FAST).knock_ports("127.0.0.1", (1, 2, 3))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [(door.state, door.detail) for door in doors]

    assert asyncio.run(knock()) == [("failed", "EMFILE")] * 3


@pytest.mark.parametrize("address", ["srv1", "10.1", "010.0.0.1", "", "fe80::1%nowhere", "1.2.3.4.5", "\0"])
def test_what_is_no_address_fails_and_is_not_looked_up(address: str):
    door = asyncio.run(DoorProber(FAST).knock(address, 5986))
    assert (door.state, door.detail) == ("failed", "EINVAL")


@pytest.mark.parametrize("port", [0, -1, 65536, 2**40])
def test_what_is_no_port_fails(port: int):
    assert asyncio.run(DoorProber(FAST).knock("127.0.0.1", port)).state == "failed"


def test_two_doors_of_a_host_do_not_wait_behind_a_sweep():
    port = closed_port()

    async def knock_beside_a_sweep() -> bool:
        prober = DoorProber(ProbeOptions(timeout_s=1, connects_per_second=400))
        sweep = asyncio.create_task(prober.knock_ports("127.0.0.1", range(1, 401)))
        await asyncio.sleep(0)
        await prober.knock_ports("127.0.0.1", (port, closed_port()))
        was_under_way = not sweep.done()
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)
        return was_under_way

    assert asyncio.run(knock_beside_a_sweep())


def test_a_pace_is_kept_over_time_and_idleness_is_not_saved_up():
    throttle = Throttle(100)
    taken, now = 0, 1000.0
    for _ in range(300):  # three seconds, always a little late
        now += 0.0101
        while throttle.take(now) == 0:
            taken += 1
    assert 300 <= taken <= 305
    now += 3600
    assert [throttle.take(now) for _ in range(3)] == [0, 0, pytest.approx(0.01)]


@pytest.mark.parametrize(("soft_limit", "room"), [(1024, 768), (20000, 15000), (256, 128), (64, 1), (-1, 768)])
def test_the_rest_of_the_process_keeps_descriptors(soft_limit: int, room: int):
    assert room_for_sockets(soft_limit) == room


def test_an_open_door_is_left_without_a_trace_in_our_table():
    # A scan leaves no thousands of connections in TIME_WAIT: it closes by a reset.
    address = take_address()
    with closing(socket.create_server((address, 0))) as server:
        port = server.getsockname()[1]
        assert asyncio.run(DoorProber(FAST).knock(address, port)).state == "open"
        accepted, _ = server.accept()
        with closing(accepted), pytest.raises(ConnectionResetError):
            accepted.recv(1)
    ours = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        assert not [line for line in table if line.split()[2] == ours and line.split()[3] == "06"]


EXCLUDED = ["127.90.0.0/16", "10.0.0.7", "fd00:7::/64"]


@pytest.mark.parametrize(
    ("address", "is_excluded"),
    [
        ("127.90.255.255", True),
        ("127.91.0.0", False),
        ("10.0.0.7", True),
        ("10.0.0.8", False),
        ("::ffff:10.0.0.7", True),
        ("fd00:7::1", True),
        ("fd00:7:0:0:0:0:0:1%eth0", True),
        ("fd00:8::1", False),
        ("srv1", False),
    ],
)
def test_excluded_addresses_are_known_however_they_are_written(address, is_excluded):
    assert ExcludedNetworks.parse(EXCLUDED).covers(address) is is_excluded
    assert not ExcludedNetworks().covers(address)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "srv1", "", "10.0.0"])
def test_a_list_of_exclusions_is_whole_or_refused(entry: str):
    with pytest.raises(ConfigError):
        ExcludedNetworks.parse(["10.0.0.0/8", entry])


def test_nothing_arrives_at_an_excluded_address():
    # Lesson 61.
    address = take_address()
    with closing(socket.create_server((address, 0))) as server:
        server.setblocking(False)
        options = ProbeOptions(connects_per_second=None, excluded=ExcludedNetworks.parse([f"{address}/30"]))
        port = server.getsockname()[1]
        for written in (address, f"::ffff:{address}"):
            assert asyncio.run(DoorProber(options).knock(written, port)).state == "excluded"
        with pytest.raises(BlockingIOError):
            server.accept()
