"""What every report of an appliance has in common: it is taken once, whole, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from attrs import frozen
from sanic import Request
from sqlalchemy import Table, delete, select, update
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as insert_or_change

from central_app.auth import Caller
from central_app.database.connection import Database, Transaction
from central_app.database.tables import appliances, reports
from central_app.problems import ProblemError
from central_app.state import central_of
from msp_sdk.errors import MspError, WireError
from msp_sdk.models.checkin import RefusedEntry, ReportReply
from msp_sdk.models.generation import acknowledge

KEPT = timedelta(days=30)
LONGEST_ID = 80
# How much of a refused body is read, so that its sender hears why.
DRAINED_BYTES = 32 * 1024 * 1024
LONGEST_NAME = 255
LONGEST_GUID = 40
# So many refused entries are named in a reply; the rest is counted.
REFUSED_NAMED_COUNT = 50


@frozen
class Reporter:
    """Who reports: the appliance and site of the key that signed in, whatever a body says."""

    partner_id: str
    site_id: str
    appliance_id: str


def reporter_of(request: Request, caller: Caller, *, before_approval: bool = False) -> Reporter:
    """The appliance that calls, within the budget of its reports; the heartbeat has no part in it (lesson 16).

    Args:
        request: The budgets are its application's.
        caller: Who was proven to call.
        before_approval: An appliance that awaits approval may send this report: what it sees needs no credential.
            Everything else would let whoever has a code rewrite what the site's own appliances found.

    Raises:
        ProblemError: ``unauthenticated``: it is none; ``not-approved``; ``rate-limited``.
    """
    if caller.site_id is None or caller.appliance_id is None:
        raise ProblemError("unauthenticated")
    if not caller.approved and not before_approval:
        raise ProblemError("not-approved")
    central_of(request).reports_by_appliance.take(caller.appliance_id)
    return Reporter(caller.partner_id, caller.site_id, caller.appliance_id)


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes, for a handler with ``stream=True``. No limit is enforced here: whoever reads on counts."""
    stream: Any = request.stream
    while (chunk := await stream.read()) is not None:
        yield chunk


@asynccontextmanager
async def answer_heard(request: Request) -> AsyncIterator[None]:
    """Let a refusal be heard by a peer that is still sending: the rest of its body is read first, within reason.

    Closing a connection with unread bytes resets it, and the peer may never see the answer.
    """
    try:
        yield
    except MspError:
        count = 0
        async for chunk in body_chunks(request):
            count += len(chunk)
            if count > DRAINED_BYTES:
                break
        raise


def upsert(table: Table, keys: Sequence[str], kept: Iterable[str] = ()) -> Insert:
    """An insert that replaces the row with the same key.

    Args:
        table: Into which.
        keys: The columns of the key.
        kept: Columns of an existing row that stay as they are.
    """
    statement = insert_or_change(table)
    fixed = {*keys, *kept}
    return statement.on_conflict_do_update(
        index_elements=list(keys),
        set_={column.name: statement.excluded[column.name] for column in table.columns if column.name not in fixed},
    )


def check_text(value: str, path: str, longest: int = LONGEST_NAME) -> str:
    """Return a text that a table can hold as a name.

    Raises:
        WireError: It is empty, too long, or holds a NUL. Not retryable.
    """
    if not value.strip() or len(value) > longest or "\x00" in value:
        raise WireError(f"a name here has 1 to {longest} characters.", path=path)
    return value


def refused_entry(path: str, error: WireError | ProblemError) -> RefusedEntry:
    """An entry of a report that cannot be held; the error's own places count from where the entry stands."""
    place, message = error.errors[0] if error.errors else ("", error.detail)
    return RefusedEntry(f"{path}.{place}" if place else path, message)


def nothing_held(refused: Sequence[RefusedEntry]) -> WireError:
    """The refusal of a report of which nothing can be held: that is not an empty one (lesson 24)."""
    return WireError(
        "no entry of the report can be held.", errors=tuple((entry.path, entry.message) for entry in refused)
    )


def check_guid(value: str | None, path: str) -> None:
    """Check an objectGUID that may be missing.

    Raises:
        WireError: As :func:`check_text`.
    """
    if value is not None:
        check_text(value, path, LONGEST_GUID)


async def take_report(
    db: Database,
    reporter: Reporter,
    report_id: str,
    kind: str,
    now: datetime,
    apply: Callable[[Transaction], Awaitable[None]],
) -> ReportReply:
    """Apply a report in one transaction, unless it was taken before.

    Args:
        db: Where.
        reporter: The appliance of the key.
        report_id: Unique per appliance, kept 30 days; a repeat changes nothing and is answered well.
        kind: Of the report, for people who look at the table.
        now: The instant of arrival.
        apply: Writes the report; whatever it raises leaves nothing behind.

    Raises:
        WireError: The report's id cannot be one. Not retryable.
    """
    check_text(report_id, "report_id", LONGEST_ID)
    mine = (reports.c.site_id == reporter.site_id) & (reports.c.appliance_id == reporter.appliance_id)
    async with db.transaction() as tx:
        if await tx.fetch_one(select(reports.c.report_id).where(mine, reports.c.report_id == report_id)):
            return ReportReply("ok", repeated=True)
        await tx.execute(delete(reports).where(mine, reports.c.received_at < now - KEPT))
        await tx.execute(
            insert_or_change(reports).values(
                site_id=reporter.site_id,
                appliance_id=reporter.appliance_id,
                report_id=report_id,
                kind=kind,
                received_at=now,
            )
        )
        await apply(tx)
    return ReportReply("ok")


async def acknowledge_work(tx: Transaction, reporter: Reporter, work: str, generation: int | None) -> None:
    """Raise what this appliance has done of a kind of work, as its report says.

    A report without a generation comes from a client that does not count: it acknowledges what that client was told.

    Args:
        tx: The report's transaction.
        reporter: The appliance.
        work: ``enumeration`` or ``scan``.
        generation: As reported, or None.
    """
    columns: dict[str, Any] = {name: appliances.c[f"{work}_{name}"] for name in ("wished", "done", "sent")}
    mine = (appliances.c.site_id == reporter.site_id) & (appliances.c.id == reporter.appliance_id)
    row = await tx.fetch_one(select(*columns.values()).where(mine))
    if row is None:
        return
    sent = int(row[f"{work}_sent"]) if generation is None else generation
    done = acknowledge(int(row[f"{work}_done"]), sent, int(row[f"{work}_wished"]))
    if done != row[f"{work}_done"]:
        await tx.execute(update(appliances).where(mine).values({f"{work}_done": done}))
