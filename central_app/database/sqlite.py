"""The check-in on SQLite: one transaction for a batch of heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update

from central_app.checkin.store import CheckInResult, CheckInRow, Work, settle
from central_app.database.connection import Row, SqliteDatabase, Transaction
from central_app.database.tables import appliance_keys, appliances, sites
from msp_sdk.models.generation import WORK


class SqliteCheckInStore:
    """Implements :class:`~central_app.checkin.store.CheckInStore`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def check_in(self, rows: Sequence[CheckInRow]) -> list[CheckInResult | None]:
        """Take heartbeats; committed when this returns."""
        async with self._database.transaction() as tx:
            return [await _check_in(tx, row) for row in rows]


async def _check_in(tx: Transaction, row: CheckInRow) -> CheckInResult | None:
    key = await tx.fetch_one(
        select(appliance_keys).where(appliance_keys.c.site_id == row.site_id, appliance_keys.c.key_hash == row.key_hash)
    )
    site = key and await tx.fetch_one(select(sites).where(sites.c.site_id == row.site_id))
    appliance = key and await tx.fetch_one(
        select(appliances).where(appliances.c.site_id == row.site_id, appliances.c.id == key["appliance_id"])
    )
    # An unknown key is not let in, whoever it says it is (lesson 5).
    if key is None or not site or not appliance or appliance["state"] == "revoked":
        return None
    first = key["used_at"] is None
    if first:
        await _end_other_keys(tx, row, appliance["id"])
    values, triggers = _values(row, appliance, site)
    await tx.execute(
        update(appliances)
        .where(appliances.c.site_id == row.site_id, appliances.c.id == appliance["id"])
        .values(**values)
    )
    return CheckInResult({**appliance, **values}, site, triggers, first, appliance["last_seen_at"])


async def _end_other_keys(tx: Transaction, row: CheckInRow, appliance_id: str) -> None:
    """The first use of a key ends the appliance's others: until then the old one works (lesson 3)."""
    await tx.execute(
        delete(appliance_keys).where(
            appliance_keys.c.site_id == row.site_id,
            appliance_keys.c.appliance_id == appliance_id,
            appliance_keys.c.key_hash != row.key_hash,
        )
    )
    await tx.execute(
        update(appliance_keys)
        .where(appliance_keys.c.site_id == row.site_id, appliance_keys.c.key_hash == row.key_hash)
        .values(used_at=row.now)
    )


def _values(row: CheckInRow, appliance: Row, site: Row) -> tuple[dict[str, Any], dict[str, bool]]:
    values: dict[str, Any] = {
        "hostname": row.hostname,
        "ip_addresses": list(row.ip_addresses),
        "uptime_seconds": row.uptime_seconds,
        "agent_version": row.agent_version,
        "nixos_version": row.nixos_version,
        "last_seen_at": row.now,
        "key_used": True,
    }
    if row.all_mac_addresses is not None:
        values["all_mac_addresses"] = list(row.all_mac_addresses)
    if row.subnets is not None:
        values["subnets"] = list(row.subnets)
    triggers: dict[str, bool] = {}
    for name in WORK:
        before = Work(
            appliance[f"{name}_wished"],
            appliance[f"{name}_done"],
            appliance[f"{name}_sent"],
            appliance[f"{name}_sent_at"],
        )
        counts = row.completed is not None
        said = row.completed.get(name) if row.completed is not None else None
        after, triggers[name] = settle(before, said, row.now, site["checkin_interval_seconds"], counts=counts)
        values |= {f"{name}_done": after.done, f"{name}_sent": after.sent, f"{name}_sent_at": after.sent_at}
    return values, triggers
