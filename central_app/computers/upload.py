"""Computers of a report that is still arriving, in a table of their own: the heartbeat never waits for a big report.

Each batch is a short transaction. A report that came whole is moved to ``computers`` by one statement in the report's
own transaction; one that did not has changed nothing, and its rows are deleted.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, insert, literal, select

from central_app.auth import new_id
from central_app.computers.entries import Batch
from central_app.database.connection import Database, Transaction
from central_app.database.tables import computers
from central_app.database.types import Instant
from central_app.database.upload_tables import uploaded_computers, uploads
from central_app.problems import ProblemError
from central_app.reports import REFUSED_NAMED_COUNT, Reporter, upsert
from msp_sdk.errors import MspError
from msp_sdk.models.checkin import RefusedEntry

log = logging.getLogger("central")

# So long may a report take to arrive; what is left of one that began twice as long ago is dead.
LONGEST_UPLOAD_S = 3600.0
DEAD_AFTER = timedelta(seconds=2 * LONGEST_UPLOAD_S)
# How many rows one short transaction deletes.
CLEARED_COUNT = 2000

_COPIED = ("site_id", "object_guid", "hostname", "fqdn", "folded_hostname", "folded_fqdn", "role", "data")


class Upload:
    """The entries of one report.

    Attributes:
        count: Computers that can be held.
        removed: objectGUIDs of computers that are gone.
        refused: The first entries that cannot be held.
        refused_count: How many there are.
        refused_guids: Whose they are, as far as they say.
    """

    def __init__(self, db: Database, reporter: Reporter) -> None:
        self._db = db
        self._reporter = reporter
        self.id = new_id("upload")
        self.count = 0
        self.removed: list[str] = []
        self.refused: list[RefusedEntry] = []
        self.refused_count = 0
        self.refused_guids: list[str] = []

    async def put(self, batch: Batch) -> None:
        """Keep a batch. Of two entries for one computer the later stands."""
        self.count += len(batch.rows)
        self.removed += batch.removed
        self.refused += batch.refused[: REFUSED_NAMED_COUNT - len(self.refused)]
        self.refused_count += len(batch.refused)
        self.refused_guids += batch.refused_guids
        if batch.rows:
            key = {"site_id": self._reporter.site_id, "upload_id": self.id}
            rows = [{**key, **row} for row in batch.rows]
            async with self._db.transaction() as tx:
                await tx.execute_many(upsert(uploaded_computers, ("site_id", "upload_id", "object_guid")), rows)

    async def move(self, tx: Transaction, report_id: str, domain_name: str, now: datetime) -> None:
        """Put the computers where everybody sees them; one that is there already keeps when it was first seen.

        Raises:
            ProblemError: ``unavailable``: it was cleared away, since it took too long.
        """
        mine = (uploads.c.site_id == self._reporter.site_id) & (uploads.c.id == self.id)
        if await tx.fetch_one(select(uploads.c.id).where(mine)) is None:
            raise ProblemError("unavailable")
        added = {
            "domain_name": literal(domain_name),
            "appliance_id": literal(self._reporter.appliance_id),
            "report_id": literal(report_id),
            "first_seen_at": literal(now, Instant),
            "reported_at": literal(now, Instant),
        }
        rows = select(*(uploaded_computers.c[name] for name in _COPIED), *added.values()).where(
            uploaded_computers.c.site_id == self._reporter.site_id, uploaded_computers.c.upload_id == self.id
        )
        statement = upsert(computers, ("site_id", "object_guid"), kept=("first_seen_at",))
        await tx.execute(statement.from_select([*_COPIED, *added], rows))


@asynccontextmanager
async def uploading(db: Database, reporter: Reporter, now: datetime) -> AsyncIterator[Upload]:
    """An upload whose rows are gone when the block ends, however it ends; those of dead ones are cleared away too."""
    upload = Upload(db, reporter)
    await _clear_dead(db, reporter.site_id, now)
    async with db.transaction() as tx:
        await tx.execute(insert(uploads).values(site_id=reporter.site_id, id=upload.id, started_at=now))
    try:
        yield upload
    finally:
        try:
            await _clear(db, reporter.site_id, upload.id)
        except MspError as error:
            # A later upload does it; what this one was about is answered as it is.
            log.warning("rows of an upload stay for a while: %s", error.detail)


async def _clear_dead(db: Database, site_id: str, now: datetime) -> None:
    dead = select(uploads.c.id).where(uploads.c.site_id == site_id, uploads.c.started_at < now - DEAD_AFTER)
    for row in await db.fetch_all(dead):
        await _clear(db, site_id, row["id"])


async def _clear(db: Database, site_id: str, upload_id: str) -> None:
    rows = (uploaded_computers.c.site_id == site_id) & (uploaded_computers.c.upload_id == upload_id)
    some: Select[tuple[str]] = select(uploaded_computers.c.object_guid).where(rows).limit(CLEARED_COUNT)
    cleared = CLEARED_COUNT
    while cleared == CLEARED_COUNT:
        async with db.transaction() as tx:
            cleared = await tx.execute(
                delete(uploaded_computers).where(rows, uploaded_computers.c.object_guid.in_(some))
            )
    async with db.transaction() as tx:
        await tx.execute(delete(uploads).where(uploads.c.site_id == site_id, uploads.c.id == upload_id))
