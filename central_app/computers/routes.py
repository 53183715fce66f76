"""Enumerations and targets over HTTP. The enumeration's body is read here, since it may be long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route
from central_app.bodies import MOST_BYTES, json_reply, list_reply
from central_app.computers.lines import LONGEST_BYTES, inflate, limit
from central_app.computers.service import list_computers, take_enumeration, take_lines
from central_app.computers.targets import list_targets, parse_targets, take_targets
from central_app.database.connection import Transaction
from central_app.problems import ProblemError
from central_app.reports import Reporter, answer_heard, body_chunks, reporter_of
from central_app.rollouts.service import ensure_auto_rollout
from central_app.state import central_of
from msp_sdk.models.checkin import ReportReply
from msp_sdk.wire.ndjson import MEDIA_TYPE
from msp_sdk.wire.routes import REPORT_ENUMERATION, REPORT_TARGETS, SITE_COMPUTERS, SITE_TARGETS

JSON_TYPE = "application/json"
# A target takes some 600 bytes: this is a site of 50,000.
LONGEST_TARGETS_BYTES = 32 * 1024 * 1024


def _body(request: Request, longest_bytes: int) -> AsyncIterator[bytes]:
    """The decompressed body, at most so long; the compressed one is no longer either."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    chunks = limit(body_chunks(request), longest_bytes)
    if encoding == "gzip":
        return inflate(chunks, longest_bytes)
    if encoding not in ("", "identity"):
        raise ProblemError("unsupported-media-type", "The only content encoding understood is gzip.")
    return chunks


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    pieces = [chunk async for chunk in chunks]
    return b"".join(pieces)


async def _enumeration(request: Request, caller: Caller) -> HTTPResponse:
    async with answer_heard(request):
        return json_reply(await _take(request, reporter_of(request, caller)))


async def _take(request: Request, reporter: Reporter) -> ReportReply:
    central = central_of(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    now = central.now()
    if media_type == MEDIA_TYPE:
        return await take_lines(central.db, reporter, _body(request, LONGEST_BYTES), now)
    if media_type in (JSON_TYPE, ""):
        return await take_enumeration(central.db, reporter, await _whole(_body(request, MOST_BYTES)), now)
    raise ProblemError("unsupported-media-type", f"A report is {JSON_TYPE} or {MEDIA_TYPE}.")


async def _targets(request: Request, caller: Caller) -> HTTPResponse:
    async with answer_heard(request):
        return json_reply(await _take_targets(request, reporter_of(request, caller, before_approval=True)))


async def _take_targets(request: Request, reporter: Reporter) -> ReportReply:
    central = central_of(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in (JSON_TYPE, ""):
        raise ProblemError("unsupported-media-type")
    body = await _whole(_body(request, LONGEST_TARGETS_BYTES))
    report = await asyncio.to_thread(parse_targets, reporter, body)
    now = central.now()

    async def then(tx: Transaction) -> None:
        await ensure_auto_rollout(tx, reporter.site_id, now)

    return await take_targets(central.db, reporter, report, now, then)


async def _list_computers(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    items, following = await list_computers(
        central_of(request).db,
        site_id,
        role=request.args.get("role"),
        text=request.args.get("q"),
        cursor=request.args.get("cursor"),
    )
    return list_reply(items, following)


async def _list_targets(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    del caller
    return list_reply(await list_targets(central_of(request).db, site_id))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("computers")
    add_route(made, REPORT_ENUMERATION, _enumeration, stream=True)
    add_route(made, REPORT_TARGETS, _targets, stream=True)
    add_route(made, SITE_COMPUTERS, _list_computers)
    add_route(made, SITE_TARGETS, _list_targets)
    return made
