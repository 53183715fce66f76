"""Domains of stand-ins for the tests of discovery: DNS, controllers, and how to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import evolve

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.models.domain import (
    DomainDiscovery,
)
from msp_sdk.network.probe import ProbeOptions
from msp_sdk.network.resolver import ResolverOptions
from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.netlogon import NetlogonServer

DOMAIN = "northvalley.test"
CA = EstateCA.make("Northvalley CA")
CERTIFICATE = CA.issue([f"dc1.{DOMAIN}"])
QUICK = DiscoveryOptions(
    dns=ResolverOptions(timeout_s=0.5, lifetime_s=1.0),
    directory=DirectoryOptions(connect_timeout_s=2, receive_timeout_s=2, ldaps_port=1),
    doors=ProbeOptions(timeout_s=1.0, connects_per_second=None),
    ping_waits_s=(0.5, 1.0),
    hostname="box",
)


@asynccontextmanager
async def estate(spec: DirectorySpec | None = None) -> AsyncIterator[tuple[DnsServer, DnsZone, LdapServer]]:
    """A domain whose controller answers LDAP and no ping."""
    spec = spec or DirectorySpec(DOMAIN, "NORTHVALLEY")
    zone = DnsZone(spec.domain)
    async with LdapServer(spec, Accounts([]), certificate=CERTIFICATE) as ldap, DnsServer(zone) as dns:
        zone.add_controller(spec.hostname, "127.0.0.1", port=ldap.port)
        yield dns, zone, ldap


@asynccontextmanager
async def controller(
    zone: DnsZone,
    name: str,
    address: str,
    *,
    site: str = "Default-First-Site-Name",
    forest: str | None = None,
    sites: dict[str, str] | None = None,
    **netlogon: int,
) -> AsyncIterator[tuple[LdapServer, NetlogonServer]]:
    """A controller that answers LDAP and pings, and is in DNS with its site."""
    domain = zone.origin.to_text(omit_final_dot=True)
    spec = DirectorySpec(domain, "OLDNAME", hostname=name, ad_site=site, forest=forest)
    async with (
        LdapServer(spec, Accounts([]), address=address, certificate=CERTIFICATE) as ldap,
        NetlogonServer(spec, address=address, port=ldap.port, sites=sites, **netlogon) as ping,
    ):
        zone.add_controller(name, address, port=ldap.port, ad_site=site)
        yield ldap, ping


def kinds(discovery: DomainDiscovery) -> set[str]:
    return {item.kind for item in discovery.evidence}


def details(discovery: DomainDiscovery, kind: str) -> list[str]:
    return [item.detail for item in discovery.evidence if item.kind == kind]


async def discover(dns: DnsServer, *search: str) -> DomainDiscovery:
    options = evolve(QUICK, resolvers=(dns.server,), search=search or (DOMAIN,))
    return await DomainDiscoverer(options=options).discover()
