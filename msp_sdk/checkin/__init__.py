"""Check in at Central, and report."""

from msp_sdk.checkin.client import ApplianceStatus, CheckinClient, next_wait_s, phase_s
from msp_sdk.checkin.generations import CompletedGenerations
from msp_sdk.checkin.holdings import Holdings, absorb
from msp_sdk.checkin.outbox import Outbox, OutboxOptions, Report
from msp_sdk.checkin.refusals import ENTRIES_REFUSED, REPORT_REFUSED, deployment_matter, enumeration_matter

__all__ = [
    "ENTRIES_REFUSED",
    "REPORT_REFUSED",
    "ApplianceStatus",
    "CheckinClient",
    "CompletedGenerations",
    "Holdings",
    "Outbox",
    "OutboxOptions",
    "Report",
    "absorb",
    "deployment_matter",
    "enumeration_matter",
    "next_wait_s",
    "phase_s",
]
