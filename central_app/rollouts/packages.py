"""Agent packages: described first, then uploaded once; a file of another digest leaves nothing behind."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from typing import IO

from attrs import frozen
from sqlalchemy import Select, delete, insert, select, update

from central_app.audit.service import record_by
from central_app.auth import Caller
from central_app.database.connection import Database, Reader
from central_app.database.tables import package_chunks, packages, rollouts, sites
from central_app.problems import ProblemError, not_found
from central_app.reports import check_text, upsert
from central_app.rollouts.service import ensure_auto_rollout
from central_app.rollouts.store import package_of
from msp_sdk.errors import WireError
from msp_sdk.models.package import AgentPackage
from msp_sdk.wire.converter import unstructure

CHUNK_BYTES = 1024 * 1024
LARGEST_BYTES = 2 * 1024 * 1024 * 1024
# How many chunks one transaction writes: a check-in waits behind it.
CHUNKS_AT_ONCE = 8
SPOOL_BYTES = 4 * CHUNK_BYTES
LONGEST_NAME = 200
LONGEST_VERSION = 80
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@frozen
class Span:
    """Bytes ``first`` to ``last`` of a file, both included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many bytes."""
        return self.last - self.first + 1


def parse_range(header: str | None, size_bytes: int) -> Span | None:
    """The one range that a ``Range`` header asks for; None for the whole file.

    What is not one range of bytes is ignored, as RFC 9110 allows.

    Raises:
        ValueError: The range lies beyond the file.

    Source: RFC 9110, section 14.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        if int(last) == 0:
            raise ValueError("an empty range")
        return Span(max(0, size_bytes - int(last)), size_bytes - 1)
    if last and int(last) < int(first):
        return None
    if int(first) >= size_bytes:
        raise ValueError("the range begins beyond the end")
    return Span(int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1)


async def describe_package(db: Database, caller: Caller, package: AgentPackage, now: datetime) -> AgentPackage:
    """Make a package known. A repeat with the same facts gives the same package.

    Raises:
        WireError: A field makes no sense. Not retryable.
        ProblemError: ``conflict``: the digest is known with other facts.
    """
    check_text(package.name, "name", LONGEST_NAME)
    check_text(package.version, "version", LONGEST_VERSION)
    if not _DIGEST.fullmatch(package.sha256):
        raise WireError("a sha256 is 64 lower-case hex digits.", path="sha256")
    if not 0 < package.size_bytes <= LARGEST_BYTES:
        raise WireError(f"a package has 1 to {LARGEST_BYTES} bytes.", path="size_bytes")
    facts = {
        "name": package.name,
        "version": package.version,
        "size_bytes": package.size_bytes,
        "manifest": unstructure(package.manifest),
    }
    partner_id = caller.partner_id
    async with db.transaction() as tx:
        row = await tx.fetch_one(_package(partner_id, package.sha256))
        if row is None:
            await tx.execute(
                insert(packages).values(
                    partner_id=partner_id, sha256=package.sha256, uploaded=False, created_at=now, **facts
                )
            )
            await record_by(tx, caller, "package-described", now, detail={"sha256": package.sha256})
        elif {name: row[name] for name in facts} != facts:
            raise ProblemError("conflict", "A package with this digest has another description.")
        return await get_package(tx, partner_id, package.sha256)


def _package(partner_id: str, sha256: str) -> Select[tuple[object, ...]]:
    return select(packages).where(packages.c.partner_id == partner_id, packages.c.sha256 == sha256)


async def get_package(reader: Reader, partner_id: str, sha256: str) -> AgentPackage:
    """One package.

    Raises:
        ProblemError: ``not-found``.
    """
    row = await reader.fetch_one(_package(partner_id, sha256))
    if row is None:
        raise not_found()
    return package_of(row)


async def list_packages(reader: Reader, partner_id: str) -> list[AgentPackage]:
    """All packages of a partner, newest first."""
    rows = await reader.fetch_all(
        select(packages)
        .where(packages.c.partner_id == partner_id)
        .order_by(packages.c.created_at.desc(), packages.c.sha256)
    )
    return [package_of(row) for row in rows]


async def upload_package(
    db: Database, caller: Caller, sha256: str, chunks: AsyncIterator[bytes], now: datetime
) -> AgentPackage:
    """Take a package's file. A repeat with the same content changes nothing.

    The content is complete and verified before any of it is stored, so two uploads at once write the same bytes.

    Raises:
        ProblemError: ``not-found``: the package was not described; ``digest-mismatch``: the content is another one,
            or has another size, and nothing is kept.
    """
    package = await get_package(db, caller.partner_id, sha256)
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        digest = hashlib.sha256()
        count = 0
        async for chunk in chunks:
            count += len(chunk)
            if count > package.size_bytes:
                raise ProblemError(
                    "digest-mismatch", f"The file has more than the {package.size_bytes} bytes described."
                )
            digest.update(chunk)
            spool.write(chunk)
        if count != package.size_bytes:
            raise ProblemError(
                "digest-mismatch", f"The file has {count} bytes, not the {package.size_bytes} described."
            )
        if digest.hexdigest() != sha256:
            raise ProblemError("digest-mismatch", "The file's SHA-256 is not the one described.")
        if not package.uploaded:
            spool.seek(0)
            await _store(db, caller, sha256, spool, now)
    return await get_package(db, caller.partner_id, sha256)


async def _store(db: Database, caller: Caller, sha256: str, spool: IO[bytes], now: datetime) -> None:
    partner_id = caller.partner_id
    number = 0
    key = ("partner_id", "sha256", "number")
    while True:
        pieces = [piece for piece in (spool.read(CHUNK_BYTES) for _ in range(CHUNKS_AT_ONCE)) if piece]
        if not pieces:
            break
        rows = [
            {"partner_id": partner_id, "sha256": sha256, "number": number + index, "content": piece}
            for index, piece in enumerate(pieces)
        ]
        async with db.transaction() as tx:
            await tx.execute_many(upsert(package_chunks, key), rows)
        number += len(pieces)
    async with db.transaction() as tx:
        mine = (package_chunks.c.partner_id == partner_id) & (package_chunks.c.sha256 == sha256)
        await tx.execute(delete(package_chunks).where(mine, package_chunks.c.number >= number))
        await tx.execute(
            update(packages)
            .where(packages.c.partner_id == partner_id, packages.c.sha256 == sha256)
            .values(uploaded=True)
        )
        await record_by(tx, caller, "package-uploaded", now, detail={"sha256": sha256})
        # Sites that waited for this package begin now.
        wanting = await tx.fetch_all(
            select(sites.c.site_id).where(sites.c.partner_id == partner_id, sites.c.auto_rollout.is_not(None))
        )
        for site in wanting:
            await ensure_auto_rollout(tx, site["site_id"], now)


async def may_download(reader: Reader, site_id: str, sha256: str) -> bool:
    """Whether a site's appliances may have a package's file: only where a rollout that is not cancelled needs it."""
    row = await reader.fetch_one(
        select(rollouts.c.id)
        .where(rollouts.c.site_id == site_id, rollouts.c.package_sha256 == sha256, rollouts.c.state != "cancelled")
        .limit(1)
    )
    return row is not None


async def read_package(reader: Reader, partner_id: str, sha256: str, span: Span) -> AsyncIterator[bytes]:
    """The bytes of a span of an uploaded file, a chunk at a time."""
    for number in range(span.first // CHUNK_BYTES, span.last // CHUNK_BYTES + 1):
        row = await reader.fetch_one(
            select(package_chunks.c.content).where(
                package_chunks.c.partner_id == partner_id,
                package_chunks.c.sha256 == sha256,
                package_chunks.c.number == number,
            )
        )
        if row is None:
            raise ProblemError("package-missing")
        start = number * CHUNK_BYTES
        yield row["content"][max(0, span.first - start) : span.last + 1 - start]
