"""A directory of a few lines for tests that script what it answers, message by message."""

from __future__ import annotations

from collections.abc import Callable

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Framer, Message
from msp_sdk.directory.connection import DirectoryOptions, Link
from msp_sdk.directory.doors import Door
from msp_sdk.directory.session import DirectorySession
from msp_sdk.models.domain import DomainController

BASE = "DC=corp,DC=example"
SEARCH_REQUEST = 0x63
Answer = Callable[[int, Message], bytes]


class Peer:
    """A controller of a few lines: what it is sent goes to ``answer``, what that returns is what we receive."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Message] = []
        self.pending = bytearray()
        self.closed = False
        self._framer = Framer()

    def sendall(self, data: bytes) -> None:
        if self.closed:
            raise BrokenPipeError
        for message in self._framer.feed(data):
            self.requests.append(message)
            if message.tag == SEARCH_REQUEST:
                self.pending += self.answer(len(self.searches), message)

    def recv(self, size: int) -> bytes:
        if not self.pending:
            raise TimeoutError
        found = bytes(self.pending[:size])
        del self.pending[:size]
        return found

    def settimeout(self, value: float | None) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    @property
    def searches(self) -> list[Message]:
        return [message for message in self.requests if message.tag == SEARCH_REQUEST]


def make_session(answer: Answer, *, peer: type[Peer] = Peer, **options: float) -> tuple[DirectorySession, Peer]:
    made = peer(answer)
    settings = DirectoryOptions(**options)  # type: ignore[arg-type]  # whichever option
    controller = DomainController("dc1.corp.example", 389, ("127.0.0.1",))
    return DirectorySession(Link(controller, Door("plain", "127.0.0.1", 389), made, settings), settings), made


def entry(message: Message, cn: str, **attributes: tuple[bytes, ...]) -> bytes:
    listed = [
        ber.encode(
            0x30, ber.encode_text(key.replace("_range_", ";range=")), ber.encode(0x31, *map(ber.encode_text, values))
        )
        for key, values in ({"name": (cn.encode(),)} | attributes).items()
    ]
    inside = ber.encode(ber.SEARCH_ENTRY, ber.encode_text(f"CN={cn},{BASE}"), ber.encode(0x30, *listed))
    return ber.encode_message(message.message_id, inside)


def referral(message: Message) -> bytes:
    """A pointer to another partition."""
    inside = ber.encode(ber.SEARCH_REFERENCE, ber.encode_text("ldap://other.corp.example/DC=other"))
    return ber.encode_message(message.message_id, inside)


def done(message: Message, cookie: bytes | None = None, code: int = 0) -> bytes:
    """The end of a search; with a cookie, also an empty one, the end of a page."""
    inside = ber.encode(ber.SEARCH_DONE, ber.encode_number(code, 0x0A), b"\x04\0", ber.encode_text("said so\0"))
    value = ber.encode(0x30, ber.encode_number(0), ber.encode_text(cookie or b""))
    controls = [] if cookie is None else [Control(ber.PAGED_RESULTS, value=value)]
    return ber.encode_message(message.message_id, inside, controls)
