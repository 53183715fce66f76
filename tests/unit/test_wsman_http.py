"""How an answer of the WinRM stand-in is spoilt, as bytes on a wire."""

from __future__ import annotations

import asyncio
import base64

import pytest

from msp_sdk.testing.wsman_hitches import Way
from msp_sdk.testing.wsman_http import (
    Cut,
    HalfClosed,
    Reply,
    read_request,
    refusal,
    send,
    spoil_envelope,
    spoil_reply,
)

BODY = b"<s:Envelope>" + b"x" * 200 + b"</s:Envelope>"
REPLY = Reply(200, BODY)
WHOLE = REPLY.head() + BODY


async def serve_once(way: Way | None, over_s: float = 0.0, reply: Reply = REPLY) -> tuple[bytes, int, int]:
    """What a client reads, in how many pieces, and how much of what it sends afterwards still arrives."""
    read_on = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await send(writer, reply, way, over_s)
        except Cut:
            writer.transport.abort()
            read_on.set_result(0)
            return
        except HalfClosed:
            pass
        read_on.set_result(len(await reader.read()))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    got, pieces = b"", 0
    try:
        while len(got) < len(WHOLE) and (piece := await asyncio.wait_for(reader.read(4096), 2)):
            got, pieces = got + piece, pieces + 1
    except ConnectionResetError:
        pass
    if not read_on.done():
        writer.write(b"still here")
        writer.write_eof()
    arrived = await asyncio.wait_for(read_on, 2)
    writer.close()
    server.close()
    return got, pieces, arrived


def test_whole_answer() -> None:
    assert asyncio.run(serve_once(None)) == (WHOLE, 1, 10)


def test_answer_that_drips_comes_whole_and_in_many_pieces() -> None:
    got, pieces, _ = asyncio.run(serve_once("drip", 0.2))
    assert got == WHOLE
    assert pieces >= 20


def test_connection_that_is_cut_in_the_body_gives_the_head_and_half() -> None:
    assert asyncio.run(serve_once("mid-body"))[::2] == (REPLY.head() + BODY[: len(BODY) // 2], 0)


@pytest.mark.parametrize(("way", "seen"), [("half-close", b""), ("half-close-head", REPLY.head())])
def test_host_that_closes_its_half_goes_on_reading(way: Way, seen: bytes) -> None:
    got, _, arrived = asyncio.run(serve_once(way))
    assert (got, arrived) == (seen, len(b"still here"))


def test_lost_answer_is_a_cut_connection() -> None:
    assert asyncio.run(serve_once("lost"))[::2] == (b"", 0)


def test_answer_of_http_sys_ends_the_connection() -> None:
    got, _, arrived = asyncio.run(serve_once(None, reply=refusal(503)))
    assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Connection: close\r\n" in got
    assert arrived == 0


def test_cut_base64_is_base64_no_more_and_else_nothing_changes() -> None:
    for size in range(1, 12):
        text = base64.b64encode(b"y" * size)
        envelope = b'<a><rsp:Stream Name="stdout" CommandId="1">' + text + b"</rsp:Stream></a>"
        spoilt = spoil_envelope("cut-base64", envelope)
        inner = spoilt.split(b">")[2].split(b"<")[0]
        assert envelope.replace(text, inner) == spoilt
        with pytest.raises(ValueError, match=r"padding|base64"):
            base64.b64decode(inner, validate=True)


def test_answer_to_another_request_differs_in_nothing_else() -> None:
    envelope = b"<h><a:RelatesTo>uuid:1</a:RelatesTo></h>"
    assert spoil_envelope("other-answer", envelope).startswith(b"<h><a:RelatesTo>uuid:")
    assert b"uuid:1<" not in spoil_envelope("other-answer", envelope)
    assert spoil_envelope("late", envelope) == envelope


def test_damage_is_one_byte() -> None:
    spoilt = spoil_reply("damaged", REPLY).body
    assert len(spoilt) == len(BODY)
    assert sum(a != b for a, b in zip(spoilt, BODY, strict=True)) == 1


@pytest.mark.parametrize(
    "head", [b"HELO\r\n\r\n", b"POST /wsman FTP/1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_cuts_the_connection(head: bytes) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(head)
        await read_request(reader, 1)

    with pytest.raises(Cut):
        asyncio.run(read())
