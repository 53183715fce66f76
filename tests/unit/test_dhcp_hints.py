"""Hints from leases, resolv.conf and the own name."""

from __future__ import annotations

import os

import pytest

from msp_sdk.discovery.dhcp import Lease, parse_dhclient, parse_key_values, parse_resolv_lease, read_leases
from msp_sdk.discovery.evidence import confidence, is_believed
from msp_sdk.discovery.hints import canonical_name, collect_hints, read_hints
from msp_sdk.models.domain import Evidence, Hint

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
        "dhclient", ("northvalley.test", "a.northvalley.test", "b.test"), ("10.99.0.1", "10.99.0.2")
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
    assert parse_resolv_lease(text) == Lease("dhcpcd", ("n.test", "a.test"), ("10.0.0.1",))


@pytest.mark.parametrize("text", ["", "\0\0\xff", "DNS=", "=x", "option domain-name ;", "lease {"])
def test_nonsense_in_a_lease_says_nothing(text):
    assert parse_key_values(text, "x") == Lease("x")
    assert parse_dhclient(text) == Lease("dhclient")


def test_lease_files_are_found_newest_first(tmp_path):
    networkd = tmp_path / "run/systemd/netif/leases/3"
    dhclient = tmp_path / "var/lib/dhcp/dhclient.eth0.leases"
    for path, text, age in ((networkd, "DOMAINNAME=old.test\n", 100), (dhclient, DHCLIENT, 50)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert [lease.source for lease in read_leases(tmp_path)] == ["dhclient", "networkd"]
    assert read_leases(tmp_path / "nowhere") == ()


def test_hints_keep_their_source_and_come_once_in_order():
    hints = collect_hints(
        search=("corp.test",),
        leases=(Lease("networkd", ("Corp.Test.", "lan"), ("10.0.0.1",)),),
        fqdn="box.site1.other.test",
    )
    assert hints.names == (
        Hint("corp.test", "resolv.conf"),
        Hint("lan", "dhcp networkd"),
        Hint("site1.other.test", "own name"),
        Hint("other.test", "above site1.other.test"),
    )
    assert hints.servers == (Hint("10.0.0.1", "dhcp networkd"),)


def test_settings_replace_every_other_hint(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("search other.test\n")
    assert read_hints(("set.test",), root=tmp_path, hostname="box.own.test").names == (Hint("set.test", "settings"),)
    assert [hint.value for hint in read_hints((), root=tmp_path, hostname="box.own.test").names] == [
        "other.test",
        "own.test",
    ]


@pytest.mark.parametrize("text", ["", ".", "10.0.0.1", "a b.test", "localhost", "x" * 64 + ".test", "<script>.test"])
def test_what_is_no_name_is_no_hint(text):
    assert canonical_name(text) is None


def test_confidence_needs_both_halves_of_the_proof():
    srv, root = Evidence("srv-dc", "dns", ""), Evidence("rootdse", "dc1", "")
    certificate, disagrees = Evidence("certificate", "dc1", ""), Evidence("rootdse-disagrees", "dc2", "")
    assert not is_believed([srv, certificate])
    assert not is_believed([root, certificate])
    assert confidence([]) == 0
    assert confidence([srv, certificate, certificate]) == 40
    assert confidence([root]) == 40
    assert confidence([srv, root]) == 85
    assert confidence([srv, root, disagrees]) == 65
