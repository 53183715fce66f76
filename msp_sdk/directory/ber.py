"""LDAP messages as bytes: cut a stream into messages, read responses, build requests. Pure; strict; made for bulk.

It reads what servers send and no more of BER than that: definite lengths of up to four bytes (Windows writes four for
everything constructed, others as few as they can), low tag numbers. Any bytes that are no LDAP message end in
:class:`~msp_sdk.errors.WireError`, never in another exception, and a length that a stranger claims never makes us
read past a message or hold more than :data:`MAX_MESSAGE_BYTES`.

Example:
    >>> framer = Framer()
    >>> [message] = framer.feed(encode_message(7, encode(SEARCH_DONE, bytes.fromhex("0a010004000400"))))
    >>> message.message_id, read_result(message).code
    (7, 0)

Source: RFC 4511; RFC 2696 (paging); MS-ADTS 3.1.1.3.4.1.3 (DirSync).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from attrs import field, frozen

from msp_sdk.errors import WireError

# An entry of a directory is kilobytes; Windows takes no more than 10 MB of us.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024

BIND_RESPONSE = 0x61
SEARCH_ENTRY = 0x64
SEARCH_DONE = 0x65
SEARCH_REFERENCE = 0x73
EXTENDED_RESPONSE = 0x78
INTERMEDIATE_RESPONSE = 0x79

UNSOLICITED_ID = 0
NOTICE_OF_DISCONNECTION = "1.3.6.1.4.1.1466.20036"
START_TLS = "1.3.6.1.4.1.1466.20037"
PAGED_RESULTS = "1.2.840.113556.1.4.319"
DIRSYNC = "1.2.840.113556.1.4.841"
SHOW_DELETED = "1.2.840.113556.1.4.417"

_INTEGER = 0x02
OCTETS = 0x04
_ENUMERATED = 0x0A
SEQUENCE = 0x30
SET = 0x31
_BOOLEAN = 0x01
_CONTROLS = 0xA0
_RESULT_REFERRAL = 0xA3
_SASL_CREDENTIALS = 0x87
_RESPONSE_NAME = 0x8A
_RESPONSE_VALUE = 0x8B
_BIND_REQUEST = 0x60
_UNBIND_REQUEST = 0x42
_ABANDON_REQUEST = 0x50
_EXTENDED_REQUEST = 0x77
_REQUEST_NAME = 0x80
_SASL_CHOICE = 0xA3

LONG = 0x80
LONG_FOUR = 0x84
_HIGH_TAG = 0x1F
_APPLICATION = 0x40
_CLASS = 0xC0
_INT32_BYTES = 4
_INT32_MAX = 0x7FFF_FFFF

RESULT_NAMES = {
    0: "success",
    1: "operationsError",
    2: "protocolError",
    3: "timeLimitExceeded",
    4: "sizeLimitExceeded",
    7: "authMethodNotSupported",
    8: "strongerAuthRequired",
    10: "referral",
    11: "adminLimitExceeded",
    12: "unavailableCriticalExtension",
    13: "confidentialityRequired",
    14: "saslBindInProgress",
    16: "noSuchAttribute",
    18: "inappropriateMatching",
    32: "noSuchObject",
    34: "invalidDNSyntax",
    48: "inappropriateAuthentication",
    49: "invalidCredentials",
    50: "insufficientAccessRights",
    51: "busy",
    52: "unavailable",
    53: "unwillingToPerform",
    80: "other",
}


class Message(NamedTuple):
    """One message, cut out of the stream; ``data[start:end]`` is the inside of its operation, controls follow."""

    message_id: int
    tag: int
    data: bytes
    start: int
    end: int


@frozen
class Control:
    """A control beside a request or a response."""

    oid: str
    critical: bool = False
    value: bytes | None = None


@frozen
class Result:
    """How an operation ended.

    Attributes:
        text: The server's diagnostic text, as sent: a stranger's.
        sasl_credentials: The token in a bind's response, or None.
        name: The OID of an extended response, or None.
    """

    code: int
    matched_dn: str = ""
    text: str = field(default="", repr=False)
    controls: tuple[Control, ...] = ()
    sasl_credentials: bytes | None = field(default=None, repr=False)
    name: str | None = None

    @property
    def described(self) -> str:
        """The result in words; the server's own text is cleaned and cut."""
        text = "".join(character for character in self.text if character.isprintable())
        return f"{RESULT_NAMES.get(self.code, f'result {self.code}')} {text[:200]}".strip()


class Framer:
    """Cuts a stream into messages, however it is chopped.

    Args:
        limit_bytes: A message that says it is longer ends the stream.
    """

    def __init__(self, limit_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._have_bytes = 0
        # How many bytes must be there before it is worth looking again.
        self._need_bytes = 2

    @property
    def empty(self) -> bool:
        """True when no part of a message waits for its rest."""
        return not self._have_bytes

    def feed(self, chunk: bytes) -> list[Message]:
        """Take what came and return the messages that are complete now.

        Raises:
            WireError: It is no LDAP, or a message is too long. The stream is useless from then on.
        """
        self._parts.append(chunk)
        self._have_bytes += len(chunk)
        if self._have_bytes < self._need_bytes:
            return []
        data = chunk if len(self._parts) == 1 else b"".join(self._parts)
        messages: list[Message] = []
        position, size, missing = 0, len(data), 2
        while size - position >= 2:  # noqa: PLR2004 (a tag and a length)
            if data[position] != SEQUENCE:
                raise nonsense("a message does not begin as one")
            length = data[position + 1]
            start = position + 2
            if length >= LONG:
                count = length - LONG
                if not 1 <= count <= _INT32_BYTES:
                    raise nonsense("a message has no usable length")
                if start + count > size:
                    missing = 2 + count
                    break
                length = int.from_bytes(data[start : start + count], "big")
                start += count
            end = start + length
            if end - position > self._limit_bytes:
                raise nonsense("a message is too long")
            if end > size:
                missing = end - position
                break
            messages.append(_open(data[start:end]))
            position = end
        rest = data[position:] if position else data
        self._parts = [rest] if rest else []
        self._have_bytes = len(rest)
        self._need_bytes = missing
        return messages


def _open(data: bytes) -> Message:
    """The inside of a message: its number and its operation."""
    try:
        count = data[1]
        if data[0] == _INTEGER and 1 <= count <= _INT32_BYTES:
            at = 2 + count
            number = int.from_bytes(data[2:at], "big")
        else:
            number, at = _whole_number(data, 0, len(data))
        if not 0 <= number <= _INT32_MAX:
            raise nonsense("a message has no number")
        tag = data[at]
        length = data[at + 1]
        start = at + 2
    except IndexError:
        raise nonsense("a message ends early") from None
    if length >= LONG:
        length, start = long_length(data, start, length)
    end = start + length
    if end > len(data):
        raise nonsense("an operation is longer than its message")
    if tag & _CLASS != _APPLICATION:
        raise nonsense("a message has no operation")
    return Message(number, tag, data, start, end)


def long_length(data: bytes, start: int, first: int) -> tuple[int, int]:
    """A length of more than one byte, and where its value begins."""
    count = first - LONG
    if not 1 <= count <= _INT32_BYTES:
        raise nonsense("a value has no usable length")
    at = start + count
    if at > len(data):
        raise nonsense("a length ends early")
    return int.from_bytes(data[start:at], "big"), at


def _header(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """The value at a place: its tag, where it begins, where it ends; all within ``end``."""
    if at + 2 > end:
        raise nonsense("a value ends early")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & _HIGH_TAG == _HIGH_TAG:
        raise nonsense("a tag is none of LDAP's")
    if length >= LONG:
        length, start = long_length(data, start, length)
    stop = start + length
    if stop > end:
        raise nonsense("a value is longer than what holds it")
    return tag, start, stop


def expect(data: bytes, at: int, end: int, wanted: int) -> tuple[int, int]:
    """Where the value at a place begins and ends, which must be of this kind and within ``end``."""
    tag, start, stop = _header(data, at, end)
    if tag != wanted:
        raise nonsense("a value is of another kind")
    return start, stop


def _whole_number(data: bytes, at: int, end: int, wanted: int = _INTEGER) -> tuple[int, int]:
    """An INTEGER or ENUMERATED and where it ends."""
    start, stop = expect(data, at, end, wanted)
    if not 1 <= stop - start <= 8:  # noqa: PLR2004 (64 bits are more than any number of LDAP)
        raise nonsense("a number has no usable length")
    return int.from_bytes(data[start:stop], "big", signed=True), stop


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def read_result(message: Message) -> Result:
    """Read the end of an operation: of a search, a bind, an extended operation.

    Raises:
        WireError: It is none, or its parts do not fit together.
    """
    _, tag, data, at, end = message
    if tag not in (SEARCH_DONE, BIND_RESPONSE, EXTENDED_RESPONSE):
        raise nonsense("a message is no result")
    code, at = _whole_number(data, at, end, _ENUMERATED)
    start, at = expect(data, at, end, OCTETS)
    matched = _text(data[start:at])
    start, at = expect(data, at, end, OCTETS)
    text = _text(data[start:at])
    credentials: bytes | None = None
    name: str | None = None
    while at < end:
        kind, start, at = _header(data, at, end)
        if kind == _SASL_CREDENTIALS and tag == BIND_RESPONSE:
            credentials = data[start:at]
        elif kind == _RESPONSE_NAME and tag == EXTENDED_RESPONSE:
            name = _text(data[start:at])
        elif kind not in (_RESULT_REFERRAL, _RESPONSE_VALUE):
            raise nonsense("a result has parts of no result")
    return Result(code, matched, text, read_controls(message), credentials, name)


def read_controls(message: Message) -> tuple[Control, ...]:
    """The controls of a message.

    Raises:
        WireError: What follows the operation is no list of controls.
    """
    data, at = message.data, message.end
    if at == len(data):
        return ()
    at, end = expect(data, at, len(data), _CONTROLS)
    if end != len(data):
        raise nonsense("a message goes on after its controls")
    controls = []
    while at < end:
        inner, stop = expect(data, at, end, SEQUENCE)
        start, inner = expect(data, inner, stop, OCTETS)
        oid, critical, value = _text(data[start:inner]), False, None
        while inner < stop:
            kind, start, inner = _header(data, inner, stop)
            if kind == _BOOLEAN:
                critical = data[start:inner] not in (b"", b"\0")
            elif kind == OCTETS:
                value = data[start:inner]
            else:
                raise nonsense("a control has parts of no control")
        controls.append(Control(oid, critical, value))
        at = stop
    return tuple(controls)


def read_paged(value: bytes | None) -> bytes:
    """The cookie in the value of a paging control; empty after the last page.

    Raises:
        WireError: It is no such value.
    """
    _, cookie = _numbers_and_cookie(value, 1)
    return cookie


def read_dirsync_value(value: bytes | None) -> tuple[bool, bytes]:
    """Whether there is more at once, and the cookie, of a DirSync control's value.

    Raises:
        WireError: It is no such value.
    """
    numbers, cookie = _numbers_and_cookie(value, 2)
    return numbers[0] != 0, cookie


def _numbers_and_cookie(value: bytes | None, numbers_count: int) -> tuple[list[int], bytes]:
    if value is None:
        raise nonsense("a control has no value")
    at, end = expect(value, 0, len(value), SEQUENCE)
    numbers = []
    for _ in range(numbers_count):
        number, at = _whole_number(value, at, end)
        numbers.append(number)
    start, at = expect(value, at, end, OCTETS)
    if at != end or end != len(value):
        raise nonsense("a control's value goes on after its cookie")
    return numbers, value[start:at]


def encode(tag: int, *parts: bytes) -> bytes:
    """A value: its tag, its length, what is in it."""
    inside = b"".join(parts)
    size = len(inside)
    if size < LONG:
        return bytes((tag, size)) + inside
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, LONG + len(length))) + length + inside


def encode_number(number: int, tag: int = _INTEGER) -> bytes:
    """A whole number."""
    return encode(tag, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def encode_text(text: str | bytes) -> bytes:
    """An OCTET STRING."""
    return encode(OCTETS, text.encode() if isinstance(text, str) else text)


def encode_message(message_id: int, operation: bytes, controls: Iterable[Control] = ()) -> bytes:
    """A message around an operation that is encoded already."""
    listed = [_encode_control(control) for control in controls]
    return encode(SEQUENCE, encode_number(message_id), operation, *((encode(_CONTROLS, *listed),) if listed else ()))


def _encode_control(control: Control) -> bytes:
    parts = [encode_text(control.oid)]
    if control.critical:
        parts.append(encode(_BOOLEAN, b"\xff"))
    if control.value is not None:
        parts.append(encode_text(control.value))
    return encode(SEQUENCE, *parts)


def paged_control(size: int, cookie: bytes) -> Control:
    """Ask for a page; critical, since an answer without paging may be cut short."""
    return Control(PAGED_RESULTS, critical=True, value=encode(SEQUENCE, encode_number(size), encode_text(cookie)))


def dirsync_control(flags: int, max_bytes: int, cookie: bytes) -> Control:
    """Ask for what changed since a cookie; everything for an empty one."""
    value = encode(SEQUENCE, encode_number(flags), encode_number(max_bytes), encode_text(cookie))
    return Control(DIRSYNC, critical=True, value=value)


def encode_sasl_bind(mechanism: str, token: bytes) -> bytes:
    """A bind request with a token of a SASL mechanism."""
    return encode(
        _BIND_REQUEST,
        encode_number(3),
        encode_text(""),
        encode(_SASL_CHOICE, encode_text(mechanism), encode_text(token)),
    )


def encode_extended(oid: str) -> bytes:
    """An extended request without a value."""
    return encode(_EXTENDED_REQUEST, encode(_REQUEST_NAME, oid.encode()))


def encode_abandon(message_id: int) -> bytes:
    """Tell the server that nobody waits for an answer any more."""
    return encode_number(message_id, _ABANDON_REQUEST)


def encode_unbind() -> bytes:
    """Say good-bye."""
    return encode(_UNBIND_REQUEST)


def find_control(controls: Sequence[Control], oid: str) -> Control | None:
    """The control with this OID, or None."""
    return next((control for control in controls if control.oid == oid), None)


def nonsense(what: str) -> WireError:
    """The error for bytes that are no LDAP."""
    return WireError(f"this is no LDAP: {what}.", code="bad-ldap")
