"""Computers and enumerations in the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, tuple_, update

from central_app.computers.scope import ReportScope
from central_app.database.connection import Reader, Row, Transaction
from central_app.database.tables import computers, enumerations, sites
from central_app.reports import Reporter, upsert
from msp_sdk.models.computer import Computer
from msp_sdk.models.scope import SiteScope
from msp_sdk.wire.converter import structure

# How many rows go to the database at once.
BATCH_COUNT = 500


async def mark_reported(
    tx: Transaction, site_id: str, domain_name: str, report_id: str, object_guids: Sequence[str]
) -> None:
    """Note that a report spoke of computers, though it said nothing of them that can be held; they stay as they are."""
    for start in range(0, len(object_guids), BATCH_COUNT):
        await tx.execute(
            update(computers)
            .where(computers.c.site_id == site_id, computers.c.domain_name == domain_name)
            .where(computers.c.object_guid.in_(object_guids[start : start + BATCH_COUNT]))
            .values(report_id=report_id)
        )


async def has_scope(tx: Transaction, site_id: str, scope: SiteScope | None) -> bool:
    """Whether this is the site's scope as it is now: then what a reading in it left out does not belong to the site."""
    row = await tx.fetch_one(select(sites.c.scope).where(sites.c.site_id == site_id))
    return row is not None and structure(row["scope"], SiteScope) == scope


async def mark_vanished(
    tx: Transaction, site_id: str, domain_name: str, report_id: str, scope: ReportScope, now: datetime
) -> int:
    """Mark what a complete full report did not hold, in its domain and its scope alone.

    Returns:
        How many are newly marked.
    """
    if not scope.is_clear:
        return 0
    missing = (
        (computers.c.site_id == site_id)
        & (computers.c.domain_name == domain_name)
        & (computers.c.report_id != report_id)
        & computers.c.vanished_at.is_(None)
    )
    if scope.is_everything:
        return await tx.execute(update(computers).where(missing).values(vanished_at=now))
    rows = await tx.fetch_all(
        select(computers.c.object_guid, computers.c.hostname, computers.c.role, computers.c.data).where(missing)
    )
    gone = [
        row["object_guid"]
        for row in rows
        if scope.covers(hostname=row["hostname"], ou_path=str(row["data"].get("ou_path", "")), role=row["role"])
    ]
    return await mark_removed(tx, site_id, domain_name, gone, now)


async def mark_removed(
    tx: Transaction, site_id: str, domain_name: str, object_guids: Iterable[str], now: datetime
) -> int:
    """Mark computers that their own directory says are gone.

    Returns:
        How many are newly marked.
    """
    wanted = [object_guid.casefold() for object_guid in object_guids]
    count = 0
    for start in range(0, len(wanted), BATCH_COUNT):
        count += await tx.execute(
            update(computers)
            .where(computers.c.site_id == site_id, computers.c.domain_name == domain_name)
            .where(computers.c.object_guid.in_(wanted[start : start + BATCH_COUNT]))
            .where(computers.c.vanished_at.is_(None))
            .values(vanished_at=now)
        )
    return count


async def last_cursor(tx: Transaction, reporter: Reporter, domain_name: str) -> str | None:
    """The digest of where this appliance had read to in a domain; None when it never said."""
    row = await tx.fetch_one(
        select(enumerations.c.cursor_sha256).where(
            enumerations.c.site_id == reporter.site_id,
            enumerations.c.appliance_id == reporter.appliance_id,
            enumerations.c.domain_name == domain_name,
        )
    )
    return row["cursor_sha256"] if row else None


async def put_enumeration(tx: Transaction, reporter: Reporter, domain_name: str, values: Mapping[str, Any]) -> None:
    """Write some columns of what is known of an enumeration; the others stay."""
    key = {"site_id": reporter.site_id, "appliance_id": reporter.appliance_id, "domain_name": domain_name}
    kept = {column.name for column in enumerations.columns} - {*key, *values}
    await tx.execute(upsert(enumerations, tuple(key), kept).values(**key, **values))


def _pattern(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


async def list_rows(
    reader: Reader, site_id: str, *, role: str | None, text: str | None, after: tuple[str, str] | None, limit: int
) -> list[Row]:
    """Present computers by host name, at most ``limit`` after a place.

    Args:
        reader: From where.
        site_id: Of which site.
        role: Of this role only, or None.
        text: Whose host name or full name holds this (folded), or None.
        after: The host name (folded) and objectGUID of the last one that was read, or None.
        limit: How many.
    """
    name, guid = computers.c.folded_hostname, computers.c.object_guid
    wanted: list[ColumnElement[bool]] = [computers.c.site_id == site_id, computers.c.vanished_at.is_(None)]
    if role is not None:
        wanted.append(computers.c.role == role)
    if text:
        pattern = _pattern(text)
        wanted.append(or_(name.like(pattern, escape="\\"), computers.c.folded_fqdn.like(pattern, escape="\\")))
    if after is not None:
        wanted.append(tuple_(name, guid) > tuple_(*after))
    return await reader.fetch_all(select(computers).where(*wanted).order_by(name, guid).limit(limit))


async def role_counts(reader: Reader, site_id: str) -> dict[str, int]:
    """How many present computers there are of each role."""
    rows = await reader.fetch_all(
        select(computers.c.role, func.count().label("number"))
        .where(computers.c.site_id == site_id, computers.c.vanished_at.is_(None))
        .group_by(computers.c.role)
    )
    return {row["role"]: int(row["number"]) for row in rows}


async def present_names(reader: Reader, site_id: str) -> list[Row]:
    """``hostname``, ``fqdn``, ``object_guid`` and ``role`` of every present computer of a site, in no order."""
    names = (computers.c.hostname, computers.c.fqdn, computers.c.object_guid, computers.c.role)
    return await reader.fetch_all(
        select(*names).where(computers.c.site_id == site_id, computers.c.vanished_at.is_(None))
    )


async def some_computers(reader: Reader, site_id: str, object_guids: Collection[str]) -> dict[str, Computer]:
    """The present ones of these computers (objectGUIDs in any case, a page of them), by folded objectGUID."""
    rows = await reader.fetch_all(
        select(computers.c.object_guid, computers.c.data)
        .where(computers.c.site_id == site_id, computers.c.vanished_at.is_(None))
        .where(computers.c.object_guid.in_([guid.casefold() for guid in object_guids]))
    )
    return {row["object_guid"]: structure(row["data"], Computer) for row in rows}
