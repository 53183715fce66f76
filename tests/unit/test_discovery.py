"""Discovery against DNS and directories over real sockets: domains and their controllers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from msp_sdk.discovery import DomainDiscoverer
from msp_sdk.models.domain import (
    DiscoveryReport,
    DomainController,
    DomainDiscovery,
    SweptHost,
    make_discovery_report,
    render_domain,
)
from msp_sdk.network.resolver import render_server
from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.netlogon import READ_ONLY_FLAGS, NetlogonServer
from msp_sdk.wire.converter import structure, unstructure
from tests.unit.discovery_lab import CERTIFICATE, DOMAIN, QUICK, controller, details, discover, estate, kinds

pytestmark = pytest.mark.anyio


async def test_a_domain_is_found_with_its_controllers_addresses_and_certificates():
    async with estate() as (dns, _, ldap):
        domain = (await discover(dns)).best
        assert domain is not None
        assert (domain.name, domain.forest, domain.base_dn) == (DOMAIN, DOMAIN, "DC=northvalley,DC=test")
        (controller,) = domain.controllers
        assert (controller.fqdn, controller.port, controller.addresses) == (ldap.fqdn, ldap.port, ("127.0.0.1",))
        assert (controller.ad_site, controller.functional_level) == ("Default-First-Site-Name", 7)
        assert controller.doors == (ldap.port,)
        assert [seen.sha256 for seen in domain.certificates] == [CERTIFICATE.sha256]
        assert domain.dns_servers == (render_server(dns.server),)
        assert domain.confidence == 90
        assert ldap.binds == []


async def test_a_controller_that_answers_pings_makes_it_certain_and_names_everything():
    zone = DnsZone(DOMAIN)
    async with (
        DnsServer(zone) as dns,
        controller(zone, "dc1", "127.0.0.1", site="Zürich", sites={"127.0.0.0/8": "Basel"}) as (ldap, _),
    ):
        domain = (await discover(dns)).best
        assert domain is not None
        # Lesson 21: read, not made of the first label.
        assert (domain.netbios_name, domain.forest, domain.ad_site) == ("OLDNAME", DOMAIN, "Basel")
        assert domain.confidence == 100
        (one,) = domain.controllers
        assert (one.ad_site, one.is_primary, one.is_global_catalog, one.is_read_only) == ("Zürich", True, True, False)
        assert ldap.binds == []


async def test_the_netbios_name_is_not_guessed_when_nobody_says_it():
    # Lesson 21.
    async with estate(DirectorySpec(DOMAIN, "OLDNAME")) as (dns, _, _ldap):
        domain = (await discover(dns)).best
        assert domain is not None
        assert domain.netbios_name is None


async def test_a_site_that_nobody_defined_for_us_is_none_and_costs_no_certainty():
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1"):
        domain = (await discover(dns)).best
        assert domain is not None
        assert (domain.ad_site, domain.confidence) == (None, 100)


async def test_controllers_of_our_own_site_come_first_whatever_their_priority():
    # Lesson 23: own site first.
    zone = DnsZone(DOMAIN)
    sites = {"127.0.0.0/8": "Near"}
    async with (
        DnsServer(zone) as dns,
        controller(zone, "near", "127.0.0.2", site="Near", sites=sites, flags=READ_ONLY_FLAGS) as (near, _),
        controller(zone, "far", "127.0.0.1", site="Far", sites=sites) as (far, _),
    ):
        # A read-only controller is named for its site alone.
        for service in ("_ldap._tcp.dc._msdcs", "_ldap._tcp"):
            zone.remove(service)
            zone.add(service, "SRV", f"0 100 {far.port} {far.fqdn}.")
        domain = (await discover(dns)).best
        assert domain is not None
        assert [(one.fqdn, one.is_read_only) for one in domain.controllers] == [(near.fqdn, True), (far.fqdn, False)]
        assert "srv-site" in {item.kind for item in domain.evidence}


async def test_a_domain_whose_controllers_speak_ipv6_only_is_found():
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone, address="::1") as dns, controller(zone, "dc1", "::1"):
        domain = (await discover(dns)).best
        assert domain is not None
        assert domain.controllers[0].addresses == ("::1",)
        assert domain.confidence == 100


async def test_a_controller_with_a_wrong_clock_is_told_before_anybody_logs_on():
    # Lesson 28: Kerberos refuses at five minutes.
    spec = DirectorySpec(DOMAIN, "NORTHVALLEY", clock=lambda: datetime.now(UTC) - timedelta(minutes=10))
    async with estate(spec) as (dns, _, _ldap):
        discovery = await discover(dns)
        (told,) = details(discovery, "clock-skew")
        assert "behind ours" in told
        assert discovery.best is not None
        assert "GSS-SPNEGO" in discovery.best.controllers[0].sasl_mechanisms


async def test_a_stale_address_gives_way_to_the_one_that_answers():
    async with estate() as (dns, zone, _ldap):
        zone.remove("dc1")
        zone.add_address("dc1", "127.0.0.99")
        zone.add_address("dc1", "127.0.0.1")
        domain = (await discover(dns)).best
        assert domain is not None
        assert domain.controllers[0].addresses == ("127.0.0.1", "127.0.0.99")


async def test_a_controller_that_is_about_to_stop_is_tried_last():
    zone = DnsZone(DOMAIN)
    async with (
        DnsServer(zone) as dns,
        controller(zone, "dc1", "127.0.0.1") as (_, ping),
        controller(zone, "dc2", "127.0.0.2"),
    ):
        ping.faults.paused = True
        domain = (await discover(dns)).best
        assert domain is not None
        assert [one.fqdn for one in domain.controllers] == [f"dc2.{DOMAIN}", f"dc1.{DOMAIN}"]


async def test_the_root_of_the_forest_is_found_from_its_child():
    child, root = DnsZone(f"child.{DOMAIN}"), DnsZone(DOMAIN)
    async with (
        DnsServer(child, root) as dns,
        controller(child, "dc2", "127.0.0.1", forest=DOMAIN),
        controller(root, "dc1", "127.0.0.2"),
    ):
        discovery = await discover(dns, f"child.{DOMAIN}")
        assert [(one.name, one.forest) for one in discovery.domains] == [(f"child.{DOMAIN}", DOMAIN), (DOMAIN, DOMAIN)]


async def test_a_name_of_the_controller_in_a_zone_of_another_server_is_found():
    # Disjoint suffixes: the domain's server does not know the controller's name, another one does.
    zone, names = DnsZone(DOMAIN), DnsZone("hosts.test")
    async with DnsServer(zone) as first, DnsServer(names) as second, estate() as (_, _zone, ldap):
        zone.add("_ldap._tcp.dc._msdcs", "SRV", f"0 100 {ldap.port} dc1.hosts.test.")
        names.add_address("dc1", "127.0.0.1")
        options = evolve(QUICK, resolvers=(first.server, second.server), search=(DOMAIN,))
        domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert [(one.fqdn, one.addresses) for one in domain.controllers] == [("dc1.hosts.test", ("127.0.0.1",))]


async def test_what_is_found_survives_the_wire():
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1"):
        discovery = evolve(await discover(dns), swept=(SweptHost("10.0.0.7", (445, 5985), "pc7.lan"),))
        assert structure(unstructure(discovery), DomainDiscovery) == discovery
        report = make_discovery_report("r1", discovery)
        assert structure(unstructure(report), DiscoveryReport) == report
        assert report.discovered_domain is not None
        assert report.discovered_domain.controllers == discovery.domains[0].controllers
        # One that an older appliance sent has none of it.
        old = {key: value for key, value in unstructure(report.discovered_domain).items() if key != "controllers"}
        assert structure(old, type(report.discovered_domain)).controllers == ()
        assert DomainController("dc1.x").doors == ()
        assert render_domain(discovery.domains[0]).netbios_name == "OLDNAME"


async def test_srv_records_without_a_controller_that_answers_are_no_domain():
    # Lesson 20: each half of the proof alone is not enough.
    async with estate() as (dns, zone, ldap):
        zone.remove(ldap.spec.hostname)
        assert (await discover(dns)).domains == ()
        zone.add_address(ldap.spec.hostname, "127.0.0.1")
        ldap.faults.nonsense = True
        discovery = await discover(dns)
        assert discovery.domains == ()
        assert {"srv-dc", "rootdse-failed"} <= kinds(discovery)


async def test_a_controller_of_another_domain_leads_to_that_domain_and_its_own_proof():
    async with estate() as (dns, _, ldap):
        alias = DnsZone("alias.test")
        alias.add("_ldap._tcp.dc._msdcs", "SRV", f"0 100 {ldap.port} dc1.{DOMAIN}.")
        dns.zones = (*dns.zones, alias)
        discovery = await discover(dns, "alias.test")
        assert [domain.name for domain in discovery.domains] == [DOMAIN]


async def test_the_plain_srv_record_is_enough_when_msdcs_is_missing():
    async with estate() as (dns, zone, _ldap):
        zone.remove("_ldap._tcp.dc._msdcs")
        domain = (await discover(dns)).best
        assert domain is not None
        assert domain.confidence == 65


async def test_several_domains_are_ranked_by_certainty():
    async with estate() as (dns, _, _ldap):
        zone = DnsZone("second.test")
        async with LdapServer(DirectorySpec("second.test", "SECOND"), Accounts([])) as second:
            zone.add_controller("dc1", "127.0.0.1", port=second.port)
            dns.zones = (*dns.zones, zone)
            discovery = await discover(dns, "second.test", DOMAIN)
        assert [domain.name for domain in discovery.domains] == [DOMAIN, "second.test"]
        assert [domain.confidence for domain in discovery.domains] == [90, 85]
        report = make_discovery_report("r1", discovery)
        assert report.discovered_domain is not None
        assert len(report.other_domains) == 1


async def test_a_second_controller_serves_when_the_first_is_dead():
    # Lesson 23.
    async with estate() as (dns, zone, ldap):
        zone.add_controller("dc0", "127.0.0.1", port=1, priority=0)
        domain = (await discover(dns)).best
        assert domain is not None
        assert {controller.fqdn for controller in domain.controllers} == {f"dc0.{DOMAIN}", ldap.fqdn}


async def test_the_only_controller_within_reach_is_found_though_many_dead_ones_come_first():
    # Lesson 23: a clinic reaches its own controller and none of the forty at the other sites.
    async with estate() as (dns, zone, ldap):
        zone.remove("_ldap._tcp.dc._msdcs")
        zone.remove("_ldap._tcp")
        for number in range(20):
            zone.add("_ldap._tcp.dc._msdcs", "SRV", f"0 100 1 away{number}.{DOMAIN}.")
            zone.add_address(f"away{number}", "127.0.0.1")
        zone.add("_ldap._tcp.dc._msdcs", "SRV", f"9 100 {ldap.port} {ldap.fqdn}.")
        domain = (await discover(dns)).best
        assert domain is not None
        assert len(domain.controllers) == 21
        # It is the first one to be tried from now on.
        assert domain.controllers[0].fqdn == ldap.fqdn
        assert [one.fqdn for one in domain.controllers if one.doors] == [ldap.fqdn]


async def test_hung_controllers_do_not_hold_up_the_one_that_is_well():
    # They take connections and never answer; without rounds that overlap this takes minutes.
    async with AsyncExitStack() as stack:
        dns, zone, ldap = await stack.enter_async_context(estate())
        zone.remove("_ldap._tcp.dc._msdcs")
        zone.remove("_ldap._tcp")
        for number in range(20):
            hung = stack.enter_context(socket.socket())
            hung.bind(("127.0.0.1", 0))
            hung.listen()
            zone.add("_ldap._tcp.dc._msdcs", "SRV", f"0 100 {hung.getsockname()[1]} hung{number}.{DOMAIN}.")
            zone.add_address(f"hung{number}", "127.0.0.1")
        zone.add("_ldap._tcp.dc._msdcs", "SRV", f"9 100 {ldap.port} {ldap.fqdn}.")
        patient = evolve(QUICK.directory, receive_timeout_s=30)
        options = evolve(QUICK, resolvers=(dns.server,), search=(DOMAIN,), directory=patient)
        async with asyncio.timeout(20):
            domain = (await DomainDiscoverer(options=options).discover()).best
        assert domain is not None
        assert domain.controllers[0].fqdn == ldap.fqdn


async def test_the_levels_of_domain_and_forest_are_told_beside_the_controllers():
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1") as (ldap, _):
        ldap.spec.functional_level, ldap.spec.forest_level, ldap.spec.controller_level = 6, 5, 10
        domain = (await discover(dns)).best
        assert domain is not None
        assert (domain.functional_level, domain.forest_functional_level) == (6, 5)
        (one,) = domain.controllers
        assert one.functional_level == 10
        assert "1.2.840.113556.1.4.319" in one.supported_controls
        assert one.clock_skew_s is not None
        assert abs(one.clock_skew_s) < 60
        assert render_domain(domain).forest_functional_level == 5


async def test_a_site_whose_own_records_cannot_be_had_says_so():
    zone = DnsZone(DOMAIN)
    async with DnsServer(zone) as dns, controller(zone, "dc1", "127.0.0.1", sites={"127.0.0.0/8": "Basel"}):
        dns.faults.fail = True
        dns.faults.only = lambda name, _: "Basel" in name
        discovery = await discover(dns)
        assert discovery.best is not None
        assert any("Basel" in detail for detail in details(discovery, "dns-failed"))


async def test_a_stranger_with_a_nonsensical_name_is_no_domain(tmp_path):
    spec = DirectorySpec("<script>.x y", "X")
    async with DnsServer() as dns, LdapServer(spec, Accounts([])) as ldap, NetlogonServer(spec, port=ldap.port):
        options = evolve(QUICK, root=tmp_path, resolvers=(dns.server,), ldap_port=ldap.port)
        assert (await DomainDiscoverer(options=options).discover()).domains == ()
