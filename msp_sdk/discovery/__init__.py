"""DomainDiscoverer: which domains there are, without a credential."""

from msp_sdk.discovery.discoverer import DiscoveryOptions, DomainDiscoverer

__all__ = ["DiscoveryOptions", "DomainDiscoverer"]
