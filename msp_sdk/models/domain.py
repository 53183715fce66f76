"""Domains: what discovery finds, how sure it is, and how it is reported."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen


@frozen
class DomainController:
    """A controller, as SRV names it. ``addresses`` travel beside the name; may be empty."""

    fqdn: str
    port: int = 389
    addresses: tuple[str, ...] = ()
    ad_site: str | None = None


@frozen
class Evidence:
    """One thing that speaks for a domain: what was asked (``kind``), of whom (``source``), what it said."""

    kind: str
    source: str
    detail: str


@frozen
class Hint:
    """A name that may be a domain, or a server that may know one, and where it was read."""

    value: str
    source: str


@frozen
class SeenCertificate:
    """A certificate that a controller showed: SHA-256 over its DER, lower-case hex."""

    controller: str
    sha256: str


@frozen
class Domain:
    """An Active Directory domain, found on evidence.

    Attributes:
        controllers: In the order in which they are tried; never empty for a believed domain.
        confidence: 0 to 100, by plain rules from the evidence.
        base_dn: The partition root, as rootDSE says it.
    """

    name: str
    controllers: tuple[DomainController, ...]
    discovered_at: datetime
    netbios_name: str | None = None
    forest: str | None = None
    ad_site: str | None = None
    base_dn: str | None = None
    dns_servers: tuple[str, ...] = ()
    discovery_method: str = "srv"
    confidence: int = 0
    evidence: tuple[Evidence, ...] = ()
    certificates: tuple[SeenCertificate, ...] = ()


@frozen
class DomainDiscovery:
    """What discovery found: domains, most certain first (may be none), and everything that was tried."""

    domains: tuple[Domain, ...]
    hints: tuple[Hint, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def best(self) -> Domain | None:
        """The most certain domain, or None when there is none."""
        return self.domains[0] if self.domains else None


@frozen
class DiscoveredDomain:
    """A domain on the wire."""

    domain_name: str
    domain_controllers: tuple[str, ...]
    discovered_at: datetime
    netbios_name: str | None = None
    forest: str | None = None
    ad_site: str | None = None
    dns_servers: tuple[str, ...] = ()
    discovery_method: str = "srv"
    confidence: int = 0
    evidence: tuple[Evidence, ...] = ()
    certificates: tuple[SeenCertificate, ...] = ()


# What evidence says that DNS names a controller which gave no proof of a domain.
CONTROLLER_FAILED = "rootdse-failed"


@frozen
class NothingFound:
    """A discovery that found no domain: what was asked, and what hints there were."""

    evidence: tuple[Evidence, ...] = ()
    hints: tuple[Hint, ...] = ()

    @property
    def controllers_silent(self) -> bool:
        """DNS names controllers, and none of them proved itself: there may well be a directory."""
        return any(entry.kind == CONTROLLER_FAILED for entry in self.evidence)


@frozen
class DiscoveryReport:
    """``POST /api/appliances/domain-discovered``: a domain, or nothing found."""

    report_id: str
    discovered_domain: DiscoveredDomain | None = None
    other_domains: tuple[DiscoveredDomain, ...] = ()
    nothing_found: NothingFound | None = None


def render_domain(domain: Domain) -> DiscoveredDomain:
    """A domain as the wire has it."""
    return DiscoveredDomain(
        domain_name=domain.name,
        domain_controllers=tuple(controller.fqdn for controller in domain.controllers),
        discovered_at=domain.discovered_at,
        netbios_name=domain.netbios_name,
        forest=domain.forest,
        ad_site=domain.ad_site,
        dns_servers=domain.dns_servers,
        discovery_method=domain.discovery_method,
        confidence=domain.confidence,
        evidence=domain.evidence,
        certificates=domain.certificates,
    )


def make_discovery_report(report_id: str, discovery: DomainDiscovery) -> DiscoveryReport:
    """The report of a discovery; one that found no domain says what was tried."""
    if discovery.best is None:
        return DiscoveryReport(report_id, nothing_found=NothingFound(discovery.evidence, discovery.hints))
    first, *others = (render_domain(domain) for domain in discovery.domains)
    return DiscoveryReport(report_id, discovered_domain=first, other_domains=tuple(others))
