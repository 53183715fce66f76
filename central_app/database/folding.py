"""How a name is folded for order and search: by us, once, so that every database agrees with us and with the others."""

from __future__ import annotations

import unicodedata
from typing import overload


@overload
def fold(text: str) -> str: ...
@overload
def fold(text: None) -> None: ...
@overload
def fold(text: str | None) -> str | None: ...
def fold(text: str | None) -> str | None:
    """A text without case, and with one spelling of what can be spelt in two ways, such as ``ü``."""
    return None if text is None else unicodedata.normalize("NFC", text.casefold())
