"""The logon ledger: what may log on, when, and what became of it. Accounts lock, so nothing logs on around it.

One file (SQLite), shared by LDAP and WinRM, threads and processes, written before each attempt. Its rules:

* A version that has not yet succeeded makes one logon at a time; a domain credential is proven at a controller
  before any host sees it.
* The first refusal of an unproven version, or any at a controller, stops that version everywhere.
* A proven version has few logons in flight. The first refusal by a host pauses it; one bind at a controller proves
  it again, and only then is that host ``not-authorised-here``, for itself alone.
* An attempt whose end was not recorded is repeated once, never twice. Two hosts that end so pause the version.
* An account that is kept out although its password was not held to be wrong (disabled, expired, at this hour) cannot
  be locked by that. It is tried again by itself, once an hour at most, so that mending the account is enough.

It holds no secret and no digest of one.

Example:
    >>> with ledger.attempt(credential, place="controller", host="dc1") as attempt:  # doctest: +SKIP
    ...     bind()
    ...     attempt.succeeded()
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from attrs import field, frozen, mutable

from msp_sdk.errors import ConfigError, LogonNotAllowedError, NotAuthorisedHereError, StateError
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.reason import REASONS, reason
from msp_sdk.network.kept_connections import KeptConnections
from msp_sdk.network.turns import Turns, cancelled_error

LogonPlace = Literal["controller", "host"]
Verdict = Literal["refused", "paused", "not-authorised-here"]

# Half of an unknown lockout threshold (contract, Logons).
IN_FLIGHT_UNKNOWN_THRESHOLD = 2
UNKNOWN_ENDS_ALLOWED = 1
KEPT_OUT_S = 3600.0
_POLL_S = 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS version (
  key TEXT PRIMARY KEY, state TEXT NOT NULL DEFAULT 'unproven', code TEXT, unknown_ends INTEGER NOT NULL DEFAULT 0,
  at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempt (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, host TEXT NOT NULL, place TEXT NOT NULL,
  process TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS attempt_key ON attempt (key);
CREATE TABLE IF NOT EXISTS host (
  key TEXT NOT NULL, host TEXT NOT NULL, state TEXT NOT NULL, unknown_ends INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (key, host));
"""


@frozen
class LedgerOptions:
    """How many logons of a proven version are in flight at once, and how long one waits for its turn."""

    in_flight: int = IN_FLIGHT_UNKNOWN_THRESHOLD
    wait_s: float = 60.0


@mutable
class LogonAttempt:
    """One allowed logon. Say how it ended; an end that nobody said counts as unknown."""

    _ledger: LogonLedger
    _id: int
    credential: Credential
    place: LogonPlace
    host: str
    _ended: bool = field(default=False, init=False)

    @property
    def ended(self) -> bool:
        """True once its end is recorded."""
        return self._ended

    def succeeded(self) -> None:
        """The password was taken."""
        self._end()
        self._ledger.record_success(self)

    def refused(self, code: str) -> Verdict:
        """The password, or the account, was refused; ``code`` is a reason.

        Returns:
            ``refused``: the version has ended, everywhere. ``paused``: prove it at a controller again.
            ``not-authorised-here``: only this host says no.
        """
        self._end()
        return self._ledger.record_refusal(self, code)

    def kept_out(self, code: str) -> None:
        """The account was refused for the reason ``code``, and it was no strike: its password is right, or unused."""
        self._end()
        self._ledger.record_kept_out(self, code)

    def not_sent(self) -> None:
        """Nothing of the password left us (the connection never came about): no attempt was made."""
        self._end()
        self._ledger.record_not_sent(self)

    def _end(self) -> None:
        if self._ended:
            raise StateError("the end of this logon is already recorded.")
        self._ended = True

    @property
    def id(self) -> int:
        """Its number in the ledger."""
        return self._id


class LogonLedger:
    """Allows logons and remembers how they ended.

    Args:
        path: The ledger's file; made with mode 0600.
        options: Limits.
        clock: Seconds since 1970.

    Raises:
        ConfigError: The file cannot be made or is no ledger.
    """

    def __init__(
        self, path: Path, *, options: LedgerOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._options = options or LedgerOptions()
        self._clock = clock
        self._process = _process_name(os.getpid())
        self._turns = Turns()
        self._kept = KeptConnections(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(self._connect()) as connection:
                connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the logon ledger {path} cannot be used: {error}.") from error

    @contextmanager
    def attempt(
        self, credential: Credential, *, place: LogonPlace, host: str, cancelled: threading.Event | None = None
    ) -> Iterator[LogonAttempt]:
        """Ask for a logon, waiting for its turn, and record its end.

        Blocks the calling thread: call it in a worker thread. If the block ends without a word, the end is unknown.

        Args:
            credential: Whose version is counted; its secret is opened only inside the block.
            place: A domain's controller (or its KDC), or a host.
            host: Its name, folded here.
            cancelled: Ends the waiting when another thread sets it.

        Raises:
            LogonNotAllowedError: The code says why; nothing was sent. Retryable where waiting helps.
            UnreachableError: It was cancelled; nothing was sent.
            NotAuthorisedHereError: The host has refused this proven version before.
        """
        folded = host.casefold()
        attempt = LogonAttempt(
            self, self._begin(credential, place, folded, cancelled or threading.Event()), credential, place, folded
        )
        try:
            yield attempt
        finally:
            if not attempt.ended:
                self._record_unknown(attempt)

    def state(self, credential: Credential) -> CredentialState:
        """What is known of this version.

        What is ``paused`` or kept out is told as ``unproven``; a code says what keeps it out.
        """
        with self._transaction() as connection:
            # An attempt that is refused is undone, and with it what it found out about the dead.
            self._bury_the_dead(connection, credential)
            row = connection.execute(
                "SELECT state, code, at, unknown_ends FROM version WHERE key = ?", (credential.ledger_key,)
            ).fetchone()
        state, code, at, unknown = row or ("unproven", None, self._clock(), 0)
        if state != "refused" and unknown > UNKNOWN_ENDS_ALLOWED:
            state, code = "refused", "logon-outcome-unknown"
        return CredentialState(
            id=credential.id,
            version=credential.version,
            state="proven" if state == "proven" else "refused" if state == "refused" else "unproven",
            code=code,
            at=datetime.fromtimestamp(at, UTC),
        )

    def is_paused(self, credential: Credential) -> bool:
        """True while hosts wait for a proof of this version at a controller."""
        with self._transaction() as connection:
            self._bury_the_dead(connection, credential)
            row = connection.execute("SELECT state FROM version WHERE key = ?", (credential.ledger_key,)).fetchone()
        return row is not None and row[0] == "paused"

    def allow_one_more(self, credential: Credential) -> None:
        """A person wants exactly one more attempt with a typed credential."""
        self._forget(credential.ledger_key)

    def refuse(self, credential: Credential, code: str) -> None:
        """This version is the same logon as one that was refused for the reason ``code``: it has had its attempt."""
        with self._transaction() as connection:
            self._state_of(connection, credential.ledger_key)
            connection.execute(
                "UPDATE version SET state = 'refused', code = ?, at = ? WHERE key = ?",
                (code, self._clock(), credential.ledger_key),
            )

    def begin_typed(self, credential: Credential) -> None:
        """A person typed this credential anew: what was proven before may have been another password."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE version SET state = 'unproven' WHERE key = ? AND state IN ('proven', 'paused')",
                (credential.ledger_key,),
            )
            connection.execute("DELETE FROM host WHERE key = ?", (credential.ledger_key,))

    def _forget(self, key: str) -> None:
        with self._transaction() as connection:
            for table in ("version", "host", "attempt"):
                connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    # How an attempt begins.

    def _begin(self, credential: Credential, place: LogonPlace, host: str, cancelled: threading.Event) -> int:
        if place == "controller":
            # It goes around the row: what those in the row wait for may be this very proof.
            return self._ask(credential, place, host, cancelled)
        with self._turns.turn(credential.ledger_key, cancelled):
            return self._ask(credential, place, host, cancelled)

    def _ask(self, credential: Credential, place: LogonPlace, host: str, cancelled: threading.Event) -> int:
        deadline = time.monotonic() + self._options.wait_s
        while True:
            if cancelled.is_set():
                raise cancelled_error()
            with self._transaction() as connection:
                self._bury_the_dead(connection, credential)
                waits_for = self._check(connection, credential, place, host)
                if waits_for is None:
                    cursor = connection.execute(
                        "INSERT INTO attempt (key, host, place, process, at) VALUES (?, ?, ?, ?, ?)",
                        (credential.ledger_key, host, place, self._process, self._clock()),
                    )
                    assert cursor.lastrowid is not None  # noqa: S101 (sqlite3's typing only)
                    return cursor.lastrowid
            if time.monotonic() >= deadline:
                raise LogonNotAllowedError(
                    f"{credential.username} was not allowed to log on to {host}: {reason(waits_for).title}",
                    code=waits_for,
                    retryable=True,
                )
            cancelled.wait(_POLL_S)

    def _check(
        self, connection: sqlite3.Connection, credential: Credential, place: LogonPlace, host: str
    ) -> str | None:
        """None when the attempt may begin now; the reason to wait for; or an error that no waiting ends."""
        key = credential.ledger_key
        self._state_of(connection, key)
        state, code, unknown, at = connection.execute(
            "SELECT state, code, unknown_ends, at FROM version WHERE key = ?", (key,)
        ).fetchone()
        if state == "refused":
            raise _not_allowed(credential, host, code or "wrong-password")
        # A clock that was set back must not keep it out for longer.
        if state == "kept-out" and abs(self._clock() - at) < KEPT_OUT_S:
            raise _not_allowed(credential, host, code, retryable=True)
        if unknown > UNKNOWN_ENDS_ALLOWED:
            raise _not_allowed(credential, host, "logon-outcome-unknown")
        here = connection.execute(
            "SELECT state, unknown_ends FROM host WHERE key = ? AND host = ?", (key, host)
        ).fetchone()
        if place == "host" and here is not None:
            if here[0] == "not-authorised-here":
                raise NotAuthorisedHereError(f"{host} has refused {credential.username} before.")
            if here[1] > UNKNOWN_ENDS_ALLOWED:
                raise _not_allowed(credential, host, "logon-outcome-unknown")
        (in_flight,) = connection.execute("SELECT count(*) FROM attempt WHERE key = ?", (key,)).fetchone()
        if state == "proven":
            return "logons-in-flight" if in_flight >= self._options.in_flight else None
        if credential.is_domain and place == "host":
            if state == "paused":
                return "credential-paused"
            raise _not_allowed(credential, host, "credential-unproven", retryable=True)
        return "logons-in-flight" if in_flight else None

    def _bury_the_dead(self, connection: sqlite3.Connection, credential: Credential) -> None:
        """Attempts of processes that ended without a word: their ends are unknown."""
        rows = connection.execute(
            "SELECT id, host, place, process FROM attempt WHERE key = ?", (credential.ledger_key,)
        ).fetchall()
        for row_id, host, place, process in rows:
            if process != self._process and _process_name(int(process.split(":")[0])) != process:
                self._end_unknown(connection, row_id, credential, host, place)

    def _state_of(self, connection: sqlite3.Connection, key: str) -> str:
        """A version's state. One that was forgotten while a logon of it was under way is known anew by its end."""
        connection.execute("INSERT OR IGNORE INTO version (key, at) VALUES (?, ?)", (key, self._clock()))
        return str(connection.execute("SELECT state FROM version WHERE key = ?", (key,)).fetchone()[0])

    # How it ends.

    def record_success(self, attempt: LogonAttempt) -> None:
        """See :meth:`LogonAttempt.succeeded`."""
        key = attempt.credential.ledger_key
        with self._transaction() as connection:
            connection.execute("DELETE FROM attempt WHERE id = ?", (attempt.id,))
            if attempt.place == "controller" or not attempt.credential.is_domain:
                self._forget_older_hosts(connection, attempt.credential)
            connection.execute(
                "UPDATE version SET state = 'proven', code = NULL, unknown_ends = 0, at = ?"
                # A pause ends at a controller: a host's answer may be older than the password's change. So does it for
                # an account that is kept out.
                " WHERE key = ? AND state <> 'refused' AND (state NOT IN ('paused', 'kept-out') OR ? = 'controller')",
                (self._clock(), key, attempt.place),
            )
            if attempt.place == "controller":
                # The password is right, so the hosts that refused it did so for themselves.
                connection.execute(
                    "UPDATE host SET state = CASE state WHEN 'suspect' THEN 'not-authorised-here' ELSE 'cleared' END"
                    " WHERE key = ? AND state IN ('suspect', 'unknown')",
                    (key,),
                )
            else:
                connection.execute("DELETE FROM host WHERE key = ? AND host = ?", (key, attempt.host))

    def _forget_older_hosts(self, connection: sqlite3.Connection, credential: Credential) -> None:
        """What hosts said of older versions is worth nothing once a newer one is right.

        The older versions themselves stay: a refused one must be known when it is offered again.
        """
        if credential.id == "typed":
            return
        keys = connection.execute(
            "SELECT DISTINCT key FROM host WHERE key > ? AND key < ?", (f"{credential.id}:", f"{credential.id};")
        ).fetchall()
        for (key,) in keys:
            version = key.rpartition(":")[2]
            if version.isdigit() and int(version) < credential.version and key == f"{credential.id}:{version}":
                connection.execute("DELETE FROM host WHERE key = ?", (key,))

    def record_refusal(self, attempt: LogonAttempt, code: str) -> Verdict:
        """See :meth:`LogonAttempt.refused`."""
        credential = attempt.credential
        key = credential.ledger_key
        with self._transaction() as connection:
            connection.execute("DELETE FROM attempt WHERE id = ?", (attempt.id,))
            state = self._state_of(connection, key)
            if attempt.place == "controller" or state == "unproven":
                connection.execute(
                    "UPDATE version SET state = 'refused', code = ?, at = ? WHERE key = ?", (code, self._clock(), key)
                )
                return "refused"
            if state == "refused":
                return "refused"
            verdict: Verdict = "paused" if credential.is_domain else "not-authorised-here"
            connection.execute(
                "INSERT INTO host (key, host, state) VALUES (?, ?, ?)"
                " ON CONFLICT (key, host) DO UPDATE SET state = excluded.state",
                (key, attempt.host, "suspect" if verdict == "paused" else verdict),
            )
            if verdict == "paused" and state != "kept-out":
                connection.execute("UPDATE version SET state = 'paused', at = ? WHERE key = ?", (self._clock(), key))
            return verdict

    def record_kept_out(self, attempt: LogonAttempt, code: str) -> None:
        """See :meth:`LogonAttempt.kept_out`."""
        key = attempt.credential.ledger_key
        with self._transaction() as connection:
            connection.execute("DELETE FROM attempt WHERE id = ?", (attempt.id,))
            self._state_of(connection, key)
            connection.execute(
                "UPDATE version SET state = 'kept-out', code = ?, at = ? WHERE key = ? AND state <> 'refused'",
                (code, self._clock(), key),
            )

    def record_not_sent(self, attempt: LogonAttempt) -> None:
        """See :meth:`LogonAttempt.not_sent`."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM attempt WHERE id = ?", (attempt.id,))

    def _record_unknown(self, attempt: LogonAttempt) -> None:
        with self._transaction() as connection:
            self._end_unknown(connection, attempt.id, attempt.credential, attempt.host, attempt.place)

    def _end_unknown(
        self, connection: sqlite3.Connection, row_id: int, credential: Credential, host: str, place: str
    ) -> None:
        key = credential.ledger_key
        connection.execute("DELETE FROM attempt WHERE id = ?", (row_id,))
        state = self._state_of(connection, key)
        if state != "proven" or place != "host":
            connection.execute("UPDATE version SET unknown_ends = unknown_ends + 1 WHERE key = ?", (key,))
            return
        # A proven password: what is unknown concerns this host first.
        connection.execute(
            "INSERT INTO host (key, host, state, unknown_ends) VALUES (?, ?, 'unknown', 1)"
            " ON CONFLICT (key, host) DO UPDATE SET state = 'unknown', unknown_ends = unknown_ends + 1",
            (key, host),
        )
        (unknown,) = connection.execute(
            "SELECT count(*) FROM host WHERE key = ? AND state = 'unknown'", (key,)
        ).fetchone()
        if credential.is_domain and unknown > UNKNOWN_ENDS_ALLOWED:
            # Several hosts that hang up at the logon may be a changed password: each of them may be a strike.
            connection.execute("UPDATE version SET state = 'paused', at = ? WHERE key = ?", (self._clock(), key))

    # The file.

    def _connect(self) -> sqlite3.Connection:
        # It may be kept and used by another thread the next time, never by two at once.
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # What is written here must outlive a power cut: a forgotten strike is a strike too many.
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection that was kept, or a new one. One on which anything went wrong is not kept."""
        try:
            connection = self._kept.take() or self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._kept.give_back(connection)
        except sqlite3.Error as error:
            raise ConfigError(
                f"the logon ledger {self._path} cannot be used: {error}.",
                code="ledger-unusable",
                remedy="Look at the disk; without its ledger nothing logs on.",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _not_allowed(credential: Credential, host: str, code: str, *, retryable: bool = False) -> LogonNotAllowedError:
    known = REASONS.get(code) or reason("wrong-password")
    return LogonNotAllowedError(
        f"{credential.username} was not allowed to log on to {host}: {known.title}",
        code=code,
        remedy=known.remedy,
        retryable=retryable,
    )


def _process_name(pid: int) -> str:
    """A process by its number and start, so that a number that is used again is not taken for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return f"{pid}:gone"
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"
