"""The resolver against a DNS server over real sockets, and the order of controllers."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from msp_sdk.errors import ConfigError, DiscoveryError, WireError
from msp_sdk.network.resolver import (
    ResolvConf,
    Resolver,
    ResolverOptions,
    SrvRecord,
    order_controllers,
    parse_resolv_conf,
    parse_server,
    render_server,
)
from msp_sdk.testing.dns import DnsServer, DnsZone

DOMAIN = "northvalley.test"
QUICK = ResolverOptions(timeout_s=0.3, lifetime_s=0.6)

pytestmark = pytest.mark.anyio


def lowest(_: int) -> int:
    return 0


def make_zone() -> DnsZone:
    zone = DnsZone(DOMAIN)
    zone.add_controller("dc1", "127.77.0.1", port=3890)
    zone.add("@", "NS", f"dc1.{DOMAIN}.")
    zone.add_address("dual", "127.77.0.9")
    zone.add_address("dual", "fd00::9")
    return zone


async def test_srv_and_addresses_come_from_the_given_server_and_port():
    async with DnsServer(make_zone()) as dns:
        resolver = Resolver([dns.server], options=QUICK)
        assert await resolver.srv(f"_ldap._tcp.dc._msdcs.{DOMAIN}") == (SrvRecord(f"dc1.{DOMAIN}", 3890, 0, 100),)
        assert await resolver.addresses(f"dual.{DOMAIN}") == ("127.77.0.9", "fd00::9")
        assert await resolver.name_servers(DOMAIN) == (f"dc1.{DOMAIN}",)
        answer = await resolver.srv_answer(f"_ldap._tcp.{DOMAIN}")
        assert answer.server == f"127.0.0.1:{dns.port}"


async def test_a_name_that_does_not_exist_is_empty_and_no_error():
    async with DnsServer(make_zone()) as dns:
        resolver = Resolver([dns.server], options=QUICK)
        assert await resolver.srv(f"_nothing._tcp.{DOMAIN}") == ()
        assert await resolver.addresses(f"nobody.{DOMAIN}") == ()
        assert await resolver.addresses("elsewhere.example") == ()


async def test_an_address_is_its_own_answer_and_is_never_asked_for():
    assert await Resolver([("127.0.0.1", 1)]).addresses("10.0.0.5") == ("10.0.0.5",)


@pytest.mark.parametrize("fault", ["silent", "fail"])
async def test_a_server_that_fails_or_is_silent_is_an_error_and_never_empty(fault):
    # Lesson 24, for DNS.
    async with DnsServer(make_zone()) as dns:
        setattr(dns.faults, fault, True)
        resolver = Resolver([dns.server], options=QUICK)
        with pytest.raises(DiscoveryError) as caught:
            await resolver.srv(f"_ldap._tcp.{DOMAIN}")
        assert caught.value.retryable
        with pytest.raises(DiscoveryError):
            await resolver.addresses(f"dc1.{DOMAIN}")


async def test_no_server_at_all_is_an_error():
    with pytest.raises(DiscoveryError, match="no DNS server"):
        await Resolver([]).addresses("a.example")


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".example", "\udcff.example", "ü..b", "ü" * 40 + ".example"])
async def test_a_name_that_is_none_is_an_error_of_ours(name):
    with pytest.raises(DiscoveryError):
        await Resolver([("127.0.0.1", 1)], options=QUICK).addresses(name)


async def test_an_answer_too_long_for_udp_is_fetched_over_tcp():
    zone = DnsZone(DOMAIN)
    for number in range(120):
        zone.add("_ldap._tcp", "SRV", f"0 100 389 a-rather-long-name-of-controller-{number}.{DOMAIN}.")
    async with DnsServer(zone) as dns:
        records = await Resolver([dns.server], options=ResolverOptions()).srv(f"_ldap._tcp.{DOMAIN}")
        assert len(records) == 120
        assert {way for _, _, way in dns.queries} == {"udp", "tcp"}


async def test_the_domains_own_servers_are_asked_for_its_names():
    # Lesson 22: the router's DNS knows nothing of the domain.
    async with DnsServer() as router, DnsServer(make_zone()) as own:
        assert await Resolver([router.server], options=QUICK).addresses(f"dc1.{DOMAIN}") == ()
        resolver = Resolver.of_domain([render_server(own.server)], options=QUICK)
        assert await resolver.addresses(f"dc1.{DOMAIN}") == ("127.77.0.1",)


async def test_the_next_server_is_asked_when_the_first_is_silent():
    async with DnsServer(make_zone()) as silent, DnsServer(make_zone()) as other:
        silent.faults.silent = True
        resolver = Resolver([silent.server, other.server], options=ResolverOptions(timeout_s=0.2, lifetime_s=2))
        assert await resolver.addresses(f"dc1.{DOMAIN}") == ("127.77.0.1",)


async def test_controllers_come_by_priority_then_by_weight():
    records = [
        SrvRecord("far", 389, 10, 100),
        SrvRecord("heavy", 389, 0, 90),
        SrvRecord("light", 389, 0, 10),
        SrvRecord("zero", 389, 0, 0),
    ]
    assert [entry.fqdn for entry in order_controllers(records, lowest)] == ["zero", "heavy", "light", "far"]
    assert [entry.fqdn for entry in order_controllers(records, lambda n: n)] == ["light", "heavy", "zero", "far"]


async def test_weights_share_the_load_as_they_say():
    # Lesson 23: RFC 2782 weights, not the order of the answer.
    records = [SrvRecord("heavy", 389, 0, 75), SrvRecord("light", 389, 0, 25)]
    random = Random(7)  # noqa: S311 (a repeatable draw)
    first = Counter(order_controllers(records, lambda n: random.randint(0, n))[0].fqdn for _ in range(4000))
    assert 0.70 < first["heavy"] / 4000 < 0.80


async def test_a_controller_twice_is_one_and_a_dot_is_none():
    records = [SrvRecord("dc1.x", 389), SrvRecord("DC1.x.", 389, 5), SrvRecord("dc1.x", 3890), SrvRecord(".", 0)]
    assert [(entry.fqdn, entry.port) for entry in order_controllers(records, lowest)] == [
        ("dc1.x", 389),
        ("dc1.x", 3890),
    ]
    assert order_controllers([], lowest) == ()


@pytest.mark.parametrize("record", [SrvRecord("a", 389, -1), SrvRecord("a", 389, 0, 65536), SrvRecord("a", 70000)])
async def test_a_record_out_of_range_is_refused(record):
    with pytest.raises(WireError):
        order_controllers([record], lowest)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.1", ("10.0.0.1", 53)),
        ("10.0.0.1:5353", ("10.0.0.1", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("[fd00::1]:5353", ("fd00::1", 5353)),
    ],
)
async def test_a_server_is_read_and_written_alike(text, server):
    assert parse_server(text) == server
    assert render_server(server) == text


@pytest.mark.parametrize("text", ["", "router", "10.0.0.1:x", "10.0.0.1:0", "10.0.0.1:99999"])
async def test_a_server_that_is_none_is_a_clear_error(text):
    with pytest.raises(ConfigError, match="DNS server"):
        parse_server(text)


async def test_the_last_search_line_of_a_resolv_conf_wins():
    text = "# x\nnameserver 10.0.0.1\nnameserver 10.0.0.2 ; two\ndomain old.example\nsearch A.Example. b.example\n"
    assert parse_resolv_conf(text) == ResolvConf(("10.0.0.1", "10.0.0.2"), ("a.example", "b.example"))


def test_line_of_resolv_conf_that_names_no_address_is_passed_over() -> None:
    text = "nameserver router.lan\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 999.1.1.1\n"
    assert parse_resolv_conf(text).servers == ("10.0.0.1", "fe80::1%eth0")


async def test_reverse_names_aliases_and_zones_are_asked_for():
    zone, reverse = make_zone(), DnsZone("127.in-addr.arpa")
    zone.add("enterpriseregistration", "CNAME", "enterpriseregistration.windows.net.")
    reverse.add("1.0.77", "PTR", f"DC1.{DOMAIN}.")
    async with DnsServer(zone, reverse) as dns:
        resolver = Resolver([dns.server], options=QUICK)
        assert await resolver.reverse_names("127.77.0.1") == (f"dc1.{DOMAIN}",)
        assert await resolver.reverse_names("127.77.0.2") == ()
        assert await resolver.reverse_names("no address") == ()
        assert await resolver.alias(f"enterpriseregistration.{DOMAIN}") == "enterpriseregistration.windows.net"
        assert await resolver.alias(f"dc1.{DOMAIN}") is None
        assert await resolver.serves(DOMAIN)
        assert not await resolver.serves(f"dc1.{DOMAIN}")
        assert not await resolver.serves("elsewhere.test")


async def test_a_server_that_refuses_is_told_from_one_that_fails():
    async with DnsServer(outside="refused") as dns:
        resolver = Resolver([dns.server], options=QUICK)
        with pytest.raises(DiscoveryError) as refused:
            await resolver.srv("_ldap._tcp.x.test")
        dns.faults.fail = True
        with pytest.raises(DiscoveryError) as failed:
            await resolver.srv("_ldap._tcp.x.test")
        assert (refused.value.code, failed.value.code) == ("dns-refused", "dns-failed")


async def test_names_beyond_ascii_are_asked_for_in_utf_8_as_windows_registers_them():
    zone = make_zone()
    zone.add("_ldap._tcp.Z\\195\\188rich._sites.dc._msdcs", "SRV", f"0 100 389 dc1.{DOMAIN}.")
    async with DnsServer(zone) as dns:
        resolver = Resolver([dns.server], options=QUICK)
        assert len(await resolver.srv(f"_ldap._tcp.Zürich._sites.dc._msdcs.{DOMAIN}")) == 1
