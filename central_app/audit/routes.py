"""HTTP of the audit."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.audit.service import read_audit
from central_app.auth import Caller, add_route
from central_app.bodies import list_reply, next_cursor, page_of
from central_app.state import central_of
from msp_sdk.wire.routes import AUDIT


async def list_audit(request: Request, caller: Caller) -> HTTPResponse:
    """``GET /api/audit?site_id=&cursor=&limit=``, oldest first."""
    offset, limit = page_of(request)
    found = await read_audit(central_of(request).db, caller.partner_id, request.args.get("site_id"), offset, limit + 1)
    return list_reply(list(found[:limit]), next_cursor(offset, limit, len(found)))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("audit")
    add_route(made, AUDIT, list_audit)
    return made
