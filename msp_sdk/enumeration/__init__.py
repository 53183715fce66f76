"""ADEnumerator: every computer of a domain, classified."""

from msp_sdk.enumeration.classify import ServiceAccount, classify
from msp_sdk.enumeration.enumerator import (
    ADEnumerator,
    ControllerFailure,
    EnumerationOptions,
    default_ledger_path,
    with_addresses,
)

__all__ = [
    "ADEnumerator",
    "ControllerFailure",
    "EnumerationOptions",
    "ServiceAccount",
    "classify",
    "default_ledger_path",
    "with_addresses",
]
