"""HTTP of credentials."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route
from central_app.bodies import empty_reply, json_reply, list_reply, read_json, read_model
from central_app.credentials import service
from central_app.credentials.delivery import deliver
from central_app.problems import invalid
from central_app.state import central_of
from msp_sdk.models.credential import DOMAIN_TYPES, NewCredential, NewDomainCredential
from msp_sdk.wire import routes


async def create_domain(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``POST /api/sites/{site_id}/domain-credentials``."""
    typed = read_model(request, NewDomainCredential)
    if typed.credential_type not in DOMAIN_TYPES:
        raise invalid("credential_type", f"is one of {', '.join(sorted(DOMAIN_TYPES))}")
    new = NewCredential(
        type=typed.credential_type,
        username=typed.username,
        password=typed.password,
        domain_name=typed.domain_name,
        trusted_certificates=typed.trusted_certificates,
    )
    return json_reply(await service.create_credential(central_of(request), caller, site_id, new), 201)


async def list_domain(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``GET /api/sites/{site_id}/domain-credentials``: sealed to an appliance, without the secret to a partner."""
    central = central_of(request)
    if caller.kind == "appliance" and caller.appliance_id is not None:
        async with central.db.transaction() as tx:
            delivered = await deliver(central, tx, site_id, caller.appliance_id, caller.address)
        return list_reply(list(delivered.domain_credentials))
    return list_reply(list(await service.list_credentials(central.db, site_id, domain_only=True)))


async def create(request: Request, caller: Caller, site_id: str) -> HTTPResponse:
    """``POST /api/sites/{site_id}/credentials``."""
    new = read_model(request, NewCredential)
    return json_reply(await service.create_credential(central_of(request), caller, site_id, new), 201)


async def list_all(request: Request, _caller: Caller, site_id: str) -> HTTPResponse:
    """``GET /api/sites/{site_id}/credentials``."""
    return list_reply(list(await service.list_credentials(central_of(request).db, site_id)))


async def rotate(request: Request, caller: Caller, site_id: str, credential_id: str) -> HTTPResponse:
    """``PUT /api/sites/{site_id}/credentials/{id}``."""
    changes = read_json(request)
    if not isinstance(changes, dict):
        raise invalid("body", "is not an object")
    changed = await service.rotate_credential(central_of(request), caller, site_id, credential_id, changes)
    return json_reply(changed)


async def remove(request: Request, caller: Caller, site_id: str, credential_id: str) -> HTTPResponse:
    """``DELETE /api/sites/{site_id}/credentials/{id}``."""
    await service.delete_credential(central_of(request), caller, site_id, credential_id)
    return empty_reply()


async def retry(request: Request, caller: Caller, site_id: str, credential_id: str) -> HTTPResponse:
    """``POST /api/sites/{site_id}/credentials/{id}/retry``."""
    return json_reply(await service.retry_credential(central_of(request), caller, site_id, credential_id))


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("credentials")
    add_route(made, routes.DOMAIN_CREDENTIAL_CREATE, create_domain)
    add_route(made, routes.DOMAIN_CREDENTIAL_LIST, list_domain)
    add_route(made, routes.CREDENTIAL_CREATE, create)
    add_route(made, routes.CREDENTIAL_LIST, list_all)
    add_route(made, routes.CREDENTIAL_ROTATE, rotate)
    add_route(made, routes.CREDENTIAL_DELETE, remove)
    add_route(made, routes.CREDENTIAL_RETRY, retry)
    return made
