"""ADEnumerator: every computer of a domain, classified, and what changes there."""

from msp_sdk.enumeration.classify import ClassifyRules, ServiceAccount, Unidentified, classify
from msp_sdk.enumeration.connecting import ControllerFailure, default_ledger_path
from msp_sdk.enumeration.domains import KnownDomain
from msp_sdk.enumeration.enumerator import ADEnumerator, EnumerationOptions, with_addresses
from msp_sdk.enumeration.locality import AdSubnet, Locality, place
from msp_sdk.enumeration.site_scope import narrow, rules_of_site, scope_of_domain
from msp_sdk.enumeration.systems import VendorRules

__all__ = [
    "ADEnumerator",
    "AdSubnet",
    "ClassifyRules",
    "ControllerFailure",
    "EnumerationOptions",
    "KnownDomain",
    "Locality",
    "ServiceAccount",
    "Unidentified",
    "VendorRules",
    "classify",
    "default_ledger_path",
    "narrow",
    "place",
    "rules_of_site",
    "scope_of_domain",
    "with_addresses",
]
