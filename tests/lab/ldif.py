"""Read what ``ldapsearch -LLL`` prints: the answer of a tool that shares no line with us. Source: RFC 2849."""

from __future__ import annotations

import base64
from collections.abc import Iterator

Attributes = dict[str, list[bytes]]


def read_ldif(text: str) -> Iterator[tuple[str, Attributes]]:
    """Each entry's distinguished name and attributes, values in order; references to other directories are none."""
    # A line that begins with a space goes on with the one before.
    for record in text.replace("\n ", "").split("\n\n"):
        pairs = [_read_line(line) for line in record.splitlines() if line and not line.startswith("#")]
        if not pairs or pairs[0][0] != "dn":
            continue
        attributes: Attributes = {}
        for name, value in pairs[1:]:
            attributes.setdefault(name.lower(), []).append(value)
        yield pairs[0][1].decode(), attributes


def _read_line(line: str) -> tuple[str, bytes]:
    name, _, value = line.partition(":")
    if value.startswith(":"):
        return name, base64.b64decode(value[1:].strip())
    return name, value.removeprefix(" ").encode()
