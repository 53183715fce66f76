"""The merged lists of targets, as the appliances report them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, insert, select

from central_app.database.connection import Database, Reader, Row, Transaction
from central_app.database.tables import appliances, target_reports, targets
from central_app.events import emit
from central_app.reports import Reporter, check_text, take_report, upsert
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.target import SkippedTarget, Target, TargetsReport
from msp_sdk.wire.converter import structure, unstructure


def _row(reporter: Reporter, entry: Target | SkippedTarget, path: str) -> dict[str, Any]:
    skipped = isinstance(entry, SkippedTarget)
    hostname = check_text(entry.hostname, f"{path}.hostname")
    key = (entry.object_guid or hostname).casefold() if isinstance(entry, SkippedTarget) else entry.key.casefold()
    return {
        "site_id": reporter.site_id,
        "appliance_id": reporter.appliance_id,
        # What is left out may bear the name of what is not.
        "host_key": check_text(f"skipped {key}" if skipped else key, f"{path}.object_guid"),
        "hostname": hostname,
        "role": entry.role,
        "skipped": skipped,
        "reason": entry.reason if isinstance(entry, SkippedTarget) else entry.unreachable_reason,
        "data": unstructure(entry),
    }


def _rows(reporter: Reporter, report: TargetsReport) -> list[dict[str, Any]]:
    listed = [_row(reporter, target, f"targets[{number}]") for number, target in enumerate(report.targets)]
    left_out = [_row(reporter, target, f"skipped[{number}]") for number, target in enumerate(report.skipped)]
    # One row a host: of two entries for one, the later stands.
    return list({row["host_key"]: row for row in (*listed, *left_out)}.values())


async def take_targets(
    db: Database,
    reporter: Reporter,
    report: TargetsReport,
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

    Raises:
        WireError: A name in it cannot be one; the old list stays. Not retryable.
    """
    rows = await asyncio.to_thread(_rows, reporter, report)

    async def apply(tx: Transaction) -> None:
        mine = (targets.c.site_id == reporter.site_id) & (targets.c.appliance_id == reporter.appliance_id)
        await tx.execute(delete(targets).where(mine))
        await tx.execute_many(insert(targets), rows)
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
        await emit(tx, reporter.site_id, "targets", {"targets": len(report.targets), "skipped": len(report.skipped)})

    return await take_report(db, reporter, report.report_id, "targets", now, apply)


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


async def list_targets(reader: Reader, site_id: str) -> list[TargetsReport]:
    """The last list of each appliance of a site; empty when none has reported."""
    lists: dict[str, tuple[list[Target], list[SkippedTarget]]] = {}
    for row in await target_rows(reader, site_id):
        listed, skipped = lists.setdefault(row["appliance_id"], ([], []))
        if row["skipped"]:
            skipped.append(structure(row["data"], SkippedTarget))
        else:
            listed.append(structure(row["data"], Target))
    found = []
    for row in await list_rows(reader, site_id):
        listed, skipped = lists.get(row["appliance_id"], ([], []))
        found.append(TargetsReport(row["report_id"], int(row["enumeration_generation"]), tuple(listed), tuple(skipped)))
    return found
