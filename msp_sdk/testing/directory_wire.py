"""LDAP as bytes, the server's side: requests cut out of a stream and read by sansldap, answers written as Windows does.

Everything constructed gets a length of four bytes (``84 xx xx xx xx``), as a Windows controller writes it. Pure.

Example:
    >>> write_done(1, 0).hex()
    '3084000000100201016584000000070a010004000400'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sansldap
from attrs import frozen
from sansldap._messages import PackingOptions, unpack_ldap_message
from sansldap.asn1 import ASN1Reader

ENTRY = 0x64
DONE = 0x65
REFERENCE = 0x73
BIND_RESPONSE = 0x61
EXTENDED_RESPONSE = 0x78
# Bind, unbind, search, extended: what sansldap reads.
_KNOWN_REQUESTS = (0, 2, 3, 23)
_APPLICATION = 0x60
DISCONNECTION = "1.3.6.1.4.1.1466.20036"

MAX_REQUEST_BYTES = 10 * 1024 * 1024
_INTEGER, _OCTETS, _ENUMERATED, _SEQUENCE, _SET, _CONTROLS = 0x02, 0x04, 0x0A, 0x30, 0x31, 0xA0
_REFERRAL = 0xA3
_BOOLEAN = 0x01
_SASL_CREDENTIALS, _RESPONSE_NAME = 0x87, 0x8A
_SHORT = 0x80
_LONG_FOUR = b"\x84"
_OPTIONS = PackingOptions()


@frozen
class ReplyControl:
    """A control beside an answer."""

    oid: str
    value: bytes


@frozen
class OtherRequest:
    """A request that was read no further: a write, a comparison, or one that there is not. ``kind`` is its tag."""

    message_id: int
    kind: int


class RequestReader:
    """Cuts requests out of what arrives, in whatever pieces it does."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[sansldap.LDAPMessage | OtherRequest]:
        """The requests that are complete now.

        Raises:
            ValueError: It is no LDAP, or too long.
        """
        self._buffer += data
        messages: list[sansldap.LDAPMessage | OtherRequest] = []
        while (size := _message_size(self._buffer)) is not None and len(self._buffer) >= size:
            raw = bytes(self._buffer[:size])
            del self._buffer[:size]
            try:
                messages.append(_read_other(raw) or unpack_ldap_message(ASN1Reader(raw), _OPTIONS))
            except (ValueError, NotImplementedError, IndexError, RecursionError, sansldap.LDAPError) as error:
                raise ValueError("a request could not be read") from error
        return messages


def _read_other(raw: bytes) -> OtherRequest | None:
    message = ASN1Reader(raw).read_sequence()
    number, kind = message.read_integer(), message.peek_header().tag.tag_number
    return None if kind in _KNOWN_REQUESTS else OtherRequest(number, kind)


def _message_size(buffer: bytearray) -> int | None:
    if len(buffer) < 2:  # noqa: PLR2004 (a tag and a length)
        return None
    if buffer[0] != _SEQUENCE:
        raise ValueError("no LDAP message")
    first = buffer[1]
    if first < _SHORT:
        return 2 + first
    count = first - _SHORT
    if not 1 <= count <= 4:  # noqa: PLR2004 (what lengths there are)
        raise ValueError("no length")
    if len(buffer) < 2 + count:
        return None
    size = int.from_bytes(buffer[2 : 2 + count], "big")
    if size > MAX_REQUEST_BYTES:
        raise ValueError("too long a request")
    return 2 + count + size


def constructed(tag: int, *parts: bytes) -> bytes:
    """A constructed value, its length in four bytes."""
    inside = b"".join(parts)
    return bytes((tag,)) + _LONG_FOUR + len(inside).to_bytes(4, "big") + inside


def octets(value: bytes, tag: int = _OCTETS) -> bytes:
    """A primitive value, its length as short as it can be, as Windows writes those."""
    size = len(value)
    if size < _SHORT:
        return bytes((tag, size)) + value
    width = (size.bit_length() + 7) // 8
    return bytes((tag, _SHORT | width)) + size.to_bytes(width, "big") + value


def integer(value: int, tag: int = _INTEGER) -> bytes:
    """A whole number."""
    return octets(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), tag)


def write_message(message_id: int, operation: bytes, controls: Sequence[ReplyControl] = ()) -> bytes:
    """An answer around its operation."""
    if not controls:
        return constructed(_SEQUENCE, integer(message_id), operation)
    written = (constructed(_SEQUENCE, octets(control.oid.encode()), octets(control.value)) for control in controls)
    return constructed(_SEQUENCE, integer(message_id), operation, constructed(_CONTROLS, *written))


def _result(code: int, text: str, referral: str | None = None) -> bytes:
    elsewhere = b"" if referral is None else constructed(_REFERRAL, octets(referral.encode()))
    return integer(code, _ENUMERATED) + octets(b"") + octets(text.encode()) + elsewhere


def write_done(
    message_id: int, code: int, text: str = "", controls: Sequence[ReplyControl] = (), *, referral: str | None = None
) -> bytes:
    """The end of a search, or where to ask instead."""
    return write_message(message_id, constructed(DONE, _result(code, text, referral)), controls)


def write_other(request: OtherRequest, code: int, text: str) -> bytes:
    """What becomes of a request that was read no further: its answer's tag is the next one."""
    return write_message(request.message_id, constructed(_APPLICATION | (request.kind + 1), _result(code, text)))


def write_bind(message_id: int, code: int, text: str = "", token: bytes | None = None) -> bytes:
    """What became of a bind."""
    credentials = b"" if token is None else octets(token, _SASL_CREDENTIALS)
    return write_message(message_id, constructed(BIND_RESPONSE, _result(code, text), credentials))


def write_extended(message_id: int, code: int, text: str = "", name: str | None = None) -> bytes:
    """What became of an extended request; with message id 0 a notice that nobody asked for."""
    oid = b"" if name is None else octets(name.encode(), _RESPONSE_NAME)
    return write_message(message_id, constructed(EXTENDED_RESPONSE, _result(code, text), oid))


def write_reference(message_id: int, url: str) -> bytes:
    """A referral to another partition."""
    return write_message(message_id, constructed(REFERENCE, octets(url.encode())))


def write_entry(
    message_id: int, dn: str, attributes: Iterable[tuple[str, Sequence[bytes]]], *, types_only: bool = False
) -> bytes:
    """An entry that was found."""
    rows = (
        constructed(
            _SEQUENCE,
            octets(name.encode()),
            constructed(_SET, *(() if types_only else (octets(value) for value in values))),
        )
        for name, values in attributes
    )
    return write_message(message_id, constructed(ENTRY, octets(dn.encode()), constructed(_SEQUENCE, *rows)))


def write_page_value(cookie: bytes) -> bytes:
    """The value of a paging control in an answer."""
    return constructed(_SEQUENCE, integer(0), octets(cookie))


def write_dirsync_value(cookie: bytes, *, more: bool) -> bytes:
    """The value of a DirSync control in an answer."""
    return constructed(_SEQUENCE, integer(int(more)), integer(0), octets(cookie))


def read_dirsync_value(value: bytes | None) -> tuple[int, int, bytes]:
    """Flags, bytes at most, cookie.

    Raises:
        ValueError: It is no such value.
    """
    try:
        reader = ASN1Reader(value or b"").read_sequence()
        return reader.read_integer(), reader.read_integer(), reader.read_octet_string()
    except (ValueError, IndexError, NotImplementedError) as error:
        raise ValueError("no value of DirSync") from error
    except Exception as error:
        # sansldap's reader has an exception of its own outside its family.
        raise ValueError("a DirSync value that ends too early") from error
