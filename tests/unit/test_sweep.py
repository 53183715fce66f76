"""The sweep of our own subnets: what is looked at, and what never is."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack

import pytest

from msp_sdk.discovery.sweep import (
    OwnNetworks,
    parse_local_addresses,
    parse_routes,
    plan_sweep,
    read_own_networks,
    sweep_addresses,
)
from msp_sdk.models.domain import SweptHost
from msp_sdk.network.probe import DoorProber, ProbeOptions

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
    with ExitStack() as stack:
        for address, ports in (("127.91.7.1", (5985, 445)), ("127.91.7.3", (445,)), ("127.91.7.4", (8080,))):
            for port in ports:
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind((address, port))
                except PermissionError:
                    pytest.skip("no right to listen on port 445")
                listener.listen()
        found = await sweep_addresses(prober, [f"127.91.7.{number}" for number in range(1, 6)])
    assert found == (SweptHost("127.91.7.1", (445, 5985)), SweptHost("127.91.7.3", (445,)))
    # A storage box shares files too.
    assert [host.is_likely_windows for host in found] == [True, False]
