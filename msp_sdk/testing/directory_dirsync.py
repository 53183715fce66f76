"""DirSync (control 841) as Windows does it: only what changed, to whom may see it, from a cookie that travels. Pure.

What is assumed here rather than known: which result refuses a base that is no partition root, or a cookie
(``unwillingToPerform``), and that a full first answer names removed attributes too. A client may rely on neither.

Source: MS-ADTS 3.1.1.3.4.1.3.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import sansldap
from attrs import field, frozen

from msp_sdk.testing.directory_data import DirectoryEntry
from msp_sdk.testing.directory_filter import fold_dn, matches
from msp_sdk.testing.directory_log import DirectoryLog, Record
from msp_sdk.testing.directory_rights import EVERYTHING, Reader

OBJECT_SECURITY = 0x1
_MAGIC = b"MSDS\x03\0\0\0"
_DIGEST_BYTES = 16
_ALWAYS = ("objectGUID", "instanceType")
# Ours to guess: what an entry takes beside its values.
_ENTRY_BYTES = 60

Row = tuple[str, list[tuple[str, Sequence[bytes]]]]


class DirSyncRefused(Exception):  # noqa: N818 (an answer, not an error of ours)
    """The controller does not answer this; holds result code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@frozen
class _Cookie:
    """Up to where somebody has read: of each database, and, on one controller, of its own numbers."""

    vector: Mapping[str, int] = field(factory=dict)
    invocation_id: str = ""
    usn: int = 0


@frozen
class Delta:
    """One round."""

    rows: list[Row]
    cookie: bytes
    more: bool


def read_delta(
    log: DirectoryLog,
    message: sansldap.SearchRequest,
    reader: Reader,
    *,
    flags: int,
    max_bytes: int,
    cookie: bytes,
) -> Delta:
    """Answer one round.

    Raises:
        DirSyncRefused: The base is no partition root, the right is lacking, the cookie is not of this domain.
    """
    if fold_dn(message.base_object) != fold_dn(log.base_dn) or message.scope != sansldap.SearchScope.SUBTREE:
        raise DirSyncRefused(53, "000020F7: SvcErr: DSID-03140DB6, problem 5003 (WILL_NOT_PERFORM), data 0\n\0")
    if not flags & OBJECT_SECURITY:
        if not reader.replicates:
            raise DirSyncRefused(50, "00002105: SecErr: DSID-0315170B, problem 4003 (INSUFF_ACCESS_RIGHTS), data 0\n\0")
        reader = EVERYTHING
    since = _read_cookie(cookie, log)
    start = since.usn if since.invocation_id == str(log.invocation_id) else 0
    rows: list[Row] = []
    size, reached, more = 0, log.usn, False
    for record in sorted(log.records.values(), key=lambda each: each.usn_changed):
        if record.usn_changed <= start:
            continue
        row = _row(log, record, message, reader, since.vector)
        if row is None:
            continue
        row_bytes = _size(row)
        if rows and size + row_bytes > max_bytes > 0:
            more = True
            break
        rows.append(row)
        size += row_bytes
        reached = record.usn_changed
    if more:
        # The vector stays until all of it was read: elsewhere the reading begins again, and nothing is missed.
        following = _Cookie(since.vector, str(log.invocation_id), reached)
    else:
        vector = {key: max(since.vector.get(key, 0), log.vector.get(key, 0)) for key in {*since.vector, *log.vector}}
        following = _Cookie(vector, str(log.invocation_id), log.usn)
    return Delta(rows, _write_cookie(following, log), more)


def _row(
    log: DirectoryLog, record: Record, message: sansldap.SearchRequest, reader: Reader, vector: Mapping[str, int]
) -> Row | None:
    """What of one object is to be told; None when nothing is."""
    if record.deleted and not reader.deleted:
        return None
    entry = reader.view(record.entry)
    if entry is None or not matches(message.filter, entry):
        return None
    fresh = {name for name, version in record.versions.items() if version.usn > vector.get(version.invocation_id, 0)}
    if not fresh:
        return None
    visible = {name for name in fresh if name in entry.folded or name not in record.entry.folded}
    attributes = _attributes(log, record, entry, message.attributes, visible)
    if not attributes and not (record.deleted and "isdeleted" in fresh):
        return None
    always = [(name, entry.folded[name.lower()]) for name in _ALWAYS]
    return entry.dn, [*always, *(each for each in attributes if each[0] not in _ALWAYS)]


def _attributes(
    log: DirectoryLog, record: Record, entry: DirectoryEntry, asked: Sequence[str], fresh: set[str]
) -> list[tuple[str, Sequence[bytes]]]:
    wanted = {name.lower() for name in asked}
    everything = not wanted or "*" in wanted
    told: list[tuple[str, Sequence[bytes]]] = [
        (record.names[name], entry.folded.get(name, ())) for name in sorted(fresh) if everything or name in wanted
    ]
    if "parentguid" in wanted and "name" in fresh and not record.deleted:
        told.append(("parentGUID", (log.parent_guid(entry),)))
    return told


def _size(row: Row) -> int:
    dn, attributes = row
    return _ENTRY_BYTES + len(dn) + sum(len(name) + sum(map(len, values)) for name, values in attributes)


def _write_cookie(cookie: _Cookie, log: DirectoryLog) -> bytes:
    facts = [fold_dn(log.base_dn), dict(cookie.vector), cookie.invocation_id, cookie.usn]
    body = json.dumps(facts, separators=(",", ":")).encode()
    return _MAGIC + hashlib.sha256(body).digest()[:_DIGEST_BYTES] + body


def _read_cookie(cookie: bytes, log: DirectoryLog) -> _Cookie:
    if not cookie:
        return _Cookie()
    digest, body = cookie[len(_MAGIC) :][:_DIGEST_BYTES], cookie[len(_MAGIC) + _DIGEST_BYTES :]
    if cookie.startswith(_MAGIC) and hashlib.sha256(body).digest()[:_DIGEST_BYTES] == digest:
        domain, vector, invocation_id, usn = json.loads(body)
        if domain == fold_dn(log.base_dn):
            return _Cookie(vector, invocation_id, usn)
    raise DirSyncRefused(53, "00000057: LdapErr: DSID-0C090990, comment: Error processing control, data 0, v4563\0")
