"""Names packed the DNS way, as netlogon answers (MS-ADTS 6.3.7) and DHCP's option 119 (RFC 3397) carry them. Pure.

Source: RFC 1035 4.1.4. A pointer may only go back, further than all before it: so no name can be endless.
"""

from __future__ import annotations

from msp_sdk.errors import WireError

_POINTER = 0xC0
_NAME_MAX = 255


def read_packed_name(data: bytes, at: int, end: int) -> tuple[str, int]:
    """Read a name.

    Args:
        data: What pointers count from.
        at: Where the name begins.
        end: Where its part of the data ends.

    Returns:
        The name without the final dot, empty for the root, and the offset behind it.

    Raises:
        WireError: It runs out of the data, points forward, or is no printable text. Not retryable.
    """
    labels: list[str] = []
    after: int | None = None
    floor = at
    length = 0
    while True:
        size = _byte(data, at, end)
        if size & _POINTER == _POINTER:
            target = (size & ~_POINTER) << 8 | _byte(data, at + 1, end)
            after = at + 2 if after is None else after
            if target >= floor:
                raise _wrong("a name points forward")
            at = floor = target
            continue
        if size & _POINTER:
            raise _wrong("a name has a label of no known kind")
        at += 1
        if size == 0:
            return ".".join(labels), at if after is None else after
        length += size + 1
        if at + size > end or length > _NAME_MAX:
            raise _wrong("a name is too long")
        labels.append(_text(data[at : at + size]))
        at += size


def _byte(data: bytes, at: int, end: int) -> int:
    if at >= end:
        raise _wrong("a name runs out of its data")
    return data[at]


def _text(label: bytes) -> str:
    try:
        text = label.decode()
    except UnicodeDecodeError as error:
        raise _wrong("a name is not UTF-8") from error
    if not text.isprintable():
        raise _wrong("a name has control characters")
    return text


def _wrong(why: str) -> WireError:
    return WireError(f"{why}.", path="name")
