"""People of a partner: sessions, login codes, users and keys."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import get_args

from sqlalchemy import delete, insert, select, update

from central_app.audit.service import record, record_by
from central_app.auth import PARTNER_PREFIX, SESSION_PREFIX, Caller, hash_of, new_id, new_token
from central_app.bodies import check_text
from central_app.database.connection import Row
from central_app.database.tables import login_codes, partner_keys, sessions, users
from central_app.problems import ProblemError, invalid, not_found
from central_app.state import Central
from msp_sdk.errors import WireError
from msp_sdk.models.partner import ApiKey, ApiKeyRequest, LoginCode, Role, Session, User, UserRequest
from msp_sdk.models.provision import new_code, parse_code, render_code
from msp_sdk.secret import Secret

SESSION_LASTS = timedelta(hours=12)
LOGIN_CODE_LASTS = timedelta(minutes=5)
_LOGIN_KIND = "login"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_LONGEST_EMAIL = 320


async def make_login_code(central: Central, caller: Caller) -> LoginCode:
    """A code that opens one page session for the same person, once."""
    now = central.now()
    code = new_code(secrets.token_bytes)
    async with central.db.transaction() as tx:
        await tx.execute(delete(login_codes).where(login_codes.c.expires_at <= now))
        await tx.execute(
            insert(login_codes).values(
                code_hash=central.vault.hash_token(_LOGIN_KIND, code.reveal()),
                partner_id=caller.partner_id,
                user_id=caller.user_id,
                key_id=caller.key_id,
                created_at=now,
                expires_at=now + LOGIN_CODE_LASTS,
            )
        )
        await record_by(tx, caller, "login-code-created", now)
    return LoginCode(Secret(render_code(code)), now + LOGIN_CODE_LASTS)


async def redeem_login_code(central: Central, text: Secret, address: str) -> tuple[Session, Secret]:
    """Open a session with a login code, which is spent by it.

    Raises:
        ProblemError: ``login-code-unknown``: also used or expired; nobody can tell which.
    """
    try:
        code = parse_code(text.reveal())
    except WireError:
        raise ProblemError("login-code-unknown") from None
    now = central.now()
    async with central.db.transaction() as tx:
        row = await tx.fetch_one(
            delete(login_codes)
            .where(
                login_codes.c.code_hash == central.vault.hash_token(_LOGIN_KIND, code.reveal()),
                login_codes.c.expires_at > now,
            )
            .returning(login_codes.c.partner_id, login_codes.c.user_id, login_codes.c.key_id)
        )
        user = row and await tx.fetch_one(
            select(users).where(users.c.partner_id == row["partner_id"], users.c.id == row["user_id"])
        )
        key = (
            row
            and row["key_id"]
            and await tx.fetch_one(
                select(partner_keys.c.revoked_at).where(
                    partner_keys.c.partner_id == row["partner_id"], partner_keys.c.id == row["key_id"]
                )
            )
        )
    if not row or not user or (key and key["revoked_at"] is not None):
        raise ProblemError("login-code-unknown")
    caller = Caller(
        "partner",
        address,
        row["partner_id"],
        role=user["role"],
        user_id=user["id"],
        email=user["email"],
        key_id=row["key_id"],
    )
    return await open_session(central, caller)


async def open_session(central: Central, caller: Caller) -> tuple[Session, Secret]:
    """Open a page session. Returns it and the cookie's token."""
    now = central.now()
    token = new_token(SESSION_PREFIX, caller.partner_id)
    expires_at = now + SESSION_LASTS
    async with central.db.transaction() as tx:
        await tx.execute(
            delete(sessions).where(sessions.c.partner_id == caller.partner_id, sessions.c.expires_at <= now)
        )
        await tx.execute(
            insert(sessions).values(
                partner_id=caller.partner_id,
                session_hash=hash_of(central, token),
                user_id=caller.user_id,
                key_id=caller.key_id,
                created_at=now,
                expires_at=expires_at,
            )
        )
        await record(
            tx,
            partner_id=caller.partner_id,
            actor=caller.actor,
            action="session-opened",
            now=now,
            address=caller.address,
        )
    return Session(central.vault.csrf_token(token.reveal()), caller.role, expires_at), token


async def close_session(central: Central, caller: Caller) -> None:
    """End the session of this request; with an API key there is none to end."""
    if caller.session_hash is None:
        return
    async with central.db.transaction() as tx:
        await tx.execute(
            delete(sessions).where(
                sessions.c.partner_id == caller.partner_id, sessions.c.session_hash == caller.session_hash
            )
        )
        await record_by(tx, caller, "session-closed", central.now())


async def create_user(central: Central, caller: Caller, wish: UserRequest) -> User:
    """Add a person.

    Raises:
        ProblemError: ``invalid`` or ``conflict``: the address is there already.
    """
    if not _EMAIL.fullmatch(wish.email) or len(wish.email) > _LONGEST_EMAIL:
        raise invalid("email", "is no e-mail address")
    if wish.role not in get_args(Role):
        raise invalid("role", "is no role")
    now = central.now()
    user = User(new_id("user"), wish.email.lower(), wish.role, now)
    async with central.db.transaction() as tx:
        if await tx.fetch_one(
            select(users.c.id).where(users.c.partner_id == caller.partner_id, users.c.email == user.email)
        ):
            raise ProblemError("conflict", "There is a user with this address already.")
        await tx.execute(
            insert(users).values(
                partner_id=caller.partner_id, id=user.id, email=user.email, role=user.role, created_at=now
            )
        )
        await record_by(tx, caller, "user-created", now, None, {"user_id": user.id, "role": user.role})
    return user


async def list_users(central: Central, partner_id: str) -> list[User]:
    """The partner's people, oldest first."""
    rows = await central.db.fetch_all(
        select(users).where(users.c.partner_id == partner_id).order_by(users.c.created_at, users.c.id)
    )
    return [User(row["id"], row["email"], row["role"], row["created_at"]) for row in rows]


async def create_key(central: Central, caller: Caller, wish: ApiKeyRequest) -> ApiKey:
    """Make a key for a person; it is shown in this reply alone.

    Raises:
        ProblemError: ``invalid``: no such user.
    """
    check_text("label", wish.label, 200, shortest=0)
    now = central.now()
    token = new_token(PARTNER_PREFIX, caller.partner_id)
    async with central.db.transaction() as tx:
        user = await tx.fetch_one(
            select(users).where(users.c.partner_id == caller.partner_id, users.c.id == wish.user_id)
        )
        if user is None:
            raise invalid("user_id", "is no user of yours")
        key_id = new_id("key")
        await tx.execute(
            insert(partner_keys).values(
                partner_id=caller.partner_id,
                id=key_id,
                key_hash=hash_of(central, token),
                user_id=user["id"],
                label=wish.label,
                created_at=now,
            )
        )
        await record_by(tx, caller, "key-created", now, None, {"key_id": key_id, "user_id": user["id"]})
    return ApiKey(key_id, user["id"], wish.label, user["role"], now, api_key=token)


def key_of(row: Row) -> ApiKey:
    """A row as the wire has it."""
    return ApiKey(row["id"], row["user_id"], row["label"], row["role"], row["created_at"], row["last_used_at"])


async def list_keys(central: Central, partner_id: str) -> list[ApiKey]:
    """The keys that work, oldest first."""
    rows = await central.db.fetch_all(
        select(partner_keys, users.c.role)
        .join(users, (users.c.partner_id == partner_keys.c.partner_id) & (users.c.id == partner_keys.c.user_id))
        .where(partner_keys.c.partner_id == partner_id, partner_keys.c.revoked_at.is_(None))
        .order_by(partner_keys.c.created_at, partner_keys.c.id)
    )
    return [key_of(row) for row in rows]


async def revoke_key(central: Central, caller: Caller, key_id: str) -> None:
    """End a key and every session that was opened with it.

    Raises:
        ProblemError: ``not-found``.
    """
    now = central.now()
    async with central.db.transaction() as tx:
        mine = (partner_keys.c.partner_id == caller.partner_id) & (partner_keys.c.id == key_id)
        row = await tx.fetch_one(select(partner_keys.c.revoked_at).where(mine))
        if row is None:
            raise not_found()
        if row["revoked_at"] is not None:
            return
        await tx.execute(update(partner_keys).where(mine).values(revoked_at=now))
        for table in (sessions, login_codes):
            await tx.execute(delete(table).where(table.c.partner_id == caller.partner_id, table.c.key_id == key_id))
        await record_by(tx, caller, "key-revoked", now, None, {"key_id": key_id})
