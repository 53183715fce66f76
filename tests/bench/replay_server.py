"""Replays a captured directory at the speed of a socket: what remains is the cost of the client.

A page is one join of bytes that were encoded before. The server believes every bind, says of itself that it knows
paging, and answers a search for several attributes with the captured entries, page by page, and any other with nothing;
nothing of LDAP beyond that is here.

Run as a process: ``python replay_server.py CAPTURE ENTRIES LENGTHS [TLS]`` prints its port and serves until stdin ends.
``CAPTURE`` holds a JSON entry a line, as ``tests/lab/inside_big.py`` writes it; it is repeated up to ``ENTRIES``.
``LENGTHS`` is ``short``, or ``long`` for four-byte lengths everywhere, as Windows sends them. ``TLS`` is a folder with
the certificate and key that it shows, for clients that send no password in clear; without one it speaks in clear.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE = 1000
BIND, UNBIND, SEARCH = 0x60, 0x42, 0x63
PAGED = b"1.2.840.113556.1.4.319"
SUCCESS = b"\x0a\x01\x00\x04\x00\x04\x00"

Encode = Callable[[int, bytes], bytes]


def short(tag: int, body: bytes) -> bytes:
    """One element with the shortest length."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def long(tag: int, body: bytes) -> bytes:
    """One element with a length of four bytes where it has parts, as Windows does."""
    if tag & 0x20 == 0:
        return short(tag, body)
    return bytes((tag, 0x84)) + len(body).to_bytes(4, "big") + body


def encode_entry(entry: dict[str, object], encode: Encode) -> bytes:
    """The ``SearchResultEntry`` of a captured line."""
    attributes = b"".join(
        encode(0x30, encode(4, name.encode()) + encode(0x31, b"".join(encode(4, bytes.fromhex(v)) for v in values)))
        for name, values in entry["attributes"].items()  # type: ignore[attr-defined]
    )
    return encode(0x64, encode(4, str(entry["dn"]).encode()) + encode(0x30, attributes))


class Pages:
    """All pages, ready to be joined by a message's number."""

    def __init__(self, entries: list[bytes], total: int, encode: Encode) -> None:
        self._encode = encode
        self._entries = entries
        self.total = total
        self.count = -(-total // PAGE)
        self._cut: dict[tuple[int, int], list[bytes]] = {}

    def page(self, number: int, message: bytes) -> bytes:
        """The bytes of a page; ``message`` is the element of the request's number."""
        # Pages repeat with the captured entries.
        first = number * PAGE % len(self._entries)
        size = min(PAGE, self.total - number * PAGE)
        key = (first * (PAGE + 1) + size, len(message))
        if key not in self._cut:
            self._cut[key] = self._cut_page(first, size, len(message))
        cookie = b"" if number + 1 == self.count else str(number + 1).encode()
        return message.join(self._cut[key]) + self._done(message, cookie)

    def _cut_page(self, first: int, size: int, message_bytes: int) -> list[bytes]:
        parts, rest = [], b""
        for entry in itertools.islice(itertools.cycle(self._entries), first, first + size):
            whole = self._encode(0x30, bytes(message_bytes) + entry)
            head = len(whole) - len(entry) - message_bytes
            parts.append(rest + whole[:head])
            rest = entry
        return [*parts, rest]

    def _done(self, message: bytes, cookie: bytes) -> bytes:
        encode = self._encode
        value = encode(0x30, short(2, b"\x00") + short(4, cookie))
        control = encode(0x30, short(4, PAGED) + short(4, value))
        return encode(0x30, message + encode(0x65, SUCCESS) + encode(0xA0, control))

    def bound(self, message: bytes) -> bytes:
        """The answer to a bind."""
        return self._encode(0x30, message + self._encode(0x61, SUCCESS))

    def root(self, message: bytes) -> bytes:
        """The answer to a question for the rootDSE."""
        entry = {"dn": "", "attributes": {"supportedControl": [PAGED.hex()]}}
        return self._encode(0x30, message + encode_entry(entry, self._encode)) + self.nothing(message)

    def nothing(self, message: bytes) -> bytes:
        """The answer to a search that is not for this directory's entries."""
        return self._encode(0x30, message + self._encode(0x65, SUCCESS))


def elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The elements side by side in these bytes: tag, body, and the whole element."""
    position = 0
    while position < len(data):
        start, tag, size = position, data[position], data[position + 1]
        position += 2
        if size & 0x80:
            width = size & 0x7F
            size = int.from_bytes(data[position : position + width], "big")
            position += width
        yield tag, data[position : position + size], data[start : position + size]
        position += size


def requested_page(controls: bytes) -> int:
    """The page that a request's cookie names; 0 without one."""
    for _, control, _ in elements(controls):
        parts = [body for _, body, _ in elements(control)]
        if parts[0] == PAGED:
            ((_, value, _),) = elements(parts[-1])
            return int([body for _, body, _ in elements(value)][1] or b"0")
    return 0


def read_message(connection: socket.socket, kept: bytearray) -> bytes | None:
    """The next whole message, or None at the end."""
    while True:
        if len(kept) >= 6:
            width = kept[1] & 0x7F if kept[1] & 0x80 else 0
            size = int.from_bytes(kept[2 : 2 + width], "big") if width else kept[1]
            end = 2 + width + size
            if len(kept) >= end:
                message = bytes(kept[2 + width : end])
                del kept[:end]
                return message
        received = connection.recv(65536)
        if not received:
            return None
        kept += received


def serve(connection: socket.socket, pages: Pages) -> None:
    """One client, to its end."""
    kept = bytearray()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (message := read_message(connection, kept)) is not None:
            (_, _, number), (kind, body, _), *rest = elements(message)
            if kind == UNBIND:
                return
            try:
                connection.sendall(answer(kind, body, number, rest[0][1] if rest else b"", pages))
            except OSError:
                return


def answer(kind: int, body: bytes, number: bytes, controls: bytes, pages: Pages) -> bytes:
    """The bytes for one request."""
    if kind == BIND:
        return pages.bound(number)
    if kind != SEARCH:
        return pages.nothing(number)
    base, *_, attributes = (part for _, part, _ in elements(body))
    if not base:
        return pages.root(number)
    # One attribute alone is asked for by who wants to know where something is: nowhere, here.
    if len(list(elements(attributes))) == 1:
        return pages.nothing(number)
    return pages.page(requested_page(controls), number)


def main() -> None:
    """Serve until stdin ends."""
    capture, total, lengths, *tls = sys.argv[1:]
    encode = long if lengths == "long" else short
    entries = [encode_entry(json.loads(line), encode) for line in Path(capture).read_text("ascii").splitlines()]
    pages = Pages(entries, int(total), encode)
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    print(listener.getsockname()[1], flush=True)  # noqa: T201 (whoever started it waits for the port)

    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(Path(tls[0], "server.pem"), Path(tls[0], "server.key"))

    def take(connection: socket.socket) -> None:
        serve(connection if context is None else context.wrap_socket(connection, server_side=True), pages)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=take, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
