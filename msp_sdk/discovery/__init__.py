"""DomainDiscoverer: which domains there are, without a credential."""

from msp_sdk.discovery.discoverer import DomainDiscoverer
from msp_sdk.discovery.options import DiscoveryOptions

__all__ = ["DiscoveryOptions", "DomainDiscoverer"]
