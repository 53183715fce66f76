"""Discovery against DNS and directories over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.discovery.dhcp import Lease
from msp_sdk.discovery.hints import collect_hints
from msp_sdk.errors import ConfigError, DiscoveryError
from msp_sdk.models.domain import DomainDiscovery, make_discovery_report
from msp_sdk.network.resolver import Resolver, ResolverOptions, render_server
from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.dns import DnsServer, DnsZone

DOMAIN = "northvalley.test"
CA = EstateCA.make("Northvalley CA")
CERTIFICATE = CA.issue([f"dc1.{DOMAIN}"])
DNS = ResolverOptions(timeout_s=0.3, lifetime_s=0.6)
DIRECTORY = DirectoryOptions(connect_timeout_s=1, receive_timeout_s=1, ldaps_port=1)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def estate(spec: DirectorySpec | None = None) -> AsyncIterator[tuple[DnsServer, DnsZone, LdapServer]]:
    spec = spec or DirectorySpec(DOMAIN, "NORTHVALLEY")
    zone = DnsZone(spec.domain)
    async with LdapServer(spec, Accounts([]), certificate=CERTIFICATE) as ldap, DnsServer(zone) as dns:
        zone.add_controller(spec.hostname, "127.0.0.1", port=ldap.port)
        yield dns, zone, ldap


def kinds(discovery: DomainDiscovery) -> set[str]:
    return {item.kind for item in discovery.evidence}


async def discover(dns: DnsServer, *search: str) -> DomainDiscovery:
    options = DiscoveryOptions(resolvers=(dns.server,), search=search or (DOMAIN,), dns=DNS, directory=DIRECTORY)
    return await DomainDiscoverer(options=options).discover()


async def test_a_domain_is_found_with_its_controllers_addresses_and_certificates():
    async with estate() as (dns, _, ldap):
        domain = (await discover(dns)).best
        assert domain is not None
        assert (domain.name, domain.forest, domain.base_dn) == (DOMAIN, DOMAIN, "DC=northvalley,DC=test")
        (controller,) = domain.controllers
        assert (controller.fqdn, controller.port, controller.addresses) == (ldap.fqdn, ldap.port, ("127.0.0.1",))
        assert controller.ad_site == "Default-First-Site-Name"
        assert [seen.sha256 for seen in domain.certificates] == [CERTIFICATE.sha256]
        assert domain.dns_servers == (render_server(dns.server),)
        assert domain.confidence == 100
        assert ldap.binds == []


async def test_the_netbios_name_is_not_guessed():
    # Lesson 21.
    async with estate(DirectorySpec(DOMAIN, "OLDNAME")) as (dns, _, _ldap):
        domain = (await discover(dns)).best
        assert domain is not None
        assert domain.netbios_name is None


async def test_a_routers_suffix_is_never_a_domain():
    # Lesson 20.
    async with estate() as (dns, _, _ldap):
        discovery = await discover(dns, "fritz.box", "lan")
        assert discovery.domains == ()
        assert kinds(discovery) == {"srv-none"}
        report = make_discovery_report("r1", discovery)
        assert report.nothing_found is not None
        assert [hint.value for hint in report.nothing_found.hints] == ["fritz.box", "lan"]


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


async def test_a_controller_that_holds_another_domain_proves_nothing_for_this_one():
    # Lesson 20: rootDSE has to agree.
    async with estate(DirectorySpec(DOMAIN, "NV", domain_in_root_dse="other.test")) as (dns, _, _ldap):
        discovery = await discover(dns)
        assert discovery.domains == ()
        assert "rootdse-disagrees" in kinds(discovery)


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
        assert domain.confidence == 90


async def test_several_domains_are_ranked_by_certainty():
    async with estate() as (dns, _, _ldap):
        zone = DnsZone("second.test")
        async with LdapServer(DirectorySpec("second.test", "SECOND"), Accounts([])) as second:
            zone.add_controller("dc1", "127.0.0.1", port=second.port)
            dns.zones = (*dns.zones, zone)
            discovery = await discover(dns, "second.test", DOMAIN)
        assert [domain.name for domain in discovery.domains] == [DOMAIN, "second.test"]
        assert [domain.confidence for domain in discovery.domains] == [100, 90]
        report = make_discovery_report("r1", discovery)
        assert report.discovered_domain is not None
        assert len(report.other_domains) == 1


async def test_dns_that_cannot_be_asked_at_all_is_an_error_and_not_an_empty_result():
    async with estate() as (dns, _, _ldap):
        for fault in ("silent", "fail"):
            setattr(dns.faults, fault, True)
            with pytest.raises(DiscoveryError) as caught:
                await discover(dns)
            assert caught.value.retryable


async def test_a_domain_above_the_suffix_of_a_lease_is_found(tmp_path):
    async with estate() as (dns, _, _ldap):
        lease = tmp_path / "run/systemd/netif/leases/2"
        lease.parent.mkdir(parents=True)
        lease.write_text(f"DOMAINNAME=clinic.{DOMAIN}\n")
        resolver = Resolver([dns.server], options=DNS)
        options = DiscoveryOptions(root=tmp_path, hostname="box", dns=DNS, directory=DIRECTORY)
        domain = (await DomainDiscoverer(resolver, options=options).discover()).best
        assert domain is not None
        assert domain.name == DOMAIN
        assert [item.source for item in domain.evidence if item.kind == "hint"] == [f"above clinic.{DOMAIN}"]


async def test_dns_servers_of_leases_are_asked_too_unless_a_person_set_some(tmp_path):
    # Lesson 22: the appliance's own resolver is the router's.
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 10.0.0.1\n")
    hints = collect_hints(leases=(Lease("dhclient", ("n.test",), ("10.0.0.1", "10.0.0.9")),))

    def asked(options: DiscoveryOptions) -> list:
        return [resolver.servers for resolver in DomainDiscoverer(options=options)._resolvers(hints)]

    assert asked(DiscoveryOptions(root=tmp_path)) == [(("10.0.0.1", 53),), (("10.0.0.9", 53),)]
    assert asked(DiscoveryOptions(root=tmp_path, resolvers=("10.0.0.5:5353",))) == [(("10.0.0.5", 5353),)]
    assert asked(DiscoveryOptions(root=tmp_path / "none", resolvers=None, search=None)) == [
        (("10.0.0.1", 53),),
        (("10.0.0.9", 53),),
    ]


async def test_a_machine_without_any_hint_finds_nothing_and_says_so(tmp_path):
    # Lesson 59: "no directory" is a result.
    options = DiscoveryOptions(root=tmp_path, hostname="box")
    discovery = await DomainDiscoverer(options=options).discover()
    assert discovery.domains == ()
    assert kinds(discovery) == {"no-hint"}


async def test_a_hint_without_any_dns_server_is_an_error(tmp_path):
    options = DiscoveryOptions(root=tmp_path, hostname=f"box.{DOMAIN}")
    with pytest.raises(DiscoveryError):
        await DomainDiscoverer(options=options).discover()


async def test_a_second_controller_serves_when_the_first_is_dead():
    # Lesson 23.
    async with estate() as (dns, zone, ldap):
        zone.add_controller("dc0", "127.0.0.1", port=1, priority=0)
        domain = (await discover(dns)).best
        assert domain is not None
        assert {controller.fqdn for controller in domain.controllers} == {f"dc0.{DOMAIN}", ldap.fqdn}


async def test_a_search_setting_that_is_no_name_is_refused():
    with pytest.raises(ConfigError):
        DomainDiscoverer(options=DiscoveryOptions(search=("a b",)))
