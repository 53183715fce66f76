"""What changed since: DirSync where the account may, ``uSNChanged`` where it may not, and what was deleted.

* **DirSync** (control 841) with ``LDAP_DIRSYNC_OBJECT_SECURITY`` needs no replication right: an account sees what it
  may read anyhow. The base must be the root of a partition. A delta names an object and may carry no more than the
  attributes that changed, an attribute without values was removed. Its cookie may be taken to another controller of
  the domain: objects may then come twice, none is lost. What such a controller says of them may be older than what is
  known, so the cursor says whose database it is of.
* **uSNChanged** counts per controller *and* database: a cursor of it goes on only where ``invocationId`` is the same.
* **Deletions** are seen only by an account that reads the container of deleted objects; nobody else may claim any.

Example:
    >>> cursor = SyncCursor("usn", "DC=corp,DC=example", usn=12_345, invocation_id="6c1f")
    >>> parse_cursor(render_cursor(cursor)) == cursor
    True

Source: MS-ADTS 3.1.1.3.4.1.3 (DirSync), 3.1.1.1.9 (uSNChanged), 3.1.1.5.5 (deleted objects).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from attrs import field, frozen

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control
from msp_sdk.directory.entry import Entry
from msp_sdk.directory.search import Continuation, Round
from msp_sdk.directory.session import DirectorySession
from msp_sdk.errors import DirectoryError, PartialResultError, WireError

CursorKind = Literal["dirsync", "usn"]

OBJECT_SECURITY = 0x1
_CURSOR_PREFIX = "msp1."
# A DirSync cookie has a row for each database that a domain ever had.
_CURSOR_CHARACTERS = 1_048_576
# A round of about a thousand computers; the controller may send less.
_ROUND_BYTES = 2 * 1024 * 1024
_SHOW_DELETED = Control(ber.SHOW_DELETED, critical=True)
DELETED_ATTRIBUTES = (
    "objectGUID",
    "objectClass",
    "name",
    "sAMAccountName",
    "isDeleted",
    "lastKnownParent",
    "uSNChanged",
)

SyncRound = Round


@frozen
class SyncCursor:
    """Where a reading ended, so that the next one begins there.

    Attributes:
        kind: How it goes on.
        domain_dn: The root of the partition that was read.
        cookie: Of DirSync.
        usn: The highest change that was seen.
        invocation_id: The database that was read; empty where the account may not know it.
    """

    kind: CursorKind
    domain_dn: str
    cookie: bytes = field(default=b"", repr=False)
    usn: int = 0
    invocation_id: str = ""


def render_cursor(cursor: SyncCursor) -> str:
    """A cursor as opaque text."""
    facts = [cursor.kind, cursor.domain_dn, base64.b64encode(cursor.cookie).decode(), cursor.usn, cursor.invocation_id]
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    return _CURSOR_PREFIX + base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()


def parse_cursor(text: str) -> SyncCursor:
    """Read what :func:`render_cursor` wrote.

    Raises:
        WireError: It is no cursor. Not retryable.
    """
    if not text.startswith(_CURSOR_PREFIX) or len(text) > _CURSOR_CHARACTERS:
        raise _no_cursor()
    try:
        raw = base64.b64decode(text.removeprefix(_CURSOR_PREFIX), altchars=b"-_", validate=True)
        facts = json.loads(raw.decode())
        match facts:
            case [str(kind), str(domain_dn), str(cookie), int(usn), str(invocation_id)] if not isinstance(usn, bool):
                decoded = base64.b64decode(cookie, validate=True)
            case _:
                raise _no_cursor()
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _no_cursor() from error
    if kind not in get_args(CursorKind) or usn < 0 or not domain_dn:
        raise _no_cursor()
    return SyncCursor("dirsync" if kind == "dirsync" else "usn", domain_dn, decoded, usn, invocation_id)


def read_dirsync(
    session: DirectorySession, base_dn: str, filter_text: str, attributes: Sequence[str], cookie: bytes = b""
) -> Iterator[SyncRound]:
    """Read by DirSync what changed since a cookie, or everything for an empty one, in rounds until there is no more.

    The cookie of the last round is where the next reading begins; one of an earlier round does too, should this
    break.

    Args:
        session: Logged on.
        base_dn: The root of a partition.
        filter_text: Tombstones have few attributes left: ``(objectClass=computer)``.
        attributes: Which to watch; ``objectGUID`` comes by itself.
        cookie: Of an earlier round.

    Raises:
        DirectoryError: ``dirsync-refused``: not allowed or not known here; ``cursor-lost``: not from this cookie.
            Others as :meth:`DirectorySession.pages`.
    """
    begun = False
    try:
        for part in session.rounds(base_dn, filter_text, attributes, _DIRSYNC, cookie=cookie):
            yield part
            begun = True
    except PartialResultError:
        raise
    except DirectoryError as error:
        # Only a refusal has the result of one in its context.
        if begun or error.retryable or "result" not in error.context:
            raise
        code, text = (
            ("cursor-lost", "does not go on from there") if cookie else ("dirsync-refused", "allows no DirSync")
        )
        raise DirectoryError(f"{session.source} {text}: {error.detail}", code=code, context=error.context) from error


def read_usn(
    session: DirectorySession, base_dn: str, filter_text: str, attributes: Sequence[str], since: int
) -> Iterator[tuple[Entry, ...]]:
    """Read the objects, whole, that this controller saw change after change ``since``.

    Raises:
        PartialResultError, DirectoryError: As :meth:`DirectorySession.pages`.
    """
    return session.pages(base_dn, _since(filter_text, since), attributes)


def can_read_deleted(session: DirectorySession, domain_dn: str | None = None) -> bool:
    """True if this account sees deleted objects, so that their absence means something.

    Args:
        session: Logged on.
        domain_dn: The root of the partition; None asks the controller for its own.

    Raises:
        DirectoryError: The connection broke. Retryable.
    """
    try:
        container = session.read(
            _deleted_objects(domain_dn or _domain_dn(session)), ("objectClass",), controls=(_SHOW_DELETED,)
        )
    except DirectoryError as error:
        if "result" not in error.context or error.retryable:
            raise
        return False
    return container is not None and bool(container.values("objectClass"))


def read_deleted_since(
    session: DirectorySession,
    since: int,
    *,
    domain_dn: str | None = None,
    filter_text: str = "(objectClass=computer)",
    attributes: Sequence[str] = DELETED_ATTRIBUTES,
) -> Iterator[tuple[Entry, ...]]:
    """Read the tombstones that this controller got after change ``since``.

    Raises:
        DirectoryError: ``deleted-hidden``: this account does not see deleted objects, so that finding none would say
            nothing. Others as :meth:`DirectorySession.pages`.
        PartialResultError: As :meth:`DirectorySession.pages`.
    """
    domain_dn = domain_dn or _domain_dn(session)
    if not can_read_deleted(session, domain_dn):
        raise DirectoryError(f"{session.source} shows this account no deleted objects.", code="deleted-hidden")
    wanted = _since(f"(&(isDeleted=TRUE){filter_text})", since)
    yield from session.pages(_deleted_objects(domain_dn), wanted, attributes, controls=(_SHOW_DELETED,))


def _read_dirsync_controls(controls: Sequence[Control]) -> tuple[bytes, bool]:
    control = ber.find_control(controls, ber.DIRSYNC)
    if control is None:
        raise WireError("a round of changes came without a cookie.")
    more, cookie = ber.read_dirsync_value(control.value)
    return cookie, more


_DIRSYNC = Continuation(
    lambda cookie: ber.dirsync_control(OBJECT_SECURITY, _ROUND_BYTES, cookie), _read_dirsync_controls
)


def _since(filter_text: str, usn: int) -> str:
    return f"(&{filter_text}(uSNChanged>={usn + 1}))"


def _domain_dn(session: DirectorySession) -> str:
    base_dn = session.root_dse().base_dn
    if base_dn is None:
        raise DirectoryError(f"{session.source} names no domain.", code="directory-failed")
    return base_dn


def _deleted_objects(domain_dn: str) -> str:
    return f"CN=Deleted Objects,{domain_dn}"


def _no_cursor() -> WireError:
    return WireError("this is no cursor of a directory.", code="bad-cursor")
