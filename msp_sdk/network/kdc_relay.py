"""Stands between MIT's library and a KDC: each request goes out once, over TCP, whatever the library makes of silence.

The library is told of a KDC at an address of loopback. There it finds this relay on TCP and nobody on UDP: when a KDC
is slow, it would send the same request again by UDP, several times, and each with a wrong password is a strike.
Requests and answers are passed on whole (RFC 4120, 7.2.2: four bytes of length, then the message); one that was passed
on before is not passed on again.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

_LOOPBACK = "127.0.0.1"
_LENGTH_BYTES = 4
_MESSAGE_BYTES_MAX = 1 << 20
_REQUESTS_COUNT = 64
_POLL_S = 0.2


class KdcRelay:
    """Use it in a ``with`` block, and :meth:`begin` for each exchange: between them nothing is passed on.

    Args:
        kdc: The KDC's address.
        port: Its port.
    """

    def __init__(self, kdc: str, port: int) -> None:
        self._kdc = (kdc, port)
        self._until = 0.0
        self._listener = socket.create_server((_LOOPBACK, 0))
        self._ended = threading.Event()
        self._passed: set[bytes] = set()
        self.has_answered = False
        """The KDC answered something in this exchange."""
        self._thread = threading.Thread(target=self._serve, name="msp-kdc-relay", daemon=True)

    def begin(self, deadline_s: float) -> None:
        """Pass requests on for so many seconds from now; what was passed on in earlier exchanges is forgotten."""
        self._passed = set()
        self.has_answered = False
        self._until = time.monotonic() + deadline_s

    @property
    def address(self) -> tuple[str, int]:
        """Where the library finds it."""
        return _LOOPBACK, int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Whoever waits for a caller is woken by this; `close` alone would leave it waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        # It closes what it holds, and looks at the event several times a second, or, while it connects to a KDC that is
        # not there, at the deadline: whoever was interrupted does not wait for that.
        self._thread.join(5 * _POLL_S)

    def _serve(self) -> None:
        with self._listener:
            while not self._ended.is_set():
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    # The end; or no descriptor is left, which may pass.
                    self._ended.wait(_POLL_S)
                    continue
                with contextlib.suppress(OSError), client:
                    self._pass_on(client)

    def _pass_on(self, client: socket.socket) -> None:
        """One request, whole, and its answer. Raises OSError when either side ends or is silent for too long."""
        request = self._receive(client)
        mark = hashlib.sha256(request).digest()
        if mark in self._passed or len(self._passed) >= _REQUESTS_COUNT:
            return
        self._passed.add(mark)
        with socket.create_connection(self._kdc, max(_POLL_S, self._until - time.monotonic())) as server:
            server.sendall(request)
            answer = self._receive(server)
            self.has_answered = True
            client.sendall(answer)

    def _receive(self, source: socket.socket) -> bytes:
        """A message with its length. Raises OSError when none comes."""
        source.settimeout(_POLL_S)
        data = b""
        wanted = _LENGTH_BYTES
        while len(data) < wanted:
            if not self._goes_on():
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                came = source.recv(wanted - len(data))
                if not came:
                    raise ConnectionResetError
                data += came
            if len(data) == _LENGTH_BYTES:
                wanted = _LENGTH_BYTES + int.from_bytes(data, "big")
                if wanted > _MESSAGE_BYTES_MAX:
                    raise ConnectionResetError
        return data

    def _goes_on(self) -> bool:
        return not self._ended.is_set() and time.monotonic() < self._until
