"""The schema's version: what a database is at, and bringing it to ours. Synchronous; run it before serving."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from msp_sdk.errors import ConfigError

SchemaState = Literal["empty", "unknown", "older", "current", "newer"]

_LOCATION = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_LOCATION).replace("%", "%%"))
    return config


def _engine(path: Path, begin: str) -> Engine:
    # A URL would need quoting; the path is given as it is. The driver's own way begins no transaction before it changes
    # the schema, so that a start that was killed would leave half a schema behind: we begin each ourselves.
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(path, timeout=10, isolation_level=None), poolclass=NullPool
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _make_file(path: Path) -> None:
    """Make the file of an empty database for us alone: SQLite would let everybody on the machine read it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


@contextmanager
def _connected(path: Path, begin: str = "BEGIN") -> Iterator[Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_file(path)
        with _engine(path, begin).connect() as connection:
            yield connection
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        # What SQLAlchemy adds, the statement and a link, helps nobody who only named a wrong file.
        cause = (error.orig if isinstance(error, DBAPIError) else None) or error
        raise ConfigError(f"the database {path} cannot be opened: {cause}.", code="database-failed") from error


@contextmanager
def schema_lock(path: Path) -> Iterator[None]:
    """Only one process at a time prepares a database; the others wait.

    Raises:
        ConfigError: The lock file cannot be made. Not retryable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise ConfigError(f"the database {path} cannot be opened: {error.strerror}.", code="database-failed") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def newest_version() -> str:
    """The version of the schema that this code speaks."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def schema_state(path: Path) -> SchemaState:
    """How the database compares with this code; ``unknown`` has tables and says nothing about their version.

    Raises:
        ConfigError: It cannot be read. Not retryable.
    """
    if not path.exists():
        return "empty"
    with _connected(path) as connection:
        version = MigrationContext.configure(connection).get_current_revision()
        if version is None:
            return "empty" if not inspect(connection).get_table_names() else "unknown"
    if version == newest_version():
        return "current"
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return "older" if version in known else "newer"


def migrate(path: Path) -> None:
    """Bring the database to the newest version, all of it or nothing; one that is there already stays as it is.

    Raises:
        ConfigError: It cannot be migrated. Not retryable.
    """
    config = _config()
    with _connected(path, "BEGIN IMMEDIATE") as connection:
        # Kept in the file: who connects later finds it so. It is switched outside any transaction.
        connection.connection.cursor().execute("PRAGMA journal_mode=WAL").close()
        config.attributes["connection"] = connection
        with connection.begin():
            command.upgrade(config, "head")
