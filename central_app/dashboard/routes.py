"""The pages: plain HTML from the server, live by the event stream, whole without any script.

Every value on a page may be a stranger's text: it is escaped by the templates, and nothing runs that is not one of
our own files.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from importlib.resources import files
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from sanic import Blueprint, Request
from sanic.response import HTTPResponse
from sqlalchemy import select

from central_app.auth import Caller, add_route, csrf_of, session_caller
from central_app.compliance.service import list_results
from central_app.computers.store import present_names, some_computers
from central_app.computers.targets import list_targets
from central_app.dashboard import view
from central_app.dashboard.appliance_view import make_appliance
from central_app.dashboard.directory_view import make_domains, make_swept, make_tried
from central_app.database.connection import Reader, Row
from central_app.database.tables import appliances, credentials, partners, sites
from central_app.domains.service import list_discoveries
from central_app.events import newest_sequence, stream_events
from central_app.provisioning.appliances import appliance_of
from central_app.rollouts.coverage import HostNames
from central_app.rollouts.facts import site_status
from central_app.rollouts.service import list_outcomes
from central_app.state import central_of
from msp_sdk.models.domain import DIRECTORY_UNREAD
from msp_sdk.wire.routes import SITE_EVENTS

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
STATIC = {
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
SEE_OTHER = 303
UNAUTHENTICATED = 401
NOT_FOUND = 404
LONGEST_OFFSET = 7

_TEMPLATES = Environment(
    loader=PackageLoader("central_app.dashboard", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _html(template: str, values: dict[str, Any], status: int = 200) -> HTTPResponse:
    text = _TEMPLATES.get_template(template).render(values)
    return HTTPResponse(text, status, {**HEADERS, "cache-control": "no-store"}, content_type="text/html; charset=utf-8")


def _to_login() -> HTTPResponse:
    return HTTPResponse("", SEE_OTHER, {**HEADERS, "cache-control": "no-store", "location": "/login"})


async def _own_site(request: Request, caller: Caller, site_id: str) -> Row | None:
    """The site, if it is the caller's; somebody else's is as if it were not there."""
    return await central_of(request).db.fetch_one(
        select(sites).where(sites.c.site_id == site_id, sites.c.partner_id == caller.partner_id)
    )


async def _partner_name(reader: Reader, partner_id: str) -> str:
    row = await reader.fetch_one(select(partners.c.brand_name).where(partners.c.id == partner_id))
    return str(row["brand_name"]) if row else "Central"


async def _login(request: Request) -> HTTPResponse:
    del request
    return _html("login.html", {})


async def _sites(request: Request) -> HTTPResponse:
    caller = await session_caller(request)
    if caller is None:
        return _to_login()
    db = central_of(request).db
    offset = _offset(request)
    rows = await db.fetch_all(
        select(sites.c.site_id, sites.c.name)
        .where(sites.c.partner_id == caller.partner_id)
        .order_by(sites.c.name, sites.c.site_id)
        .offset(offset)
        .limit(view.PAGE_COUNT + 1)
    )
    shown = []
    # How far each has come is worked out from all of its data, so a page has only so many.
    for row in rows[: view.PAGE_COUNT]:
        status = await site_status(db, row["site_id"])
        shown.append(
            {
                "site_id": row["site_id"],
                "name": row["name"],
                "phase": view.PHASES[status.phase],
                "progress": status.progress,
                "agents": status.details.agents_deployed,
                "failed": status.details.agents_failed,
            }
        )
    values = {
        "partner_name": await _partner_name(db, caller.partner_id),
        "csrf": csrf_of(request),
        "sites": shown,
        "more": f"from={offset + view.PAGE_COUNT}" if len(rows) > view.PAGE_COUNT else None,
    }
    return _html("sites.html", values)


def _offset(request: Request) -> int:
    """Where a page of a list begins; what is no number is the beginning."""
    text = request.args.get("from") or "0"
    usable = text.isascii() and text.isdigit() and len(text) <= LONGEST_OFFSET
    return int(text) if usable else 0


async def _site(request: Request, site_id: str) -> HTTPResponse:
    caller = await session_caller(request)
    if caller is None:
        return _to_login()
    site = await _own_site(request, caller, site_id)
    if site is None:
        return _nothing_here()
    db = central_of(request).db
    # Read before the rest: what happens meanwhile is told again, never missed.
    sequence = await newest_sequence(db, site_id)
    values = await _fragment_values(request, site)
    name = await _partner_name(db, caller.partner_id)
    return _html("site.html", {**values, "partner_name": name, "csrf": csrf_of(request), "sequence": sequence})


async def _fragment(request: Request, site_id: str) -> HTTPResponse:
    caller = await session_caller(request)
    if caller is None:
        return _html("message.html", {"title": "Logged out", "detail": "Log in again."}, UNAUTHENTICATED)
    site = await _own_site(request, caller, site_id)
    if site is None:
        return _nothing_here()
    return _html("fragment.html", await _fragment_values(request, site))


def _nothing_here() -> HTTPResponse:
    return _html("message.html", {"title": "Nothing here", "detail": "There is no such site."}, NOT_FOUND)


async def _fragment_values(request: Request, site: Row) -> dict[str, Any]:
    central = central_of(request)
    db, site_id = central.db, site["site_id"]
    status = await site_status(db, site_id)
    reports = await list_targets(db, site_id)
    discoveries = await list_discoveries(db, site_id)
    known = view.SiteHosts(
        computers=[
            (HostNames(row["hostname"], row["fqdn"], row["object_guid"]), row["role"])
            for row in await present_names(db, site_id)
        ],
        targets=[target for report in reports for target in report.targets],
        skipped=[entry for report in reports for entry in report.skipped],
        outcomes=await list_outcomes(db, site_id),
        checks=await list_results(db, site_id),
    )
    # A big site's take a while to sort: not on the loop, where heartbeats are answered.
    lines = await asyncio.to_thread(view.make_lines, known)
    state = request.args.get("state")
    state = state if state in get_args(view.Kind) else None
    page, more = view.make_page(lines, state, _offset(request))
    # What the directory says of a computer is read for the page alone.
    in_directory = await some_computers(db, site_id, [line.object_guid for line in page if line.object_guid])
    hosts = [view.add_directory(line, in_directory.get(line.object_guid.casefold()), central.now()) for line in page]
    usernames = await db.fetch_all(
        select(credentials.c.id, credentials.c.username).where(credentials.c.site_id == site_id)
    )
    names = {row["id"]: row["username"] for row in usernames}
    interval = timedelta(seconds=site["checkin_interval_seconds"])
    boxes = await db.fetch_all(select(appliances).where(appliances.c.site_id == site_id).order_by(appliances.c.id))
    return {
        "site": {"site_id": site_id, "name": site["name"]},
        "status": status,
        "phase": view.PHASES[status.phase],
        "ladder": view.make_ladder(status.phase),
        "awaiting": [view.make_notice(slug, names) for slug in status.details.awaiting],
        "figures": view.make_figures(status),
        "domains": make_domains(discoveries),
        "tried": make_tried(discoveries),
        "swept": make_swept(discoveries),
        "swept_unread": make_swept(discoveries, DIRECTORY_UNREAD),
        "left_out": view.make_reasons(status.details.skipped),
        "filters": view.make_filters(lines, state),
        "hosts": hosts,
        "more": more,
        "empty": "No computer is in this state." if state else "No computer is known yet.",
        "appliances": [make_appliance(appliance_of(row), central.now(), interval) for row in boxes],
    }


async def _static(request: Request, name: str) -> HTTPResponse:
    del request
    if name not in STATIC:
        return _nothing_here()
    content = files("central_app.dashboard").joinpath("static", name).read_bytes()
    return HTTPResponse(content, 200, {**HEADERS, "cache-control": "no-cache"}, content_type=STATIC[name])


def blueprint() -> Blueprint:
    """The pages, their files, and the event stream they live by."""
    made = Blueprint("dashboard")
    made.add_route(_login, "/login", methods=["GET"], error_format="html", name="login")
    made.add_route(_sites, "/", methods=["GET"], error_format="html", name="sites")
    made.add_route(_site, "/sites/<site_id>", methods=["GET"], error_format="html", name="site")
    made.add_route(_fragment, "/sites/<site_id>/fragment", methods=["GET"], error_format="html", name="fragment")
    made.add_route(_static, "/static/<name>", methods=["GET"], error_format="html", name="static")
    add_route(made, SITE_EVENTS, stream_events)
    return made
