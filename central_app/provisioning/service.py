"""Provision codes: made, listed, revoked, shown as a picture. At rest a keyed hash, and a ciphertext while pending."""

from __future__ import annotations

import io
import secrets
from datetime import datetime, timedelta
from typing import get_args

import segno
from sqlalchemy import insert, select, update

from central_app.audit.service import record_by
from central_app.auth import Caller, new_id
from central_app.bodies import check_text
from central_app.database.connection import Row, Transaction
from central_app.database.tables import provision_codes, sites
from central_app.events import emit
from central_app.partners.site_service import insert_site
from central_app.problems import ProblemError, invalid, not_found
from central_app.state import Central
from msp_sdk.models.provision import (
    Provision,
    ProvisionRequest,
    ProvisionStatus,
    new_code,
    qr_content,
    render_code,
)
from msp_sdk.models.site import NewSite
from msp_sdk.secret import Secret

MOST_DAYS = 365
MOST_USES = 1000
MOST_ENTRIES = 100
LONGEST_NAME = 200

STATUSES: tuple[str, ...] = get_args(ProvisionStatus)
_CODE_KIND = "provision"
_PICTURE_SCALE = 5


def code_hash(central: Central, code: Secret) -> bytes:
    """Under what a code is found."""
    return central.vault.hash_token(_CODE_KIND, code.reveal())


def status_of(row: Row, now: datetime) -> ProvisionStatus:
    """A code's status now: expiry is seen from the clock, never stored."""
    if row["status"] == "pending" and row["expires_at"] <= now:
        return "expired"
    status: ProvisionStatus = row["status"]
    return status


def provision_of(central: Central, row: Row, now: datetime) -> Provision:
    """A row as the partner sees it; the code is there only while it is pending."""
    status = status_of(row, now)
    code: Secret | None = None
    if status == "pending" and row["ciphertext"] is not None:
        code = central.vault.decrypt_code(row["ciphertext"], row["id"])
    return Provision(
        id=row["id"],
        site_id=row["site_id"],
        status=status,
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        client_name=row["client_name"],
        provision_code=None if code is None else render_code(code),
        qr_content=None if code is None else qr_content(code, central.endpoint),
        uses=row["uses"],
        used=row["used"],
        auto_approve=row["auto_approve"],
    )


def check_request(request: ProvisionRequest, prefix: str = "") -> None:
    """Check what the model cannot say.

    Raises:
        ProblemError: ``invalid``, with the path.
    """
    check_text(f"{prefix}client_name", request.client_name, LONGEST_NAME)
    if not 1 <= request.expires_in_days <= MOST_DAYS:
        raise invalid(f"{prefix}expires_in_days", f"is 1 to {MOST_DAYS}")
    if not 1 <= request.uses <= MOST_USES:
        raise invalid(f"{prefix}uses", f"is 1 to {MOST_USES}")


async def create_provisions(
    central: Central, caller: Caller, requests: tuple[ProvisionRequest, ...]
) -> list[Provision]:
    """Make codes, all or none, in the order asked for.

    Raises:
        ProblemError: A site is not there (404).
    """
    now = central.now()
    async with central.db.transaction() as tx:
        return [await _create(central, tx, caller, request, now) for request in requests]


async def _create(
    central: Central, tx: Transaction, caller: Caller, request: ProvisionRequest, now: datetime
) -> Provision:
    if request.site_id is None:
        site = await insert_site(tx, caller, NewSite(name=request.client_name or "New site"), now)
        site_id, name = site.site_id, request.client_name
    else:
        row = await tx.fetch_one(
            select(sites.c.name).where(sites.c.site_id == request.site_id, sites.c.partner_id == caller.partner_id)
        )
        if row is None:
            raise not_found()
        site_id, name = request.site_id, request.client_name or row["name"]
    code = new_code(secrets.token_bytes)
    provision_id = new_id("provision")
    values = {
        "site_id": site_id,
        "id": provision_id,
        "partner_id": caller.partner_id,
        "code_hash": code_hash(central, code),
        "ciphertext": central.vault.encrypt_code(code, provision_id),
        "client_name": name,
        "uses": request.uses,
        "used": 0,
        "auto_approve": request.auto_approve,
        "status": "pending",
        "created_at": now,
        "expires_at": now + timedelta(days=request.expires_in_days),
    }
    # What expired needs its code no more.
    await tx.execute(
        update(provision_codes)
        .where(provision_codes.c.partner_id == caller.partner_id, provision_codes.c.expires_at <= now)
        .values(ciphertext=None)
    )
    await tx.execute(insert(provision_codes).values(**values))
    await record_by(tx, caller, "provision-created", now, site_id, {"provision_id": provision_id})
    return provision_of(central, values, now)


async def list_provisions(
    central: Central, partner_id: str, status: str | None, offset: int, limit: int
) -> list[Provision]:
    """The partner's codes, oldest first; of one status where it is given."""
    now = central.now()
    statement = select(provision_codes).where(provision_codes.c.partner_id == partner_id)
    if status == "expired":
        statement = statement.where(provision_codes.c.status == "pending", provision_codes.c.expires_at <= now)
    elif status is not None:
        statement = statement.where(provision_codes.c.status == status)
        if status == "pending":
            statement = statement.where(provision_codes.c.expires_at > now)
    statement = statement.order_by(provision_codes.c.created_at, provision_codes.c.id).offset(offset).limit(limit)
    return [provision_of(central, row, now) for row in await central.db.fetch_all(statement)]


async def find_provision(central: Central, partner_id: str, provision_id: str) -> Provision:
    """One code.

    Raises:
        ProblemError: ``not-found``; also for somebody else's.
    """
    row = await central.db.fetch_one(
        select(provision_codes).where(provision_codes.c.partner_id == partner_id, provision_codes.c.id == provision_id)
    )
    if row is None:
        raise not_found()
    return provision_of(central, row, central.now())


async def revoke_provision(central: Central, caller: Caller, provision_id: str) -> None:
    """Revoke a pending code; its ciphertext is destroyed.

    Raises:
        ProblemError: ``not-found`` or ``provision-not-pending``.
    """
    now = central.now()
    async with central.db.transaction() as tx:
        row = await tx.fetch_one(
            select(provision_codes).where(
                provision_codes.c.partner_id == caller.partner_id, provision_codes.c.id == provision_id
            )
        )
        if row is None:
            raise not_found()
        if row["status"] == "revoked":
            return
        if status_of(row, now) != "pending":
            raise ProblemError("provision-not-pending")
        await tx.execute(
            update(provision_codes)
            .where(provision_codes.c.site_id == row["site_id"], provision_codes.c.id == provision_id)
            .values(status="revoked", ciphertext=None)
        )
        await record_by(tx, caller, "provision-revoked", now, row["site_id"], {"provision_id": provision_id})
        await emit(tx, row["site_id"], "provision-revoked", {"provision_id": provision_id})


def draw_qr(content: str, form: str) -> tuple[bytes, str]:
    """A QR picture: (bytes, media type). ``form`` is ``svg`` or ``png``."""
    picture = io.BytesIO()
    segno.make(content, error="m", micro=False).save(picture, kind=form, scale=_PICTURE_SCALE)
    return picture.getvalue(), "image/svg+xml" if form == "svg" else "image/png"
