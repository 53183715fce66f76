"""A page of a list, as the wire has it."""

from __future__ import annotations

from typing import Generic, TypeVar

from attrs import frozen

T = TypeVar("T")


@frozen
class Page(Generic[T]):
    """Some items of a list, and where the next ones begin. ``next_cursor`` is None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None
