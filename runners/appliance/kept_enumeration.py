"""The last good enumeration on disk: the full reading, and beside it what has changed since.

A big site's computers take tens of megabytes, and a computer changes every minute: what changed is written alone.
"""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, field, frozen

from msp_sdk.enumeration import AdSubnet
from msp_sdk.models.computer import Enumeration, EnumerationChanges, apply_changes
from msp_sdk.models.scope import SiteScope
from runners.appliance.state import StateFiles

_FULL = "enumeration-"
_CHANGES = "changes-"


@frozen
class KeptEnumeration:
    """The last good enumeration with what has changed since, its computers probed.

    Attributes:
        generation: Of the wish that the last full reading answered.
        full_at: When it was last read in full.
        reported_cursor: Where the last report of it had come to. The enumeration's own cursor may be further on.
        sees_removals: Whether changes tell what was deleted.
        at_another_controller: What has changed since was told by a controller that may be behind.
        scope: The site's scope as it was then; with another one it is read in full again.
        ad_subnets: Which networks are of which of Active Directory's own sites, where the scope names some.
    """

    enumeration: Enumeration
    generation: int
    full_at: datetime | None = None
    reported_cursor: str | None = None
    sees_removals: bool = True
    at_another_controller: bool = False
    scope: SiteScope = field(factory=SiteScope)
    ad_subnets: tuple[AdSubnet, ...] = ()


@frozen
class KeptChanges:
    """All that has changed since a full reading; ``full_at`` says since which."""

    full_at: datetime | None
    changes: EnumerationChanges


def join_changes(before: EnumerationChanges | None, after: EnumerationChanges) -> EnumerationChanges:
    """Two changes after one another as one; applying it gives what applying both gives, but for the order."""
    if before is None:
        return after
    gone = {entry.object_guid: entry for entry in (*before.removed, *after.removed)}
    changed = {entry.object_guid: entry for entry in (*before.changed, *after.changed)}
    for entry in after.removed:
        changed.pop(entry.object_guid, None)
    for computer in after.changed:
        gone.pop(computer.object_guid, None)
    count = before.service_accounts_count if after.service_accounts_count is None else after.service_accounts_count
    return evolve(
        after,
        changed=tuple(changed.values()),
        removed=tuple(gone.values()),
        since=before.since,
        service_accounts_count=count,
        at_another_controller=before.at_another_controller or after.at_another_controller,
    )


def kept_domains(state: StateFiles) -> tuple[str, ...]:
    """The domains of which an enumeration is kept, folded."""
    return state.names(_FULL)


class EnumerationFiles:
    """Keeps the enumeration of one domain below the daemon's folder.

    Args:
        state: Where.
        domain_name: Folded.
    """

    def __init__(self, state: StateFiles, domain_name: str) -> None:
        self._state = state
        self._full = f"{_FULL}{domain_name}"
        self._since = f"{_CHANGES}{domain_name}"
        self._changes: EnumerationChanges | None = None

    def load(self) -> KeptEnumeration | None:
        """What was kept; None when there is nothing, or nothing that can be read."""
        kept = self._state.load(self._full, KeptEnumeration)
        since = self._state.load(self._since, KeptChanges)
        if kept is None or since is None or since.full_at != kept.full_at:
            return kept
        self._changes = since.changes
        return evolve(
            kept,
            enumeration=apply_changes(kept.enumeration, since.changes),
            reported_cursor=since.changes.cursor,
            sees_removals=since.changes.complete,
            at_another_controller=since.changes.at_another_controller,
        )

    def save_full(self, kept: KeptEnumeration) -> None:
        """Keep a full reading; changes of an earlier one are void with it."""
        self._state.save(self._full, kept)
        self._state.remove(self._since)
        self._changes = None

    def add_changes(self, kept: KeptEnumeration, changes: EnumerationChanges) -> None:
        """Keep what has changed since what was kept last."""
        self._changes = join_changes(self._changes, changes)
        self._state.save(self._since, KeptChanges(kept.full_at, self._changes))

    def forget(self) -> None:
        """Forget all of it: the domain is not ours any more."""
        self._state.remove(self._full)
        self._state.remove(self._since)
        self._changes = None
