"""HTTP of appliances at the partner's side: listed, approved, revoked, replaced."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sanic import Blueprint, Request
from sanic.response import HTTPResponse
from sqlalchemy import delete, select, update

from central_app.audit.service import record_by
from central_app.auth import Caller, add_route
from central_app.bodies import json_reply, list_reply
from central_app.database.connection import Row, Transaction
from central_app.database.tables import (
    appliance_keys,
    appliances,
    credential_leases,
    sealed_credentials,
)
from central_app.events import emit
from central_app.problems import ProblemError, not_found
from central_app.state import central_of
from central_app.wishes import raise_credentials_version, wish_where_owed
from msp_sdk.models.appliance import Appliance
from msp_sdk.security.sealing import key_id
from msp_sdk.wire import routes


def appliance_of(row: Row) -> Appliance:
    """A row as the partner sees it."""
    return Appliance(
        id=row["id"],
        site_id=row["site_id"],
        state=row["state"],
        mac_address=row["mac_address"],
        hostname=row["hostname"],
        created_at=row["created_at"],
        last_seen_at=row["last_seen_at"],
        agent_version=row["agent_version"],
        nixos_version=row["nixos_version"],
        ip_addresses=tuple(row["ip_addresses"]),
        sealing_key_id=key_id(row["sealing_key"]) if row["sealing_key"] is not None else None,
        clock_skew_s=row["clock_skew_s"],
        health=row["health"] or {},
    )


async def list_appliances(request: Request, _caller: Caller, site_id: str) -> HTTPResponse:
    """``GET /api/sites/{site_id}/appliances``, oldest first."""
    rows = await central_of(request).db.fetch_all(
        select(appliances).where(appliances.c.site_id == site_id).order_by(appliances.c.created_at, appliances.c.id)
    )
    return list_reply([appliance_of(row) for row in rows])


async def approve(request: Request, caller: Caller, site_id: str, appliance_id: str) -> HTTPResponse:
    """``POST …/approve``: let it in."""
    now = central_of(request).now()

    async def change(tx: Transaction, row: Row) -> dict[str, Any]:
        if row["state"] == "revoked":
            raise ProblemError("appliance-revoked")
        if row["state"] == "active":
            return {}
        await wish_where_owed(tx, site_id, appliance_id)
        await raise_credentials_version(tx, site_id)
        return {"state": "active"}

    return await _change(request, caller, (site_id, appliance_id), "appliance-approved", change, now)


async def revoke(request: Request, caller: Caller, site_id: str, appliance_id: str) -> HTTPResponse:
    """``POST …/revoke``: its keys end now, and its envelopes with them."""
    now = central_of(request).now()

    async def change(tx: Transaction, row: Row) -> dict[str, Any]:
        if row["state"] == "revoked":
            return {}
        for table in (appliance_keys, sealed_credentials, credential_leases):
            await tx.execute(delete(table).where(table.c.site_id == site_id, table.c.appliance_id == appliance_id))
        await raise_credentials_version(tx, site_id)
        return {"state": "revoked", "replace_wished_at": None}

    return await _change(request, caller, (site_id, appliance_id), "appliance-revoked", change, now)


async def replace(request: Request, caller: Caller, site_id: str, appliance_id: str) -> HTTPResponse:
    """``POST …/replace``: the next new device that claims a code of this site takes its place."""
    now = central_of(request).now()

    async def change(_tx: Transaction, _row: Row) -> dict[str, Any]:
        return {"replace_wished_at": now}

    return await _change(request, caller, (site_id, appliance_id), "appliance-replace-wished", change, now)


async def _change(
    request: Request, caller: Caller, place: tuple[str, str], action: str, change: Any, now: datetime
) -> HTTPResponse:
    site_id, appliance_id = place
    mine = (appliances.c.site_id == site_id) & (appliances.c.id == appliance_id)
    async with central_of(request).db.transaction() as tx:
        row = await tx.fetch_one(select(appliances).where(mine))
        if row is None:
            raise not_found()
        values = await change(tx, row)
        if values:
            await tx.execute(update(appliances).where(mine).values(**values))
            await record_by(tx, caller, action, now, site_id, {"appliance_id": appliance_id})
            await emit(tx, site_id, action, {"appliance_id": appliance_id})
        return json_reply(appliance_of({**row, **values}))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("appliances")
    add_route(made, routes.APPLIANCE_LIST, list_appliances)
    add_route(made, routes.APPLIANCE_APPROVE, approve)
    add_route(made, routes.APPLIANCE_REVOKE, revoke)
    add_route(made, routes.APPLIANCE_REPLACE, replace)
    return made
