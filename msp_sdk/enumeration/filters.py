r"""LDAP filters from values (RFC 4515). Pure.

Example:
    >>> equals("cn", "A*(B)")
    '(cn=A\\2a\\28B\\29)'
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

_CHUNK_COUNT = 100


def escape(value: str) -> str:
    """A value as it stands inside a filter."""
    return "".join(f"\\{ord(character):02x}" if character in "\\*()\0" else character for character in value)


def equals(attribute: str, value: str) -> str:
    """An attribute has this value."""
    return f"({attribute}={escape(value)})"


def is_guid(guid: str) -> str:
    """The object with this objectGUID.

    Raises:
        ValueError: It is no GUID.
    """
    return "(objectGUID=" + "".join(f"\\{byte:02x}" for byte in uuid.UUID(guid).bytes_le) + ")"


def guid_filters(guids: Sequence[str]) -> Iterator[str]:
    """Filters for the objects with these objectGUIDs, so many at a time as a controller likes; none for nobody.

    Raises:
        ValueError: One is no GUID.
    """
    for start in range(0, len(guids), _CHUNK_COUNT):
        yield any_of(*map(is_guid, guids[start : start + _CHUNK_COUNT]))


def any_of(*filters: str) -> str:
    """One of these holds."""
    return filters[0] if len(filters) == 1 else f"(|{''.join(filters)})"
