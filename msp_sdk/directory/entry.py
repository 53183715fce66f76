"""Entries of a directory and how their values are read: text, numbers, instants, GUIDs, SIDs, distinguished names.

Pure. Values come from strangers: what cannot be read is None, never an exception.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct

from attrs import field, frozen

_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_GUID_BYTES = 16
_GUID_HEAD = Struct("<IHH")
_SID_HEADER_BYTES = 8
_SID_PART_BYTES = 4
_HEX = frozenset("0123456789abcdefABCDEF")
_PADDING = "\0 \t\r\n"
_GENERALIZED_DIGITS = 14
_LEAF = re.compile(r"(?:[^\\,]+|\\.?)*", re.DOTALL)
# Controls, halves of characters, ends of lines: no name holds them, and no screen or database wants them.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Letters of every script, digits, - and _: nothing else of ASCII, no space of any kind, and no broken bytes.
_LABEL = r"[^\x00-\x2c./:-@\[-^`\x7b-\xa0\ufffd\s]{1,63}"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
LONGEST_NAME = 255
# What repeats from entry to entry is worked out once; longer texts are a stranger's joke.
_KEPT_COUNT = 4096
_KEPT_CHARACTERS = 1024


Held = bytes | tuple[bytes, ...]


def _spread(held: Mapping[str, Held]) -> dict[str, tuple[bytes, ...]]:
    return {name: (values,) if isinstance(values, bytes) else values for name, values in held.items()}


@frozen
class Entry:
    """One entry as a directory sent it.

    A single value is held bare: a million small tuples are work for the garbage collector.

    Attributes:
        dn: Its distinguished name, as sent.
        held: Lower-case name to values, in the directory's order; an absent attribute has no key.
    """

    dn: str
    held: Mapping[str, Held] = field(alias="attributes", eq=_spread)

    @property
    def attributes(self) -> dict[str, tuple[bytes, ...]]:
        """All attributes, made anew at each call."""
        return _spread(self.held)

    def record(self, names: Iterable[str]) -> tuple[Held | None, ...]:
        """These attributes, in lower case, as they are held: for who reads tens of thousands of entries."""
        return tuple(map(self.held.get, names))

    def values(self, name: str) -> tuple[bytes, ...]:
        """All values of an attribute, any case; empty when it is absent."""
        held = self.held.get(name.lower(), ())
        return held if isinstance(held, tuple) else (held,)

    def value(self, name: str) -> bytes | None:
        """The first value of an attribute, any case, or None."""
        return first(self.held.get(name.lower()))

    def texts(self, name: str) -> tuple[str, ...]:
        """All values as text; bytes that are not UTF-8 are replaced."""
        return tuple([value.decode("utf-8", "replace") for value in self.values(name)])

    def text(self, name: str) -> str | None:
        """The first value as text without surrounding space, or None when it is absent or empty."""
        return parse_text(self.value(name))

    def number(self, name: str) -> int | None:
        """The first value as a whole number, or None."""
        return parse_number(self.value(name))

    def filetime(self, name: str) -> datetime | None:
        """The first value as a Windows FILETIME, or None when it is absent, zero or "never"."""
        return parse_filetime(self.number(name))

    def generalized_time(self, name: str) -> datetime | None:
        """The first value as a generalised time, or None."""
        return parse_generalized_time(self.text(name))


def first(held: Held | None) -> bytes | None:
    """The first of an attribute's values as an entry holds them, or None."""
    if isinstance(held, tuple):
        return held[0] if held else None
    return held


def parse_text(value: bytes | None) -> str | None:
    """Text without surrounding space, or None when there is none; bytes that are not UTF-8 are replaced."""
    return value.decode("utf-8", "replace").strip(_PADDING) or None if value else None


def one_line(text: str, longest: int = LONGEST_NAME) -> str:
    """A text that can be shown and kept: control characters are spaces, and it ends after so many characters."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(character) in _UNFIT else character for character in text)
    return text[:longest].strip()


def parse_line(value: bytes | None, longest: int = LONGEST_NAME) -> str | None:
    """Text on one line (see :func:`one_line`), or None when there is none."""
    text = parse_text(value)
    return one_line(text, longest) or None if text else None


def parse_host_name(value: bytes | None) -> str | None:
    """A DNS name, or None when there is none or it can be none: too long, an empty label, a space in it."""
    name = parse_text(value)
    return name if name and len(name) <= LONGEST_NAME and _HOST_NAME.fullmatch(name) else None


def parse_number(value: bytes | None) -> int | None:
    """A whole number, or None."""
    if not value:
        return None
    try:
        return int(value.strip(b"\0 \t\r\n"))
    except ValueError:
        return None


def parse_filetime(value: int | None) -> datetime | None:
    """An instant from 100-nanosecond steps since 1601, aware UTC; None for none, zero, "never" and nonsense."""
    if value is None or not 0 < value <= FILETIME_MAX:
        return None
    return _FILETIME_EPOCH + timedelta(0, 0, value // 10)


def render_filetime(value: datetime) -> int:
    """The FILETIME of an aware instant."""
    return (value - _FILETIME_EPOCH) // timedelta(microseconds=1) * 10


# The last instant that can be said; "never" on Windows lies far behind it.
FILETIME_MAX = render_filetime(datetime.max.replace(tzinfo=UTC))


def parse_generalized_time(text: str | None) -> datetime | None:
    """``20260131120000.0Z`` as an aware instant, or None."""
    digits = "" if text is None else text.split(".", 1)[0].rstrip("Z")
    if len(digits) != _GENERALIZED_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return datetime.fromisoformat(f"{digits[:8]}T{digits[8:]}+00:00")
    except ValueError:
        return None


def parse_guid(value: bytes | None) -> str | None:
    """``objectGUID`` in its canonical form, lower case; None when it is not 16 bytes."""
    if value is None or len(value) != _GUID_BYTES:
        return None
    # The first three parts are little-endian.
    first, second, third = _GUID_HEAD.unpack_from(value)
    digits = value.hex()
    return f"{first:08x}-{second:04x}-{third:04x}-{digits[16:20]}-{digits[20:]}"


def parse_sid(value: bytes | None) -> str | None:
    """``objectSid`` as ``S-1-5-21-…``; None when it is no SID."""
    if value is None or len(value) < _SID_HEADER_BYTES:
        return None
    if value[0] != 1 or len(value) != _SID_HEADER_BYTES + _SID_PART_BYTES * value[1]:
        return None
    if not value[1]:
        return _sid_head(value)
    return f"{_sid_head(value[:-_SID_PART_BYTES])}-{int.from_bytes(value[-_SID_PART_BYTES:], 'little')}"


@lru_cache(_KEPT_COUNT)
def _sid_head(value: bytes) -> str:
    """A SID without its last part: the same for all of a domain."""
    parts = (
        int.from_bytes(value[start : start + _SID_PART_BYTES], "little")
        for start in range(_SID_HEADER_BYTES, len(value), _SID_PART_BYTES)
    )
    return "-".join(("S-1", str(int.from_bytes(value[2:8], "big")), *map(str, parts)))


def render_sid(sid: str) -> bytes:
    """The bytes of a SID in its text form."""
    _, _, authority, *parts = sid.split("-")
    return (
        bytes((1, len(parts)))
        + int(authority).to_bytes(6, "big")
        + b"".join(int(part).to_bytes(_SID_PART_BYTES, "little") for part in parts)
    )


def split_dn(dn: str) -> tuple[tuple[str, str], ...]:
    r"""A distinguished name as (type in upper case, value), leaf first, its escapes undone (RFC 4514).

    Example:
        >>> split_dn(r"CN=A\,B,DC=x")
        (('CN', 'A,B'), ('DC', 'x'))
    """
    parts: list[tuple[str, str]] = []
    for rdn in _split_unescaped(dn, ","):
        kind, _, value = rdn.partition("=")
        if kind.strip():
            parts.append((kind.strip().upper(), _unescape(value)))
    return tuple(parts)


def escape_dn(value: str) -> str:
    """A value as it stands in a distinguished name (RFC 4514)."""
    escaped = "".join(f"\\{character}" if character in '\\,+"<>;=' else character for character in value)
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    return f"{escaped[:-1]}\\ " if escaped.endswith(" ") and len(value) > 1 else escaped


def dn_to_domain(dn: str | None) -> str | None:
    """``DC=corp,DC=example`` as ``corp.example``, lower case; None when it has another shape."""
    parts = split_dn(dn or "")
    if not parts or any(kind != "DC" for kind, _ in parts):
        return None
    return ".".join(value for _, value in parts).lower()


def domain_to_dn(domain: str) -> str:
    """``corp.example`` as ``DC=corp,DC=example``."""
    return ",".join(f"DC={label}" for label in domain.strip(".").split("."))


def ou_path(dn: str) -> str:
    r"""Where an entry lies: containers from the root down, joined by ``/``.

    Inside a name a slash is ``\/`` and a backslash ``\\``.

    Example:
        >>> ou_path("CN=SRV1,OU=Servers,OU=Clinic,DC=corp,DC=example")
        'Clinic/Servers'
    """
    leaf, _, above = dn.partition(",")
    if "\\" in leaf and (found := _LEAF.match(dn)):
        leaf, above = found[0], dn[found.end() + 1 :]
    if not leaf.partition("=")[0].strip():
        # It has no leaf of its own: the first part that has a type is one.
        return _containers_path(split_dn(above)[1:])
    return _ou_path_of(above) if len(above) <= _KEPT_CHARACTERS else _containers_path(split_dn(above))


@lru_cache(_KEPT_COUNT)
def _ou_path_of(container_dn: str) -> str:
    return _containers_path(split_dn(container_dn))


def _containers_path(parts: tuple[tuple[str, str], ...]) -> str:
    containers = [value for kind, value in parts if kind != "DC"]
    return "/".join(one_line(value).replace("\\", "\\\\").replace("/", "\\/") for value in reversed(containers))


def _split_unescaped(text: str, separator: str) -> list[str]:
    pieces, start, position = [], 0, 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == separator:
            pieces.append(text[start:position])
            start = position + 1
        position += 1
    return [*pieces, text[start:]]


def _unescape(value: str) -> str:
    r"""Undo ``\,`` and ``\C3``; hex escapes are bytes of UTF-8."""
    value = value.lstrip(" ")
    if "\\" not in value:
        return value.rstrip(" ").encode("utf-8", errors="replace").decode()
    out = bytearray()
    # Spaces at the end do not count, unless they are escaped.
    kept = 0
    position = 0
    while position < len(value):
        character = value[position]
        if character == "\\" and position + 1 < len(value):
            pair = value[position + 1 : position + 3]
            if len(pair) == 2 and set(pair) <= _HEX:  # noqa: PLR2004 (two hex digits are a byte)
                out += bytes.fromhex(pair)
                position += 3
                kept = len(out)
                continue
            position += 1
            out += value[position].encode("utf-8", errors="replace")
            kept = len(out)
        else:
            out += character.encode("utf-8", errors="replace")
            kept = kept if character == " " else len(out)
        position += 1
    return out[:kept].decode("utf-8", errors="replace")
