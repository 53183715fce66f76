"""What has changed in a directory since a cursor: a change says who, the object says what. It blocks.

* A delta of DirSync may hold no more than the attributes that changed, in several rounds, and name an object twice.
  Within one delta it is merged by attribute and objectGUID, as far as it takes to tell a deletion from a change.
  Each object that changed is then read whole, at the same controller, before anything is said of it.
* ``uSNChanged`` names whole objects, but goes on only at the same controller and database.
* Where a unit was renamed or moved, its computers are read anew: they lie elsewhere, and have not changed themselves.
* A cookie of DirSync goes on at another controller, which may be behind the one before: what it says is taken, and
  called incomplete, since a full reading there has to follow.
* What was deleted is said by its tombstone and by nothing else: an object that cannot be read back was moved away,
  hidden or is not there yet, and nobody knows which. The next full reading settles it.

Example:
    >>> delta = merge_delta([Entry("CN=A", {"objectguid": (bytes(16),), "operatingsystem": ()})])
    >>> [is_deleted(entry) for entry in delta.values()]
    [False]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs
from attrs import frozen

from msp_sdk.directory.entry import Entry, parse_guid
from msp_sdk.directory.session import DirectorySession
from msp_sdk.directory.sync import (
    SyncCursor,
    can_read_deleted,
    parse_cursor,
    read_deleted_since,
    read_dirsync,
    read_usn,
    render_cursor,
)
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, ServiceAccount, Unidentified
from msp_sdk.enumeration.reading import (
    WATCHED_ATTRIBUTES,
    WATCHED_FILTER,
    Judge,
    count_service_accounts,
    identity_of,
    is_deleted,
    is_unit,
    read_changed,
    with_laps,
)
from msp_sdk.enumeration.scope import check_containers, read_members
from msp_sdk.errors import DirectoryError, WireError
from msp_sdk.models.computer import Computer, EnumerationChanges, RemovedComputer
from msp_sdk.models.reason import remedy_of


@frozen
class _News:
    """What a controller said.

    Attributes:
        changed: Objects that changed, whole.
        deleted: Who was deleted.
        cursor: Where to go on.
        names_units: Whether a unit is among what changed.
    """

    changed: Mapping[str, Entry]
    deleted: frozenset[str]
    cursor: SyncCursor
    names_units: bool


def merge_delta(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Merge the entries of one delta by objectGUID, in the order of first mention.

    An attribute that comes again replaces what it was, one without values is removed; what is not mentioned stays.
    Entries without an objectGUID are nobody here; a full reading counts them.
    """
    merged: dict[str, Entry] = {}
    for entry in entries:
        guid = parse_guid(identity_of(entry))
        if guid is None:
            continue
        known = merged.get(guid)
        attributes = {**(known.attributes if known else {}), **entry.attributes}
        merged[guid] = Entry(entry.dn, {name: values for name, values in attributes.items() if values})
    return merged


def read_changes(
    session: DirectorySession, base_dn: str, judge: Judge, since: str, optional_ous: Collection[str] = ()
) -> EnumerationChanges:
    """Read what has changed since a cursor.

    Args:
        session: Logged on.
        base_dn: The root of the domain.
        judge: What is made of entries; who belongs to its groups is looked up here, of those that changed alone.
        since: Of a full reading, or of the changes before.
        optional_ous: As :func:`check_containers`.

    Raises:
        ConfigError: A container or a group of the scope is gone. Nothing is claimed.
        DirectoryError: ``cursor-lost``: changes cannot go on from there at this controller; read in full. Others as
            :meth:`DirectorySession.pages`, :class:`~msp_sdk.errors.PartialResultError` among them: then nothing is
            claimed, and the same cursor is good for another attempt.
    """
    cursor = _parse(since, base_dn)
    # Where the account may not know the database, one is like the other.
    moved = cursor.kind == "dirsync" and (session.invocation_id or "") != cursor.invocation_id
    sees_deleted = can_read_deleted(session, base_dn)
    news = (
        _read_dirsync(session, cursor)
        if cursor.kind == "dirsync"
        else _read_usn(session, cursor, sees_deleted=sees_deleted)
    )
    if news.changed and judge.scope.groups:
        members = read_members(session, base_dn, judge.scope.groups, among=tuple(news.changed))
        judge = attrs.evolve(judge, members=members)
    computers: list[Computer] = []
    deleted = [RemovedComputer(guid, "deleted") for guid in sorted(news.deleted)]
    left: list[RemovedComputer] = []
    # A tombstone may have been anybody's.
    recount = bool(news.deleted)
    for guid, entry in news.changed.items():
        found = judge.judge(entry)
        if isinstance(found, ServiceAccount):
            recount = True
        elif isinstance(found, Unidentified):
            # It was read by its objectGUID, and does not show it: nothing is said of it before the next full reading.
            continue
        elif judge.wants(found):
            computers.append(found)
        elif not judge.scope.is_everything:
            # Whether it ever was in the scope is not known here; to remove what is not there does no harm.
            left.append(RemovedComputer(guid, "out-of-scope"))
    if news.changed or news.names_units:
        # A container that was renamed looks as if all of its computers had left the scope, or had come into it. A
        # plain one is not watched: that its computers lie elsewhere shows when one of them changes.
        check_containers(session, base_dn, judge.scope, optional_ous)
    return EnumerationChanges(
        domain_name=judge.domain_name,
        changed=with_laps(session, base_dn, computers, some=True),
        removed=(*deleted, *left),
        since=since,
        cursor=render_cursor(news.cursor),
        enumerated_at=judge.now,
        source=session.source,
        # Who joins or leaves a group is a change of the group, not of the computer.
        complete=sees_deleted and not judge.scope.groups and not moved,
        at_another_controller=moved,
        service_accounts_count=count_service_accounts(session, base_dn) if recount else None,
        scope=judge.scope,
    )


def _parse(since: str, base_dn: str) -> SyncCursor:
    try:
        cursor = parse_cursor(since)
    except WireError as error:
        raise cursor_lost("the cursor cannot be read.") from error
    if cursor.domain_dn.casefold() != base_dn.casefold():
        raise cursor_lost(f"the cursor belongs to {cursor.domain_dn}.")
    return cursor


def _read_dirsync(session: DirectorySession, cursor: SyncCursor) -> _News:
    entries: list[Entry] = []
    cookie = cursor.cookie
    try:
        for part in read_dirsync(session, cursor.domain_dn, WATCHED_FILTER, WATCHED_ATTRIBUTES, cookie):
            entries.extend(part.entries)
            cookie = part.cookie
    except DirectoryError as error:
        if error.code != "dirsync-refused":
            raise
        raise cursor_lost(error.detail) from error
    merged = merge_delta(entries)
    deleted = frozenset(guid for guid, entry in merged.items() if is_deleted(entry) and not is_unit(entry))
    alive = [entry for entry in merged.values() if not is_deleted(entry)]
    changed = _read_changed(session, cursor.domain_dn, alive)
    goes_on = attrs.evolve(cursor, cookie=cookie, invocation_id=session.invocation_id or "")
    return _News(changed, deleted, goes_on, any(map(is_unit, merged.values())))


def _read_changed(session: DirectorySession, base_dn: str, changed: Sequence[Entry]) -> dict[str, Entry]:
    """What a change concerns, whole: the computers themselves, and those in a unit that has another name or place."""
    guids = {guid: entry for entry in changed if (guid := identity_of(entry))}
    units = [guid for guid, entry in guids.items() if is_unit(entry)]
    return read_changed(
        session,
        base_dn,
        [guid for guid, entry in guids.items() if not is_unit(entry)],
        [guid for guid in units if guids[guid].values("name") or guids[guid].values("parentGUID")],
    )


def _read_usn(session: DirectorySession, cursor: SyncCursor, *, sees_deleted: bool) -> _News:
    root = session.root_dse()
    now_at = root.highest_committed_usn
    if now_at is None or root.invocation_id != cursor.invocation_id or now_at < cursor.usn:
        raise cursor_lost(f"{session.source} does not count from there.")
    changed: dict[str, Entry] = {}
    units: list[Entry] = []
    for page in read_usn(session, cursor.domain_dn, WATCHED_FILTER, COMPUTER_ATTRIBUTES, cursor.usn):
        units += [entry for entry in page if is_unit(entry)]
        changed |= {guid: entry for entry in page if not is_unit(entry) and (guid := parse_guid(identity_of(entry)))}
    changed |= _read_changed(session, cursor.domain_dn, units)
    deleted: set[str] = set()
    if sees_deleted:
        for page in read_deleted_since(session, cursor.usn, domain_dn=cursor.domain_dn):
            deleted |= {guid for entry in page if (guid := parse_guid(identity_of(entry)))}
    alive = {guid: entry for guid, entry in changed.items() if guid not in deleted}
    return _News(alive, frozenset(deleted), attrs.evolve(cursor, usn=now_at), bool(units))


def cursor_lost(detail: str) -> DirectoryError:
    """Changes cannot go on from a cursor."""
    return DirectoryError(detail, code="cursor-lost", remedy=remedy_of("cursor-lost"))
