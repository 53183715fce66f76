"""Enumeration reports: the last good result stays, whatever fails after it (lesson 24).

Only a complete ``full`` marks what is missing as vanished, in its domain and scope; all of its domain where it was
read in the scope that the site has now. A ``changes`` report holds whole computers, so it is always taken; where it
does not go on from what came before it, something is missing in between, and a full enumeration is wished by itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, get_args

from attrs import evolve, frozen

from central_app.computers import store
from central_app.computers.scope import ReportScope, scope_of_report
from central_app.database.connection import Database, Reader, Transaction
from central_app.events import emit
from central_app.reports import Reporter, acknowledge_work, check_guid, check_text, take_report
from central_app.wishes import wish_again
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
DOMAIN_OUT_OF_SCOPE = "domain-out-of-scope"
ROLES: tuple[str, ...] = get_args(ComputerRole)

Batches = AsyncIterator[list[dict[str, Any]]]


@frozen
class Report:
    """The head of a report.

    Attributes:
        report_id: Unique for its appliance.
        results: Without computers, where they come apart.
        scope: Of the domain, as the report itself said it.
    """

    report_id: str
    results: EnumerationResults
    scope: ReportScope


async def take_enumeration(
    db: Database, reporter: Reporter, report: EnumerationReport, scope: ReportScope, now: datetime
) -> ReportReply:
    """Take a report that came as one JSON document.

    Args:
        db: Where.
        reporter: The appliance.
        report: Results, or why there are none.
        scope: What the results speak for.
        now: The instant of arrival.

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

    return await take_results(db, reporter, Report(report.report_id, results, scope), batches(), now)


async def take_results(
    db: Database, reporter: Reporter, report: Report, batches: Batches, now: datetime
) -> ReportReply:
    """Take the results of an enumeration, whose computers come in batches.

    Args:
        db: Where.
        reporter: The appliance.
        report: Its head; its own lists of computers are not looked at.
        batches: The computers, as JSON says them, checked against the model.
        now: The instant of arrival.

    Raises:
        WireError: A name in it cannot be one; nothing was changed. Not retryable.
    """
    report_id, results = report.report_id, report.results
    domain_name = check_text(results.domain_name, "results.domain_name").casefold()
    for number, gone in enumerate(results.removed):
        check_guid(gone.object_guid, f"results.removed[{number}].object_guid")

    async def apply(tx: Transaction) -> None:
        count = 0
        async for batch in batches:
            rows = [
                store.computer_row(data, reporter, report_id, domain_name, now, path=f"results.computers[{number}]")
                for number, data in enumerate(batch, start=count)
            ]
            count += len(rows)
            await store.put_computers(tx, rows)
        removed = (gone.object_guid for gone in results.removed)
        vanished = await store.mark_removed(tx, reporter.site_id, domain_name, removed, now)
        values: dict[str, Any] = {"cursor_sha256": _digest(results.cursor)}
        if results.kind == "full":
            scope = report.scope
            if await store.has_scope(tx, reporter.site_id, results.site_scope):
                # Whatever it left out: what it does not hold is gone, or is out of the site's scope.
                scope = ReportScope()
            vanished += await store.mark_vanished(tx, reporter.site_id, domain_name, report_id, scope, now)
            head = unstructure(evolve(results, servers=(), workstations=(), others=(), removed=()))
            values |= {"full": head, "full_at": now, "full_generation": results.generation}
            await acknowledge_work(tx, reporter, ENUMERATION, results.generation)
        else:
            if await _has_gap(tx, reporter, domain_name, results.base_cursor):
                await wish_again(tx, reporter.site_id, reporter.appliance_id, ENUMERATION)
            values["changes_at"] = now
        await store.put_enumeration(tx, reporter, domain_name, values)
        await emit(
            tx,
            reporter.site_id,
            "enumeration",
            {"domain_name": results.domain_name, "kind": results.kind, "computers": count, "vanished": vanished},
        )

    return await take_report(db, reporter, report_id, "enumeration-results", now, apply)


def _digest(cursor: str | None) -> str | None:
    return None if cursor is None else hashlib.sha256(cursor.encode()).hexdigest()


async def _has_gap(tx: Transaction, reporter: Reporter, domain_name: str, base_cursor: str | None) -> bool:
    """Whether these changes go on from somewhere else than where the last report of this appliance had come to.

    A report was lost, or our tables are older than the appliance's. One that does not say is not judged.
    """
    return base_cursor is not None and _digest(base_cursor) != await store.last_cursor(tx, reporter, domain_name)


async def _take_failure(
    db: Database, reporter: Reporter, report_id: str, failure: EnumerationFailure, now: datetime
) -> ReportReply:
    # An appliance that found no domain, or an older one, names none.
    named = failure.domain_name
    domain_name = "" if named is None else check_text(named, "failed.domain_name").casefold()

    async def apply(tx: Transaction) -> None:
        await store.put_enumeration(
            tx,
            reporter,
            domain_name,
            {"failed": unstructure(failure), "failed_at": now, "failed_generation": failure.generation},
        )
        if failure.code == DOMAIN_OUT_OF_SCOPE and await store.has_scope(tx, reporter.site_id, failure.site_scope):
            await store.mark_vanished(tx, reporter.site_id, domain_name, report_id, ReportScope(), now)
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


def parse_report(data: object) -> tuple[EnumerationReport, ReportScope]:
    """A report that came as one JSON document, and what it speaks for.

    Raises:
        WireError: It does not fit. Not retryable.
    """
    return structure(data, EnumerationReport), scope_of_report(data)
