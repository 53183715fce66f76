"""The partner's side of the wire."""

from msp_sdk.partner.client import PartnerClient

__all__ = ["PartnerClient"]
