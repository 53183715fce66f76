"""Check in at Central, and report."""

from msp_sdk.checkin.client import ApplianceStatus, CheckinClient, next_wait_s, phase_s
from msp_sdk.checkin.generations import CompletedGenerations
from msp_sdk.checkin.holdings import Holdings, absorb
from msp_sdk.checkin.outbox import Outbox, OutboxOptions, Report

__all__ = [
    "ApplianceStatus",
    "CheckinClient",
    "CompletedGenerations",
    "Holdings",
    "Outbox",
    "OutboxOptions",
    "Report",
    "absorb",
    "next_wait_s",
    "phase_s",
]
