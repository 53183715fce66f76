"""The audit: who did what, when and from where; each entry's digest chains over the one before it, per site."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import insert, select

from central_app.auth import Caller
from central_app.database.connection import Reader, Row, Transaction
from central_app.database.tables import audit
from msp_sdk.models.event import AuditEntry
from msp_sdk.wire.converter import render_instant


def chain_digest(before: str, entry: AuditEntry, partner_id: str) -> str:
    """The digest of an entry that follows one with the digest ``before``; the first follows empty text."""
    facts = [
        before,
        partner_id,
        entry.site_id or "",
        entry.sequence,
        render_instant(entry.at),
        entry.actor,
        entry.action,
        entry.address or "",
        dict(entry.detail),
    ]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def chain_holds(entries: Iterable[AuditEntry], partner_id: str) -> bool:
    """True if these entries of one chain, from its first on, are all there and unchanged."""
    before = ""
    for expected, entry in enumerate(entries, start=1):
        if entry.sequence != expected or entry.digest != chain_digest(before, entry, partner_id):
            return False
        before = entry.digest
    return True


async def record(
    tx: Transaction,
    *,
    partner_id: str,
    actor: str,
    action: str,
    now: datetime,
    site_id: str | None = None,
    address: str | None = None,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Write an entry in the caller's transaction. ``detail`` holds no secrets."""
    last = await tx.fetch_one(
        select(audit.c.sequence, audit.c.digest)
        .where(audit.c.site_id == (site_id or ""), audit.c.partner_id == partner_id)
        .order_by(audit.c.sequence.desc())
        .limit(1)
    )
    sequence, before = (last["sequence"] + 1, last["digest"]) if last else (1, "")
    entry = AuditEntry(sequence, now, actor, action, address, site_id, dict(detail or {}))
    await tx.execute(
        insert(audit).values(
            site_id=site_id or "",
            partner_id=partner_id,
            sequence=sequence,
            at=now,
            actor=actor,
            action=action,
            address=address,
            detail=dict(entry.detail),
            digest=chain_digest(before, entry, partner_id),
        )
    )


async def record_by(
    tx: Transaction,
    caller: Caller,
    action: str,
    now: datetime,
    site_id: str | None = None,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Write what a caller did."""
    await record(
        tx,
        partner_id=caller.partner_id,
        actor=caller.actor,
        action=action,
        now=now,
        site_id=site_id,
        address=caller.address,
        detail=detail,
    )


def entry_of(row: Row) -> AuditEntry:
    """A row as the wire has it."""
    return AuditEntry(
        sequence=row["sequence"],
        at=row["at"],
        actor=row["actor"],
        action=row["action"],
        address=row["address"],
        site_id=row["site_id"] or None,
        detail=row["detail"],
        digest=row["digest"],
    )


async def read_audit(reader: Reader, partner_id: str, site_id: str | None, offset: int, limit: int) -> list[AuditEntry]:
    """Entries of a partner, oldest first; of one site where it is given. May be empty."""
    statement = select(audit).where(audit.c.partner_id == partner_id)
    if site_id is not None:
        statement = statement.where(audit.c.site_id == site_id)
    statement = statement.order_by(audit.c.at, audit.c.site_id, audit.c.sequence).offset(offset).limit(limit)
    return [entry_of(row) for row in await reader.fetch_all(statement)]
