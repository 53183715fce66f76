"""Compliance: checks of a host and their results, keyed by host and check."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen

CheckStatus = Literal["pass", "fail", "warning", "error", "not_applicable"]


@frozen
class CheckResult:
    """What one check found on one host. ``error`` means that it could not be found out; it is never a pass."""

    hostname: str
    check: str
    status: CheckStatus
    checked_at: datetime
    object_guid: str | None = None
    evidence: Mapping[str, object] = field(factory=dict)
    controls: tuple[str, ...] = ()


@frozen
class ScanReport:
    """``POST /api/appliances/scan-results``."""

    report_id: str
    results: tuple[CheckResult, ...]
    generation: int | None = None
