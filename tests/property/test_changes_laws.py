"""Base plus changes is the whole directory, whatever happened and whenever, as Windows tells it.

The directory is a model of what a Windows controller says: a delta holds only what changed, in rounds that may name an
object twice; a tombstone loses nearly everything; an ordinary account sees no tombstone.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msp_sdk.directory import ber
from msp_sdk.directory.entry import Entry
from msp_sdk.directory.root_dse import RootDse
from msp_sdk.directory.search import Round
from msp_sdk.directory.session import DirectorySession
from msp_sdk.enumeration.changes import merge_delta, read_changes
from msp_sdk.enumeration.reading import FullReading, Judge
from msp_sdk.errors import DirectoryError
from msp_sdk.models.computer import Computer, Enumeration, EnumerationScope, apply_changes

BASE = "DC=x,DC=test"
DELETED = f"CN=Deleted Objects,{BASE}"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
OUS = ("CN=Computers", "OU=Clinic", r"OU=A\,B,OU=Clinic", "OU=Lab")
UNIT = (b"organizationalUnit",)
DELETION = 1
TOMBSTONE_KEEPS = ("objectclass", "objectguid", "samaccountname")
GMSA = (b"computer", b"msDS-GroupManagedServiceAccount")
SCOPES = (
    EnumerationScope(),
    EnumerationScope(ous=("Clinic",), excluded_ous=("Clinic/A,B",)),
    EnumerationScope(names=("pc1*", "*3"), roles=("workstation", "server")),
)


class ModelDirectory:
    """A controller with two objects a round. ``between`` is called before each round but the first."""

    source = "dc1.x.test model"

    def __init__(self, *, dirsync: bool, sees_deleted: bool, repeats: int = 0) -> None:
        self.objects: dict[bytes, tuple[str, dict[str, tuple[bytes, ...]]]] = {}
        self.deleted: dict[bytes, dict[str, tuple[bytes, ...]]] = {}
        self.log: list[tuple[bytes, frozenset[str]]] = []
        self.changed_at: dict[bytes, int] = {}
        self.dirsync = dirsync
        self.sees_deleted = sees_deleted
        self.repeats = repeats
        self.between: Callable[[], None] = lambda: None

    def write(self, guid: bytes, dn: str, attributes: dict[str, tuple[bytes, ...]]) -> None:
        before = self.objects.get(guid, ("", {}))
        changed = {name for name in {*before[1], *attributes} if before[1].get(name) != attributes.get(name)}
        # A move shows in the parent, a rename in the name: each is told by itself.
        leaf, _, parent = dn.partition(",")
        leaf_before, _, parent_before = before[0].partition(",")
        changed |= {"name"} if leaf != leaf_before else set()
        changed |= {"parentguid"} if parent != parent_before else set()
        self.objects[guid] = (dn, attributes)
        self._changed(guid, frozenset(changed))

    def delete(self, guid: bytes) -> None:
        _, attributes = self.objects.pop(guid)
        self.deleted[guid] = {name: attributes[name] for name in TOMBSTONE_KEEPS if name in attributes}
        self.deleted[guid]["isdeleted"] = (b"TRUE",)
        self._changed(guid, frozenset({*attributes, "isdeleted"} - {"objectclass", "samaccountname"}))

    def _changed(self, guid: bytes, names: frozenset[str]) -> None:
        self.log.append((guid, names | {"objectguid"}))
        self.changed_at[guid] = len(self.log)

    def rename_unit(self, guid: bytes, name: str) -> None:
        """The computers in it are elsewhere then, and nothing of them has changed."""
        before, values = self.objects[guid]
        after = f"OU={name},{before.split(',', 1)[1]}"
        for other, (dn, kept) in self.objects.items():
            if dn.endswith(f",{before}"):
                self.objects[other] = (f"{dn.removesuffix(before)}{after}", kept)
        self.write(guid, after, {**values, "name": (name.encode(),)})

    # What a session offers.

    invocation_id = "one"

    def root_dse(self) -> RootDse:
        controls = (ber.DIRSYNC,) if self.dirsync else ()
        return RootDse(
            "x.test", BASE, highest_committed_usn=len(self.log), invocation_id="one", supported_controls=controls
        )

    def read(self, dn: str, attributes: Sequence[str], controls: Sequence[object] = ()) -> Entry | None:
        if not controls:
            return next((Entry(there, values) for there, values in self.objects.values() if there == dn), None)
        assert dn == DELETED
        return Entry(dn, {"objectclass": (b"container",)}) if self.sees_deleted else None

    def rounds(
        self, base: str, filter_text: str, attributes: Sequence[str], continuation: object, *, cookie: bytes = b""
    ) -> Iterator[Round]:
        assert (base, filter_text) == (BASE, "(|(objectClass=computer)(objectClass=organizationalUnit))")
        start = max(0, int(cookie or b"0") - (self.repeats if cookie else 0))
        entries = self._delta(start, attributes) if cookie else self._everything()
        at = len(self.log)
        rounds = [entries[begin : begin + 2] for begin in range(0, len(entries), 2)] or [()]
        for number, part in enumerate(rounds):
            if number:
                self.between()
            more = number < len(rounds) - 1 or len(self.log) > at
            yield Round(tuple(part), b"%d" % at, more)
        while len(self.log) > at:
            entries, at = self._delta(at, attributes), len(self.log)
            yield Round(tuple(entries), b"%d" % at, more=False)

    def pages(
        self, base: str, filter_text: str, attributes: Sequence[str], *, types_only: bool = False, controls: Any = ()
    ) -> Iterator[tuple[Entry, ...]]:
        since = int(filter_text.partition("uSNChanged>=")[2].rstrip(")") or 0)
        if base == DELETED:
            assert controls
            found = [
                Entry(f"CN=gone,{DELETED}", values)
                for guid, values in self.deleted.items()
                if self.changed_at[guid] >= since
            ]
        elif base.startswith("<GUID="):
            unit, _ = self.objects.get(bytes.fromhex(base[len("<GUID=") : -1]), ("", {}))
            found = [Entry(dn, values) for dn, values in self.objects.values() if unit and dn.endswith(f",{unit}")]
            found = [each for each in found if each.values("objectClass") != UNIT]
        else:
            wanted = [part.partition(")")[0] for part in filter_text.split("objectGUID=")[1:]]
            guids = {bytes.fromhex(text.replace("\\", "")) for text in wanted}
            found = [
                Entry(dn, values)
                for guid, (dn, values) in self.objects.items()
                if self.changed_at[guid] >= since
                and (not guids or guid in guids)
                and (values["objectclass"] != UNIT or "organizationalUnit" in filter_text)
                and (b"ServiceAccount" not in filter_text.encode() or values["objectclass"] == GMSA)
            ]
        pages = [found[begin : begin + 2] for begin in range(0, len(found), 2)]
        for number, page in enumerate(pages):
            if number:
                self.between()
            yield tuple(page)

    def _everything(self) -> list[Entry]:
        return [Entry(dn, values) for dn, values in self.objects.values()]

    def _delta(self, start: int, attributes: Sequence[str]) -> list[Entry]:
        asked = {name.lower() for name in attributes}
        names: dict[bytes, frozenset[str]] = {}
        for guid, changed in self.log[start:]:
            names[guid] = names.get(guid, frozenset()) | changed
        entries = []
        for guid, changed in names.items():
            if guid in self.objects:
                dn, values = self.objects[guid]
            elif self.sees_deleted:
                dn, values = f"CN=gone,{DELETED}", self.deleted[guid]
            else:
                continue
            half = sorted((changed & asked) - {"objectguid"})
            if not half:
                # Nothing changed that was asked for.
                continue
            # In two parts, as when a round ended between two values.
            entries += [
                Entry(dn, {"objectguid": (guid,), **{name: values.get(name, ()) for name in part}})
                for part in (half[::2], half[1::2])
            ]
        return entries


class Story:
    """Things that happen to a directory, drawn one by one.

    Units that a scope names keep their names: without them it is an error, and no reading.
    """

    def __init__(
        self, directory: ModelDirectory, steps: list[tuple[int, int, int]], scope: EnumerationScope | None = None
    ) -> None:
        self.directory = directory
        self.steps = steps
        self.renamed = OUS[1:] if scope is None or not scope.ous else OUS[3:]
        self.made = 0
        for number, unit in enumerate(OUS[1:]):
            guid = uuid.uuid5(uuid.NAMESPACE_DNS, unit).bytes_le
            values = {"objectclass": UNIT, "objectguid": (guid,), "name": (b"%d" % number,)}
            directory.write(guid, f"{unit},{BASE}", values)
        for number in range(7):
            self._happen(0, number, number % 4)

    def happen(self, count: int) -> None:
        for _ in range(count):
            if self.steps:
                self._happen(*self.steps.pop())

    def _happen(self, kind: int, which: int, how: int) -> None:
        directory = self.directory
        units = sorted(guid for guid, (_, values) in directory.objects.items() if values["objectclass"] == UNIT)
        alive = sorted(guid for guid in directory.objects if guid not in units)
        places = [OUS[0], *(directory.objects[guid][0].removesuffix(f",{BASE}") for guid in units)]
        if kind == 7:
            unit = self.renamed[which % len(self.renamed)]
            directory.rename_unit(uuid.uuid5(uuid.NAMESPACE_DNS, unit).bytes_le, f"Unit{which}-{how}")
            return
        if kind == 0 or not alive:
            self.made += 1
            guid = uuid.uuid5(uuid.NAMESPACE_DNS, str(self.made)).bytes_le
            values: dict[str, tuple[bytes, ...]] = {
                "objectclass": GMSA if how == 0 else (b"computer",),
                "objectguid": (guid,),
                "samaccountname": (b"PC%d$" % self.made,),
                "useraccountcontrol": (b"4096",),
            }
            directory.write(guid, f"CN=PC{self.made},{places[which % len(places)]},{BASE}", values)
            return
        guid = alive[which % len(alive)]
        dn, values = directory.objects[guid]
        values = dict(values)
        leaf, parent = dn.split(",", 1)
        if kind == DELETION:
            directory.delete(guid)
            return
        if kind == 2:
            parent = f"{places[how % len(places)]},{BASE}"
        elif kind == 3:
            leaf = f"CN=Renamed{how}"
            values["samaccountname"] = (b"PC%d-%d$" % (which, how),)
        elif kind == 4:
            values["operatingsystem"] = ((b"Windows 11 Pro", b"Windows Server 2022", b"Linux", b"\xff")[how % 4],)
            values["dnshostname"] = (b"pc%d.x.test" % which,)
        elif kind == 5:
            values["useraccountcontrol"] = ((b"4098", b"4096", b"nonsense")[how % 3],)
        else:
            for name in ("operatingsystem", "dnshostname", "useraccountcontrol")[: how % 4]:
                values.pop(name, None)
        directory.write(guid, f"{leaf},{parent}", values)


STEPS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 3)), min_size=15, max_size=60)


def session(directory: ModelDirectory) -> DirectorySession:
    return cast("DirectorySession", directory)


def read_full(directory: ModelDirectory, scope: EnumerationScope) -> Enumeration:
    reading = FullReading(session(directory), BASE, Judge("x.test", NOW, scope=scope))
    computers: list[Computer] = []
    for batch in reading.batches():
        computers = [*batch.without_replaced(computers), *batch.computers]
    return Enumeration(
        "x.test", tuple(computers), NOW, "model", reading.service_accounts_count, reading.cursor, reading.judge.scope
    )


def follow(story: Story, kept: Enumeration, pauses: Sequence[int]) -> Enumeration:
    """Keep up with the directory, so many things apart, until all of the story has happened."""
    directory = story.directory
    for pause in pauses:
        story.happen(pause)
        assert kept.cursor is not None
        changes = read_changes(session(directory), BASE, Judge("x.test", NOW, scope=kept.scope), kept.cursor)
        assert changes.complete == directory.sees_deleted
        kept = apply_changes(kept, changes)
    assert not story.steps
    return kept


def by_guid(enumeration: Enumeration) -> dict[str, Computer]:
    found = {computer.object_guid: computer for computer in enumeration.computers}
    assert len(found) == len(enumeration.computers)
    return found


@settings(deadline=None, max_examples=250)
@given(STEPS, st.booleans(), st.booleans(), st.integers(0, 5), st.sampled_from(SCOPES), st.lists(st.integers(0, 9)))
def test_base_plus_changes_is_the_whole(steps, dirsync, sees_deleted, repeats, scope, pauses):
    directory = ModelDirectory(dirsync=dirsync, sees_deleted=sees_deleted, repeats=repeats if dirsync else 0)
    story = Story(directory, list(steps), scope)
    story.happen(len(steps) // 3)
    # It goes on while it is read: the cursor leaves no gap.
    directory.between = lambda: story.happen(1)
    kept = read_full(directory, scope)
    # Whom it names twice, changed while it went on, it tells once.
    by_guid(kept)
    kept = follow(story, kept, [*pauses[:4], len(steps), 0, 0])
    full = read_full(directory, scope)
    found, wanted = by_guid(kept), by_guid(full)
    if sees_deleted:
        assert found == wanted
        assert kept.service_accounts_count == full.service_accounts_count
        return
    # Nobody told us of deletions: they are all that the full reading has to reconcile.
    assert {guid: found[guid] for guid in wanted} == wanted
    assert {uuid.UUID(guid).bytes_le for guid in found if guid not in wanted} <= set(directory.deleted)
    # It does so while things go on; and changes go on from there.
    story.steps = [step for step in steps if step[0] != DELETION]
    kept = follow(story, read_full(directory, scope), [*pauses[:4], len(steps), 0, 0])
    assert by_guid(kept) == by_guid(read_full(directory, scope))


def test_a_service_account_that_goes_while_all_is_read_is_not_counted():
    directory = ModelDirectory(dirsync=True, sees_deleted=True)
    Story(directory, [])
    gone = next(guid for guid, (_, values) in directory.objects.items() if values["objectclass"] == GMSA)
    before = sum(values["objectclass"] == GMSA for _, values in directory.objects.values())
    directory.between = lambda: directory.delete(gone) if gone in directory.objects else None
    assert read_full(directory, EnumerationScope()).service_accounts_count == before - 1


@pytest.mark.parametrize("dirsync", [True, False])
def test_an_entry_without_an_identity_is_counted_and_not_listed(dirsync):
    directory = ModelDirectory(dirsync=dirsync, sees_deleted=True)
    Story(directory, [])
    before = read_full(directory, EnumerationScope())
    directory.write(b"?" * 16, f"CN=HIDDEN,{BASE}", {"objectclass": (b"computer",), "samaccountname": (b"HIDDEN$",)})
    reading = FullReading(session(directory), BASE, Judge("x.test", NOW))
    computers = [computer for batch in reading.batches() for computer in batch.computers]
    assert (len(computers), reading.unreadable_count) == (len(before.computers), 1)


def test_a_delta_merges_by_attribute_and_an_empty_one_is_a_removal():
    # Lesson 53: code that replaced records passed the lab and would have corrupted data.
    guid = (uuid.UUID(int=1).bytes_le,)
    merged = merge_delta(
        [
            Entry("CN=A", {"objectguid": guid, "name": (b"A",), "operatingsystem": (b"Windows 11 Pro",)}),
            Entry("CN=Nobody", {"name": (b"N",)}),
            Entry("CN=A", {"objectguid": guid, "isdeleted": (b"TRUE",), "operatingsystem": ()}),
        ]
    )
    assert [entry.attributes for entry in merged.values()] == [
        {"objectguid": guid, "name": (b"A",), "isdeleted": (b"TRUE",)}
    ]


@pytest.mark.parametrize("cursor", ["", "nonsense", "msp1.e30="])
def test_a_cursor_that_is_none_is_lost_and_means_a_full_reading(cursor):
    directory = ModelDirectory(dirsync=True, sees_deleted=True)
    with pytest.raises(DirectoryError) as caught:
        read_changes(session(directory), BASE, Judge("x.test", NOW), cursor)
    assert caught.value.code == "cursor-lost"
