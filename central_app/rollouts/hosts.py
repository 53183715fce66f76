"""One host, one key: what was reported by name alone and what was reported with an objectGUID are brought together.

A host may be reported before the directory is read, so without its objectGUID, and later with it; or the other way
round. Its outcomes and results must not stand twice. Two hosts with different objectGUIDs stay two, also when they are
called the same; what is then reported by name alone belongs to neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import evolve
from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.sqlite import insert as insert_or_keep

from central_app.database.connection import Transaction
from central_app.rollouts.coverage import host_key
from msp_sdk.models.compliance import CheckResult
from msp_sdk.models.rollout import Outcome

Entry = TypeVar("Entry", Outcome, CheckResult)

# How many names one statement asks for.
AT_ONCE = 500


async def settle_hosts(
    tx: Transaction, table: Table, content: str, site_id: str, entries: Sequence[Entry]
) -> list[Entry]:
    """Give each entry the objectGUID under which its host is known, and move what stands under its name alone.

    Args:
        tx: The report's transaction.
        table: ``deployments`` or ``scan_results``.
        content: The column that holds the entry as the wire has it.
        site_id: Of which site.
        entries: What was reported.

    Returns:
        The entries in their order.
    """
    alone = await _by_name_alone(tx, table, site_id, {entry.hostname.casefold() for entry in entries})
    if not alone and all(entry.object_guid for entry in entries):
        return list(entries)
    known = await _known(tx, table, site_id, entries)
    for row in alone:
        await _move(tx, table, content, row, known.get(row["host_key"]))
    return [
        entry if entry.object_guid else evolve(entry, object_guid=known.get(entry.hostname.casefold()))
        for entry in entries
    ]


async def _known(tx: Transaction, table: Table, site_id: str, entries: Sequence[Entry]) -> Mapping[str, str]:
    """The objectGUID of each name that belongs to one host alone, as far as was ever reported."""
    rows = await tx.fetch_all(
        select(table.c.hostname, table.c.object_guid)
        .where(table.c.site_id == site_id, table.c.object_guid.is_not(None))
        .distinct()
    )
    pairs: list[tuple[str, str]] = [(row["hostname"], row["object_guid"]) for row in rows]
    pairs += [(entry.hostname, entry.object_guid) for entry in entries if entry.object_guid]
    found: dict[str, dict[str, str]] = {}
    for name, guid in pairs:
        found.setdefault(name.casefold(), {})[guid.casefold()] = guid
    return {name: next(iter(guids.values())) for name, guids in found.items() if len(guids) == 1}


async def _move(tx: Transaction, table: Table, content: str, row: Mapping[str, Any], guid: str | None) -> None:
    if guid is None:
        return
    keys = [column.name for column in table.primary_key.columns]
    await tx.execute(delete(table).where(*(table.c[key] == row[key] for key in keys)))
    moved = {
        **row,
        "host_key": host_key(row["hostname"], guid),
        "object_guid": guid,
        content: {**row[content], "object_guid": guid},
    }
    # What is there under the objectGUID already was said by one who knew more.
    await tx.execute(insert_or_keep(table).values(**moved).on_conflict_do_nothing(index_elements=keys))


async def _by_name_alone(tx: Transaction, table: Table, site_id: str, names: Iterable[str]) -> list[Mapping[str, Any]]:
    wanted = sorted(names)
    found: list[Mapping[str, Any]] = []
    for start in range(0, len(wanted), AT_ONCE):
        found += await tx.fetch_all(
            select(table).where(
                table.c.site_id == site_id,
                table.c.host_key.in_(wanted[start : start + AT_ONCE]),
                table.c.object_guid.is_(None),
            )
        )
    return found
