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
        refuse_tls: A controller without a certificate: StartTLS is refused, LDAPS breaks off.
        bind_answer: Refuse every bind with this result code and text instead of looking at the password.
        search_answer: Refuse every search but of the rootDSE so.
        refuse_dirsync: Nobody may use DirSync here.
        nonsense: Answer everything with bytes that are no LDAP.
        garble: Every message that goes out passes through this, before it is sealed or encrypted.
        endless_pages: The cookie of a page is never empty: the last page comes again and again.
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
    refuse_tls: bool = False
    bind_answer: tuple[int, str] | None = None
    search_answer: tuple[int, str] | None = None
    refuse_dirsync: bool = False
    nonsense: bool = False
    garble: Callable[[bytes], bytes] | None = None
    endless_pages: bool = False
    repeat_cookie: bool = False
    wrong_message_id: bool = False
    entries_after_done: bool = False
    drip_s: float | None = None
    disconnect: str | None = None


def claim_huge(message: bytes) -> bytes:
    """The message, claiming to be two gigabytes long."""
    return message[:1] + b"\x84\x7f\xff\xff\xff" + message[6:]


def flip_byte(at: int) -> Callable[[bytes], bytes]:
    """A mutator that turns over the bits of one byte, counted round the message's end."""

    def flip(message: bytes) -> bytes:
        number = at % len(message)
        return message[:number] + bytes((message[number] ^ 0xFF,)) + message[number + 1 :]

    return flip
