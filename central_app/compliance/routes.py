"""Results of checks and runbooks over HTTP."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route
from central_app.bodies import json_reply, list_reply, read_model
from central_app.compliance.service import list_results, take_runbook_results, take_scan
from central_app.reports import reporter_of
from central_app.state import central_of
from msp_sdk.models.compliance import ScanReport
from msp_sdk.models.runbook import RunbookReport
from msp_sdk.wire.routes import REPORT_RUNBOOK, REPORT_SCAN, SITE_SCAN_RESULTS


async def _scan(request: Request, caller: Caller) -> HTTPResponse:
    central = central_of(request)
    reporter = reporter_of(request, caller)
    report = read_model(request, ScanReport)
    return json_reply(await take_scan(central.db, reporter, report, central.now()))


async def _runbook(request: Request, caller: Caller) -> HTTPResponse:
    central = central_of(request)
    reporter = reporter_of(request, caller)
    report = read_model(request, RunbookReport)
    return json_reply(await take_runbook_results(central.db, reporter, report, central.now()))


async def _list(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return list_reply(await list_results(central_of(request).db, site_id))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("compliance")
    add_route(made, REPORT_SCAN, _scan)
    add_route(made, REPORT_RUNBOOK, _runbook)
    add_route(made, SITE_SCAN_RESULTS, _list)
    return made
