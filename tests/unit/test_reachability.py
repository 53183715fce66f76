"""What is said of a host after knocking at its doors."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import closing

import pytest
from attrs import evolve

from msp_sdk.errors import DiscoveryError
from msp_sdk.models.computer import Computer
from msp_sdk.models.reason import REASONS
from msp_sdk.models.target import Target
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.probe import Door, DoorState, ProbeOptions
from msp_sdk.reachability import ReachabilityCache, ReachabilityProber, Sign, diagnose
from msp_sdk.testing.loopback import take_address


def computer(name: str, *addresses: str, skipped: str | None = None) -> Computer:
    return Computer(
        object_guid=f"guid-{name}",
        sam_account_name=f"{name}$",
        hostname=name,
        role="server",
        is_server=True,
        is_workstation=False,
        is_domain_controller=False,
        ip_addresses=addresses,
        skipped_reason=skipped,
    )


def probe(hosts, options: ProbeOptions, **more):
    async def collect():
        return [host async for host in ReachabilityProber(options, **more).probe(hosts)]

    return {host.hostname: host for host in asyncio.run(collect())}


@pytest.mark.parametrize(
    ("states", "reachable", "reason"),
    [
        ((), False, "no-address"),
        (("excluded", "excluded"), False, "address-excluded"),
        (("excluded", "silent"), False, "no-answer"),
        (("excluded", "open"), True, None),
        (("silent", "silent"), False, "no-answer"),
        (("silent", "refused"), False, "winrm-closed"),
        (("refused", "open"), True, None),
        (("failed", "failed"), None, "internal"),
        (("failed", "silent"), False, "no-answer"),
    ],
)
def test_doors_are_judged(states: tuple[DoorState, ...], reachable, reason: str | None):
    # Lesson 56: silence is "no-answer", never "off".
    found = diagnose([Door("10.0.0.1", 5986 - index, state) for index, state in enumerate(states)])
    assert (found.reachable, found.reason) == (reachable, reason)
    assert reason is None or reason in REASONS


A, B = "10.0.0.1", "10.0.0.2"
SILENT, ELSEWHERE = Door(A, 5986, "silent"), Door(B, 5986, "silent")
PRESENT, ABSENT = Sign("neighbour", A, "present"), Sign("neighbour", A, "absent")


@pytest.mark.parametrize(
    ("doors", "life", "reason", "is_on"),
    [
        ([SILENT], [], "no-answer", False),
        ([SILENT], [Sign("tcp", A, "silent", 135), Sign("ping", A, "silent")], "no-answer", False),
        ([SILENT], [Sign("ping", A, "unavailable")], "no-answer", False),
        ([SILENT], [Sign("tcp", A, "failed", 135)], "no-answer", False),
        ([SILENT], [Sign("tcp", A, "refused", 135)], "winrm-blocked", True),
        ([SILENT], [Sign("tcp", A, "open", 135)], "winrm-blocked", True),
        ([SILENT], [Sign("ping", A, "answered")], "winrm-blocked", True),
        ([SILENT], [PRESENT], "winrm-blocked", True),
        ([SILENT], [ABSENT], "not-at-address", False),
        # At its other address, on another network, it may well be.
        ([SILENT, ELSEWHERE], [ABSENT], "no-answer", False),
        ([SILENT, ELSEWHERE], [ABSENT, Sign("neighbour", B, "absent")], "not-at-address", False),
        ([SILENT, ELSEWHERE], [ABSENT, Sign("ping", B, "answered")], "winrm-blocked", True),
        ([Door(A, 5985, "refused")], [ABSENT], "winrm-closed", True),
        ([Door(A, 5985, "open")], [ABSENT], None, True),
        ([Door(A, 5985, "failed", "ENETUNREACH")], [], "no-route", False),
        ([Door(A, 5985, "failed", "EMFILE"), Door(B, 5985, "failed", "ENETUNREACH")], [], "internal", False),
    ],
)
def test_other_signs_of_life_tell_on_from_unknown_and_nothing_tells_off(doors, life, reason: str | None, is_on):
    # Lesson 56.
    found = diagnose(doors, life)
    assert (found.reason, found.is_on) == (reason, is_on)
    assert reason is None or reason in REASONS
    assert len(found.evidence) == len(doors) + len(life)


def test_open_closed_silent_and_nameless_hosts_are_told_apart():
    # Each host has its own loopback address, all with the same port.
    with closing(socket.create_server(("127.77.0.1", 0))) as server, closing(socket.socket()) as full:
        port = server.getsockname()[1]
        full.bind(("127.77.0.3", port))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.77.0.3", port))
        time.sleep(0.05)
        options = ProbeOptions(ports=(port,), timeout_s=0.4, connects_per_second=None)
        hosts = [
            computer("open", "127.77.0.1"),
            computer("closed", "127.77.0.2"),
            computer("silent", "127.77.0.3"),
            computer("nameless"),
            computer("second", "127.77.0.2", "127.77.0.1"),
        ]
        found = probe(hosts, options)
        for filler in fillers:
            filler.close()
    assert {name: (host.reachable, host.unreachable_reason, host.doors) for name, host in found.items()} == {
        "open": (True, None, (port,)),
        "closed": (False, "winrm-closed", ()),
        "silent": (False, "no-answer", ()),
        "nameless": (False, "no-address", ()),
        "second": (True, None, (port,)),
    }


@pytest.mark.parametrize("reason", ["disabled-account", "stale", "vendor-managed"])
def test_what_is_no_target_is_listed_untouched(reason: str):
    # Lessons 26 and 61.
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.setblocking(False)
        options = ProbeOptions(ports=(server.getsockname()[1],), connects_per_second=None)
        host = computer("left-alone", "127.0.0.1", skipped=reason)
        assert probe([host], options) == {"left-alone": host}
        with pytest.raises(BlockingIOError):
            server.accept()


def test_target_with_a_port_is_asked_only_there():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        target = Target("127.0.0.1", "server", port=port)
        found = probe([target], ProbeOptions(ports=(1,), connects_per_second=None))["127.0.0.1"]
    assert (found.doors, found.reachable, found.provenance["reachable"]) == ((port,), True, "probe")


def test_name_without_an_address_is_resolved_by_the_given_resolver():
    async def resolve(name: str) -> Sequence[str]:
        return ("127.0.0.1",) if name == "srv1" else ()

    found = probe(
        [computer("srv1"), computer("srv2")], ProbeOptions(ports=(1,), connects_per_second=None), resolve=resolve
    )
    assert (found["srv1"].unreachable_reason, found["srv1"].ip_addresses) == ("winrm-closed", ("127.0.0.1",))
    assert found["srv2"].unreachable_reason == "no-address"


def test_resolver_without_an_answer_says_nothing_of_the_host():
    async def resolve(name: str) -> Sequence[str]:
        raise DiscoveryError("no name server answered.")

    found = probe([computer("srv1")], ProbeOptions(), resolve=resolve)["srv1"]
    assert (found.reachable, found.unreachable_reason) == (None, "internal")


def test_iteration_that_is_left_early_leaves_nothing_running():
    async def first_only() -> int:
        prober = ReachabilityProber(ProbeOptions(ports=(1,), connects_per_second=None, concurrency=10))
        stream = prober.probe([computer(f"c{number}", "127.0.0.1") for number in range(50)])
        async for _ in stream:
            break
        await stream.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(first_only()) == 1


def test_host_at_an_excluded_address_is_left_alone_with_its_reason():
    # Lesson 61: and whoever works on hosts leaves alone what is not reachable.
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.setblocking(False)
        options = ProbeOptions(
            ports=(server.getsockname()[1],),
            connects_per_second=None,
            excluded=ExcludedNetworks.parse(["127.0.0.0/8"]),
        )
        found = probe([computer("station", "127.0.0.1")], options)["station"]
        assert (found.reachable, found.unreachable_reason) == (False, "address-excluded")
        with pytest.raises(BlockingIOError):
            server.accept()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_seen_a_moment_ago_is_not_knocked_at_again():
    clock = Clock()
    cache = ReachabilityCache(clock=clock)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        options = ProbeOptions(ports=(port,), connects_per_second=None)
        assert probe([computer("srv1", "127.0.0.1")], options, cache=cache)["srv1"].reachable
    # The door is closed now. That shows when the sign of life has grown old, or when nothing is remembered.
    clock.now += 299
    assert probe([computer("srv1", "127.0.0.1")], options, cache=cache)["srv1"].reachable
    assert not probe([computer("srv1", "127.0.0.1")], options)["srv1"].reachable
    clock.now += 2
    assert not probe([computer("srv1", "127.0.0.1")], options, cache=cache)["srv1"].reachable


def test_an_exclusion_is_above_what_is_remembered():
    cache = ReachabilityCache()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        options = ProbeOptions(ports=(server.getsockname()[1],), connects_per_second=None)
        probe([computer("srv1", "127.0.0.1")], options, cache=cache)
        excluded = evolve(options, excluded=ExcludedNetworks.parse(["127.0.0.1"]))
        found = probe([computer("srv1", "127.0.0.1")], excluded, cache=cache)["srv1"]
    assert (found.doors, found.unreachable_reason) == ((), "address-excluded")


def test_who_looks_anew_sees_what_is_now_and_the_others_see_it_too():
    cache, address = ReachabilityCache(), take_address()
    with closing(socket.socket()) as holder:
        holder.bind((address, 0))
        options = ProbeOptions(ports=(holder.getsockname()[1],), connects_per_second=None)
        hosts = [computer("srv1", address)]
        assert not probe(hosts, options, cache=cache)["srv1"].reachable
        holder.listen()
        assert not probe(hosts, options, cache=cache)["srv1"].reachable
        assert probe(hosts, options, cache=cache, is_fresh=True)["srv1"].reachable
    assert probe(hosts, options, cache=cache)["srv1"].reachable
