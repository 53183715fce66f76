"""The check-in's hot path as a protocol: what goes in, what comes out, whichever database does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from attrs import frozen

from central_app.database.connection import Row
from msp_sdk.models.generation import acknowledge

LEASE_INTERVALS = 3
LATE_INTERVALS = 3


@frozen
class CheckInRow:
    """One heartbeat. The key decides which appliance it is; ``completed`` is None for a client that does not count."""

    site_id: str
    key_hash: bytes
    now: datetime
    hostname: str
    ip_addresses: tuple[str, ...]
    uptime_seconds: float
    agent_version: str
    nixos_version: str | None
    all_mac_addresses: tuple[str, ...] | None
    subnets: tuple[str, ...] | None
    completed: Mapping[str, int] | None


@frozen
class CheckInResult:
    """The appliance and its site after the heartbeat, and which work is to be triggered.

    Attributes:
        first: This key was used for the first time; the appliance's other keys have ended.
        seen_before_at: When the appliance was seen before this; None for never.
    """

    appliance: Row
    site: Row
    triggers: Mapping[str, bool]
    first: bool
    seen_before_at: datetime | None

    @property
    def came_back(self) -> bool:
        """It is new, or had missed three check-ins: worth an event, and an entry in the audit for what it gets."""
        if self.first or self.seen_before_at is None:
            return True
        silent_s = (self.appliance["last_seen_at"] - self.seen_before_at).total_seconds()
        return bool(silent_s > LATE_INTERVALS * self.site["checkin_interval_seconds"])


class CheckInStore(Protocol):
    """Takes heartbeats, durably, in one go."""

    async def check_in(self, rows: Sequence[CheckInRow]) -> list[CheckInResult | None]:
        """Take heartbeats; the results are in the order of the rows, None where the key is not valid."""
        ...


@frozen
class Work:
    """One kind of work of one appliance, as the table holds it."""

    wished: int
    done: int
    sent: int
    sent_at: datetime | None


def settle(work: Work, completed: int | None, now: datetime, interval_s: float, *, counts: bool) -> tuple[Work, bool]:
    """What a check-in makes of one kind of work, and whether it is to be triggered.

    Args:
        work: As it was.
        completed: The generation that the appliance completed; None when it did not say.
        now: The instant of the check-in.
        interval_s: The site's interval.
        counts: Whether this client says what it completed at all. To one that does not, the trigger is true once,
            then false for three intervals, unless its report arrives; nothing is cleared by being sent (lesson 11).
    """
    done = acknowledge(work.done, completed or 0, work.wished)
    owed = work.wished > done
    if counts or not owed:
        return Work(work.wished, done, work.sent, work.sent_at), owed
    leased = (
        work.sent == work.wished
        and work.sent_at is not None
        and (now - work.sent_at).total_seconds() < LEASE_INTERVALS * interval_s
    )
    if leased:
        return Work(work.wished, done, work.sent, work.sent_at), False
    return Work(work.wished, done, work.wished, now), True
