"""Enumeration reports: the last good result stays, whatever fails after it (lesson 24).

Only a complete ``full`` marks what is missing as vanished, in its domain and scope; all of its domain where it was
read in the scope that the site has now. A ``changes`` report holds whole computers, so it is always taken; where it
does not go on from what came before it, something is missing in between, and a full enumeration is wished by itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, get_args

from attrs import evolve

from central_app.bodies import check_plain
from central_app.computers import store
from central_app.computers.entries import ReportHead, entries_of_document, read_entries, read_head
from central_app.computers.lines import ReportLines
from central_app.computers.scope import ReportScope
from central_app.computers.upload import LONGEST_UPLOAD_S, Upload, uploading
from central_app.database.connection import Database, Reader, Transaction
from central_app.database.folding import fold
from central_app.events import emit
from central_app.problems import ProblemError
from central_app.reports import Reporter, acknowledge_work, check_text, nothing_held, take_report
from central_app.wishes import wish_again
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.computer import Computer, ComputerRole, EnumerationFailure, EnumerationReport
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.models.scope import DOMAIN_OUT_OF_SCOPE
from msp_sdk.wire.converter import loads, structure, unstructure

PAGE_COUNT = 100
ROLES: tuple[str, ...] = get_args(ComputerRole)
ENTRIES_COUNT = 250


async def take_enumeration(db: Database, reporter: Reporter, body: bytes, now: datetime) -> ReportReply:
    """Take a report that came as one JSON document.

    Args:
        db: Where.
        reporter: The appliance.
        body: Results, or why there are none.
        now: The instant of arrival.

    Raises:
        WireError: It does not fit; or it holds both results and a failure, or neither. Not retryable.
        ProblemError: It holds what no table can.
    """
    data = await asyncio.to_thread(loads, body)
    if not isinstance(data, Mapping):
        raise WireError("the body is not a JSON object.", errors=(("", "is not an object"),))
    has_results, has_failed = data.get("results") is not None, data.get("failed") is not None
    if has_results == has_failed:
        raise WireError("a report holds either results or failed.", path="results")
    if has_failed:
        check_plain(data)
        report = structure(data, EnumerationReport)
        assert report.failed is not None  # noqa: S101 (for the type checker)
        return await _take_failure(db, reporter, report.report_id, report.failed, now)
    head = read_head(data)
    entries = list(entries_of_document(data))
    async with uploading(db, reporter, now) as upload:
        for start in range(0, len(entries), ENTRIES_COUNT):
            await upload.put(await asyncio.to_thread(read_entries, entries[start : start + ENTRIES_COUNT]))
        return await _take_results(db, reporter, head, upload, now)


async def take_lines(db: Database, reporter: Reporter, chunks: AsyncIterator[bytes], now: datetime) -> ReportReply:
    """Take the results of an enumeration that come as lines.

    Args:
        db: Where.
        reporter: The appliance.
        chunks: The decompressed stream.
        now: The instant of its beginning.

    Raises:
        WireError: It did not come whole, or its head does not fit; nothing was changed. Not retryable.
        ProblemError: As the head says; or ``unavailable``: it took too long to arrive.
    """
    lines = ReportLines(chunks)
    try:
        async with asyncio.timeout(LONGEST_UPLOAD_S), uploading(db, reporter, now) as upload:
            async for batch in lines.batches():
                await upload.put(batch)
            return await _take_results(db, reporter, lines.head, upload, now)
    except TimeoutError:
        raise ProblemError("unavailable", "The report took too long to arrive.") from None


async def _take_results(
    db: Database, reporter: Reporter, head: ReportHead, upload: Upload, now: datetime
) -> ReportReply:
    report_id, results, domain_name = head.report_id, head.results, head.domain_name
    if upload.refused and not upload.count and not upload.removed:
        raise nothing_held(upload.refused)

    async def apply(tx: Transaction) -> None:
        await upload.move(tx, report_id, domain_name, now)
        # Whom the report speaks of is there, whether or not we can hold what it says.
        await store.mark_reported(tx, reporter.site_id, domain_name, report_id, upload.refused_guids)
        vanished = await store.mark_removed(tx, reporter.site_id, domain_name, upload.removed, now)
        values: dict[str, Any] = {"cursor_sha256": _digest(results.cursor)}
        if results.kind == "full":
            scope = head.scope
            if scope.is_clear and await store.has_scope(tx, reporter.site_id, results.site_scope):
                # Whatever it left out: what it does not hold is gone, or is out of the site's scope.
                scope = ReportScope()
            # Of whom an entry spoke that does not even name its computer, here or in the directory itself, nobody
            # knows: none is called missing.
            if len(upload.refused_guids) == upload.refused_count and not results.unreadable_count:
                vanished += await store.mark_vanished(tx, reporter.site_id, domain_name, report_id, scope, now)
            values |= {"full": unstructure(results), "full_at": now, "full_generation": results.generation}
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
            {
                "domain_name": results.domain_name,
                "kind": results.kind,
                "computers": upload.count,
                "vanished": vanished,
                "refused": upload.refused_count,
            },
        )

    reply = await take_report(db, reporter, report_id, "enumeration-results", now, apply)
    return evolve(reply, refused_count=upload.refused_count, refused=tuple(upload.refused))


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


def _cursor(folded_hostname: str, object_guid: str) -> str:
    return base64.urlsafe_b64encode(f"{folded_hostname}\n{object_guid}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        # A host name may hold anything; a GUID is the last word.
        name, guid = text.rsplit("\n", 1)
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
        text: Only with this in the host name or full name, in any case.
        cursor: From a page before.

    Raises:
        WireError: The role or cursor is none. Not retryable.
    """
    if role is not None and role not in ROLES:
        raise WireError(f"a role is one of {', '.join(ROLES)}.", path="role")
    after = _place(cursor) if cursor else None
    rows = await store.list_rows(reader, site_id, role=role, text=fold(text), after=after, limit=PAGE_COUNT + 1)
    page = rows[:PAGE_COUNT]
    following = _cursor(page[-1]["folded_hostname"], page[-1]["object_guid"]) if len(rows) > PAGE_COUNT else None
    return [structure(row["data"], Computer) for row in page], following
