"""Results of checks and runbooks, keyed by host and check: one host never hides another (lesson 52)."""

from __future__ import annotations

import asyncio
from datetime import datetime

from sqlalchemy import select

from central_app.database.connection import Database, Reader, Transaction
from central_app.database.tables import runbook_results, scan_results
from central_app.events import emit
from central_app.reports import Reporter, acknowledge_work, check_guid, check_text, take_report, upsert
from central_app.rollouts.coverage import host_key
from central_app.rollouts.hosts import settle_hosts
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.compliance import CheckResult, ScanReport
from msp_sdk.models.generation import SCAN
from msp_sdk.models.runbook import RunbookReport
from msp_sdk.wire.converter import structure, unstructure

LONGEST_CHECK = 120
LONGEST_RUN_ID = 40
LONGEST_WORD = 20
LONGEST_PHASE = 40


async def take_scan(db: Database, reporter: Reporter, report: ScanReport, now: datetime) -> ReportReply:
    """Keep results; a later one of the same check on the same host replaces it.

    Raises:
        WireError: A name cannot be one. Not retryable.
    """
    for number, result in enumerate(report.results):
        check_text(result.hostname, f"results[{number}].hostname")
        check_text(result.check, f"results[{number}].check", LONGEST_CHECK)
        check_guid(result.object_guid, f"results[{number}].object_guid")

    async def apply(tx: Transaction) -> None:
        settled = await settle_hosts(tx, scan_results, "result", reporter.site_id, report.results)
        rows = [_result_row(reporter, result, report.generation, now) for result in settled]
        await tx.execute_many(upsert(scan_results, ("site_id", "host_key", "check_name")), rows)
        await acknowledge_work(tx, reporter, SCAN, report.generation)
        await emit(tx, reporter.site_id, "scan-results", {"results": len(rows)})

    return await take_report(db, reporter, report.report_id, "scan-results", now, apply)


def _result_row(reporter: Reporter, result: CheckResult, generation: int | None, now: datetime) -> dict[str, object]:
    return {
        "site_id": reporter.site_id,
        "host_key": host_key(result.hostname, result.object_guid),
        "check_name": result.check,
        "appliance_id": reporter.appliance_id,
        "hostname": result.hostname,
        "object_guid": result.object_guid,
        "status": result.status,
        "generation": generation,
        "result": unstructure(result),
        "checked_at": result.checked_at,
        "received_at": now,
    }


async def take_runbook_results(db: Database, reporter: Reporter, report: RunbookReport, now: datetime) -> ReportReply:
    """Keep the results of a runbook's run.

    Raises:
        WireError: A name cannot be one. Not retryable.
    """
    check_text(report.run_id, "run_id", LONGEST_RUN_ID)
    for number, result in enumerate(report.results):
        check_text(result.hostname, f"results[{number}].hostname")
        check_text(result.runbook, f"results[{number}].runbook", LONGEST_CHECK)
        check_text(result.phase, f"results[{number}].phase", LONGEST_PHASE)
        check_text(result.status, f"results[{number}].status", LONGEST_WORD)
    rows = [
        {
            "site_id": reporter.site_id,
            "run_id": report.run_id,
            "host_key": host_key(result.hostname, None),
            "phase": result.phase,
            "appliance_id": reporter.appliance_id,
            "runbook": result.runbook,
            "status": result.status,
            "result": unstructure(result),
            "received_at": now,
        }
        for result in report.results
    ]

    async def apply(tx: Transaction) -> None:
        await tx.execute_many(upsert(runbook_results, ("site_id", "run_id", "host_key", "phase")), rows)
        await emit(tx, reporter.site_id, "runbook-results", {"run_id": report.run_id})

    return await take_report(db, reporter, report.report_id, "runbook-results", now, apply)


async def list_results(reader: Reader, site_id: str) -> list[CheckResult]:
    """The last result of each check on each host, by host and check; empty when nothing was scanned."""
    rows = await reader.fetch_all(
        select(scan_results.c.result)
        .where(scan_results.c.site_id == site_id)
        .order_by(scan_results.c.hostname, scan_results.c.host_key, scan_results.c.check_name)
    )
    return await asyncio.to_thread(lambda: [structure(row["result"], CheckResult) for row in rows])
