"""Domains: what discovery finds, how sure it is, and how it is reported."""

from __future__ import annotations

from collections.abc import Iterable
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
        functional_level: The highest one that it can take part in; 7 is Windows Server 2016.
        sasl_mechanisms: As its rootDSE lists them; so are the controls, as OIDs.
        clock_skew_s: How far its clock was ahead of ours when it was looked at (negative: behind).
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
    supported_controls: tuple[str, ...] = ()
    clock_skew_s: float | None = None


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
        functional_level: Of the domain, not of a controller; 7 is Windows Server 2016. None where nobody said it.
        forest_functional_level: Of the forest.
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
    functional_level: int | None = None
    forest_functional_level: int | None = None


NOT_IN_A_DIRECTORY = "not-in-a-directory"
# There is a directory that may hold it, and nobody has read all of it yet.
DIRECTORY_UNREAD = "directory-unread"


@frozen
class SweptHost:
    """A machine of the appliance's own subnets with Windows' doors open, which no directory is known to hold.

    Attributes:
        doors: Its open ports, in rising order; never empty.
        name: As reverse DNS has it; None where it does not.
        reason: Why it is listed: no directory holds it, or that is not known yet.
    """

    address: str
    doors: tuple[int, ...]
    name: str | None = None
    reason: str = NOT_IN_A_DIRECTORY

    @property
    def is_likely_windows(self) -> bool:
        """True when more than file sharing is open: storage boxes share files too."""
        return any(door != _FILE_SHARING for door in self.doors)


@frozen
class DomainDiscovery:
    """What discovery found: domains, most certain first (may be none), and everything that was tried.

    Attributes:
        swept: Hosts of our own subnets, when a sweep was asked for.
        denied: Domains that were known before, of which a DNS server that knew them says now that they do not exist.
    """

    domains: tuple[Domain, ...]
    hints: tuple[Hint, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    swept: tuple[SweptHost, ...] = ()
    denied: tuple[str, ...] = ()

    @property
    def best(self) -> Domain | None:
        """The most certain domain, or None when there is none."""
        return self.domains[0] if self.domains else None

    @property
    def dns_failed(self) -> bool:
        """No domain was found, and DNS gave no usable answer about a name: there may well be one."""
        return not self.domains and _dns_failed(self.evidence)


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
    functional_level: int | None = None
    forest_functional_level: int | None = None


# What evidence says that DNS names a controller which gave no proof of a domain.
CONTROLLER_FAILED = "rootdse-failed"
# ... and that no DNS server gave a usable answer about a name, by silence or by an error.
DNS_UNANSWERED = "dns-unanswered"


def _dns_failed(evidence: Iterable[Evidence]) -> bool:
    return any(entry.kind == DNS_UNANSWERED for entry in evidence)


@frozen
class NothingFound:
    """A discovery that found no domain: what was asked, and what hints there were."""

    evidence: tuple[Evidence, ...] = ()
    hints: tuple[Hint, ...] = ()

    @property
    def controllers_silent(self) -> bool:
        """DNS names controllers, and none of them proved itself: there may well be a directory."""
        return any(entry.kind == CONTROLLER_FAILED for entry in self.evidence)

    @property
    def dns_failed(self) -> bool:
        """DNS gave no usable answer about a name: there may well be a directory."""
        return _dns_failed(self.evidence)


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
        functional_level=domain.functional_level,
        forest_functional_level=domain.forest_functional_level,
    )


def make_discovery_report(report_id: str, discovery: DomainDiscovery) -> DiscoveryReport:
    """The report of a discovery; one that found no domain says what was tried."""
    if discovery.best is None:
        nothing = NothingFound(discovery.evidence, discovery.hints)
        return DiscoveryReport(report_id, nothing_found=nothing, swept=discovery.swept)
    first, *others = (render_domain(domain) for domain in discovery.domains)
    return DiscoveryReport(report_id, discovered_domain=first, other_domains=tuple(others), swept=discovery.swept)
