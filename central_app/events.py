"""What changed at a site: rows in the site's own sequence, and who waits for them in this process.

:func:`emit` writes inside the caller's transaction, so an event exists exactly if its change does. Waiting streams are
then woken; they read the database, never a queue, so that a slow reader costs no memory and a reader who comes back
goes on where it was. Other processes on the same database are noticed by a look every two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

from attrs import define, field
from sanic import Request
from sqlalchemy import delete, insert, select, update

from central_app.auth import Caller, partner_caller
from central_app.database.connection import Reader, Transaction
from central_app.database.tables import events, sites
from central_app.state import central_of
from msp_sdk.models.event import Event
from msp_sdk.wire.converter import dumps

# How many events of a site are kept; who was away longer gets one ``resync`` and reads everything anew.
KEPT_COUNT = 10_000
# How many are read at once.
BATCH_COUNT = 200
HEARTBEAT_S = 15.0
# With the first block after so long, at the latest the next heartbeat.
ASK_AGAIN_S = 1.0
LOOK_S = 2.0
# How long after a wake-up the change is looked for: its transaction may still be committing.
COMMIT_WAIT_S = 1.0
COMMIT_LOOK_S = 0.02
LONGEST_SEQUENCE = 18
OPENING = b"retry: 2000\n\n"

RESYNC = "resync"


@define
class _Site:
    """Who waits for a site's events in this process."""

    newest: int = 0
    waiting: set[asyncio.Event] = field(factory=set)


class EventHub:
    """Wakes the streams of this process. It holds numbers only, and only for sites that somebody watches."""

    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}

    def announce(self, site_id: str, sequence: int) -> None:
        """Wake who waits for this site. Call it in the loop in which they wait."""
        site = self._sites.get(site_id)
        if site is None:
            return
        site.newest = max(site.newest, sequence)
        for waiter in site.waiting:
            waiter.set()

    def newest(self, site_id: str) -> int:
        """The newest sequence that was announced while somebody watched; 0 when none was."""
        site = self._sites.get(site_id)
        return site.newest if site else 0

    @contextlib.contextmanager
    def watch(self, site_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the site is announced; the watcher clears it."""
        site = self._sites.setdefault(site_id, _Site())
        waiter = asyncio.Event()
        site.waiting.add(waiter)
        try:
            yield waiter
        finally:
            site.waiting.discard(waiter)
            if not site.waiting:
                self._sites.pop(site_id, None)


# Site ids are random and unique everywhere, so one hub serves every application of this process.
HUB = EventHub()


async def emit(
    tx: Transaction,
    site_id: str,
    type: str,  # noqa: A002 (the wire's name)
    data: Mapping[str, object] | None = None,
) -> int:
    """Write an event in the caller's transaction and wake the site's streams.

    Args:
        tx: The transaction that makes the change.
        site_id: Whose sequence is raised.
        type: What changed, such as ``enumeration``.
        data: Small facts, no secrets; the reader fetches what it wants to know.

    Returns:
        The event's sequence; 0 when there is no such site (it was off-boarded meanwhile).
    """
    await tx.execute(update(sites).where(sites.c.site_id == site_id).values(event_sequence=sites.c.event_sequence + 1))
    row = await tx.fetch_one(select(sites.c.event_sequence).where(sites.c.site_id == site_id))
    if row is None:
        return 0
    sequence = int(row["event_sequence"])
    await tx.execute(
        insert(events).values(
            site_id=site_id, sequence=sequence, type=type, at=datetime.now(UTC), data=dict(data or {})
        )
    )
    if sequence > KEPT_COUNT:
        await tx.execute(delete(events).where(events.c.site_id == site_id, events.c.sequence <= sequence - KEPT_COUNT))
    HUB.announce(site_id, sequence)
    return sequence


async def newest_sequence(reader: Reader, site_id: str) -> int:
    """The site's newest sequence; 0 when nothing has happened."""
    row = await reader.fetch_one(select(sites.c.event_sequence).where(sites.c.site_id == site_id))
    return int(row["event_sequence"]) if row else 0


async def read_after(reader: Reader, site_id: str, sequence: int) -> list[Event]:
    """The next events after ``sequence``, oldest first, at most a batch; a ``resync`` first where some are gone."""
    rows = await reader.fetch_all(
        select(events)
        .where(events.c.site_id == site_id, events.c.sequence > sequence)
        .order_by(events.c.sequence)
        .limit(BATCH_COUNT)
    )
    found = [Event(row["sequence"], row["type"], row["at"], row["data"]) for row in rows]
    if found and found[0].sequence > sequence + 1:
        first = found[0]
        return [Event(first.sequence - 1, RESYNC, first.at), *found]
    return found


def render_event(event: Event) -> bytes:
    """An event as a block of an event stream."""
    return b"id: %d\ndata: %b\n\n" % (event.sequence, dumps(event))


async def follow(reader: Reader, site_id: str, after: int, stop: asyncio.Event) -> AsyncIterator[bytes]:
    """The blocks of a site's event stream: what happened after ``after``, then whatever happens, then heartbeats.

    It ends when ``stop`` is set.
    """
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    chased, chase_until = 0, 0.0
    stopping = asyncio.create_task(stop.wait())
    try:
        with HUB.watch(site_id) as woken:
            while not stop.is_set():
                woken.clear()
                found = await read_after(reader, site_id, after)
                for event in found:
                    after = event.sequence
                    yield render_event(event)
                if found:
                    beat_at = loop.time() + HEARTBEAT_S
                    continue
                if loop.time() >= beat_at:
                    beat_at = loop.time() + HEARTBEAT_S
                    yield b": still here\n\n"
                newest = HUB.newest(site_id)
                if newest > after and newest != chased:
                    # Announced and not there: it is being committed, or it was rolled back and never comes.
                    chased, chase_until = newest, loop.time() + COMMIT_WAIT_S
                await _wait(woken, stopping, soon=newest > after and loop.time() < chase_until)
    finally:
        stopping.cancel()


async def _wait(woken: asyncio.Event, stopping: asyncio.Task[Literal[True]], *, soon: bool) -> None:
    """Until there is something to look for: a wake-up, the end, or the next look."""
    if soon:
        await asyncio.wait({stopping}, timeout=COMMIT_LOOK_S)
        return
    waking = asyncio.create_task(woken.wait())
    try:
        await asyncio.wait({waking, stopping}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waking.cancel()


async def _still_may(request: Request, caller: Caller, site_id: str) -> bool:
    again = await partner_caller(request)
    if again is None or again.partner_id != caller.partner_id:
        return False
    mine = (sites.c.site_id == site_id) & (sites.c.partner_id == caller.partner_id)
    return await central_of(request).db.fetch_one(select(sites.c.site_id).where(mine)) is not None


async def stream_events(request: Request, caller: Caller, site_id: str) -> None:
    """The event stream of a site, for :data:`~msp_sdk.wire.routes.SITE_EVENTS`.

    A stream may last for days: who may listen is asked again on the way, so that a revoked key, a closed
    session or a site that is gone ends it.
    """
    central = central_of(request)
    wish = request.headers.get("last-event-id") or request.args.get("after")
    # Who names no place wants what happens from now on; so does who was ahead of a database that was restored.
    after = await newest_sequence(central.db, site_id)
    if wish is not None and wish.isascii() and wish.isdigit() and len(wish) <= LONGEST_SEQUENCE:
        after = min(after, int(wish))
    response = await request.respond(
        content_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"},
    )
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    try:
        # The head goes out with the first bytes: who listens should know at once that we do.
        await response.send(OPENING)
        async for block in follow(central.db, site_id, after, central.stopping):
            if loop.time() - asked_at >= ASK_AGAIN_S:
                asked_at = loop.time()
                if not await _still_may(request, caller, site_id):
                    break
            await response.send(block)
        await response.eof()
    except asyncio.CancelledError:
        # A reader who goes away is the usual end of a stream, not a failure.
        if not request.transport.is_closing():
            raise
