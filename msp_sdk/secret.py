"""Secret: a string that only opens when it is asked to.

It never shows in ``repr``, ``str``, ``format``, logs, pickles or tracebacks of attrs values.
The one way to its content is :meth:`Secret.reveal`, so that every use can be found by searching for that word.

Example:
    >>> Secret("hunter2")
    Secret('…')
    >>> f"{Secret('hunter2')}"
    '…'
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A piece of text that must not be shown.

    Comparison is constant-time. It is unhashable, cannot be pickled, copied into JSON or formatted.
    """

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        """Wrap ``text``; an empty secret is allowed and is false."""
        self._text = text

    def reveal(self) -> str:
        """Return the content. Call it at the moment of use, and keep the result in no attribute."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __repr__(self) -> str:
        return "Secret('…')"

    def __str__(self) -> str:
        return "…"

    def __format__(self, spec: str) -> str:
        return format("…", spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        message = "a Secret is never pickled or copied to another process"
        raise TypeError(message)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self
