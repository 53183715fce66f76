"""Who calls, and the one way to register a route.

:func:`add_route` takes a :class:`Route` of ``msp_sdk.wire.routes`` and enforces its caller, role and site by
construction: a handler never runs for anybody else, and never has to remember to ask. Somebody else's site answers
404, as if it were not there.

Example:
    async def read_status(request: Request, caller: Caller, site_id: str) -> HTTPResponse: ...

    add_route(blueprint, SITE_STATUS, read_status)
"""

from __future__ import annotations

import hmac
import inspect
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal

from attrs import frozen
from sanic import Blueprint, Request
from sanic.response import HTTPResponse
from sqlalchemy import select, update

from central_app.database.connection import DatabaseError, Row
from central_app.database.tables import appliance_keys, appliances, partner_keys, sessions, sites, users
from central_app.problems import ProblemError, not_found
from central_app.settings import cookie_is_secure
from central_app.state import Central, central_of
from msp_sdk.models.partner import Role
from msp_sdk.secret import Secret
from msp_sdk.wire.routes import Route

APPLIANCE_PREFIX = "ak"
PARTNER_PREFIX = "pk"
SESSION_PREFIX = "ps"
COOKIE = "msp_session"
CSRF_HEADER = "x-csrf-token"
RANDOM_CHARACTERS = 43  # 256 bits in base62

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_OWNER = re.compile(r"[a-z0-9-]{1,40}")
_RANDOM = re.compile(r"[0-9A-Za-z]{16,128}")
_NAME = re.compile(r"[0-9A-Za-z:.\-]{1,80}")
_RANK: dict[str, int] = {"viewer": 0, "technician": 1, "admin": 2}
_USE_NOTED_EVERY = timedelta(minutes=5)

Kind = Literal["anyone", "appliance", "partner"]


@frozen
class Token:
    """A token taken apart at its last ``_``: whose it is, and the keyed hash under which it is stored."""

    owner: str
    hash: bytes


@frozen
class Caller:
    """Who calls, proven. Which fields are filled goes by ``kind``.

    Attributes:
        address: Where from; a proxy's word only where the proxy is trusted.
        site_id: Of an appliance: the site of its key. None for others.
        approved: False for an appliance that a person has not let in yet.
    """

    kind: Kind
    address: str
    partner_id: str = ""
    site_id: str | None = None
    appliance_id: str | None = None
    approved: bool = True
    role: Role = "viewer"
    user_id: str | None = None
    email: str | None = None
    key_id: str | None = None
    session_hash: bytes | None = None

    @property
    def actor(self) -> str:
        """How the audit calls them."""
        if self.kind == "appliance":
            return f"appliance {self.appliance_id}"
        return f"user {self.email}" if self.kind == "partner" else "anyone"


Handler = Callable[..., Awaitable[HTTPResponse | None]]


def new_id(kind: str) -> str:
    """A random id such as ``site-3f9a…``: no underscore, no upper case."""
    return f"{kind}-{secrets.token_hex(8)}"


def new_token(prefix: str, owner: str) -> Secret:
    """A token of the form ``<prefix>_<owner>_<random base62>``."""
    return Secret(f"{prefix}_{owner}_{''.join(secrets.choice(_BASE62) for _ in range(RANDOM_CHARACTERS))}")


def parse_token(central: Central, text: str, prefix: str) -> Token | None:
    """Take a token apart; None when it is none of this kind."""
    head, _, random = text.rpartition("_")
    found, _, owner = head.partition("_")
    if found != prefix or not _OWNER.fullmatch(owner) or not _RANDOM.fullmatch(random):
        return None
    return Token(owner, central.vault.hash_token(prefix, text))


def hash_of(central: Central, token: Secret) -> bytes:
    """The keyed hash of a token that we made."""
    text = token.reveal()
    return central.vault.hash_token(text.partition("_")[0], text)


def bearer(request: Request) -> str | None:
    """The bearer token of a request, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def address_of(request: Request) -> str:
    """The address of the caller, as the peer check found it."""
    return str(getattr(request.ctx, "address", "") or request.ip)


async def appliance_caller(request: Request) -> Caller | None:
    """The appliance whose key this request carries; None when it carries none that is valid (lesson 5)."""
    central = central_of(request)
    token = parse_token(central, bearer(request) or "", APPLIANCE_PREFIX)
    if token is None:
        return None
    row = await central.db.fetch_one(
        select(appliances.c.site_id, appliances.c.id, appliances.c.partner_id, appliances.c.state)
        .join(
            appliance_keys,
            (appliance_keys.c.site_id == appliances.c.site_id) & (appliance_keys.c.appliance_id == appliances.c.id),
        )
        .where(
            appliance_keys.c.site_id == token.owner,
            appliance_keys.c.key_hash == token.hash,
            appliances.c.state != "revoked",
        )
    )
    if row is None:
        return None
    approved = row["state"] == "active"
    return Caller("appliance", address_of(request), row["partner_id"], row["site_id"], row["id"], approved)


async def partner_caller(request: Request) -> Caller | None:
    """The partner's person, by API key, else by the page's session. None when neither is valid.

    Raises:
        ProblemError: ``csrf``: a session without the page's token tried to change something.
    """
    text = bearer(request)
    if text is not None:
        return await caller_of_key(request, text)
    return await session_caller(request)


async def caller_of_key(request: Request, text: str) -> Caller | None:
    """The person of an API key."""
    central = central_of(request)
    token = parse_token(central, text, PARTNER_PREFIX)
    if token is None:
        return None
    row = await central.db.fetch_one(
        select(partner_keys.c.id, partner_keys.c.last_used_at, users.c.id.label("user_id"), users.c.email, users.c.role)
        .join(users, (users.c.partner_id == partner_keys.c.partner_id) & (users.c.id == partner_keys.c.user_id))
        .where(
            partner_keys.c.partner_id == token.owner,
            partner_keys.c.key_hash == token.hash,
            partner_keys.c.revoked_at.is_(None),
        )
    )
    if row is None:
        return None
    await _note_use(central, token.owner, row)
    return Caller(
        "partner",
        address_of(request),
        token.owner,
        role=row["role"],
        user_id=row["user_id"],
        email=row["email"],
        key_id=row["id"],
    )


async def _note_use(central: Central, partner_id: str, row: Row) -> None:
    now = central.now()
    if row["last_used_at"] is not None and now - row["last_used_at"] < _USE_NOTED_EVERY:
        return
    try:
        async with central.db.transaction() as tx:
            await tx.execute(
                update(partner_keys)
                .where(partner_keys.c.partner_id == partner_id, partner_keys.c.id == row["id"])
                .values(last_used_at=now)
            )
    except DatabaseError:
        # When a key was last used is good to know; it must not keep anybody out.
        return


async def session_caller(request: Request) -> Caller | None:
    """The person of the page's session; None when there is none. For pages and event streams, too.

    Raises:
        ProblemError: ``csrf``: something is to be changed without the page's token.
    """
    central = central_of(request)
    text = session_token(request)
    token = parse_token(central, text, SESSION_PREFIX)
    if token is None:
        return None
    row = await central.db.fetch_one(
        select(users.c.id, users.c.email, users.c.role, sessions.c.key_id, partner_keys.c.revoked_at)
        .select_from(sessions)
        .join(users, (users.c.partner_id == sessions.c.partner_id) & (users.c.id == sessions.c.user_id))
        .outerjoin(
            partner_keys,
            (partner_keys.c.partner_id == sessions.c.partner_id) & (partner_keys.c.id == sessions.c.key_id),
        )
        .where(
            sessions.c.partner_id == token.owner,
            sessions.c.session_hash == token.hash,
            sessions.c.expires_at > central.now(),
        )
    )
    # A session does not outlive the key that opened it.
    if row is None or row["revoked_at"] is not None:
        return None
    if request.method not in ("GET", "HEAD") and not hmac.compare_digest(
        request.headers.get(CSRF_HEADER, "").encode(errors="replace"), central.vault.csrf_token(text).encode()
    ):
        raise ProblemError("csrf")
    return Caller(
        "partner",
        address_of(request),
        token.owner,
        role=row["role"],
        user_id=row["id"],
        email=row["email"],
        key_id=row["key_id"],
        session_hash=token.hash,
    )


def cookie_name(central: Central) -> str:
    """The name of the session's cookie. With the prefix no neighbour under the same domain can set it for us."""
    return f"__Host-{COOKIE}" if cookie_is_secure(central.endpoint) else COOKIE


def session_token(request: Request) -> str:
    """The token in the session's cookie; empty when there is none."""
    return request.cookies.get(cookie_name(central_of(request))) or ""


def csrf_of(request: Request) -> str:
    """What the page of this request's session sends with every change."""
    return central_of(request).vault.csrf_token(session_token(request))


async def _authenticate(request: Request, route: Route) -> Caller:
    if route.caller == "anyone":
        return Caller("anyone", address_of(request))
    caller: Caller | None = None
    if route.caller in ("appliance", "either") and (bearer(request) or "").startswith(f"{APPLIANCE_PREFIX}_"):
        caller = await appliance_caller(request)
    elif route.caller in ("partner", "either"):
        caller = await partner_caller(request)
    if caller is None:
        raise ProblemError("unauthenticated")
    return caller


async def _check_site(request: Request, caller: Caller, site_id: str) -> None:
    """Let the caller's own site pass; its row is then at ``request.ctx.site`` (lesson 9)."""
    row = await central_of(request).db.fetch_one(
        select(sites).where(sites.c.site_id == site_id, sites.c.partner_id == caller.partner_id)
    )
    if row is None or (caller.kind == "appliance" and caller.site_id != site_id):
        raise not_found()
    request.ctx.site = row


def least_role(route: Route) -> Role:
    """The role that a partner's route needs where nothing else is said: a viewer reads, a technician works."""
    return "viewer" if route.method == "GET" else "technician"


def add_route(
    blueprint: Blueprint, route: Route, handler: Handler, *, role: Role | None = None, stream: bool = False
) -> None:
    """Register a handler: ``async def handler(request, caller, **names) -> HTTPResponse``.

    Args:
        blueprint: Where to.
        route: Of ``msp_sdk.wire.routes``.
        handler: Gets the proven :class:`Caller` and the names of the path. For a route of a site, the site is the
            caller's; its row is at ``request.ctx.site``.
        role: The least role, where reading (viewer) or working (technician) is not it.
        stream: The handler reads the body itself and counts its bytes.
    """
    needed = _RANK[role or least_role(route)]

    async def guarded(request: Request, **names: str) -> HTTPResponse | None:
        caller = await _authenticate(request, route)
        if caller.kind == "partner" and _RANK[caller.role] < needed:
            raise ProblemError("forbidden")
        if not all(_NAME.fullmatch(value) for value in names.values()):
            raise not_found()
        if "site_id" in names:
            await _check_site(request, caller, names["site_id"])
        return await handler(request, caller, **names)

    register(blueprint, route, guarded, stream=stream)


def register(blueprint: Blueprint, route: Route, handler: Any, *, stream: bool = False) -> None:
    """Register a handler that proves its caller itself. Only the check-in does: its key is proven with its write."""
    path = re.sub(r"{(\w+)}", r"<\1>", route.path)
    name = re.sub(r"\W+", "_", f"{route.method}_{route.path}".lower()).strip("_")
    assert inspect.iscoroutinefunction(handler)  # noqa: S101 (a mistake of ours, found at the start)
    # Unquoted: an id with ":" is one id, also when it comes as %3A (lesson 6). The format of errors is ours (see
    # `problems`); it is named because Sanic would otherwise look for it in each handler's source, at every start.
    blueprint.add_route(
        handler, path, methods=[route.method], name=name, stream=stream, unquote=True, error_format="json"
    )
