"""HTTP of provisioning: codes for partners, the claim for appliances."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse, raw

from central_app.auth import Caller, add_route
from central_app.bodies import empty_reply, json_reply, list_reply, next_cursor, page_of, read_model
from central_app.problems import ProblemError, invalid
from central_app.provisioning import claims, service
from central_app.state import budget_name, central_of
from msp_sdk.models.provision import BulkProvisionRequest, ClaimRequest, ProvisionRequest
from msp_sdk.wire import routes

CLAIM_BYTES = 16 * 1024


async def claim(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/claim``."""
    central = central_of(request)
    central.claims_by_address.take(budget_name(caller.address))
    body = read_model(request, ClaimRequest, CLAIM_BYTES)
    return json_reply(await claims.claim(central, body, caller.address))


async def create(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/me/provisions``."""
    wish = read_model(request, ProvisionRequest)
    service.check_request(wish)
    made = await service.create_provisions(central_of(request), caller, (wish,))
    return json_reply(made[0], 201)


async def create_bulk(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/me/provisions/bulk``: all or nothing."""
    wishes = read_model(request, BulkProvisionRequest).entries
    if not 1 <= len(wishes) <= service.MOST_ENTRIES:
        raise invalid("entries", f"holds 1 to {service.MOST_ENTRIES} wishes")
    for number, wish in enumerate(wishes):
        service.check_request(wish, f"entries[{number}].")
    made = await service.create_provisions(central_of(request), caller, wishes)
    return json_reply({"items": made, "next_cursor": None}, 201)


async def list_codes(request: Request, caller: Caller) -> HTTPResponse:
    """``GET /api/partners/me/provisions?status=``."""
    status = request.args.get("status")
    if status is not None and status not in service.STATUSES:
        raise invalid("status", f"is one of {', '.join(service.STATUSES)}")
    offset, limit = page_of(request)
    found = await service.list_provisions(central_of(request), caller.partner_id, status, offset, limit + 1)
    return list_reply(list(found[:limit]), next_cursor(offset, limit, len(found)))


async def revoke(request: Request, caller: Caller, provision_id: str) -> HTTPResponse:
    """``DELETE /api/partners/me/provisions/{id}``."""
    await service.revoke_provision(central_of(request), caller, provision_id)
    return empty_reply()


async def show_qr(request: Request, caller: Caller, provision_id: str) -> HTTPResponse:
    """``GET …/qr?format=svg|png``."""
    form = request.args.get("format", "svg")
    if form not in ("svg", "png"):
        raise invalid("format", "is svg or png")
    found = await service.find_provision(central_of(request), caller.partner_id, provision_id)
    if found.qr_content is None:
        raise ProblemError("provision-not-pending", "Only a pending code has a picture.")
    picture, media_type = service.draw_qr(found.qr_content, form)
    return raw(picture, content_type=media_type)


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("provisioning")
    add_route(made, routes.CLAIM, claim)
    add_route(made, routes.PROVISION_CREATE, create)
    add_route(made, routes.PROVISION_BULK, create_bulk)
    # A code lets a device in: a viewer does not see it.
    add_route(made, routes.PROVISION_LIST, list_codes, role="technician")
    add_route(made, routes.PROVISION_REVOKE, revoke)
    add_route(made, routes.PROVISION_QR, show_qr, role="technician")
    return made
