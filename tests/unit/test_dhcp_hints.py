"""Hints from leases, resolv.conf and the own name."""

from __future__ import annotations

import os

import pytest

from msp_sdk.discovery.dhcp import (
    Lease,
    parse_dhclient,
    parse_dhcp_message,
    parse_key_values,
    parse_resolv_lease,
)
from msp_sdk.discovery.hints import canonical_name, collect_hints, read_hints
from msp_sdk.discovery.lease_files import read_leases
from msp_sdk.models.domain import Hint
from msp_sdk.network.resolver import ResolvConf

DHCLIENT = """
lease {
  interface "eth0";
  option domain-name "old.test";
}
lease {
  interface "eth0";
  fixed-address 10.99.0.7;
  option domain-name-servers 10.99.0.1,10.99.0.2;
  option domain-name "northvalley.test";
  option domain-search "a.northvalley.test.", "b.test.";
}
"""


def test_the_last_lease_of_dhclient_is_read():
    assert parse_dhclient(DHCLIENT) == Lease(
        "dhcp dhclient", ("northvalley.test", "a.northvalley.test", "b.test"), ("10.99.0.1", "10.99.0.2")
    )


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("ADDRESS=10.0.0.9\nDNS=10.0.0.1 10.0.0.2\nDOMAINNAME=n.test\nDOMAIN_SEARCH_LIST=a.test b.test\n", "networkd"),
        (
            "[dhcp4]\ndomain_name=n.test\ndomain_search=a.test b.test\ndomain_name_servers=10.0.0.1 10.0.0.2\n",
            "networkmanager",
        ),
        ("domain='n.test'\nsearch=\"a.test b.test\"\ndns=10.0.0.1,10.0.0.2\n", "udhcpc"),
    ],
)
def test_leases_of_key_and_value_are_read(text, source):
    assert parse_key_values(text, source) == Lease(source, ("n.test", "a.test", "b.test"), ("10.0.0.1", "10.0.0.2"))


def test_dhcpcds_lease_is_a_resolv_conf():
    text = "# by dhcpcd\ndomain n.test\nsearch n.test a.test\nnameserver 10.0.0.1\nnameserver bad\n"
    assert parse_resolv_lease(text, "dhcp dhcpcd") == Lease("dhcp dhcpcd", ("n.test", "a.test"), ("10.0.0.1",))


@pytest.mark.parametrize("text", ["", "\0\0\xff", "DNS=", "=x", "option domain-name ;", "lease {"])
def test_nonsense_in_a_lease_says_nothing(text):
    assert parse_key_values(text, "x") == Lease("x")
    assert parse_dhclient(text) == Lease("dhcp dhclient")
    assert parse_dhcp_message(text.encode()) == Lease("dhcp dhcpcd")


def test_lease_files_are_found_newest_first(tmp_path):
    networkd = tmp_path / "run/systemd/netif/leases/3"
    dhclient = tmp_path / "var/lib/dhcp/dhclient.eth0.leases"
    for path, text, age in ((networkd, "DOMAINNAME=old.test\n", 100), (dhclient, DHCLIENT, 50)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert [lease.source for lease in read_leases(tmp_path)] == ["dhcp dhclient", "dhcp networkd"]
    assert read_leases(tmp_path / "nowhere") == ()


MESSAGE = (
    bytes(236)
    + bytes((99, 130, 83, 99))
    + b"\x00\x06\x08\x0a\x63\x00\x01\x0a\x63\x00\x02"
    + b"\x0f\x06n.test"
    # The search list in two pieces, the second name packed.
    + b"\x77\x08\x01a\x04test\x00\x77\x04\x01b\xc0\x02"
    + b"\xff\x06\x04\x01\x01\x01\x01"
)


def test_the_message_that_dhcpcd_keeps_is_read_as_it_came():
    assert parse_dhcp_message(MESSAGE) == Lease(
        "dhcp dhcpcd", ("n.test", "a.test", "b.test"), ("10.99.0.1", "10.99.0.2")
    )


def test_a_message_of_dhcpv6_is_read_too():
    servers = b"\x00\x17\x00\x10" + bytes.fromhex("fd000000000000000000000000000001")
    search = b"\x00\x18\x00\x08\x01n\x04test\x00"
    assert parse_dhcp_message(b"\x07\x01\x02\x03" + servers + search) == Lease("dhcp dhcpcd", ("n.test",), ("fd00::1",))


def test_a_lease_of_dhclient_over_ipv6_is_read():
    text = 'lease6 {\n option dhcp6.name-servers fd00::1,fd00::2;\n option dhcp6.domain-search "n.test.";\n}\n'
    assert parse_dhclient(text) == Lease("dhcp dhclient", ("n.test",), ("fd00::1", "fd00::2"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("10.0.0.1:53", ("10.0.0.1",)),
        ("[fd00::1]:53#dns.n.test", ("fd00::1",)),
        ("fe80::1%eth0", ("fe80::1%eth0",)),
        ("10.0.0.1#dns.n.test", ("10.0.0.1",)),
        ("10.0.0.1:853", ()),
        ("resolver.n.test", ()),
    ],
)
def test_servers_are_read_as_systemd_writes_them(written, read):
    assert parse_key_values(f"SERVERS={written}\nDOMAINS=~n.test ~.\n", "x") == Lease("x", ("n.test",), read)


@pytest.mark.parametrize(
    ("place", "text", "source"),
    [
        ("run/systemd/resolve/resolv.conf", "nameserver 10.0.0.1\nsearch n.test\n", "systemd-resolved"),
        ("run/systemd/resolve/netif/2", "SERVERS=10.0.0.1\nDOMAINS=~n.test\n", "systemd-resolved link"),
        ("run/systemd/netif/links/2", "DNS=10.0.0.1\nROUTE_DOMAINS=n.test\n", "networkd link"),
        ("run/NetworkManager/no-stub-resolv.conf", "search n.test\nnameserver 10.0.0.1\n", "networkmanager"),
        ("run/NetworkManager/devices/2", "domain_name=n.test\ndomain_name_servers=10.0.0.1\n", "dhcp networkmanager"),
        ("var/lib/NetworkManager/internal-1-eth0.lease", "DOMAINNAME=n.test\nDNS=10.0.0.1\n", "dhcp networkmanager"),
        ("run/resolvconf/interface/eth0.udhcpc", "domain n.test\nnameserver 10.0.0.1\n", "dhcp udhcpc"),
        ("run/udhcpc/eth0", "domain=n.test\ndns='10.0.0.1'\n", "dhcp udhcpc"),
        ("run/dhcpcd/hook-state/resolv.conf/eth0.dhcp", "search n.test\nnameserver 10.0.0.1\n", "dhcp dhcpcd"),
    ],
)
def test_each_client_and_resolver_is_read_where_it_writes(tmp_path, place, text, source):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert read_leases(tmp_path) == (Lease(source, ("n.test",), ("10.0.0.1",)),)


def test_the_stub_of_the_system_does_not_hide_the_real_servers(tmp_path):
    for place, text in (
        ("etc/resolv.conf", "nameserver 127.0.0.53\nsearch lan\n"),
        ("run/systemd/resolve/resolv.conf", "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch n.test lan\n"),
    ):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(text)
    hints = read_hints((), root=tmp_path, hostname="box")
    assert hints.names == (Hint("lan", "resolv.conf"), Hint("n.test", "systemd-resolved"))
    assert [hint.value for hint in hints.servers] == ["127.0.0.53", "10.0.0.1", "10.0.0.2"]


def test_hints_keep_their_source_and_come_once_in_order():
    hints = collect_hints(
        resolv_conf=ResolvConf(("10.0.0.9",), ("corp.test",)),
        leases=(Lease("dhcp networkd", ("corp.test", "lan"), ("10.0.0.1", "10.0.0.9")),),
        fqdn="box.site1.other.test",
    )
    assert hints.names == (
        Hint("corp.test", "resolv.conf"),
        Hint("lan", "dhcp networkd"),
        Hint("site1.other.test", "own name"),
        Hint("other.test", "above site1.other.test"),
    )
    assert hints.servers == (Hint("10.0.0.9", "resolv.conf"), Hint("10.0.0.1", "dhcp networkd"))


def test_settings_replace_every_other_name_and_no_server(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("search other.test\nnameserver 10.0.0.1\n")
    set_by_hand = read_hints(("set.test",), root=tmp_path, hostname="box.own.test")
    assert set_by_hand.names == (Hint("set.test", "settings"),)
    assert set_by_hand.servers == (Hint("10.0.0.1", "resolv.conf"),)
    assert [hint.value for hint in read_hints((), root=tmp_path, hostname="box.own.test").names] == [
        "other.test",
        "own.test",
    ]


@pytest.mark.parametrize("text", ["", ".", "10.0.0.1", "a b.test", "localhost", "x" * 64 + ".test", "<script>.test"])
def test_what_is_no_name_is_no_hint(text):
    assert canonical_name(text) is None
