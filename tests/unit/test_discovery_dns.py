"""Discovery against DNS and directories over real sockets: hints, DNS servers that know, lie, refuse or are silent."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import dns.rcode
import pytest
from attrs import evolve

from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.discovery.controllers import Onlooker
from msp_sdk.discovery.walk import Walk, near
from msp_sdk.errors import ConfigError, DiscoveryError
from msp_sdk.models.domain import (
    DomainController,
    make_discovery_report,
)
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.own_networks import OwnNetworks
from msp_sdk.network.probe import Pace, ProbeOptions
from msp_sdk.network.resolver import Resolver, render_server
from msp_sdk.testing.directory import DirectorySpec
from msp_sdk.testing.dns import DnsServer, DnsZone
from tests.unit.discovery_lab import DOMAIN, QUICK, controller, details, discover, estate, kinds

pytestmark = pytest.mark.anyio


async def test_a_domain_called_local_is_asked_of_dns_and_not_of_mdns():
    # Lesson 57.
    zone = DnsZone("clinic.local")
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1"):
        domain = (await discover(dns, "clinic.local")).best
        assert domain is not None
        assert [one.addresses for one in domain.controllers] == [("127.0.0.1",)]


async def test_a_dns_server_that_is_a_controller_names_the_domain_when_nothing_else_does(tmp_path):
    # No suffix is known at all, and reverse DNS says nothing.
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1") as (ldap, _):
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=ldap.port)
        discovery = await DomainDiscoverer(options=options).discover()
        assert discovery.hints == ()
        assert discovery.best is not None
        assert (discovery.best.name, discovery.best.confidence) == (DOMAIN, 100)
        assert discovery.best.discovery_method == "srv"
        assert details(discovery, "asked-as-controller") == [f"it is a controller of {DOMAIN}"]


async def test_a_controller_that_we_met_is_enough_when_dns_names_none(tmp_path):
    zone = DnsZone(DOMAIN)
    async with DnsServer() as dns, controller(zone, "dc1", "127.0.0.1") as (ldap, _):
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=ldap.port)
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert (domain.name, domain.discovery_method) == (DOMAIN, "dns-server")
        assert [(one.fqdn, one.addresses) for one in domain.controllers] == [(ldap.fqdn, ("127.0.0.1",))]
        assert 60 <= domain.confidence < 85


async def test_a_dns_server_that_answers_no_ping_is_met_by_its_root_dse(tmp_path):
    async with estate() as (dns, _, ldap):
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=ldap.port)
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert domain.name == DOMAIN


async def test_the_reverse_name_of_a_dns_server_is_a_hint(tmp_path):
    async with estate() as (dns, _, ldap):
        reverse = DnsZone("127.in-addr.arpa")
        reverse.add("1.0.0", "PTR", f"{ldap.fqdn}.")
        dns.zones = (*dns.zones, reverse)
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=1)
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert [item.source for item in domain.evidence if item.kind == "hint"] == ["reverse name of 127.0.0.1"]


async def test_a_dns_server_is_met_at_once_however_long_the_row_at_doors_is():
    # A meeting has a deadline: behind a sweep it would end as "no controller".
    async with estate() as (_, _, ldap):
        pace = Pace(ProbeOptions(connects_per_second=1 / 3600))
        for _ in range(2):
            await pace.turn()
        onlooker = Onlooker(evolve(QUICK, pace=pace))
        async with asyncio.timeout(30):
            seen = await onlooker.meet(DomainController("127.0.0.1", ldap.port, ("127.0.0.1",)))
        onlooker.close()
        assert seen.domains() == (DOMAIN,)


async def test_a_controller_at_an_excluded_address_is_not_asked_and_that_is_said():
    # Lesson 61.
    async with estate() as (_, _, ldap):
        doors = evolve(QUICK.doors, excluded=ExcludedNetworks.parse(["127.0.0.0/8"]))
        onlooker = Onlooker(evolve(QUICK, doors=doors))
        seen = await onlooker.look(DomainController(ldap.fqdn, ldap.port, ("127.0.0.1",)), DOMAIN)
        onlooker.close()
        assert seen.domains() == ()
        assert [item.detail for item in seen.evidence] == ["127.0.0.1 is excluded, so nothing was sent there."]


@pytest.mark.parametrize(
    ("server", "near"),
    [("10.0.0.1", True), ("fd00::1", True), ("fe80::1%eth0", True), ("9.9.9.9", False), ("2620:fe::fe", False)],
)
async def test_a_public_resolver_is_never_asked_as_a_controller(server, near):
    assert OwnNetworks().is_near(server) is near


async def test_a_dns_server_that_is_not_asked_as_a_controller_is_named(tmp_path):
    async with DnsServer() as server:
        # The address of a public resolver, which is not asked anything: no packet leaves this machine.
        resolver = Resolver([server.server], options=QUICK.dns)
        networks = OwnNetworks()
        assert near([resolver], networks) == [resolver]
        public = Resolver([("9.9.9.9", 53)])
        onlooker = Onlooker(QUICK)
        walk = Walk([resolver], networks, onlooker, QUICK, {})
        far = Walk([public], networks, onlooker, QUICK, {})
        await far.run((), follows_servers=True)
        await walk.run((), follows_servers=True)
        onlooker.close()
        assert [(item.kind, item.source) for item in far.evidence] == [("not-asked-as-controller", "9.9.9.9")]
        assert "not-asked-as-controller" not in {item.kind for item in walk.evidence}


async def test_entra_is_named_and_is_neither_proof_nor_domain():
    # Lesson 59.
    async with estate() as (dns, _, _ldap):
        zone = DnsZone("contoso.test")
        zone.add("enterpriseregistration", "CNAME", "enterpriseregistration.windows.net.")
        dns.zones = (*dns.zones, zone)
        discovery = await discover(dns, "contoso.test")
        assert discovery.domains == ()
        assert details(discovery, "entra-hint") == [
            "enterpriseregistration.contoso.test is enterpriseregistration.windows.net"
        ]


async def test_entra_is_not_asked_for_above_the_suffix_of_a_lease(tmp_path):
    # A provider's own organisation is not the clinic's.
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("search clinic.provider.test\n")
    async with DnsServer() as server:
        await DomainDiscoverer(options=evolve(QUICK, root=tmp_path, resolvers=(server.server,), ldap_port=1)).discover()
        assert server.count("enterpriseregistration.clinic.provider.test")
        assert not server.count("enterpriseregistration.provider.test")


async def test_the_domains_own_servers_are_named_before_whoever_forwards():
    # Lesson 22: the controllers' own DNS, verified, then the zone's name servers.
    zone = DnsZone(DOMAIN)
    async with AsyncExitStack() as stack:
        forwarder = await stack.enter_async_context(DnsServer(zone))
        await stack.enter_async_context(controller(zone, "dc1", "127.0.0.1"))
        own = DnsServer(zone, address="127.63.9.1", port=53)
        try:
            await stack.enter_async_context(own)
        except OSError:
            pytest.skip("no right to listen on port 53")
        zone.add("@", "NS", f"ns.{DOMAIN}.")
        zone.add_address("ns", "127.63.9.1")
        domain = (await discover(forwarder)).best
        assert domain is not None
        assert domain.dns_servers == ("127.63.9.1", render_server(forwarder.server))


class Liar(DnsZone):
    """Knows every name there is, and it is always the same machine."""

    def __init__(self, port: int) -> None:
        super().__init__(".")
        self.port = port

    def answer(self, name, kind):
        import dns.rdatatype
        import dns.rrset

        said = {"SRV": f"0 100 {self.port} ads.isp.test.", "A": "127.0.0.77"}.get(dns.rdatatype.to_text(kind))
        return None if said is None else dns.rrset.from_text(name, 60, "IN", kind, said)

    def exists(self, name):
        return True


async def test_a_dns_that_answers_everything_makes_no_domain_and_no_silent_controllers():
    # Lesson 20.
    async with DnsServer(Liar(389)) as dns:
        discovery = await discover(dns)
        assert discovery.domains == ()
        assert {"srv-dc", "dns-wildcard", "no-controller"} <= kinds(discovery)
        report = make_discovery_report("r1", discovery)
        assert report.nothing_found is not None
        assert not report.nothing_found.controllers_silent


async def test_a_dns_that_lies_does_not_hide_the_one_that_tells_the_truth():
    async with estate() as (dns, _, ldap), DnsServer(Liar(389)) as liar:
        options = evolve(QUICK, resolvers=(liar.server, dns.server), search=(DOMAIN,))
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert [one.fqdn for one in domain.controllers] == [ldap.fqdn]
        assert domain.dns_servers == (render_server(dns.server),)


async def test_a_slow_dns_that_tells_the_truth_is_waited_for_when_the_quick_one_lies():
    async with estate() as (dns, _, ldap), DnsServer(Liar(389)) as liar:
        dns.faults.delay_s = 0.4
        options = evolve(QUICK, resolvers=(liar.server, dns.server), search=(DOMAIN,))
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert [one.fqdn for one in domain.controllers] == [ldap.fqdn]


async def test_names_that_controllers_lead_to_are_asked_for_though_the_network_hints_at_too_many(tmp_path):
    async with estate() as (dns, _, ldap):
        (tmp_path / "etc").mkdir()
        names = " ".join(f"n{number}.test" for number in range(20))
        (tmp_path / "etc/resolv.conf").write_text(f"search {names}\n")
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=ldap.port)
        discovery = await DomainDiscoverer(options=options).discover()
        assert [domain.name for domain in discovery.domains] == [DOMAIN]
        (told,) = [item.source for item in discovery.evidence if item.kind == "not-asked"]
        assert told == "n16.test, n17.test, n18.test, n19.test"


async def test_dns_servers_that_are_too_many_are_named(tmp_path):
    async with DnsServer() as server:
        servers = (server.server, *(("127.0.0.1", 20000 + number) for number in range(9)))
        options = evolve(QUICK, root=tmp_path, resolvers=servers, ldap_port=1)
        discovery = await DomainDiscoverer(options=options).discover()
        (told,) = [item.source for item in discovery.evidence if item.kind == "not-asked"]
        assert told == "127.0.0.1:20007, 127.0.0.1:20008"


async def test_a_known_domain_is_found_at_its_own_dns_though_the_network_names_a_router_now(tmp_path):
    # Lesson 19.
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as own, DnsServer() as router, controller(zone, "dc1", "127.0.0.1"):
        known = (await discover(own)).best
        assert known is not None
        options = evolve(QUICK, root=tmp_path, resolvers=(router.server,), ldap_port=1)
        discovery = await DomainDiscoverer(options=options).discover([known])
        assert discovery.best is not None
        assert (discovery.best.name, discovery.denied) == (DOMAIN, ())
        assert discovery.hints == ()


async def test_only_a_dns_server_that_knew_a_domain_can_deny_it(tmp_path):
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as own, DnsServer() as router, controller(zone, "dc1", "127.0.0.1"):
        known = (await discover(own)).best
        assert known is not None
        options = evolve(QUICK, root=tmp_path, resolvers=(router.server,), ldap_port=1)
        own.faults.silent = True
        assert (await DomainDiscoverer(options=options).discover([known])).denied == ()
        own.faults.silent, own.zones = False, ()
        assert (await DomainDiscoverer(options=options).discover([known])).denied == (DOMAIN,)


async def test_a_silent_server_does_not_hide_the_one_that_answers(tmp_path):
    async with estate() as (dns, _, _ldap), DnsServer() as silent:
        silent.faults.silent = True
        options = evolve(QUICK, resolvers=(silent.server, dns.server), search=(DOMAIN,))
        assert (await DomainDiscoverer(options=options).discover()).best is not None


async def test_a_server_that_refuses_is_there_and_nothing_found_is_a_result():
    # Lesson 59.
    async with DnsServer(outside="refused") as dns:
        discovery = await discover(dns)
        assert discovery.domains == ()
        assert kinds(discovery) == {"dns-refused"}


async def test_a_routers_suffix_is_never_a_domain():
    # Lesson 20.
    async with estate() as (dns, _, _ldap):
        discovery = await discover(dns, "fritz.box", "lan")
        assert discovery.domains == ()
        assert kinds(discovery) == {"srv-none"}
        report = make_discovery_report("r1", discovery)
        assert report.nothing_found is not None
        assert [hint.value for hint in report.nothing_found.hints] == ["fritz.box", "lan"]


async def test_a_controller_that_holds_another_domain_proves_nothing_for_this_one():
    # Lesson 20: rootDSE has to agree.
    async with estate(DirectorySpec(DOMAIN, "NV", domain_in_root_dse="other.test")) as (dns, _, _ldap):
        discovery = await discover(dns)
        assert discovery.domains == ()
        assert "rootdse-disagrees" in kinds(discovery)


async def test_dns_that_cannot_be_asked_at_all_is_an_error_and_not_an_empty_result():
    async with estate() as (dns, _, _ldap):
        dns.faults.silent = True
        with pytest.raises(DiscoveryError) as caught:
            await discover(dns)
        assert (caught.value.code, caught.value.retryable) == ("dns-unreachable", True)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.NOTIMP])
async def test_dns_that_answers_with_errors_leaves_it_open_whether_there_is_a_directory(rcode):
    # Lesson 59: the walk goes on; lesson 24: it is not told as "no directory".
    async with estate() as (server, _, _ldap):
        server.faults.fail, server.faults.rcode = True, rcode
        discovery = await discover(server)
        assert discovery.domains == ()
        assert discovery.dns_failed
        assert details(discovery, "dns-unanswered") == ["no DNS server gives a usable answer about it"]
        report = make_discovery_report("r1", discovery)
        assert report.nothing_found is not None
        assert report.nothing_found.dns_failed


@pytest.mark.parametrize("fault", ["fail", "silent"])
async def test_dns_that_answers_everything_but_srv_can_be_asked_and_leaves_it_open(tmp_path, fault):
    # Lesson 59: cheap routers.
    reverse = DnsZone("127.in-addr.arpa")
    async with DnsServer(reverse) as router:
        reverse.add("1.0.0", "PTR", "router.clinic.test.")
        setattr(router.faults, fault, True)
        router.faults.only = lambda _, kind: kind == "SRV"
        options = evolve(QUICK, root=tmp_path, resolvers=(router.server,), ldap_port=1)
        discovery = await DomainDiscoverer(options=options).discover()
        assert discovery.dns_failed
        assert [item.source for item in discovery.evidence if item.kind == "dns-unanswered"] == ["clinic.test"]


async def test_dead_dns_beside_a_sweep_is_no_missing_directory(tmp_path):
    async with DnsServer() as dead:
        dead.faults.silent = True
        options = evolve(QUICK, root=tmp_path, resolvers=(dead.server,), ldap_port=1, sweep=True)
        discovery = await DomainDiscoverer(options=options).discover()
        assert discovery.dns_failed
        assert "sweep" in kinds(discovery)


async def test_a_dns_server_that_is_not_there_is_an_error_though_no_name_is_known(tmp_path):
    async with DnsServer() as dns:
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=1)
        assert (await DomainDiscoverer(options=options).discover()).domains == ()
        dns.faults.silent = True
        with pytest.raises(DiscoveryError) as caught:
            await DomainDiscoverer(options=options).discover()
        assert caught.value.code == "dns-unreachable"


async def test_a_domain_above_the_suffix_of_a_lease_is_found(tmp_path):
    async with estate() as (dns, _, _ldap):
        lease = tmp_path / "run/systemd/netif/leases/2"
        lease.parent.mkdir(parents=True)
        lease.write_text(f"DOMAINNAME=clinic.{DOMAIN}\n")
        resolver = Resolver([dns.server], options=QUICK.dns)
        options = evolve(QUICK, root=tmp_path)
        domain = (await DomainDiscoverer(resolver, options=options).discover()).best
        assert domain is not None
        assert domain.name == DOMAIN
        assert [item.source for item in domain.evidence if item.kind == "hint"] == [f"above clinic.{DOMAIN}"]


async def test_dns_servers_of_leases_are_asked_too_unless_a_person_set_some(tmp_path):
    # Lesson 22: the appliance's own resolver is the router's.
    async with estate() as (dns, _, _ldap), DnsServer() as router:
        resolv_conf = tmp_path / "etc/resolv.conf"
        resolv_conf.parent.mkdir()
        resolv_conf.write_text("nameserver 127.0.0.8\n")
        lease = tmp_path / "var/lib/dhcp/dhclient.leases"
        lease.parent.mkdir(parents=True)
        lease.write_text(f'lease {{\n option domain-name "{DOMAIN}";\n option domain-name-servers 127.0.0.9;\n}}\n')
        named = await DomainDiscoverer(options=evolve(QUICK, root=tmp_path, resolvers=(dns.server,))).discover()
        assert named.best is not None
        by_router = evolve(QUICK, root=tmp_path, resolvers=(router.server,))
        assert (await DomainDiscoverer(options=by_router).discover()).best is None
        with pytest.raises(DiscoveryError) as caught:
            await DomainDiscoverer(options=evolve(QUICK, root=tmp_path)).discover()
        assert caught.value.code == "dns-unreachable"


async def test_a_machine_without_any_hint_finds_nothing_and_says_so(tmp_path):
    # Lesson 59: "no directory" is a result.
    async with DnsServer() as server:
        options = evolve(QUICK, root=tmp_path, resolvers=(server.server,), ldap_port=1)
        discovery = await DomainDiscoverer(options=options).discover()
    assert discovery.domains == ()
    assert not discovery.dns_failed
    assert kinds(discovery) == {"asked-as-controller", "no-reverse-name", "no-hint"}


async def test_a_machine_that_knows_no_dns_server_could_ask_nobody(tmp_path):
    with pytest.raises(DiscoveryError) as caught:
        await DomainDiscoverer(options=evolve(QUICK, root=tmp_path)).discover()
    assert caught.value.code == "no-dns-server"


async def test_a_hint_without_any_dns_server_is_an_error(tmp_path):
    options = evolve(QUICK, root=tmp_path, hostname=f"box.{DOMAIN}")
    with pytest.raises(DiscoveryError):
        await DomainDiscoverer(options=options).discover()


async def test_a_search_setting_that_is_no_name_is_refused():
    with pytest.raises(ConfigError):
        DomainDiscoverer(options=DiscoveryOptions(search=("a b",)))
