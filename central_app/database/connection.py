"""The database as the rest of Central sees it: transactions for writing, plain reads beside them.

Built on the backends of the ``databases`` package, with its SQLite faults fenced: one long-lived writer behind a
lock, every transaction begun with ``BEGIN IMMEDIATE`` (a deferred one fails with "database is locked" as soon as two
meet), and a few long-lived readers (the package would open a file and a thread for each query). Statements are
SQLAlchemy Core only, and their text never holds a literal percent sign: the package would choke on it.

Example:
    async with db.transaction() as tx:
        await tx.execute(sites.insert().values(...))
    row = await db.fetch_one(select(sites).where(sites.c.site_id == "site-1"))
    row["created_at"]  # aware, UTC
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from databases.backends.sqlite import SQLiteBackend
from databases.core import DatabaseURL
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.sql import ClauseElement

from msp_sdk.errors import ConfigError, MspError, StateError

Row = Mapping[str, Any]

BUSY_TIMEOUT_MS = 10_000
READERS = 3
MANY_ROWS = 1000
WAL_ATTEMPTS = 100
WAL_WAIT_S = 0.05


class DatabaseError(MspError):
    """The database could not be asked or refused a statement."""

    default_code = "database-failed"


class DuplicateError(DatabaseError):
    """A row with this key exists already."""

    default_code = "duplicate"


class BusyError(DatabaseError):
    """Another process holds the database; the same call may succeed later."""

    default_code = "database-busy"
    default_retryable = True


class Reader(Protocol):
    """What can be read from: a database or a transaction. Rows are plain mappings with decoded values."""

    async def fetch_one(self, statement: ClauseElement) -> Row | None:
        """The first row, or None when there is none."""
        ...

    async def fetch_all(self, statement: ClauseElement) -> list[Row]:
        """All rows; may be empty."""
        ...


class Transaction(Reader, Protocol):
    """A transaction that writes. It is committed when its block ends well, else rolled back."""

    async def execute(self, statement: ClauseElement) -> int:
        """Run a statement without a result; returns how many rows it changed."""
        ...

    async def execute_many(self, statement: ClauseElement, rows: Sequence[Mapping[str, object]]) -> None:
        """Run one statement for many rows. All rows have the same keys; none is fine."""
        ...


class Database(Reader, Protocol):
    """A database: reads see what was committed."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """``async with db.transaction() as tx``. Transactions of one process run one after the other."""
        ...

    async def connect(self) -> None:
        """Open the connections."""
        ...

    async def disconnect(self) -> None:
        """Close them. Safe to call twice."""
        ...


def sqlite_path(url: str) -> Path:
    """The file of an ``sqlite:///path`` URL.

    Raises:
        ConfigError: Another scheme, or no path. Not retryable.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.startswith("postgres"):
        raise ConfigError(
            "PostgreSQL comes later; this version keeps its data in SQLite.",
            code="database-unsupported",
            remedy="Use --database sqlite:///path/central.db.",
        )
    if scheme != "sqlite" or not separator or not rest.startswith("/") or rest in ("/", "/:memory:"):
        raise ConfigError(
            "the database address is not of the form sqlite:///path.",
            code="database-unsupported",
            remedy="Use --database sqlite:///path/central.db.",
        )
    # As SQLAlchemy reads it: three slashes before a relative path, four before an absolute one.
    return Path(rest[1:])


def open_database(url: str) -> SqliteDatabase:
    """The database for a URL; not yet connected.

    Raises:
        ConfigError: The scheme is not supported. Not retryable.
    """
    return SqliteDatabase(sqlite_path(url))


def _translate(error: Exception) -> DatabaseError:
    """Our error for one of sqlite3's. The text of a statement may hold values, so it is left out."""
    if isinstance(error, sqlite3.IntegrityError):
        return DuplicateError("a row with this key exists already.")
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return BusyError("the database is in use by another process.")
    return DatabaseError(f"the database refused: {type(error).__name__}.")


class _Connection:
    """One long-lived connection, one statement at a time."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._backend = SQLiteBackend(DatabaseURL("sqlite:///placeholder"), timeout=BUSY_TIMEOUT_MS / 1000)
        # The URL would need quoting that the package does not undo; the pool takes the path as it is.
        self._backend._pool._database = str(path)  # noqa: SLF001 (the one place that fences the package)
        self._connection = self._backend.connection()
        self._read_only = read_only
        self.lock = asyncio.Lock()

    async def open(self) -> None:
        try:
            await self._connection.acquire()
            await self._use_wal()
            # What was answered must outlive a power cut.
            await self.command("PRAGMA synchronous=FULL")
            await self.command(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            await self.command("PRAGMA foreign_keys=ON")
            if self._read_only:
                await self.command("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            # Its thread would keep the process alive.
            await self.close()
            raise ConfigError(f"the database cannot be opened: {error}.", code="database-failed") from error

    async def _use_wal(self) -> None:
        """Switch to WAL; only the first of all connections does, and the busy timeout does not cover that."""
        for _ in range(WAL_ATTEMPTS - 1):
            try:
                await self.command("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                await asyncio.sleep(WAL_WAIT_S)
            else:
                return
        await self.command("PRAGMA journal_mode=WAL")

    async def close(self) -> None:
        if self._connection._connection is not None:  # noqa: SLF001
            await self._connection.release()

    async def command(self, text: str) -> None:
        """A fixed statement of ours, such as BEGIN."""
        cursor = await self._connection.raw_connection.execute(text)
        await cursor.close()

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.raw_connection.in_transaction)

    async def fetch_one(self, statement: ClauseElement) -> Row | None:
        try:
            record = await self._connection.fetch_one(statement)
        except sqlite3.Error as error:
            raise _translate(error) from error
        return None if record is None else _decode(record)

    async def fetch_all(self, statement: ClauseElement) -> list[Row]:
        try:
            records = await self._connection.fetch_all(statement)
        except sqlite3.Error as error:
            raise _translate(error) from error
        if len(records) < MANY_ROWS:
            return [_decode(record) for record in records]
        # Thousands of documents take a while to read: the loop answers others meanwhile.
        return await asyncio.to_thread(lambda: [_decode(record) for record in records])

    async def execute(self, statement: ClauseElement) -> int:
        raw = self._connection.raw_connection
        before = raw.total_changes
        try:
            await self._connection.execute(statement)
        except sqlite3.Error as error:
            raise _translate(error) from error
        return int(raw.total_changes - before)

    async def execute_many(self, statement: ClauseElement, rows: Sequence[Mapping[str, object]]) -> None:
        if not rows:
            return
        compiled: Any = statement.compile(dialect=_DIALECT, column_keys=list(rows[0]))
        processors = compiled._bind_processors  # noqa: SLF001 (as the package itself encodes values)
        order = compiled.positiontup

        def encode() -> list[list[object]]:
            found = []
            for row in rows:
                values = compiled.construct_params(row)
                found.append([processors[key](values[key]) if key in processors else values[key] for key in order])
            return found

        # Thousands of documents take a while to write: the loop answers others meanwhile.
        encoded = await asyncio.to_thread(encode)
        try:
            cursor = await self._connection.raw_connection.executemany(compiled.string, encoded)
            await cursor.close()
        except sqlite3.Error as error:
            raise _translate(error) from error


_DIALECT = pysqlite.dialect(paramstyle="qmark")


def _decode(record: Any) -> Row:
    """A row as a plain dictionary, every value through its column's type."""
    return {key: record[key] for key in record}


class SqliteDatabase:
    """One SQLite file: one writer, a few readers. A second process may write beside us."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: _Connection | None = None
        self._readers: asyncio.Queue[_Connection] | None = None
        self._all: list[_Connection] = []

    async def connect(self) -> None:
        """Open the connections.

        Raises:
            ConfigError: The file cannot be opened. Not retryable.
        """
        if self._writer is not None:
            raise StateError("the database is connected already.")
        writer = _Connection(self.path, read_only=False)
        await writer.open()
        self._all.append(writer)
        readers: asyncio.Queue[_Connection] = asyncio.Queue()
        for _ in range(READERS):
            reader = _Connection(self.path, read_only=True)
            await reader.open()
            self._all.append(reader)
            readers.put_nowait(reader)
        self._writer, self._readers = writer, readers

    async def disconnect(self) -> None:
        """Close the connections, after the transaction that runs. Safe to call twice."""
        writer, self._writer, self._readers = self._writer, None, None
        if writer is not None:
            async with writer.lock:
                pass
        while self._all:
            await self._all.pop().close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write. Reads inside see what the transaction wrote; a cancelled block leaves nothing behind.

        Raises:
            BusyError: Another process held the database too long. Retryable.
        """
        writer = self._writer
        if writer is None:
            raise StateError("the database is not connected.")
        async with writer.lock:
            try:
                # Shielded: a cancellation between the thread's BEGIN and our knowledge of it would leave it open.
                await _finish(self._begin(writer))
                yield writer
            except BaseException:
                await _finish(self._roll_back(writer))
                raise
            else:
                await _finish(self._commit(writer))

    async def _begin(self, writer: _Connection) -> None:
        try:
            await writer.command("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise _translate(error) from error

    async def _roll_back(self, writer: _Connection) -> None:
        # A statement of a cancelled block may still run in the connection's thread; this waits behind it.
        if writer.in_transaction:
            await writer.command("ROLLBACK")

    async def _commit(self, writer: _Connection) -> None:
        try:
            await writer.command("COMMIT")
        except sqlite3.Error as error:
            await self._roll_back(writer)
            raise _translate(error) from error

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        readers = self._readers
        if readers is None:
            raise StateError("the database is not connected.")
        reader = await readers.get()
        try:
            yield reader
        finally:
            readers.put_nowait(reader)

    async def fetch_one(self, statement: ClauseElement) -> Row | None:
        """The first row, or None when there is none."""
        async with self._reader() as reader:
            return await reader.fetch_one(statement)

    async def fetch_all(self, statement: ClauseElement) -> list[Row]:
        """All rows; may be empty."""
        async with self._reader() as reader:
            return await reader.fetch_all(statement)


async def _finish(work: Any) -> None:
    """Let a control statement end whatever happens; a cancellation is raised once it has."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
