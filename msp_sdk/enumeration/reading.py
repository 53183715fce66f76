"""Read a directory's computers in full, batch by batch, with where changes go on from there. It blocks.

* DirSync where the controller knows it and lets us: its rounds are larger than pages, and its last cookie is without
  a gap the place from which changes go on, at any controller of the domain.
* Pages otherwise. The controller's count of changes is read before the first page: what changes meanwhile is read
  once more, and never lost.

An object that DirSync names twice changed while it was read; a second mention may hold no more than what changed, so
it is read whole once more at the end. No copy of the directory is kept for that, only who was seen.

Organisational units are watched too: when one is renamed or moved, its computers are elsewhere, and nothing says so of
themselves.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import datetime

import attrs
from attrs import field, frozen, mutable

from msp_sdk.directory import ber
from msp_sdk.directory.entry import Entry, parse_guid
from msp_sdk.directory.session import DirectorySession
from msp_sdk.directory.sync import SyncCursor, read_dirsync, render_cursor
from msp_sdk.enumeration.classify import (
    COMPUTER_ATTRIBUTES,
    COMPUTER_FILTER,
    SERVICE_ACCOUNT_CLASSES,
    ClassifyRules,
    ServiceAccount,
    Unidentified,
    classify,
)
from msp_sdk.enumeration.filters import any_of, equals, guid_filters
from msp_sdk.enumeration.scope import Members, in_scope
from msp_sdk.errors import DirectoryError, PartialResultError
from msp_sdk.models.computer import Computer, EnumerationScope, LapsKind

# A tombstone says so itself and has no category any more; a move shows in the parent.
WATCHED_FILTER = f"(|{COMPUTER_FILTER}(objectClass=organizationalUnit))"
WATCHED_ATTRIBUTES = (*COMPUTER_ATTRIBUTES, "isDeleted", "parentGUID")
_NO_SUCH_OBJECT = 32
_LAPS_PASSWORDS: tuple[tuple[str, LapsKind], ...] = (
    ("ms-Mcs-AdmPwd", "legacy"),
    ("msLAPS-Password", "windows"),
    ("msLAPS-EncryptedPassword", "windows-encrypted"),
    # A controller has no local administrator: it is the one of its repair mode.
    ("msLAPS-EncryptedDSRMPassword", "windows-encrypted"),
)


@frozen
class Judge:
    """What is made of entries: the domain, the moment, the rules, and what belongs to the scope.

    Attributes:
        scope: Normalised.
        members: Of the scope's groups.
    """

    domain_name: str
    now: datetime
    rules: ClassifyRules = field(factory=ClassifyRules)
    scope: EnumerationScope = field(factory=EnumerationScope)
    members: Members = field(factory=Members)

    def judge(self, entry: Entry) -> Computer | ServiceAccount | Unidentified:
        """What an entry is."""
        return classify(entry, domain_name=self.domain_name, now=self.now, rules=self.rules)

    def wants(self, computer: Computer) -> bool:
        """True if it belongs to the scope."""
        return in_scope(self.scope, computer, self.members)


@frozen
class Batch:
    """Some computers.

    Attributes:
        replaces: What was said before of those with these objectGUIDs holds no more.
    """

    computers: tuple[Computer, ...]
    replaces: frozenset[str] = frozenset()

    def without_replaced(self, before: Sequence[Computer]) -> list[Computer]:
        """What still holds of what was said before."""
        return [entry for entry in before if entry.object_guid not in self.replaces]


@mutable
class FullReading:
    """A full reading while it goes on.

    Attributes:
        cursor: Where changes go on; known at the end.
    """

    session: DirectorySession
    base_dn: str
    judge: Judge
    cursor: str | None = None
    _service_accounts: set[object] = field(factory=set, init=False)
    _unreadable: set[str] = field(factory=set, init=False)

    @property
    def service_accounts_count(self) -> int:
        """Managed service accounts so far, of the whole domain."""
        return len(self._service_accounts)

    @property
    def unreadable_count(self) -> int:
        """Entries so far that this account may not tell from one another, of the whole domain."""
        return len(self._unreadable)

    def batches(self) -> Iterator[Batch]:
        """All computers of the scope, by whichever way the controller has.

        Raises:
            PartialResultError, DirectoryError: As :meth:`DirectorySession.pages`.
        """
        root = self.session.root_dse()
        if ber.DIRSYNC in root.supported_controls:
            begun = False
            try:
                for batch in self._by_dirsync():
                    yield batch
                    begun = True
            except DirectoryError as error:
                # A controller that runs into a limit of its own may still do it page by page.
                cut_short = isinstance(error, PartialResultError) and not self.session.closed
                if begun or not (cut_short or error.code == "dirsync-refused"):
                    raise
            else:
                return
        yield from self.by_pages()
        if root.highest_committed_usn is not None and root.invocation_id is not None:
            cursor = SyncCursor("usn", self.base_dn, usn=root.highest_committed_usn, invocation_id=root.invocation_id)
            self.cursor = render_cursor(cursor)

    def by_pages(self) -> Generator[Batch]:
        """All computers of the scope, page by page; a page is all that is held. No cursor comes of it."""
        for page in self.session.pages(self.base_dn, COMPUTER_FILTER, COMPUTER_ATTRIBUTES):
            yield Batch(self._take(page))

    def _by_dirsync(self) -> Iterator[Batch]:
        seen: set[bytes] = set()
        again: dict[bytes, bool] = {}
        cookie = b""
        for part in read_dirsync(self.session, self.base_dn, WATCHED_FILTER, WATCHED_ATTRIBUTES):
            cookie = part.cookie
            fresh = []
            for entry in part.entries:
                guid = identity_of(entry)
                if guid is not None and guid in seen:
                    again[guid] = is_unit(entry)
                elif not is_unit(entry):
                    fresh.append(entry)
                if guid is not None:
                    seen.add(guid)
            yield Batch(self._take(fresh))
        if again:
            self._service_accounts -= set(again)
            whole = read_changed(self.session, self.base_dn, again, [guid for guid, unit in again.items() if unit])
            named = frozenset(parse_guid(guid) or "" for guid in again)
            yield Batch(self._take(whole.values()), named | whole.keys())
        self.cursor = render_cursor(
            SyncCursor("dirsync", self.base_dn, cookie, invocation_id=self.session.invocation_id or "")
        )

    def take(self, entry: object) -> Computer | None:
        """Judge one entry; None when it is no computer of the scope."""
        if not isinstance(entry, Entry) or is_deleted(entry):
            return None
        found = self.judge.judge(entry)
        if isinstance(found, ServiceAccount):
            self._service_accounts.add(identity_of(entry) or entry.dn)
            return None
        if isinstance(found, Unidentified):
            self._unreadable.add(entry.dn)
            return None
        return found if self.judge.wants(found) else None

    def _take(self, entries: Iterable[Entry]) -> tuple[Computer, ...]:
        return tuple(found for entry in entries if (found := self.take(entry)) is not None)


def identity_of(entry: Entry) -> bytes | None:
    """The bytes of its objectGUID, or None."""
    values = entry.values("objectGUID")
    return values[0] if values and parse_guid(values[0]) else None


def is_deleted(entry: Entry) -> bool:
    """True for a tombstone."""
    return (entry.text("isDeleted") or "").upper() == "TRUE"


def is_unit(entry: Entry) -> bool:
    """True for an organisational unit: a change of one says no more than its name. Computers are never called so."""
    return entry.dn[:3].upper() == "OU="


def read_changed(
    session: DirectorySession, base_dn: str, changed: Iterable[bytes], units: Iterable[bytes]
) -> dict[str, Entry]:
    """Read computers whole that changed, and all that lie in units which did.

    Args:
        session: Logged on.
        base_dn: The root of the domain.
        changed: objectGUIDs as the directory has them; what is no computer does not come.
        units: Of organisational units that were renamed or moved.

    Returns:
        By objectGUID. What is not visible (any more) is left out.

    Raises:
        PartialResultError, DirectoryError: As :meth:`DirectorySession.pages`.
    """
    found: dict[str, Entry] = {}

    def take(pages: Iterable[Iterable[Entry]]) -> None:
        for page in pages:
            found.update({guid: entry for entry in page if (guid := parse_guid(identity_of(entry)))})

    for filter_text in guid_filters([guid for raw in changed if (guid := parse_guid(raw))]):
        take(session.pages(base_dn, f"(&{COMPUTER_FILTER}{filter_text})", COMPUTER_ATTRIBUTES))
    for unit in units:
        try:
            take(session.pages(f"<GUID={unit.hex()}>", COMPUTER_FILTER, COMPUTER_ATTRIBUTES))
        except DirectoryError as error:
            # It is gone, or hidden, by now: the next changes name its computers.
            if error.context.get("result") != _NO_SUCH_OBJECT:
                raise
    return found


def count_service_accounts(session: DirectorySession, base_dn: str) -> int:
    """Count the managed service accounts of a domain."""
    wanted = any_of(*(equals("objectClass", name) for name in SERVICE_ACCOUNT_CLASSES))
    return sum(len(page) for page in session.pages(base_dn, wanted, ("objectClass",), types_only=True))


def with_laps(
    session: DirectorySession, base_dn: str, computers: Sequence[Computer], *, some: bool
) -> tuple[Computer, ...]:
    """Find out which of the passwords of LAPS this account may read, and of which kind they are.

    The directory is asked where such a password is, and answers with objectGUIDs: an attribute that an account may
    not read does not match for it. No password is ever sent.

    Args:
        session: Logged on.
        base_dn: The root of the domain.
        computers: Any; where none has LAPS nothing is asked.
        some: Ask for these alone and not for the whole domain.
    """
    concerned = [computer.object_guid for computer in computers if computer.laps and computer.object_guid]
    if not concerned:
        return tuple(computers)
    readable: dict[str, LapsKind] = {}
    for attribute, kind in _LAPS_PASSWORDS:
        here = f"({attribute}=*)"
        filters = [f"(&{here}{part})" for part in guid_filters(concerned)] if some else [f"(&{COMPUTER_FILTER}{here})"]
        for filter_text in filters:
            for page in session.pages(base_dn, filter_text, ("objectGUID",)):
                readable |= {guid: kind for entry in page if (guid := parse_guid(identity_of(entry)))}
    return tuple(_laps_of(computer, readable.get(computer.object_guid)) for computer in computers)


def _laps_of(computer: Computer, kind: LapsKind | None) -> Computer:
    if computer.laps is None:
        return computer
    # What expires decides which LAPS rules; an older password may lie beside it.
    fits = kind is not None and (kind == "legacy") == (computer.laps == "legacy")
    return attrs.evolve(computer, laps=kind if fits else computer.laps, laps_readable=fits)
