"""Runbooks: runs that an appliance is asked for, and their results. What is built of them is the shape on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen
class RunbookRun:
    """A run that a partner asked for."""

    run_id: str
    runbook_id: str
    targets: tuple[str, ...] = ()
    dry_run: bool = True


@frozen
class RunbookResult:
    """What one phase of a run found on one host."""

    hostname: str
    runbook: str
    phase: str
    status: str
    evidence: Mapping[str, object] = field(factory=dict)


@frozen
class RunbookReport:
    """``POST /api/appliances/runbook-results``."""

    report_id: str
    run_id: str
    results: tuple[RunbookResult, ...]
