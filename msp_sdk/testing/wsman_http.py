"""HTTP as ``http.sys`` speaks it before WinRM, and how an answer is spoilt on its way out.

Example:
    >>> Reply(401, challenges=("Negotiate",)).head().splitlines()[0]
    b'HTTP/1.1 401 Unauthorized'
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from typing import NoReturn

from attrs import evolve, frozen

from msp_sdk.testing.wsman_hitches import Way

SOAP = "application/soap+xml;charset=UTF-8"
# What no client of WinRM sends in one request.
BODY_MAX_BYTES = 16 * 2**20
_TITLES: Mapping[int, str] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    411: "Length Required",
    413: "Request Entity Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_PIECES = 20


class Cut(Exception):  # noqa: N818 (what shall happen, not an error)
    """Cut this connection."""


class HalfClosed(Exception):  # noqa: N818
    """Our sending side of the connection is shut: read on, answer nothing."""


@frozen
class Request:
    """An HTTP request. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def sealed(self) -> bool:
        """True for a sealed message."""
        return self.headers.get("content-type", "").startswith("multipart/encrypted")


@frozen
class Reply:
    """An HTTP answer.

    Attributes:
        challenges: For ``WWW-Authenticate``.
        ends: The connection ends with it.
        date: By the host's clock, as HTTP writes it; http.sys always sends one.
    """

    status: int
    body: bytes = b""
    content_type: str = SOAP
    challenges: tuple[str, ...] = ()
    ends: bool = False
    date: str = ""

    def head(self) -> bytes:
        """Everything before the body."""
        rows = [f"HTTP/1.1 {self.status} {_TITLES.get(self.status, '')}", "Server: Microsoft-HTTPAPI/2.0"]
        rows += [f"WWW-Authenticate: {challenge}" for challenge in self.challenges]
        if self.body:
            rows.append(f"Content-Type: {self.content_type}")
        if self.ends:
            rows.append("Connection: close")
        if self.date:
            rows.append(f"Date: {self.date}")
        return "\r\n".join([*rows, f"Content-Length: {len(self.body)}", "", ""]).encode("latin-1")


def refusal(status: int) -> Reply:
    """What http.sys itself says, where the request never came to WinRM: a page, and the connection ends."""
    title = _TITLES[status]
    page = (
        f"<HTML><HEAD><TITLE>{title}</TITLE></HEAD>\r\n<BODY><h2>{title}</h2>\r\n"
        f"<hr><p>HTTP Error {status}. {title}.</p>\r\n</BODY></HTML>\r\n"
    )
    return Reply(status, page.encode(), "text/html; charset=us-ascii", ends=True)


async def read_request(reader: asyncio.StreamReader, quiet_s: float) -> Request:
    """Read the next request of a connection.

    Args:
        reader: Of the connection.
        quiet_s: How long it may take until the whole head is there.

    Raises:
        Cut: It is no HTTP, or far too long.
        OSError: And what asyncio raises when a connection ends or is quiet.
    """
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), quiet_s)
    line, *rows = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in rows if row)}
    length = headers.get("content-length", "0")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not length.isdigit():  # noqa: PLR2004 (a line of HTTP)
        raise Cut
    if int(length) > BODY_MAX_BYTES:
        raise Cut
    return Request(words[0], words[1], headers, await reader.readexactly(int(length)))


async def send(writer: asyncio.StreamWriter, reply: Reply, way: Way | None = None, over_s: float = 0.0) -> None:
    """Send an answer whole, or as ``way`` spoils it on the wire.

    Raises:
        Cut: The connection is to be cut now.
        HalfClosed: It is to be read from alone.
    """
    head = reply.head()
    if way == "lost":
        raise Cut
    if way in ("half-close", "half-close-head"):
        writer.write(head if way == "half-close-head" else b"")
        await _shut(writer)
    if way == "not-http":
        writer.write(b"\x15\x03\x03\x00\x02\x02\x28 220 smtp ready\r\n\r\n")
        await writer.drain()
        return
    if way == "mid-body":
        writer.write(head + reply.body[: len(reply.body) // 2])
        await writer.drain()
        raise Cut
    if way == "drip" or over_s > 0:
        await _drip(writer, head + reply.body, over_s)
    else:
        writer.write(head + reply.body)
        await writer.drain()
    if reply.ends:
        raise Cut


async def _shut(writer: asyncio.StreamWriter) -> NoReturn:
    """Shut the sending side. TLS has no such thing: there the connection ends."""
    await writer.drain()
    if not writer.can_write_eof():
        raise Cut
    writer.write_eof()
    raise HalfClosed


async def _drip(writer: asyncio.StreamWriter, data: bytes, over_s: float) -> None:
    """Byte by byte; after the first ones in larger pieces, so that it is over in time."""
    for index in range(_PIECES):
        writer.write(data[index : index + 1])
        await writer.drain()
        await asyncio.sleep(over_s / _PIECES / 2)
    rest = data[_PIECES:]
    size = max(1, len(rest) // _PIECES)
    for start in range(0, len(rest), size):
        writer.write(rest[start : start + size])
        await writer.drain()
        await asyncio.sleep(over_s / _PIECES / 2)


_STREAM = re.compile(rb"(<rsp:Stream [^>]*>)([A-Za-z0-9+/=]{4,})(</rsp:Stream>)")
_RELATES_TO = re.compile(rb"(<a:RelatesTo>)[^<]*")
_NOT_WSMAN = (
    b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header/><s:Body>'
    b'<hello xmlns="urn:example:other-service">world</hello></s:Body></s:Envelope>'
)


def spoil_envelope(way: Way | None, envelope: bytes) -> bytes:
    """An envelope as ``way`` spoils it before it is sealed; others are returned as they are."""
    if way == "not-wsman":
        return _NOT_WSMAN
    if way == "cut-base64":
        return _STREAM.sub(lambda found: found[1] + found[2].rstrip(b"=")[:-1] + found[3], envelope)
    if way == "other-answer":
        return _RELATES_TO.sub(rb"\1uuid:" + str(uuid.uuid4()).upper().encode(), envelope)
    return envelope


def spoil_reply(way: Way | None, reply: Reply) -> Reply:
    """An answer as ``way`` spoils it after sealing; others are returned as they are."""
    if way == "not-soap":
        page = b"<html><body>Please log in to the guest network.</body></html>"
        return evolve(reply, status=200, body=page, content_type="text/html")
    if way == "damaged" and reply.body:
        # Near the end of what is sealed: after the frame that says so, before the one that ends it.
        place = max(0, len(reply.body) - 60)
        byte = bytes([reply.body[place] ^ 0x80])
        return evolve(reply, body=reply.body[:place] + byte + reply.body[place + 1 :])
    return reply
