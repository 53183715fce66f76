"""What one controller knows and in which order it came: update numbers, versions of attributes, tombstones. Pure.

Each controller numbers what it writes for itself, whether it came from a client or from a partner. An attribute's
version names the database where the change was made and that database's number, and keeps it wherever it travels.

Example:
    >>> log = DirectoryLog("DC=corp,DC=example", invocation_id=uuid.UUID(int=7))
    >>> log.usn
    4103
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import field, frozen, mutable

from msp_sdk.testing.directory_data import DirectoryEntry
from msp_sdk.testing.directory_filter import fold_dn, split_dn

_FIRST_USN = 4096
_FIRST_SPREAD = 1_000_003
# Kept for each controller, or made up when asked: no change of them travels.
_LOCAL = {"usnchanged", "usncreated", "whenchanged", "distinguishedname", "parentguid"}
# What is left of a deleted object, without the recycle bin.
_TOMBSTONE_KEEPS = {
    "objectclass",
    "objectguid",
    "objectsid",
    "samaccountname",
    "useraccountcontrol",
    "dnshostname",
    "instancetype",
    "whencreated",
    "sidhistory",
}
DELETED_OBJECTS = "CN=Deleted Objects"

Values = tuple[bytes, ...]


@frozen
class Version:
    """Who wrote an attribute last: the database and its number of that write."""

    invocation_id: str
    usn: int


@frozen
class Change:
    """One write, as it travels to the partners. An attribute without values was removed."""

    guid: bytes
    dn: str
    attributes: Mapping[str, Values]
    version: Version
    at: datetime


@mutable(eq=False)
class Record:
    """An object, alive or a tombstone, with its versions by folded name of attribute."""

    entry: DirectoryEntry
    usn_created: int
    usn_changed: int
    versions: dict[str, Version] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)

    @property
    def deleted(self) -> bool:
        """True for a tombstone."""
        return "isdeleted" in self.entry.folded


class DirectoryLog:
    """What one controller holds.

    Args:
        base_dn: The partition.
        invocation_id: Names its database.
    """

    def __init__(self, base_dn: str, invocation_id: uuid.UUID) -> None:
        self.base_dn = base_dn
        self.invocation_id = invocation_id
        # Two controllers are never at the same number: a client that mixes them up is to fail.
        self.usn = _FIRST_USN + invocation_id.int % _FIRST_SPREAD
        self.records: dict[bytes, Record] = {}
        # By database, the highest number that was seen of it.
        self.vector: dict[str, int] = {}
        # Which object has a name now; a tombstone has its own.
        self.guids: dict[str, bytes] = {}

    def alive(self, dn: str) -> Record | None:
        """The object of a name, if it is not deleted."""
        record = self.records.get(self.guids.get(fold_dn(dn), b""))
        return None if record is None or record.deleted else record

    def write(self, entry: DirectoryEntry, at: datetime) -> Change | None:
        """Add an object or make one equal to this; None when it is so already."""
        guid = guid_of(entry)
        record = self.records.get(guid)
        before = {} if record is None else {n: v for n, v in record.entry.attributes.items() if n.lower() not in _LOCAL}
        after = {name: values for name, values in entry.attributes.items() if name.lower() not in _LOCAL}
        after.setdefault("objectGUID", (guid,))
        after.setdefault("instanceType", (b"4",))
        after.setdefault("whenCreated", before.get("whenCreated", (_render_time(at),)))
        folded = {name.lower() for name in after}
        changed: dict[str, Values] = {name: values for name, values in after.items() if before.get(name) != values}
        changed |= {name: () for name in before if name.lower() not in folded}
        if record is not None and record.entry.dn != entry.dn and "name" not in {name.lower() for name in changed}:
            # A move writes the name anew, though it stays.
            changed["name"] = after.get("name", (split_dn(entry.dn)[0].partition("=")[2].encode(),))
        if record is not None and not changed:
            return None
        return self._originate(guid, entry.dn, changed, at)

    def delete(self, guid: bytes, at: datetime) -> Change | None:
        """Turn an object into a tombstone; None when there is none alive."""
        record = self.records.get(guid)
        if record is None or record.deleted:
            return None
        first, parent = split_dn(record.entry.dn)
        kind, _, escaped = first.partition("=")
        mark = f"DEL:{uuid.UUID(bytes_le=guid)}"
        name = b"\n".join((*record.entry.folded.get("name", (escaped.encode(),))[:1], mark.encode()))
        changed: dict[str, Values] = {
            attribute: () for attribute in record.entry.attributes if attribute.lower() not in _TOMBSTONE_KEEPS | _LOCAL
        }
        changed |= {"isDeleted": (b"TRUE",), "lastKnownParent": (parent.encode(),), "name": (name,), "cn": (name,)}
        return self._originate(guid, f"{kind}={escaped}\\0A{mark},{DELETED_OBJECTS},{self.base_dn}", changed, at)

    def _originate(self, guid: bytes, dn: str, changed: Mapping[str, Values], at: datetime) -> Change:
        change = Change(guid, dn, changed, Version(str(self.invocation_id), self.usn + 1), at)
        self.apply(change)
        return change

    def apply(self, change: Change) -> None:
        """Take a write, an own one or a partner's, under the next number of this controller."""
        self.usn += 1
        origin = change.version
        self.vector[origin.invocation_id] = max(self.vector.get(origin.invocation_id, 0), origin.usn)
        record = self.records.get(change.guid)
        attributes = {} if record is None else dict(record.entry.attributes)
        for name, values in change.attributes.items():
            if values:
                attributes[name] = values
            else:
                attributes.pop(name, None)
        created = self.usn if record is None else record.usn_created
        attributes |= {
            "distinguishedName": (change.dn.encode(),),
            "uSNCreated": (b"%d" % created,),
            "uSNChanged": (b"%d" % self.usn,),
            "whenChanged": (_render_time(change.at),),
        }
        entry = DirectoryEntry(change.dn, attributes)
        if record is None:
            record = self.records[change.guid] = Record(entry, created, self.usn)
        elif self.guids.get(fold_dn(record.entry.dn)) == change.guid:
            del self.guids[fold_dn(record.entry.dn)]
        self.guids[fold_dn(change.dn)] = change.guid
        record.entry = entry
        record.usn_changed = self.usn
        for name in change.attributes:
            record.versions[name.lower()] = origin
            record.names[name.lower()] = name

    def relocate(self, before: str, after: str) -> dict[str, DirectoryEntry]:
        """Rename what lies below an object that was moved or renamed: by its former name, as it is now.

        Nothing of it is written, so it gets no number and no version: nobody is told (as on Windows, and in Samba).
        """
        tail = f",{fold_dn(before)}"
        moved: dict[str, DirectoryEntry] = {}
        for record in self.records.values():
            dn = record.entry.dn
            if record.deleted or not fold_dn(dn).endswith(tail):
                continue
            kept = dn[: len(dn) - len(before)]
            entry = DirectoryEntry(
                f"{kept}{after}", {**record.entry.attributes, "distinguishedName": (f"{kept}{after}".encode(),)}
            )
            self.guids[fold_dn(entry.dn)] = self.guids.pop(fold_dn(dn))
            record.entry = moved[dn] = entry
        return moved

    def parent_guid(self, entry: DirectoryEntry) -> bytes:
        """The identity of the entry above; one that is not held has one by its name."""
        parent = fold_dn(split_dn(entry.dn)[1])
        return self.guids.get(parent) or guid_of_name(parent)


def guid_of(entry: DirectoryEntry) -> bytes:
    """An entry's identity: its own, or one by its name."""
    values: Sequence[bytes] = entry.folded.get("objectguid", ())
    return values[0] if values else guid_of_name(fold_dn(entry.dn))


def guid_of_name(folded: str) -> bytes:
    """The identity of an entry that was given none."""
    return uuid.uuid5(uuid.NAMESPACE_X500, folded).bytes_le


def _render_time(at: datetime) -> bytes:
    return at.strftime("%Y%m%d%H%M%S.0Z").encode()
