"""Packages, rollouts, outcomes and the deployment status over HTTP."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route
from central_app.bodies import json_reply, list_reply, read_model
from central_app.problems import ProblemError
from central_app.reports import answer_heard, body_chunks, reporter_of
from central_app.rollouts import packages
from central_app.rollouts.facts import site_status
from central_app.rollouts.service import (
    change_rollout,
    create_rollout,
    get_rollout,
    list_outcomes,
    take_deployments,
)
from central_app.rollouts.store import site_rollouts
from central_app.state import central_of
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.rollout import DeploymentReport, NewRollout
from msp_sdk.wire.routes import (
    PACKAGE_CREATE,
    PACKAGE_DOWNLOAD,
    PACKAGE_LIST,
    PACKAGE_UPLOAD,
    REPORT_DEPLOYMENTS,
    ROLLOUT_CANCEL,
    ROLLOUT_CREATE,
    ROLLOUT_GET,
    ROLLOUT_LIST,
    ROLLOUT_PAUSE,
    ROLLOUT_RESUME,
    ROLLOUT_RETRY,
    SITE_DEPLOYMENTS,
    SITE_STATUS,
)

CREATED = 201
PARTIAL = 206
RANGE_NOT_SATISFIABLE = 416


async def _describe(request: Request, caller: Caller) -> HTTPResponse:
    central = central_of(request)
    package = read_model(request, AgentPackage)
    made = await packages.describe_package(central.db, caller, package, central.now())
    return json_reply(made, CREATED)


async def _upload(request: Request, caller: Caller, sha256: str) -> HTTPResponse:
    central = central_of(request)
    async with answer_heard(request):
        made = await packages.upload_package(central.db, caller, sha256, body_chunks(request), central.now())
    return json_reply(made)


async def _list_packages(request: Request, caller: Caller) -> HTTPResponse:
    return list_reply(await packages.list_packages(central_of(request).db, caller.partner_id))


async def _download(request: Request, caller: Caller, sha256: str) -> HTTPResponse | None:
    db = central_of(request).db
    # One that awaits approval is told of no rollout either.
    if caller.site_id is not None and not (caller.approved and await packages.may_download(db, caller.site_id, sha256)):
        raise ProblemError("not-found")
    package = await packages.get_package(db, caller.partner_id, sha256)
    if not package.uploaded:
        raise ProblemError("package-missing")
    headers = {"accept-ranges": "bytes", "etag": f'"{sha256}"', "x-content-type-options": "nosniff"}
    try:
        span = packages.parse_range(request.headers.get("range"), package.size_bytes)
    except ValueError:
        headers["content-range"] = f"bytes */{package.size_bytes}"
        return HTTPResponse(b"", RANGE_NOT_SATISFIABLE, headers)
    status = 200
    if span is not None:
        status = PARTIAL
        headers["content-range"] = f"bytes {span.first}-{span.last}/{package.size_bytes}"
    span = span or packages.Span(0, package.size_bytes - 1)
    headers["content-length"] = str(span.count)
    response = await request.respond(status=status, headers=headers, content_type="application/octet-stream")
    async for piece in packages.read_package(db, caller.partner_id, sha256, span):
        await response.send(piece)
    await response.eof()
    return None


async def _create(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    central = central_of(request)
    new = read_model(request, NewRollout)
    made = await create_rollout(central.db, caller, site_id, new, central.now())
    return json_reply(made, CREATED)


async def _list(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return list_reply(await site_rollouts(central_of(request).db, site_id))


async def _get(request: Request, caller: Caller, site_id: str, rollout_id: str) -> HTTPResponse:
    del caller
    return json_reply(await get_rollout(central_of(request).db, site_id, rollout_id))


async def _change(request: Request, caller: Caller, site_id: str, rollout_id: str) -> HTTPResponse:
    central = central_of(request)
    verb = request.path.rpartition("/")[2]
    return json_reply(await change_rollout(central.db, caller, site_id, rollout_id, verb, central.now()))


async def _report(request: Request, caller: Caller) -> HTTPResponse:
    central = central_of(request)
    reporter = reporter_of(request, caller)
    report = read_model(request, DeploymentReport)
    return json_reply(await take_deployments(central.db, reporter, report, central.now()))


async def _outcomes(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return list_reply(await list_outcomes(central_of(request).db, site_id))


async def _status(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return json_reply(await site_status(central_of(request).db, site_id))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("rollouts")
    add_route(made, PACKAGE_CREATE, _describe)
    add_route(made, PACKAGE_UPLOAD, _upload, stream=True)
    add_route(made, PACKAGE_LIST, _list_packages)
    add_route(made, PACKAGE_DOWNLOAD, _download)
    add_route(made, ROLLOUT_CREATE, _create)
    add_route(made, ROLLOUT_LIST, _list)
    add_route(made, ROLLOUT_GET, _get)
    for route in (ROLLOUT_PAUSE, ROLLOUT_RESUME, ROLLOUT_CANCEL, ROLLOUT_RETRY):
        add_route(made, route, _change)
    add_route(made, REPORT_DEPLOYMENTS, _report)
    add_route(made, SITE_DEPLOYMENTS, _outcomes)
    add_route(made, SITE_STATUS, _status)
    return made
