"""What a controller says of itself to anybody, as a value. Pure."""

from __future__ import annotations

from attrs import frozen

from msp_sdk.directory.entry import Entry, dn_to_domain, split_dn

ROOT_DSE_ATTRIBUTES = (
    "defaultNamingContext",
    "rootDomainNamingContext",
    "configurationNamingContext",
    "dnsHostName",
    "serverName",
    "domainControllerFunctionality",
)
_SITE_AT = 2


@frozen
class RootDse:
    """A controller's rootDSE. Names in lower case; None where it says nothing.

    Attributes:
        ad_site: The controller's own site, from the place of its server object.
        functional_level: 7 is Windows Server 2016.
    """

    domain_name: str | None
    base_dn: str | None
    configuration_dn: str | None = None
    dns_host_name: str | None = None
    forest: str | None = None
    ad_site: str | None = None
    functional_level: int | None = None


def parse_root_dse(entry: Entry) -> RootDse:
    """Read a rootDSE."""
    # CN=DC1,CN=Servers,CN=<site>,CN=Sites,…
    server = split_dn(entry.text("serverName") or "")
    in_sites = len(server) > _SITE_AT + 1 and server[_SITE_AT + 1][1].lower() == "sites"
    host = entry.text("dnsHostName")
    base = entry.text("defaultNamingContext")
    return RootDse(
        domain_name=dn_to_domain(base),
        base_dn=base,
        configuration_dn=entry.text("configurationNamingContext"),
        dns_host_name=None if host is None else host.lower(),
        forest=dn_to_domain(entry.text("rootDomainNamingContext")),
        ad_site=server[_SITE_AT][1] if in_sites else None,
        functional_level=entry.number("domainControllerFunctionality"),
    )
