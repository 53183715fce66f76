"""What a controller says of itself to anybody, as a value. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import frozen

from msp_sdk.directory.entry import Entry, dn_to_domain, split_dn

ROOT_DSE_ATTRIBUTES = (
    "defaultNamingContext",
    "rootDomainNamingContext",
    "configurationNamingContext",
    "dnsHostName",
    "serverName",
    "dsServiceName",
    "domainFunctionality",
    "forestFunctionality",
    "domainControllerFunctionality",
    "supportedControl",
    "supportedSASLMechanisms",
    "highestCommittedUSN",
    "currentTime",
)
_SITE_AT = 2


@frozen
class RootDse:
    """A controller's rootDSE. Names in lower case; None where it says nothing.

    Attributes:
        ad_site: The controller's own site, from the place of its server object.
        functional_level: Of the controller; 7 is Windows Server 2016.
        domain_level: Of the domain.
        forest_level: Of the forest.
        ds_service_name: The object of the controller's own directory service.
        highest_committed_usn: The controller's count of changes.
        invocation_id: The identity of its database, a GUID; None unless somebody is logged on who may read it.
        supported_controls: OIDs, sorted.
        sasl_mechanisms: As the controller names them.
        current_time: The controller's clock, aware, to the second.
    """

    domain_name: str | None
    base_dn: str | None
    configuration_dn: str | None = None
    dns_host_name: str | None = None
    forest: str | None = None
    ad_site: str | None = None
    functional_level: int | None = None
    domain_level: int | None = None
    forest_level: int | None = None
    ds_service_name: str | None = None
    highest_committed_usn: int | None = None
    invocation_id: str | None = None
    supported_controls: tuple[str, ...] = ()
    sasl_mechanisms: tuple[str, ...] = ()
    current_time: datetime | None = None

    def clock_skew(self, now: datetime) -> timedelta | None:
        """How far the controller's clock is ahead of ours (negative: behind), or None.

        Args:
            now: Our clock at the moment of the answer, aware.
        """
        return None if self.current_time is None else self.current_time - now


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
        domain_level=entry.number("domainFunctionality"),
        forest_level=entry.number("forestFunctionality"),
        ds_service_name=entry.text("dsServiceName"),
        highest_committed_usn=entry.number("highestCommittedUSN"),
        supported_controls=tuple(sorted(set(entry.texts("supportedControl")))),
        sasl_mechanisms=entry.texts("supportedSASLMechanisms"),
        current_time=entry.generalized_time("currentTime"),
    )
