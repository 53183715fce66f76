"""A KDC's clock, without an account: it stamps every answer, refusals too.

What is asked for is a ticket for nobody: no account is named, so none can be struck, and the answer is an error with
the KDC's time in it (RFC 4120, 5.9.1). It is one request over TCP 88, and says at the same time that the KDC is there.

Source: RFC 4120, 5.4.1 and 7.2.2. MIT's KDC answers so (tested); that Windows' does is unproven here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Final

from msp_sdk.directory.ber import SEQUENCE, encode, encode_number, expect
from msp_sdk.errors import WireError

_AS_REQ, _KRB_ERROR = 0x6A, 0x7E
_GENERAL_STRING, _GENERALIZED_TIME, _BIT_STRING = 0x1B, 0x18, 0x03
_AES256, _AES128 = 18, 17
_SERVICE_NAME = 2
_MESSAGE_BYTES_MAX: Final = 1 << 16
# Context tags of KRB-ERROR's fields: its own number is their last five bits.
_STIME = 0xA4


async def ask_kdc_for_time(address: str, port: int, realm: str, timeout_s: float) -> float | None:
    """How far a KDC's clock is ahead of ours, in seconds; None when it does not answer as a KDC does.

    Args:
        address: An IP address.
        port: Of TCP.
        realm: The domain's name, in capitals.
        timeout_s: For all of it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                request = render_request(realm)
                writer.write(len(request).to_bytes(4, "big") + request)
                await writer.drain()
                size = int.from_bytes(await reader.readexactly(4), "big")
                answer = await reader.readexactly(min(size, _MESSAGE_BYTES_MAX))
            finally:
                writer.transport.abort()
        return (parse_time(answer) - datetime.now(UTC)).total_seconds()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, WireError):
        return None


def render_request(realm: str) -> bytes:
    """A request for a ticket-granting ticket for nobody."""
    service = encode(
        SEQUENCE,
        encode(0xA0, encode_number(_SERVICE_NAME)),
        encode(0xA1, encode(SEQUENCE, _text("krbtgt"), _text(realm))),
    )
    body = encode(
        SEQUENCE,
        encode(0xA0, encode(_BIT_STRING, bytes(5))),
        encode(0xA2, _text(realm)),
        encode(0xA3, service),
        encode(0xA5, encode(_GENERALIZED_TIME, b"20370913024805Z")),
        encode(0xA7, encode_number(secrets.randbelow(2**31))),
        encode(0xA8, encode(SEQUENCE, encode_number(_AES256), encode_number(_AES128))),
    )
    return encode(
        _AS_REQ,
        encode(SEQUENCE, encode(0xA1, encode_number(5)), encode(0xA2, encode_number(10)), encode(0xA4, body)),
    )


def parse_time(answer: bytes) -> datetime:
    """The KDC's time in an error of Kerberos.

    Raises:
        WireError: It is none.
    """
    at, end = expect(answer, 0, len(answer), _KRB_ERROR)
    at, end = expect(answer, at, end, SEQUENCE)
    while at < end:
        tag = answer[at]
        inside, after = expect(answer, at, end, tag)
        if tag == _STIME:
            start, stop = expect(answer, inside, after, _GENERALIZED_TIME)
            with contextlib.suppress(ValueError):
                return datetime.strptime(answer[start:stop].decode("latin-1"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
            break
        at = after
    raise WireError("an error of Kerberos without a time.", path="stime")


def _text(text: str) -> bytes:
    return encode(_GENERAL_STRING, text.encode())
