"""What goes wrong at a stand-in directory, and what a hostile one sends. Change it while the server runs."""

from __future__ import annotations

from collections.abc import Callable

from attrs import mutable


@mutable
class LdapFaults:
    """What goes wrong; change it while the server runs.

    Attributes:
        drop_after_entries: Break the connection after so many entries of all searches together.
        drop_after_bytes: Break it after so many bytes that one connection was sent.
        drop_at_bind: Break it when a bind arrives, before its outcome is said.
        delay_s: Wait before each answer.
        silent: Read requests and never answer.
        refuse_tls: A controller without a certificate: StartTLS is refused, LDAPS breaks off.
        bind_answer: Refuse every bind with this result code and text instead of looking at the password.
        search_answer: Refuse every search but of the rootDSE so.
        refuse_dirsync: Nobody may use DirSync here.
        nonsense: Answer everything with bytes that are no LDAP.
        garble: Every message that goes out passes through this, before it is sealed or encrypted.
        endless_pages: The cookie of a page is never empty: the last page comes again and again.
        empty_pages: Every page is empty and has the same cookie.
        repeat_cookie: Every page has the cookie of the one before.
        wrong_message_id: Answer under the number of no request.
        entries_after_done: Send an entry after a search's end.
        drip_s: Send byte by byte, with such a pause between two.
        disconnect: Say that the controller ends the connection, with this text, in the place of a search's end.
    """

    drop_after_entries: int | None = None
    drop_after_bytes: int | None = None
    drop_at_bind: bool = False
    delay_s: float = 0.0
    silent: bool = False
    refuse_tls: bool = False
    bind_answer: tuple[int, str] | None = None
    search_answer: tuple[int, str] | None = None
    refuse_dirsync: bool = False
    nonsense: bool = False
    garble: Callable[[bytes], bytes] | None = None
    endless_pages: bool = False
    empty_pages: bool = False
    repeat_cookie: bool = False
    wrong_message_id: bool = False
    entries_after_done: bool = False
    drip_s: float | None = None
    disconnect: str | None = None


def claim_huge(message: bytes) -> bytes:
    """The message, claiming to be two gigabytes long."""
    return message[:1] + b"\x84\x7f\xff\xff\xff" + message[6:]


def claim_more(message: bytes) -> bytes:
    """The message, claiming to be one byte longer than it is."""
    return message[:2] + (int.from_bytes(message[2:6], "big") + 1).to_bytes(4, "big") + message[6:]


def claim_more_inside(message: bytes) -> bytes:
    """The message, its operation reaching beyond its end."""
    # Tag and length of the message are six bytes, those of its number two.
    at = 8 + message[7] + 2
    return message[:at] + (len(message) + 1).to_bytes(4, "big") + message[at + 4 :]


def leave_length_open(message: bytes) -> bytes:
    """The message in an indefinite length, closed by two zero bytes; LDAP allows no such lengths."""
    return message[:1] + b"\x80" + message[6:] + b"\0\0"


def cut_half(message: bytes) -> bytes:
    """The first half of the message."""
    return message[: len(message) // 2]


def flip_byte(at: int) -> Callable[[bytes], bytes]:
    """A mutator that turns over the bits of one byte, counted round the message's end."""

    def flip(message: bytes) -> bytes:
        number = at % len(message)
        return message[:number] + bytes((message[number] ^ 0xFF,)) + message[number + 1 :]

    return flip


# What no reader may take for a message.
BROKEN = (claim_huge, claim_more, claim_more_inside, leave_length_open, cut_half)
