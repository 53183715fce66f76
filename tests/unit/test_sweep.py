"""The sweep of our own subnets: what is looked at, and what never is."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from attrs import evolve

from msp_sdk.discovery import DomainDiscoverer
from msp_sdk.discovery.sweep import judge_swept, plan_sweep, sweep_addresses, sweep_subnets
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.computer import Computer
from msp_sdk.models.domain import Domain, DomainController, SweptHost
from msp_sdk.network.own_networks import (
    OwnNetworks,
    parse_interfaces_v6,
    parse_local_addresses,
    parse_routes,
    read_own_networks,
)
from msp_sdk.network.probe import DoorProber, ProbeOptions
from msp_sdk.testing.loopback import take_address
from tests.unit.discovery_lab import DOMAIN, QUICK, estate

pytestmark = pytest.mark.anyio

# Default route by 10.1.2.1; 10.1.2.0/24 on eth0; docker's bridge; a route that is down; a point-to-point link.
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102010A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002010A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0003010A\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
ppp0\t0104010A\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0
broken line
eth2\tzz\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
TRIE = """Main:
  +-- 10.1.2.0/24 2 0 2
     |-- 10.1.2.7
        /32 host LOCAL
     |-- 10.1.2.255
        /32 link BROADCAST
"""


async def test_subnets_gateways_and_own_addresses_are_read_from_the_kernel(tmp_path):
    networks = parse_routes(ROUTES)
    assert [str(subnet) for subnet in networks.subnets] == ["10.1.2.0/24"]
    assert networks.gateways == {ipaddress.IPv4Address("10.1.2.1")}
    assert parse_local_addresses(TRIE) == {ipaddress.IPv4Address("10.1.2.7")}
    assert read_own_networks(tmp_path) == OwnNetworks()
    assert parse_routes("") == OwnNetworks()


async def test_neither_gateway_nor_ourselves_nor_the_broadcast_address_is_disturbed():
    networks = parse_routes(ROUTES)
    addresses, passed = plan_sweep(OwnNetworks(networks.subnets, parse_local_addresses(TRIE), networks.gateways))
    assert len(addresses) == 252
    assert {"10.1.2.0", "10.1.2.1", "10.1.2.7", "10.1.2.255"}.isdisjoint(addresses)
    assert passed == ()


@pytest.mark.parametrize(
    ("subnet", "count"), [("10.0.0.0/22", 1022), ("10.0.0.0/21", 0), ("10.0.0.0/8", 0), ("8.8.8.0/24", 0)]
)
async def test_wide_and_public_subnets_are_passed_over_and_said(subnet, count):
    addresses, passed = plan_sweep(OwnNetworks((ipaddress.IPv4Network(subnet),)))
    assert len(addresses) == count
    assert [item.source for item in passed] == ([] if count else [subnet])


async def test_hosts_with_windows_doors_are_listed_with_those_doors():
    prober = DoorProber(ProbeOptions(timeout_s=0.5, connects_per_second=None))
    first, second, third, fourth, fifth = (take_address() for _ in range(5))
    with ExitStack() as stack:
        for address, ports in ((first, (5985, 445)), (third, (445,)), (fourth, (8080,))):
            for port in ports:
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind((address, port))
                except PermissionError:
                    pytest.skip("no right to listen on port 445")
                listener.listen()
        found, failed_count = await sweep_addresses(prober, [first, second, third, fourth, fifth])
    assert failed_count == 0
    assert found == (SweptHost(first, (445, 5985)), SweptHost(third, (445,)))
    # A storage box shares files too.
    assert [host.is_likely_windows for host in found] == [True, False]


INTERFACES = """20010db8000100020000000000000010 02 40 00 00     eth0
fe800000000000000000000000000001 02 40 20 80     eth0
fd000000000000010000000000000007 03 40 00 80     docker0
00000000000000000000000000000001 01 80 10 80       lo
broken
zz 02 40 00 00 eth1
"""


async def test_what_is_near_goes_by_our_own_subnets_and_our_own_prefix():
    networks = OwnNetworks((ipaddress.IPv4Network("9.9.9.0/24"),), subnets_v6=parse_interfaces_v6(INTERFACES))
    assert [str(subnet) for subnet in networks.subnets_v6] == ["2001:db8:1:2::/64"]
    google = parse_interfaces_v6(INTERFACES.replace("20010db8", "20014860"))
    assert networks.is_near("9.9.9.9")
    assert not networks.is_near("8.8.8.8")
    assert OwnNetworks(subnets_v6=google).is_near("2001:4860:1:ffff::53")
    assert not OwnNetworks(subnets_v6=google).is_near("2001:4860:2::53")


async def test_a_discovery_that_fails_leaves_no_sweep_knocking(tmp_path):
    # Loopback, at a pace that leaves the sweep waiting for its turn.
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 0000007F 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    )

    def draw(highest: int) -> int:
        if highest < 2**40:
            raise ArithmeticError
        return 0

    slow = ProbeOptions(timeout_s=0.1, connects_per_second=5)
    async with estate() as (dns, _, _ldap):
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), search=(DOMAIN,), doors=slow, draw=draw)
        with pytest.raises(ArithmeticError):
            await DomainDiscoverer(options=evolve(options, sweep=True)).discover()
        assert not [task for task in asyncio.all_tasks() if "sweep" in repr(task.get_coro())]


async def test_a_sweep_in_which_our_own_side_fails_is_an_error_and_not_an_empty_list(tmp_path):
    # Lesson 24.
    prober = DoorProber(ProbeOptions(timeout_s=0.5, connects_per_second=None))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with socket.socket() as next_one:
            lowest = next_one.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        with pytest.raises(DiscoveryError) as caught:
            await sweep_addresses(prober, [take_address()])
    assert caught.value.code == "sweep-failed"
    # A machine without networks has nothing to look at: that is no failure.
    assert (await sweep_subnets(prober, root=tmp_path)).hosts == ()


def make_computer(name: str, **more: object) -> Computer:
    return Computer(name, f"{name}$", name, "workstation", False, True, False, **more)


def found(*addresses: str) -> Domain:
    return Domain("corp.test", (DomainController("dc1.corp.test", addresses=addresses),), datetime.now(UTC))


async def test_a_swept_host_is_in_no_directory_only_after_all_of_it_was_read():
    hosts = (
        SweptHost("10.0.0.1", (445,), "dc1.corp.test"),
        SweptHost("10.0.0.2", (445, 5985), "pc2.lan"),
        SweptHost("10.0.0.3", (5985,), "PC3.corp.test"),
        SweptHost("10.0.0.4", (5985,)),
        SweptHost("10.0.0.5", (5985,), "kiosk.lan"),
    )
    assert judge_swept(hosts, ()) == hosts
    unread = judge_swept(hosts, [found("10.0.0.1")])
    assert [host.address for host in unread] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert {host.reason for host in unread} == {"directory-unread"}
    computers = [
        make_computer("PC2", fqdn="pc2.corp.test"),
        make_computer("PC3", fqdn="pc3.corp.test"),
        make_computer("PC4", ip_addresses=("10.0.0.4",)),
    ]
    read = judge_swept(hosts, [found("10.0.0.1")], computers)
    assert [(host.address, host.reason) for host in read] == [("10.0.0.5", "not-in-a-directory")]
