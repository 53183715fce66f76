"""Discovery over HTTP."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route
from central_app.bodies import json_reply, list_reply, read_model
from central_app.domains.service import list_discoveries, take_discovery
from central_app.reports import reporter_of
from central_app.state import central_of
from msp_sdk.models.domain import DiscoveryReport
from msp_sdk.wire.routes import REPORT_DISCOVERY, SITE_DOMAINS


async def _report(request: Request, caller: Caller) -> HTTPResponse:
    central = central_of(request)
    reporter = reporter_of(request, caller, before_approval=True)
    report = read_model(request, DiscoveryReport)
    return json_reply(await take_discovery(central.db, reporter, report, central.now()))


async def _list(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return list_reply(await list_discoveries(central_of(request).db, site_id))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("domains")
    add_route(made, REPORT_DISCOVERY, _report)
    add_route(made, SITE_DOMAINS, _list)
    return made
