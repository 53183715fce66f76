"""HTTP of sessions, login codes, users and keys."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from central_app.auth import Caller, add_route, caller_of_key, cookie_name
from central_app.bodies import empty_reply, json_reply, list_reply, read_model
from central_app.partners import people
from central_app.problems import ProblemError, invalid
from central_app.settings import cookie_is_secure
from central_app.state import budget_name, central_of
from msp_sdk.models.partner import ApiKeyRequest, SessionRequest, UserRequest
from msp_sdk.wire import routes


async def open_session(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/session``: with an API key or a login code; the reply sets the cookie."""
    central = central_of(request)
    # Guessing codes is held back; by a budget of its own, so that claims behind one address keep no person out.
    central.logins_by_address.take(budget_name(caller.address))
    wish = read_model(request, SessionRequest, 4096)
    if (wish.api_key is None) == (wish.code is None):
        raise invalid("api_key", "or code is needed, and only one of them")
    if wish.code is not None:
        session, token = await people.redeem_login_code(central, wish.code, caller.address)
    else:
        person = await caller_of_key(request, wish.api_key.reveal() if wish.api_key else "")
        if person is None:
            raise ProblemError("unauthenticated")
        session, token = await people.open_session(central, person)
    response = json_reply(session)
    response.add_cookie(
        cookie_name(central),
        token.reveal(),
        path="/",
        httponly=True,
        samesite="Lax",
        secure=cookie_is_secure(central.endpoint),
        max_age=int(people.SESSION_LASTS.total_seconds()),
    )
    return response


async def close_session(request: Request, caller: Caller) -> HTTPResponse:
    """``DELETE /api/session``."""
    central = central_of(request)
    await people.close_session(central, caller)
    response = empty_reply()
    # An empty cookie of age 0 with the same attributes: some browsers keep one that differs.
    response.add_cookie(
        cookie_name(central),
        "",
        path="/",
        httponly=True,
        samesite="Lax",
        secure=cookie_is_secure(central.endpoint),
        max_age=0,
    )
    return response


async def create_login_code(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/me/login-codes``."""
    return json_reply(await people.make_login_code(central_of(request), caller), 201)


async def create_user(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/me/users``."""
    return json_reply(await people.create_user(central_of(request), caller, read_model(request, UserRequest)), 201)


async def list_users(request: Request, caller: Caller) -> HTTPResponse:
    """``GET /api/partners/me/users``."""
    return list_reply(list(await people.list_users(central_of(request), caller.partner_id)))


async def create_key(request: Request, caller: Caller) -> HTTPResponse:
    """``POST /api/partners/me/keys``."""
    return json_reply(await people.create_key(central_of(request), caller, read_model(request, ApiKeyRequest)), 201)


async def list_keys(request: Request, caller: Caller) -> HTTPResponse:
    """``GET /api/partners/me/keys``."""
    return list_reply(list(await people.list_keys(central_of(request), caller.partner_id)))


async def revoke_key(request: Request, caller: Caller, key_id: str) -> HTTPResponse:
    """``DELETE /api/partners/me/keys/{key_id}``."""
    await people.revoke_key(central_of(request), caller, key_id)
    return empty_reply()


def blueprint() -> Blueprint:
    """The routes."""
    made = Blueprint("partners")
    add_route(made, routes.SESSION_OPEN, open_session)
    add_route(made, routes.SESSION_CLOSE, close_session, role="viewer")
    add_route(made, routes.LOGIN_CODE, create_login_code, role="viewer")
    add_route(made, routes.USER_CREATE, create_user, role="admin")
    add_route(made, routes.USER_LIST, list_users, role="admin")
    add_route(made, routes.KEY_CREATE, create_key, role="admin")
    add_route(made, routes.KEY_LIST, list_keys, role="admin")
    add_route(made, routes.KEY_REVOKE, revoke_key, role="admin")
    return made
