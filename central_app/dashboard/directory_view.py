"""What the page says of a site's domains: who they are, which controllers they have, and why we believe in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from central_app.domains.service import believed
from msp_sdk.models.domain import (
    NOT_IN_A_DIRECTORY,
    DiscoveredDomain,
    DiscoveryReport,
    DomainController,
    Evidence,
    SweptHost,
)

DOOR_WORDS = {
    88: "Kerberos",
    389: "LDAP",
    445: "SMB",
    636: "LDAPS",
    3268: "global catalog",
    3269: "global catalog over TLS",
    5985: "WinRM",
    5986: "WinRM over HTTPS",
}
CATALOG_DOORS = frozenset({3268, 3269})
# A big domain has hundreds of controllers, and a page is read by a person.
CONTROLLERS_SHOWN = 8
EVIDENCE_SHOWN = 40


@frozen
class ControllerLine:
    """A controller, and what it is and offers in words; empty where nobody has looked."""

    name: str
    ad_site: str = ""
    offers: str = ""


@frozen
class DomainLine:
    """A domain as the table has it."""

    name: str
    netbios_name: str
    forest: str
    ad_site: str
    confidence: str
    controllers: tuple[ControllerLine, ...]
    more_controllers_count: int
    evidence: tuple[str, ...]


def make_domains(reports: Sequence[DiscoveryReport]) -> tuple[DomainLine, ...]:
    """The believed domains, the surest first; each once, as the newest report has it.

    Args:
        reports: Of the site's appliances, the newest first.
    """
    found: dict[str, DiscoveredDomain] = {}
    for report in reports:
        for domain in believed(report):
            found.setdefault(domain.domain_name.casefold(), domain)
    return tuple(_line(domain) for domain in sorted(found.values(), key=lambda entry: -entry.confidence))


def make_tried(reports: Iterable[DiscoveryReport]) -> tuple[str, ...]:
    """What was asked where no domain was found, and what the network hinted at."""
    lines: list[str] = []
    for report in reports:
        if report.nothing_found is not None:
            lines += [f"{hint.value} (from {hint.source})" for hint in report.nothing_found.hints]
            lines += [_evidence(entry) for entry in report.nothing_found.evidence]
    return tuple(dict.fromkeys(lines))[:EVIDENCE_SHOWN]


def make_swept(reports: Iterable[DiscoveryReport], reason: str = NOT_IN_A_DIRECTORY) -> tuple[str, ...]:
    """Machines of the appliances' subnets that look like Windows and are listed for this reason; each once."""
    found: dict[str, SweptHost] = {}
    for host in (host for report in reports for host in report.swept if host.is_likely_windows):
        found.setdefault(host.address, host)
    return tuple(
        f"{host.name or host.address}" + (f" ({host.address})" if host.name else "")
        for host in found.values()
        if host.reason == reason
    )[:EVIDENCE_SHOWN]


def _line(domain: DiscoveredDomain) -> DomainLine:
    more = {controller.fqdn.casefold(): controller for controller in domain.controllers}
    shown = [
        more.get(name.casefold(), DomainController(name)) for name in domain.domain_controllers[:CONTROLLERS_SHOWN]
    ]
    return DomainLine(
        name=domain.domain_name,
        netbios_name=domain.netbios_name or "",
        forest=domain.forest or "",
        ad_site=domain.ad_site or "",
        confidence=f"{domain.confidence} %",
        controllers=tuple(_controller(controller) for controller in shown),
        more_controllers_count=len(domain.domain_controllers) - len(shown),
        evidence=tuple(_evidence(entry) for entry in domain.evidence[:EVIDENCE_SHOWN]),
    )


def _controller(controller: DomainController) -> ControllerLine:
    traits = {
        "primary": controller.is_primary,
        "read-only": controller.is_read_only,
        "global catalog": controller.is_global_catalog,
    }
    words = [word for word, has in traits.items() if has]
    # The catalog's doors say what the trait says.
    words += [DOOR_WORDS.get(door, str(door)) for door in controller.doors if door not in CATALOG_DOORS or not words]
    return ControllerLine(controller.fqdn, controller.ad_site or "", ", ".join(dict.fromkeys(words)))


def _evidence(entry: Evidence) -> str:
    return f"{entry.kind}, {entry.source}: {entry.detail}"
