"""How sure we are of a domain, and why: plain rules on evidence. Pure.

A domain is believed only when DNS names its controllers **and** one of them says of itself that it holds this
domain; or when a DNS server of this network, asked as a controller, says so twice over: by netlogon ping and by
rootDSE. Everything else raises or lowers the confidence, never the belief: a router's suffix stays a suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msp_sdk.models.domain import CONTROLLER_FAILED, DNS_UNANSWERED, Domain, Evidence

SRV_DC = "srv-dc"
SRV_LDAP = "srv-ldap"
SRV_KERBEROS = "srv-kerberos"
SRV_GC = "srv-gc"
SRV_PDC = "srv-pdc"
SRV_SITE = "srv-site"
SRV_NONE = "srv-none"
DNS_FAILED = "dns-failed"
DNS_REFUSED = "dns-refused"
# Of all servers together, about a name that may be a domain.
UNANSWERED = DNS_UNANSWERED
DNS_LIES = "dns-wildcard"
DNS_SERVER = "dns-server"
CLDAP = "cldap"
CLDAP_DISAGREES = "cldap-disagrees"
CLDAP_FAILED = "cldap-failed"
ROOT_DSE = "rootdse"
ROOT_DSE_DISAGREES = "rootdse-disagrees"
ROOT_DSE_FAILED = CONTROLLER_FAILED
# A name that a lying DNS gave: it is no controller that keeps silent.
NO_CONTROLLER = "no-controller"
DOORS = "doors"
CLOCK_SKEW = "clock-skew"
CERTIFICATE = "certificate"
CERTIFICATE_NONE = "certificate-none"
HINT = "hint"
NO_HINT = "no-hint"
NO_REVERSE_NAME = "no-reverse-name"
ASKED_AS_CONTROLLER = "asked-as-controller"
# A public DNS server is not disturbed.
NOT_ASKED_AS_CONTROLLER = "not-asked-as-controller"
# More names or servers than we ask.
NOT_ASKED = "not-asked"
# Joined to Entra ID: neither proof nor domain.
ENTRA_HINT = "entra-hint"
SWEEP = "sweep"
SWEEP_SKIPPED = "sweep-skipped"
SWEEP_FAILED = "sweep-failed"

# A detail is read by a person.
DETAIL_MAX = 500
# What a kind of evidence adds, once however often it was found.
_POINTS: Mapping[str, int] = MappingProxyType(
    {
        SRV_DC: 25,
        SRV_LDAP: 10,
        SRV_KERBEROS: 5,
        SRV_GC: 5,
        CLDAP: 30,
        ROOT_DSE: 30,
        CERTIFICATE: 5,
        DNS_SERVER: 5,
        HINT: 5,
        CLDAP_DISAGREES: -20,
        ROOT_DSE_DISAGREES: -20,
        DNS_LIES: -20,
    }
)
# Without the proof nobody may be surer than this.
_UNPROVEN_MAX = 30
_CERTAIN = 100


def is_believed(evidence: Iterable[Evidence]) -> bool:
    """True when DNS names controllers and one agrees, or when a controller that we met agrees in both ways."""
    kinds = {item.kind for item in evidence}
    named, said = kinds & {SRV_DC, SRV_LDAP}, kinds & {CLDAP, ROOT_DSE}
    return bool(named and said) or len(said) > 1


def confidence(evidence: Iterable[Evidence]) -> int:
    """0 to 100; at most 30 for what is not believed."""
    items = tuple(evidence)
    points = sum(_POINTS.get(kind, 0) for kind in {item.kind for item in items})
    return max(0, min(points, _CERTAIN if is_believed(items) else _UNPROVEN_MAX))


def rank(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    """Most certain first; among equals the order in which they were found stays."""
    return tuple(sorted(domains, key=lambda domain: -domain.confidence))
