"""The HTTP client against a small real server that can answer, be silent, break off or be away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from attrs import field, frozen, mutable

from msp_sdk.errors import (
    CentralError,
    ConfigError,
    NotEnrolledError,
    RateLimitedError,
    TransportError,
    TransportTimeoutError,
    WireError,
)
from msp_sdk.secret import Secret
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.wire.http import CentralHttp, HttpOptions, check_central_url
from msp_sdk.wire.problems import render_problem
from msp_sdk.wire.routes import CHECKIN, SITE_CREATE, SITE_GET, SITE_LIST, SITE_STATUS

QUICK = HttpOptions(connect_timeout_s=1.0, read_timeout_s=0.5, attempts=3, longest_wait_s=0.05)


@frozen
class Greeting:
    word: str


@frozen
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@mutable
class Peer:
    """Plays a list of answers, the last one for ever; an answer is bytes, or what to do in place of one."""

    answers: list[bytes | str]
    asked: list[Asked] = field(factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await _read_head(reader)) is not None:
                method, path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.asked.append(Asked(method, path, headers, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer == "break off":
                    break
                if answer == "be silent":
                    await asyncio.sleep(5)
                    break
                assert isinstance(answer, bytes)
                writer.write(answer)
                await writer.drain()
                if answer.endswith(b"cut"):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n") if not reader.at_eof() else []
    if not lines:
        return None
    method, path, _ = lines[0].split(" ")
    return method, path, {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines[1:] if line}


def reply(status: int, document: object, **headers: str) -> bytes:
    body = b"" if document is None else json.dumps(document).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = reply(200, {"word": "hello"})
BUSY = reply(503, render_problem("unavailable", "Not now."))
BROKEN = reply(500, render_problem("internal", "Oh."))


@asynccontextmanager
async def peer(*answers: bytes | str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    played = Peer(list(answers))
    server = await asyncio.start_server(played.serve, "127.0.0.1", 0, ssl=tls)
    played.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield played
    finally:
        server.close()
        await asyncio.sleep(0)


def talk(
    answers: list[bytes | str], what: Callable[[CentralHttp], Awaitable[object]], options: HttpOptions = QUICK
) -> tuple[object, list[Asked]]:
    """Let a client talk to a peer; returns what it got, an error included, and what the peer was asked."""

    async def run() -> tuple[object, list[Asked]]:
        async with (
            peer(*answers) as played,
            CentralHttp(played.url, key=lambda: Secret("pk_x_y"), options=options) as http,
        ):
            try:
                return await what(http), played.asked
            except (CentralError, TransportError, WireError) as error:
                return error, played.asked

    return asyncio.run(run())


def read(http: CentralHttp) -> Awaitable[object]:
    return http.call(SITE_GET, Greeting, names={"site_id": "s"})


def make(http: CentralHttp) -> Awaitable[object]:
    return http.call(SITE_CREATE, Greeting, body=Greeting("new"))


def test_a_call_sends_a_model_and_structures_the_reply():
    got, asked = talk([OK], make)
    assert got == Greeting("hello")
    assert (asked[0].method, asked[0].path, asked[0].body) == ("POST", "/api/sites", b'{"word":"new"}')
    assert asked[0].headers["content-type"] == "application/json"
    assert asked[0].headers["authorization"] == "Bearer pk_x_y"


def test_names_are_quoted_into_the_path():
    _, asked = talk([OK], lambda http: http.call(SITE_STATUS, Greeting, names={"site_id": "a/b?c%3A:é"}))
    assert asked[0].path == "/api/sites/a%2Fb%3Fc%253A%3A%C3%A9/deployment-status"


def test_the_key_is_read_at_each_call():
    # lesson 2: a rotated key is used at once, by everything that shares the provider.
    keys = iter(["ak_s_old", "ak_s_new"])

    async def run() -> list[str]:
        async with peer(OK) as played, CentralHttp(played.url, key=lambda: Secret(next(keys))) as http:
            await read(http)
            await read(http)
            return [asked.headers["authorization"] for asked in played.asked]

    assert asyncio.run(run()) == ["Bearer ak_s_old", "Bearer ak_s_new"]


def test_a_call_without_a_key_sends_none():
    async def run() -> dict[str, str]:
        async with peer(OK) as played, CentralHttp(played.url) as http:
            await read(http)
            return played.asked[0].headers

    assert "authorization" not in asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "http://central.example",
        "http://10.0.0.5:8443",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://[2001:db8::1]",
        "ftp://127.0.0.1",
        "central.example",
        "https://",
        "//central.example",
        "",
    ],
)
def test_an_address_that_is_not_safe_is_refused_before_anything_is_sent(url):
    with pytest.raises(ConfigError) as caught:
        CentralHttp(url)
    assert caught.value.code == "insecure-url"


@pytest.mark.parametrize(
    "url",
    ["https://central.example/", "http://127.0.0.1:80", "http://127.9.9.9", "http://localhost:8000", "http://[::1]:1"],
)
def test_https_anywhere_and_http_on_loopback_are_fine(url):
    assert check_central_url(url) == url.rstrip("/")


@pytest.mark.parametrize("first", [BUSY, "break off", reply(429, {})])
def test_an_idempotent_call_is_repeated(first):
    got, asked = talk([first, OK], read)
    assert got == Greeting("hello")
    assert len(asked) == 2


def test_a_report_is_repeated_word_for_word():
    # A lost reply is the reason why reports carry an id.
    got, asked = talk(["break off", OK], lambda http: http.call(CHECKIN, Greeting, body=Greeting("same")))
    assert got == Greeting("hello")
    assert [entry.body for entry in asked] == [b'{"word":"same"}'] * 2


def test_a_call_that_is_not_idempotent_is_not_repeated_after_it_may_have_happened():
    got, asked = talk(["break off", OK], make)
    assert isinstance(got, TransportError)
    assert len(asked) == 1


def test_a_silent_server_is_a_timeout_and_making_is_not_repeated():
    got, asked = talk(["be silent"], make, HttpOptions(read_timeout_s=0.2, attempts=3, longest_wait_s=0.01))
    assert isinstance(got, TransportTimeoutError)
    assert len(asked) == 1


def test_a_call_that_central_did_not_begin_is_repeated_whatever_it_is():
    # 429 and 503 say that nothing was done.
    got, asked = talk([reply(429, {}, Retry_After="0"), OK], make)
    assert got == Greeting("hello")
    assert len(asked) == 2


def test_a_call_is_made_when_central_comes_up_at_last():
    async def run() -> object:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        played = Peer([OK])
        options = HttpOptions(connect_timeout_s=1.0, attempts=50, longest_wait_s=0.05)

        async def come_up() -> asyncio.Server:
            await asyncio.sleep(0.2)
            return await asyncio.start_server(played.serve, "127.0.0.1", port)

        async with CentralHttp(f"http://127.0.0.1:{port}", options=options) as http:
            coming = asyncio.create_task(come_up())
            got = await make(http)
            (await coming).close()
        return got

    assert asyncio.run(run()) == Greeting("hello")


def test_a_central_that_is_away_is_said_to_be_away():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        async def run() -> None:
            async with CentralHttp(url, key=lambda: Secret("ak_s_SECRET"), options=QUICK) as http:
                await read(http)

        with pytest.raises(TransportError) as caught:
            asyncio.run(run())
    assert caught.value.code == "central-unreachable"
    assert caught.value.remedy
    assert caught.value.__cause__ is not None
    assert "SECRET" not in str(caught.value)


def test_a_refusal_is_not_repeated():
    got, asked = talk([reply(401, render_problem("unauthenticated", "No."))], read)
    assert isinstance(got, NotEnrolledError)
    assert got.remedy
    assert len(asked) == 1


def test_a_defect_of_central_is_not_hammered():
    got, asked = talk([BROKEN], read)
    assert isinstance(got, CentralError)
    assert got.status == 500
    assert len(asked) == 1


def test_attempts_end():
    got, asked = talk([BUSY], read)
    assert isinstance(got, RateLimitedError)
    assert len(asked) == QUICK.attempts


def test_retry_after_is_kept_to():
    # lesson 18: appliances come back when they are told to.
    begun = time.monotonic()
    got, asked = talk([reply(503, {}, Retry_After="1"), OK], read, HttpOptions(attempts=2, longest_wait_s=5))
    assert got == Greeting("hello")
    assert time.monotonic() - begun >= 1.0
    assert len(asked) == 2


def test_retry_after_is_told_to_the_caller_when_patience_ends():
    got, _ = talk([reply(429, {}, Retry_After="120")], read)
    assert isinstance(got, RateLimitedError)
    assert got.retry_after_s == 120.0


def test_a_retry_after_that_is_a_date_does_not_break_the_client():
    got, _ = talk([reply(503, {}, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), OK], read)
    assert got == Greeting("hello")


@pytest.mark.parametrize(
    "answer",
    [reply(200, {"word": 5}), reply(200, []), reply(200, None), b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nnope"],
)
def test_a_reply_that_does_not_fit_is_a_wire_error(answer):
    got, asked = talk([answer], read)
    assert isinstance(got, WireError)
    assert len(asked) == 1


def test_a_page_of_a_proxy_is_an_error_and_not_a_reply():
    got, _ = talk([b"HTTP/1.1 502 X\r\nContent-Length: 6\r\n\r\n<html>"], read)
    assert isinstance(got, CentralError)
    assert (got.status, got.code) == (502, "central-refused")


def test_a_redirect_is_not_followed():
    # It could carry the key to somebody else.
    got, asked = talk([reply(302, None, Location="http://127.0.0.1:1/")], read)
    assert isinstance(got, WireError)
    assert len(asked) == 1


def test_a_reply_that_breaks_off_half_way_is_no_answer():
    got, asked = talk([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{cut", OK], read)
    assert got == Greeting("hello")
    assert len(asked) == 2


def test_what_is_not_http_is_no_answer():
    got, _ = talk([b"SSH-2.0-OpenSSH\r\n\r\ncut"], read)
    assert isinstance(got, TransportError)


def test_a_stream_that_breaks_off_is_translated_while_it_is_read():
    async def consume(http: CentralHttp) -> object:
        async with http.stream(SITE_LIST) as response:
            return [chunk async for chunk in response.aiter_bytes()]

    got, _ = talk([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{cut"], consume)
    assert isinstance(got, TransportError)


def test_a_refused_stream_is_the_error_it_is():
    async def consume(http: CentralHttp) -> object:
        async with http.stream(SITE_LIST):
            return None

    got, _ = talk([reply(401, render_problem("unauthenticated", "No."))], consume)
    assert isinstance(got, NotEnrolledError)


def test_a_ready_body_is_sent_as_it_is_and_an_empty_reply_is_none():
    got, asked = talk(
        [reply(204, None)], lambda http: http.send_bytes(CHECKIN, b"a\nb\n", content_type="application/x-ndjson")
    )
    assert got is None
    assert (asked[0].body, asked[0].headers["content-type"]) == (b"a\nb\n", "application/x-ndjson")


def test_a_ca_file_that_cannot_be_read_is_a_clear_error():
    async def run() -> None:
        async with CentralHttp("https://127.0.0.1", options=HttpOptions(ca_file="/nonexistent/ca.pem")):
            pass

    with pytest.raises(ConfigError):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("trusted", "address", "taken"),
    [
        ("Central's CA", "127.0.0.1", True),
        ("Central's CA", "127.0.0.2", False),
        ("another CA", "127.0.0.1", False),
        (None, "127.0.0.1", False),
    ],
)
def test_only_a_central_with_a_certificate_that_holds_is_told_anything(tmp_path, trusted, address, taken):
    ours = EstateCA.make("Central's CA")
    certificate = ours.issue([], [address])
    (tmp_path / "ca.pem").write_bytes((ours if trusted == "Central's CA" else EstateCA.make("another CA")).pem)
    options = HttpOptions(
        connect_timeout_s=5.0, attempts=1, ca_file=None if trusted is None else str(tmp_path / "ca.pem")
    )

    async def run() -> tuple[object, list[Asked]]:
        async with (
            peer(OK, tls=certificate.server_context()) as played,
            CentralHttp(played.url, key=lambda: Secret("ak_s_SECRET"), options=options) as http,
        ):
            try:
                return await read(http), played.asked
            except TransportError as error:
                return error.code, played.asked

    got, asked = asyncio.run(run())
    assert (got, len(asked)) == ((Greeting("hello"), 1) if taken else ("central-unreachable", 0))


def test_a_closed_client_opens_again_at_the_next_call():
    async def again(http: CentralHttp) -> object:
        await read(http)
        await http.aclose()
        await http.aclose()
        return await read(http)

    got, asked = talk([OK], again)
    assert got == Greeting("hello")
    assert len(asked) == 2


@pytest.mark.parametrize("url", ["https://[::1", "https://central.example:99999", "https://central.example:http", ""])
def test_text_that_is_no_address_is_an_error_of_the_settings(url: str) -> None:
    with pytest.raises(ConfigError):
        check_central_url(url)
