"""The merged lists of targets, as the appliances report them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import Select, delete, insert, select

from central_app.bodies import check_plain
from central_app.database.connection import Database, Reader, Row, Transaction
from central_app.database.tables import appliances, target_reports, targets
from central_app.events import emit
from central_app.problems import ProblemError
from central_app.reports import (
    REFUSED_NAMED_COUNT,
    Reporter,
    check_text,
    nothing_held,
    refused_entry,
    take_report,
    upsert,
)
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import RefusedEntry, ReportReply
from msp_sdk.models.target import SkippedTarget, Target, TargetsReport
from msp_sdk.wire.converter import loads, structure, unstructure

_KINDS: Mapping[str, type[Target | SkippedTarget]] = {"targets": Target, "skipped": SkippedTarget}


@frozen
class TargetList:
    """A report of targets, judged entry by entry: one that no table holds is refused alone.

    Attributes:
        rows: One a host; of two entries for one, the later stands.
        refused: The entries that cannot be held.
    """

    report_id: str
    enumeration_generation: int
    rows: tuple[Mapping[str, Any], ...]
    refused: tuple[RefusedEntry, ...]


def parse_targets(reporter: Reporter, body: bytes) -> TargetList:
    """A report of targets. Some seconds' work for a big site: not on the loop, where heartbeats are answered.

    Raises:
        WireError, ProblemError: It is none, or nothing of it can be held. Not retryable.
    """
    data = loads(body)
    if not isinstance(data, Mapping):
        raise WireError("the body is not a JSON object.", errors=(("", "is not an object"),))
    head = structure({**data, **dict.fromkeys(_KINDS, ())}, TargetsReport)
    check_plain(unstructure(head))
    rows: dict[str, Mapping[str, Any]] = {}
    refused: list[RefusedEntry] = []
    for name, kind in _KINDS.items():
        listed = data.get(name, [])
        if not isinstance(listed, list):
            raise WireError("the message does not fit.", errors=((name, "is not a list"),))
        for number, entry in enumerate(listed):
            try:
                row = _row(reporter, structure(entry, kind))
            except (WireError, ProblemError) as error:
                refused.append(refused_entry(f"{name}[{number}]", error))
            else:
                rows[row["host_key"]] = row
    if refused and not rows:
        raise nothing_held(refused)
    return TargetList(head.report_id, head.enumeration_generation, tuple(rows.values()), tuple(refused))


def _row(reporter: Reporter, entry: Target | SkippedTarget) -> dict[str, Any]:
    skipped = isinstance(entry, SkippedTarget)
    plain = unstructure(entry)
    check_plain(plain)
    hostname = check_text(entry.hostname, "hostname")
    key = (entry.object_guid or hostname).casefold() if isinstance(entry, SkippedTarget) else entry.key.casefold()
    return {
        "site_id": reporter.site_id,
        "appliance_id": reporter.appliance_id,
        # What is left out may bear the name of what is not.
        "host_key": check_text(f"skipped {key}" if skipped else key, "object_guid"),
        "hostname": hostname,
        "role": entry.role,
        "skipped": skipped,
        "reason": entry.reason if isinstance(entry, SkippedTarget) else entry.unreachable_reason,
        "data": plain,
    }


async def take_targets(
    db: Database,
    reporter: Reporter,
    report: TargetList,
    now: datetime,
    then: Callable[[Transaction], Awaitable[object]],
) -> ReportReply:
    """Replace this appliance's list.

    Args:
        db: Where.
        reporter: The appliance.
        report: Its merged list.
        now: The instant of arrival.
        then: What follows from a new list, in the same transaction.
    """
    skipped_count = sum(1 for row in report.rows if row["skipped"])

    async def apply(tx: Transaction) -> None:
        mine = (targets.c.site_id == reporter.site_id) & (targets.c.appliance_id == reporter.appliance_id)
        await tx.execute(delete(targets).where(mine))
        await tx.execute_many(insert(targets), report.rows)
        await tx.execute(
            upsert(target_reports, ("site_id", "appliance_id")).values(
                site_id=reporter.site_id,
                appliance_id=reporter.appliance_id,
                report_id=report.report_id,
                enumeration_generation=report.enumeration_generation,
                received_at=now,
            )
        )
        await then(tx)
        counts = {"targets": len(report.rows) - skipped_count, "skipped": skipped_count, "refused": len(report.refused)}
        await emit(tx, reporter.site_id, "targets", counts)

    reply = await take_report(db, reporter, report.report_id, "targets", now, apply)
    return evolve(reply, refused_count=len(report.refused), refused=report.refused[:REFUSED_NAMED_COUNT])


def working(site_id: str) -> Select[tuple[str]]:
    """The appliances whose lists count. What a revoked one had listed would hold the site up for ever."""
    return select(appliances.c.id).where(appliances.c.site_id == site_id, appliances.c.state == "active")


async def target_rows(reader: Reader, site_id: str) -> list[Row]:
    """All rows of a site, by host name."""
    return await reader.fetch_all(
        select(targets)
        .where(targets.c.site_id == site_id, targets.c.appliance_id.in_(working(site_id)))
        .order_by(targets.c.hostname)
    )


async def list_rows(reader: Reader, site_id: str) -> list[Row]:
    """What is known of each appliance's list itself, such as of which enumeration it is."""
    return await reader.fetch_all(
        select(target_reports)
        .where(target_reports.c.site_id == site_id, target_reports.c.appliance_id.in_(working(site_id)))
        .order_by(target_reports.c.appliance_id)
    )


def _by_appliance(rows: Iterable[Row]) -> dict[str, tuple[list[Target], list[SkippedTarget]]]:
    lists: dict[str, tuple[list[Target], list[SkippedTarget]]] = {}
    for row in rows:
        listed, skipped = lists.setdefault(row["appliance_id"], ([], []))
        if row["skipped"]:
            skipped.append(structure(row["data"], SkippedTarget))
        else:
            listed.append(structure(row["data"], Target))
    return lists


async def list_targets(reader: Reader, site_id: str) -> list[TargetsReport]:
    """The last list of each appliance of a site; empty when none has reported."""
    rows = await target_rows(reader, site_id)
    lists = await asyncio.to_thread(_by_appliance, rows)
    found = []
    for row in await list_rows(reader, site_id):
        listed, skipped = lists.get(row["appliance_id"], ([], []))
        found.append(TargetsReport(row["report_id"], int(row["enumeration_generation"]), tuple(listed), tuple(skipped)))
    return found
