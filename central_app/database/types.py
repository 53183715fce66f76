"""Column types that give the same values on every backend."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Integer, Text
from sqlalchemy.dialects.postgresql import BIGINT, TEXT
from sqlalchemy.types import TypeDecorator

# A name as it is ordered and searched by: folded by us and compared byte by byte, the same on every backend. What a
# database itself calls lower case may be ASCII alone, and its own order that of a language.
Folded = Text().with_variant(TEXT(collation="C"), "postgresql")

# Counters grow for ever; SQLite's INTEGER has 64 bits already.
Big = Integer().with_variant(BIGINT(), "postgresql")


class Instant(TypeDecorator[datetime]):
    """An aware instant in UTC. SQLite keeps no zone, so it is put back when the value is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a naive instant is refused, since nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant without a time zone is never stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (its shape)
        """Give the instant back with its zone."""
        if value is None:
            return None
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
