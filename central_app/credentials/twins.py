"""Twins: the same account with the same password, stored at one site under another id too.

Each id has strikes of its own, the account has not (lesson 32): what was refused under one id is not handed out under
another one, whichever was stored first. A secret that does not open may be the same as any other.
"""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import select

from central_app.audit.service import record
from central_app.credentials.envelopes import open_secret
from central_app.database.connection import Reader, Row, Transaction
from central_app.database.tables import credentials, sites
from central_app.state import Central
from msp_sdk.errors import StateError
from msp_sdk.models.credential import DOMAIN_TYPES, account_of
from msp_sdk.models.domain import without_final_dot
from msp_sdk.secret import Secret

log = logging.getLogger("central.credentials")


async def open_twins(central: Central, tx: Transaction, row: Row, actor: str, address: str) -> tuple[Row, ...]:
    """The twins of a refused credential that are not refused yet.

    Args:
        central: The vault is its.
        tx: That secrets were opened is in the audit, and written in it.
        row: The refused one.
        actor: Who caused it, as the audit calls them.
        address: Where from.
    """
    alike = [other for other in await _same_account(tx, row) if other["state"] != "refused"]
    if not alike:
        return ()
    await _record(tx, [row, *alike], actor, address, central.now())
    refused = _try_open(central, row)
    return tuple(other for other in alike if refused is None or _try_open(central, other) in (None, refused))


async def refused_twin(
    central: Central, tx: Transaction, row: Row, password: Secret, actor: str, address: str
) -> Row | None:
    """The twin of a credential that stands refused, the last one if there are several; None when there is none.

    Args:
        central: The vault is its.
        tx: That secrets were opened is in the audit, and written in it.
        row: What is about to be stored.
        password: Its password, as typed.
        actor: Who stores it, as the audit calls them.
        address: Where from.
    """
    alike = [other for other in await _same_account(tx, row) if other["state"] == "refused"]
    if not alike:
        return None
    await _record(tx, alike, actor, address, central.now())
    same = [other for other in alike if _try_open(central, other) in (None, password)]
    return max(same, key=lambda other: (other["state_at"], other["id"]), default=None)


async def _same_account(reader: Reader, row: Row) -> list[Row]:
    """What is stored of the account under other ids at its site; a host's own accounts have no twins."""
    if row["type"] not in DOMAIN_TYPES:
        return []
    others = await reader.fetch_all(
        select(credentials)
        .where(
            credentials.c.site_id == row["site_id"],
            credentials.c.id != row["id"],
            credentials.c.type.in_(DOMAIN_TYPES),
        )
        .order_by(credentials.c.created_at, credentials.c.id)
    )
    return [other for other in others if _account_of(other) == _account_of(row)]


def _account_of(row: Row) -> tuple[str, str]:
    domain_name = without_final_dot(row["domain_name"] or "").casefold()
    # The short name is what somebody typed, so it parts no two accounts: a strike too many is worse than a retry.
    return domain_name, account_of(row["username"], domain_name)


async def _record(tx: Transaction, opened: list[Row], actor: str, address: str, now: datetime) -> None:
    site_id = opened[0]["site_id"]
    site = await tx.fetch_one(select(sites.c.partner_id).where(sites.c.site_id == site_id))
    assert site is not None  # noqa: S101 (a credential has a site)
    await record(
        tx,
        partner_id=site["partner_id"],
        actor=actor,
        action="credentials-compared",
        now=now,
        site_id=site_id,
        address=address,
        detail={"credentials": {row["id"]: row["version"] for row in opened}},
    )


def _try_open(central: Central, row: Row) -> Secret | None:
    """None when it does not open: what it holds is not known, and an envelope of it may be sealed already."""
    try:
        return open_secret(central, row)
    except StateError:
        log.exception("the credential %s of site %s does not open", row["id"], row["site_id"])
        return None
