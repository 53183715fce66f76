"""Domains: what discovery finds, how sure it is, and how it is reported."""

from __future__ import annotations

from datetime import datetime

from attrs import field, frozen

_FILE_SHARING = 445


def without_final_dot(name: str) -> str:
    """A name as it is compared and sent: ``corp.example.`` is the same as ``corp.example`` in DNS alone."""
    return name.rstrip(".")


@frozen
class DomainController:
    """A controller, as SRV names it. ``addresses`` travel beside the name; may be empty.

    Attributes:
        ad_site: The controller's own site.
        doors: Its TCP ports that were seen open, in rising order; empty when nobody has looked.
        is_global_catalog: None where it has not said; so are the others.
        is_read_only: A read-only controller (RODC).
        is_primary: It holds the PDC emulator role.
        functional_level: 7 is Windows Server 2016.
        sasl_mechanisms: As its rootDSE lists them.
    """

    fqdn: str = field(converter=without_final_dot)
    port: int = 389
    addresses: tuple[str, ...] = ()
    ad_site: str | None = None
    doors: tuple[int, ...] = ()
    is_global_catalog: bool | None = None
    is_read_only: bool | None = None
    is_primary: bool | None = None
    functional_level: int | None = None
    sasl_mechanisms: tuple[str, ...] = ()


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
        ad_site: Our own site, as a controller tells it by our address; None where no subnet is defined for it.
        netbios_name: As a controller says it, never guessed.
        dns_servers: Servers that answered for the domain's own zone, the controllers' own first.
        base_dn: The partition root, as rootDSE says it.
    """

    name: str = field(converter=without_final_dot)
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
class SweptHost:
    """A machine of the appliance's own subnets with Windows' doors open, which no directory has named.

    Attributes:
        doors: Its open ports, in rising order; never empty.
        name: As reverse DNS has it; None where it does not.
    """

    address: str
    doors: tuple[int, ...]
    name: str | None = None
    reason: str = "not-in-a-directory"

    @property
    def is_likely_windows(self) -> bool:
        """True when more than file sharing is open: storage boxes share files too."""
        return any(door != _FILE_SHARING for door in self.doors)


@frozen
class DomainDiscovery:
    """What discovery found: domains, most certain first (may be none), and everything that was tried.

    Attributes:
        swept: Hosts of our own subnets, when a sweep was asked for.
    """

    domains: tuple[Domain, ...]
    hints: tuple[Hint, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    swept: tuple[SweptHost, ...] = ()

    @property
    def best(self) -> Domain | None:
        """The most certain domain, or None when there is none."""
        return self.domains[0] if self.domains else None


@frozen
class DiscoveredDomain:
    """A domain on the wire. ``controllers`` says more of the same controllers; an older appliance sends none."""

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
    controllers: tuple[DomainController, ...] = ()


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
    swept: tuple[SweptHost, ...] = ()


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
        controllers=domain.controllers,
    )


def make_discovery_report(report_id: str, discovery: DomainDiscovery) -> DiscoveryReport:
    """The report of a discovery; one that found no domain says what was tried."""
    if discovery.best is None:
        nothing = NothingFound(discovery.evidence, discovery.hints)
        return DiscoveryReport(report_id, nothing_found=nothing, swept=discovery.swept)
    first, *others = (render_domain(domain) for domain in discovery.domains)
    return DiscoveryReport(report_id, discovered_domain=first, other_domains=tuple(others), swept=discovery.swept)
