"""HTTP of sites: settings, manual targets, wishes."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, Request
from sanic.response import HTTPResponse
from sqlalchemy import delete, insert, select

from central_app.audit.service import record_by
from central_app.auth import Caller, add_route
from central_app.bodies import (
    check_text,
    empty_reply,
    json_reply,
    list_reply,
    next_cursor,
    page_of,
    read_json,
    read_model,
)
from central_app.database.connection import Reader, Row
from central_app.database.tables import manual_targets, sites
from central_app.events import emit
from central_app.partners import site_service
from central_app.problems import ProblemError, invalid
from central_app.state import central_of
from central_app.wishes import raise_targets_version, wish
from msp_sdk.models.generation import ENUMERATION, SCAN
from msp_sdk.models.site import NewSite
from msp_sdk.models.target import ManualTarget
from msp_sdk.wire import routes
from msp_sdk.wire.converter import structure

MOST_TARGETS = 5000
LONGEST_HOST = 255
HIGHEST_PORT = 65535


async def create_site(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/sites``."""
    central = central_of(request)
    site = read_model(request, NewSite)
    site_service.check_site(site)
    async with central.db.transaction() as tx:
        made = await site_service.insert_site(tx, caller, site, central.now())
    return json_reply(made, 201)


async def list_sites(request: Request, caller: Caller) -> HTTPResponse:
    """``GET /api/sites``, oldest first."""
    offset, limit = page_of(request)
    rows = await central_of(request).db.fetch_all(
        select(sites)
        .where(sites.c.partner_id == caller.partner_id)
        .order_by(sites.c.created_at, sites.c.site_id)
        .offset(offset)
        .limit(limit + 1)
    )
    found = [site_service.site_of(row) for row in rows[:limit]]
    return list_reply(found, next_cursor(offset, limit, len(rows)))


async def get_site(request: Request, _caller: Caller, site_id: str) -> HTTPResponse:  # noqa: ARG001 (its row is read)
    """``GET /api/sites/{site_id}``."""
    return json_reply(site_service.site_of(request.ctx.site))


async def change_site(request: Request, caller: Caller, site_id: str) -> HTTPResponse:  # noqa: ARG001 (its row is read)
    """``PATCH /api/sites/{site_id}``: what the body names is changed, everything else stays."""
    changes = read_json(request)
    if not isinstance(changes, dict):
        raise invalid("body", "is not an object")
    return json_reply(await site_service.change_site(central_of(request), caller, request.ctx.site, changes))


async def delete_site(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``DELETE /api/sites/{site_id}?history=keep|erase``: off-boarding."""
    history = request.args.get("history", "keep")
    if history not in ("keep", "erase"):
        raise invalid("history", "is keep or erase")
    await site_service.off_board(central_of(request), caller, site_id, erase=history == "erase")
    return empty_reply()


def manual_target_of(row: Row) -> ManualTarget:
    """A row as the wire has it."""
    return ManualTarget(
        hostname=row["hostname"],
        port=row["port"],
        use_ssl=row["use_ssl"],
        role=row["role"],
        credential_id=row["credential_id"],
        excluded=row["excluded"],
    )


async def read_manual_targets(reader: Reader, site_id: str) -> tuple[ManualTarget, ...]:
    """The site's manual targets, as they were set."""
    rows = await reader.fetch_all(
        select(manual_targets).where(manual_targets.c.site_id == site_id).order_by(manual_targets.c.position)
    )
    return tuple(manual_target_of(row) for row in rows)


async def get_manual_targets(request: Request, _caller: Caller, site_id: str) -> HTTPResponse:
    """``GET /api/sites/{site_id}/manual-targets``."""
    return list_reply(list(await read_manual_targets(central_of(request).db, site_id)))


def check_manual_targets(targets: tuple[ManualTarget, ...]) -> None:
    """Check what the model cannot say.

    Raises:
        ProblemError: ``invalid``, with the path.
    """
    if len(targets) > MOST_TARGETS:
        raise invalid("items", f"holds at most {MOST_TARGETS}")
    seen: set[str] = set()
    for number, target in enumerate(targets):
        check_text(f"[{number}].hostname", target.hostname, LONGEST_HOST)
        if target.hostname.strip().casefold() in seen:
            raise invalid(f"[{number}].hostname", "is there twice")
        seen.add(target.hostname.strip().casefold())
        if target.port is not None and not 1 <= target.port <= HIGHEST_PORT:
            raise invalid(f"[{number}].port", f"is 1 to {HIGHEST_PORT}")
        check_text(f"[{number}].credential_id", target.credential_id, 40)


async def put_manual_targets(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``PUT /api/sites/{site_id}/manual-targets``: the whole list; an empty one removes all."""
    central = central_of(request)
    data: Any = read_json(request)
    if isinstance(data, dict):
        data = data.get("items")
    if not isinstance(data, list):
        raise invalid("items", "is not a list")
    targets = structure(data, tuple[ManualTarget, ...])
    check_manual_targets(targets)
    now = central.now()
    rows = [
        {
            "site_id": site_id,
            "host_key": target.hostname.strip().casefold(),
            "position": position,
            "hostname": target.hostname.strip(),
            "port": target.port,
            "use_ssl": target.use_ssl,
            "role": target.role,
            "credential_id": target.credential_id,
            "excluded": target.excluded,
        }
        for position, target in enumerate(targets)
    ]
    async with central.db.transaction() as tx:
        await tx.execute(delete(manual_targets).where(manual_targets.c.site_id == site_id))
        await tx.execute_many(insert(manual_targets), rows)
        await raise_targets_version(tx, site_id)
        await record_by(tx, caller, "manual-targets-set", now, site_id, {"count": len(rows)})
        await emit(tx, site_id, "manual-targets-set", {"count": len(rows)})
        return list_reply(list(await read_manual_targets(tx, site_id)))


async def _wish(request: Request, caller: Caller, site_id: str, work: str) -> HTTPResponse:
    central = central_of(request)
    async with central.db.transaction() as tx:
        count = await wish(tx, site_id, (work,))
        if not count:
            raise ProblemError("conflict", "The site has no appliance yet.")
        await record_by(tx, caller, f"{work}-wished", central.now(), site_id)
        await emit(tx, site_id, f"{work}-wished", {})
    return json_reply({"status": "wished", "appliances_count": count}, 202)


async def wish_enumeration(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``POST /api/sites/{site_id}/enumerations``."""
    return await _wish(request, caller, site_id, ENUMERATION)


async def wish_scan(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``POST /api/sites/{site_id}/scans``."""
    return await _wish(request, caller, site_id, SCAN)


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("sites")
    add_route(made, routes.SITE_CREATE, create_site)
    add_route(made, routes.SITE_LIST, list_sites)
    add_route(made, routes.SITE_GET, get_site)
    add_route(made, routes.SITE_CHANGE, change_site)
    add_route(made, routes.SITE_DELETE, delete_site, role="admin")
    add_route(made, routes.MANUAL_TARGETS_GET, get_manual_targets)
    add_route(made, routes.MANUAL_TARGETS_PUT, put_manual_targets)
    add_route(made, routes.ENUMERATION_WISH, wish_enumeration)
    add_route(made, routes.SCAN_WISH, wish_scan)
    return made
