"""Enumeration reports: the last good result stays, whatever fails after it (lesson 24).

Only a complete ``full`` marks what is missing as vanished, and only in its domain and scope.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, get_args

from attrs import evolve

from central_app.computers import store
from central_app.database.connection import Database, Reader, Transaction
from central_app.events import emit
from central_app.reports import Reporter, acknowledge_work, check_text, take_report
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.computer import (
    Computer,
    ComputerRole,
    EnumerationFailure,
    EnumerationReport,
    EnumerationResults,
)
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.wire.converter import structure, unstructure

PAGE_COUNT = 100
ROLES: tuple[str, ...] = get_args(ComputerRole)

Batches = AsyncIterator[list[dict[str, Any]]]


async def take_enumeration(db: Database, reporter: Reporter, report: EnumerationReport, now: datetime) -> ReportReply:
    """Take a report that came as one JSON document.

    Raises:
        WireError: It holds both results and a failure, or neither; or a name in it cannot be one. Not retryable.
    """
    if report.failed is not None and report.results is None:
        return await _take_failure(db, reporter, report.report_id, report.failed, now)
    if report.results is None or report.failed is not None:
        raise WireError("a report holds either results or failed.", path="results")
    results = report.results

    async def batches() -> Batches:
        yield [unstructure(computer) for computer in results.computers]

    return await take_results(db, reporter, report.report_id, results, batches(), now)


async def take_results(
    db: Database, reporter: Reporter, report_id: str, results: EnumerationResults, batches: Batches, now: datetime
) -> ReportReply:
    """Take the results of an enumeration, whose computers come in batches.

    Args:
        db: Where.
        reporter: The appliance.
        report_id: Of the report.
        results: All of the results; its own lists of computers are not looked at.
        batches: The computers, as JSON says them, checked against the model.
        now: The instant of arrival.

    Raises:
        WireError: A name in it cannot be one; nothing was changed. Not retryable.
    """
    domain_name = check_text(results.domain_name, "results.domain_name").casefold()
    head = unstructure(evolve(results, servers=(), workstations=(), others=(), removed=()))

    async def apply(tx: Transaction) -> None:
        count = 0
        async for batch in batches:
            rows = [
                store.computer_row(data, reporter, report_id, domain_name, now, path=f"results.computers[{number}]")
                for number, data in enumerate(batch, start=count)
            ]
            count += len(rows)
            await store.put_computers(tx, rows)
        await store.mark_removed(tx, reporter.site_id, (gone.object_guid for gone in results.removed), now)
        values: dict[str, Any] = {"result": head, "result_at": now, "result_generation": results.generation}
        vanished = 0
        if results.kind == "full":
            vanished = await store.mark_vanished(tx, reporter.site_id, domain_name, report_id, results.scope.ous, now)
            values |= {"full_at": now, "full_generation": results.generation}
        await store.put_enumeration(tx, reporter, domain_name, values)
        await acknowledge_work(tx, reporter, ENUMERATION, results.generation)
        await emit(
            tx,
            reporter.site_id,
            "enumeration",
            {"domain_name": results.domain_name, "kind": results.kind, "computers": count, "vanished": vanished},
        )

    return await take_report(db, reporter, report_id, "enumeration-results", now, apply)


async def _take_failure(
    db: Database, reporter: Reporter, report_id: str, failure: EnumerationFailure, now: datetime
) -> ReportReply:
    async def apply(tx: Transaction) -> None:
        await store.put_enumeration(
            tx,
            reporter,
            "",
            {"failed": unstructure(failure), "failed_at": now, "failed_generation": failure.generation},
        )
        await acknowledge_work(tx, reporter, ENUMERATION, failure.generation)
        await emit(tx, reporter.site_id, "enumeration-failed", {"code": failure.code})

    return await take_report(db, reporter, report_id, "enumeration-failed", now, apply)


def _cursor(hostname: str, object_guid: str) -> str:
    return base64.urlsafe_b64encode(f"{hostname.lower()}\n{object_guid}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        name, guid = text.split("\n")
    except (binascii.Error, ValueError):
        raise WireError("this is no cursor of ours.", path="cursor") from None
    return name, guid


async def list_computers(
    reader: Reader, site_id: str, *, role: str | None = None, text: str | None = None, cursor: str | None = None
) -> tuple[list[Computer], str | None]:
    """A page of the present computers of a site, by host name, and the cursor of the next one.

    Args:
        reader: From where.
        site_id: Of which site.
        role: Only of this role.
        text: Only with this in the host name, in any case.
        cursor: From a page before.

    Raises:
        WireError: The role or cursor is none. Not retryable.
    """
    if role is not None and role not in ROLES:
        raise WireError(f"a role is one of {', '.join(ROLES)}.", path="role")
    after = _place(cursor) if cursor else None
    rows = await store.list_rows(reader, site_id, role=role, text=text, after=after, limit=PAGE_COUNT + 1)
    page = rows[:PAGE_COUNT]
    following = _cursor(page[-1]["hostname"], page[-1]["object_guid"]) if len(rows) > PAGE_COUNT else None
    return [structure(row["data"], Computer) for row in page], following


def parse_report(data: object) -> EnumerationReport:
    """A report that came as one JSON document.

    Raises:
        WireError: It does not fit. Not retryable.
    """
    return structure(data, EnumerationReport)
