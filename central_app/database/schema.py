"""The schema's version: what a database is at, and bringing it to ours. Synchronous; run it before serving."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from msp_sdk.errors import ConfigError

SchemaState = Literal["empty", "older", "current", "newer"]

_LOCATION = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_LOCATION).replace("%", "%%"))
    return config


def _engine(path: Path) -> Engine:
    # A URL would need quoting; the path is given as it is.
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(path, timeout=10), poolclass=NullPool)


@contextmanager
def _connected(path: Path) -> Iterator[Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _engine(path).connect() as connection:
            yield connection
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        raise ConfigError(f"the database {path} cannot be opened: {error}.", code="database-failed") from error


@contextmanager
def schema_lock(path: Path) -> Iterator[None]:
    """Only one process at a time prepares a database; the others wait.

    Raises:
        ConfigError: The lock file cannot be made. Not retryable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise ConfigError(f"the database {path} cannot be opened: {error.strerror}.", code="database-failed") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def newest_version() -> str:
    """The version of the schema that this code speaks."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def schema_state(path: Path) -> SchemaState:
    """How the database compares with this code.

    Raises:
        ConfigError: It cannot be read. Not retryable.
    """
    if not path.exists():
        return "empty"
    with _connected(path) as connection:
        version = MigrationContext.configure(connection).get_current_revision()
        if version is None:
            return "empty" if not inspect(connection).get_table_names() else "older"
    if version == newest_version():
        return "current"
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return "older" if version in known else "newer"


def migrate(path: Path) -> None:
    """Bring the database to the newest version; one that is there already stays as it is.

    Raises:
        ConfigError: It cannot be migrated. Not retryable.
    """
    config = _config()
    with _connected(path) as connection:
        # Kept in the file: who connects later finds it so.
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.commit()
        config.attributes["connection"] = connection
        with connection.begin():
            command.upgrade(config, "head")
