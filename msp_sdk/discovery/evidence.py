"""How sure we are of a domain, and why: plain rules on evidence. Pure.

A domain is believed only when DNS names its controllers **and** one of them says of itself that it holds this
domain. Everything else raises or lowers the confidence, never the belief: a router's suffix stays a suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msp_sdk.models.domain import CONTROLLER_FAILED, Domain, Evidence

SRV_DC = "srv-dc"
SRV_LDAP = "srv-ldap"
SRV_NONE = "srv-none"
DNS_FAILED = "dns-failed"
ROOT_DSE = "rootdse"
ROOT_DSE_DISAGREES = "rootdse-disagrees"
ROOT_DSE_FAILED = CONTROLLER_FAILED
CERTIFICATE = "certificate"
CERTIFICATE_NONE = "certificate-none"
HINT = "hint"

# What a kind of evidence adds, once however often it was found.
_POINTS: Mapping[str, int] = MappingProxyType(
    {SRV_DC: 35, SRV_LDAP: 25, ROOT_DSE: 50, CERTIFICATE: 10, HINT: 5, ROOT_DSE_DISAGREES: -20}
)
# Without both halves of the proof nobody may be surer than this.
_UNPROVEN_MAX = 40
_CERTAIN = 100


def is_believed(evidence: Iterable[Evidence]) -> bool:
    """True when DNS names controllers and a controller agrees."""
    kinds = {item.kind for item in evidence}
    return bool(kinds & {SRV_DC, SRV_LDAP}) and ROOT_DSE in kinds


def confidence(evidence: Iterable[Evidence]) -> int:
    """0 to 100; at most 40 for what is not believed."""
    items = tuple(evidence)
    points = sum(_POINTS.get(kind, 0) for kind in {item.kind for item in items})
    return max(0, min(points, _CERTAIN if is_believed(items) else _UNPROVEN_MAX))


def rank(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    """Most certain first; among equals the order in which they were found stays."""
    return tuple(sorted(domains, key=lambda domain: -domain.confidence))
