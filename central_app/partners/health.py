"""Whether Central lives and whether it is ready. No secrets, no figures of anybody."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse
from sqlalchemy import func, select

from central_app.auth import Caller, add_route
from central_app.bodies import json_reply
from central_app.database.connection import DatabaseError
from central_app.database.tables import vault_keys
from central_app.problems import ProblemError
from central_app.state import central_of
from msp_sdk.wire.routes import HEALTHZ, READYZ


async def healthz(_request: Request, _caller: Caller) -> HTTPResponse:
    """``GET /healthz``: the process answers."""
    return json_reply({"status": "ok"})


async def readyz(request: Request, _caller: Caller) -> HTTPResponse:
    """``GET /readyz``: the database answers, and we are not stopping."""
    central = central_of(request)
    if central.stopping.is_set():
        raise ProblemError("unavailable", "Central is stopping.", retry_after_s=5)
    try:
        await central.db.fetch_one(select(func.count()).select_from(vault_keys))
    except DatabaseError:
        raise ProblemError("unavailable", "The database does not answer.", retry_after_s=5) from None
    return json_reply({"status": "ready"})


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("health")
    add_route(made, HEALTHZ, healthz)
    add_route(made, READYZ, readyz)
    return made
