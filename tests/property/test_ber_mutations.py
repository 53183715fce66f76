"""Whatever a stranger sends: the walker ends, stays within its message, and raises nothing but ``WireError``."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Framer, Message
from msp_sdk.directory.connection import DirectoryOptions, Link, encode_search
from msp_sdk.directory.doors import Door
from msp_sdk.directory.entry_reader import EntryReader
from msp_sdk.directory.search import Searcher, paging
from msp_sdk.errors import DirectoryError, WireError
from msp_sdk.models.domain import DomainController

MUTATIONS_COUNT = 100_000
LOOP_MUTATIONS_COUNT = 10_000
BASE = "DC=corp,DC=example"


def windows(tag: int, *parts: bytes) -> bytes:
    inside = b"".join(parts)
    return bytes((tag, 0x84)) + len(inside).to_bytes(4, "big") + inside if tag & 0x20 else ber.encode(tag, inside)


def make_answer(put, *, cookie: bytes = b"") -> bytes:
    """A page: two entries, a referral, the end with its cookie."""
    entries = [
        put(
            ber.SEARCH_ENTRY,
            put(4, f"CN=SRV{number},{BASE}".encode()),
            put(
                0x30,
                put(0x30, put(4, b"objectClass"), put(0x31, put(4, b"top"), put(4, b"computer"))),
                put(0x30, put(4, b"objectGUID"), put(0x31, put(4, bytes(range(16))))),
                put(0x30, put(4, b"name"), put(0x31, put(4, b"SRV%d" % number))),
                put(0x30, put(4, b"description"), put(0x31, put(4, b"x" * (100 * number)))),
                # Only where no range came is an entry's layout remembered.
                *([put(0x30, put(4, b"member;range=0-*"), put(0x31, put(4, b"a")))] if number == 1 else ()),
            ),
        )
        for number in (1, 2)
    ]
    referral = put(ber.SEARCH_REFERENCE, put(4, b"ldap://elsewhere/"))
    done = put(ber.SEARCH_DONE, put(10, b"\0"), put(4, b""), put(4, b"fine"))
    value = put(0x30, put(2, b"\0"), put(4, cookie))
    control = put(0xA0, put(0x30, put(4, ber.PAGED_RESULTS.encode()), put(4, value)))
    messages = [put(0x30, put(2, b"\x01"), inside) for inside in (*entries, referral)]
    return b"".join((*messages, put(0x30, put(2, b"\x01"), done, control)))


def make_dirsync_end() -> bytes:
    value = ber.dirsync_control(1, 0, b"cookie").value
    done = ber.encode(ber.SEARCH_DONE, b"\x0a\x01\0\x04\0\x04\0")
    return ber.encode_message(1, done, [Control(ber.DIRSYNC, critical=True, value=value)])


def make_bind_end() -> bytes:
    return ber.encode_message(1, ber.encode(ber.BIND_RESPONSE, b"\x0a\x01\x0e\x04\0\x04\0", ber.encode(0x87, b"token")))


def make_entry_with_controls(put, *, missing_bytes: int = 0) -> bytes:
    """An entry with controls behind it, whose end may come too early: the rest of its last value is then theirs."""
    name = put(0x30, put(4, b"name"), put(0x31, put(4, b"SRV1")))
    system = put(0x30, put(4, b"operatingSystem"), put(0x31, put(4, b"Windows 11")))
    inside = (name + system)[: -missing_bytes or None]
    entry = put(ber.SEARCH_ENTRY, put(4, f"CN=SRV1,{BASE}".encode()), put(0x30, inside))
    control = put(0xA0, put(0x30, put(4, b"1.2.3.4"), put(4, b"a value that is nobody's business")))
    return put(0x30, put(2, b"\x01"), entry, control)


RECORDED = [
    make_answer(ber.encode),
    make_answer(windows),
    make_dirsync_end(),
    make_bind_end(),
    make_entry_with_controls(ber.encode),
    make_entry_with_controls(windows),
]


def mutate(draw: random.Random, data: bytes) -> bytes:
    """One to three changes: a byte, a cut, a doubling, something put in, a length that is wrong."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(changed)) if changed else 0
        match draw.randrange(7):
            case 0 | 1 if changed:
                changed[at] = draw.randrange(256)
            case 2 if changed:
                changed[at] = (changed[at] + draw.choice((-1, 1))) % 256
            case 3:
                del changed[at:]
            case 4:
                del changed[at : at + draw.randrange(1, 9)]
            case 5:
                changed[at:at] = draw.choice((b"\x80", b"\x84\xff\xff\xff\xff", b"\x84\0\0\0\x01", b"\x30\0", b"\0\0"))
            case _:
                changed[at:at] = changed[at : at + draw.randrange(40)]
    return bytes(changed)


def read_everything(message: Message, reader: EntryReader):
    """What a client would make of a message; a dictionary or a result."""
    if message.tag == ber.SEARCH_ENTRY:
        entry = reader.read(message)
        ber.read_controls(message)
        return entry.dn, entry.attributes
    if message.tag in (ber.SEARCH_DONE, ber.BIND_RESPONSE, ber.EXTENDED_RESPONSE):
        result = ber.read_result(message)
        for control in result.controls:
            if control.oid == ber.PAGED_RESULTS:
                ber.read_paged(control.value)
            if control.oid == ber.DIRSYNC:
                ber.read_dirsync_value(control.value)
        return result
    return None


def outcome(message: Message, reader: EntryReader):
    try:
        return read_everything(message, reader)
    except WireError as error:
        return error.code


def test_a_hundred_thousand_mutations_end_as_an_answer_or_as_wire_error():
    draw = random.Random(389)  # noqa: S311 (the same mutations every time)
    # One reader for all: what it learnt from good and bad entries must not change what it makes of the next.
    seasoned = EntryReader()
    read_count = refused_count = 0
    for number in range(MUTATIONS_COUNT):
        data = mutate(draw, RECORDED[number % len(RECORDED)])
        framer = Framer()
        try:
            messages = framer.feed(data)
        except WireError:
            refused_count += 1
            continue
        # Each message was cut out of the stream: nothing of the next one can be seen in it.
        assert sum(len(message.data) for message in messages) <= len(data)
        for message in messages:
            found = outcome(message, seasoned)
            refused_count += found == "bad-ldap"
            read_count += found != "bad-ldap"
            if number % 10 == 0:
                assert found == outcome(message, EntryReader())
    assert min(read_count, refused_count) > MUTATIONS_COUNT // 10


@pytest.mark.parametrize("put", [ber.encode, windows])
@pytest.mark.parametrize("missing_bytes", range(1, 11))
def test_an_attribute_that_is_known_by_its_head_does_not_run_into_the_controls_behind_its_entry(put, missing_bytes):
    reader = EntryReader()
    [whole] = Framer().feed(make_entry_with_controls(put))
    assert reader.read(whole).attributes == {"name": (b"SRV1",), "operatingsystem": (b"Windows 11",)}
    [short] = Framer().feed(make_entry_with_controls(put, missing_bytes=missing_bytes))
    with pytest.raises(WireError):
        reader.read(short)


class Recording:
    """A peer that sends what was recorded, in pieces, whatever it is asked, and hangs up."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data = data
        self.piece = piece
        self.at = 0
        self.closed = False

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        assert not self.closed
        piece = self.data[self.at : self.at + min(size, self.piece)]
        self.at += len(piece)
        return piece

    def settimeout(self, value: float | None) -> None:
        pass

    def close(self) -> None:
        self.closed = True


REQUEST = encode_search(BASE, "(objectClass=computer)", ("name",))
CONTROLLER = DomainController("dc1.corp.example", 389, ("127.0.0.1",))


def test_the_reading_loop_ends_with_whole_pages_or_an_error_of_ours_on_mutated_answers():
    draw = random.Random(636)  # noqa: S311 (the same mutations every time)
    endings = {"whole": 0, "error": 0}
    answers = [make_answer(ber.encode), make_answer(windows), make_answer(windows, cookie=b"more")]
    for number in range(LOOP_MUTATIONS_COUNT):
        stream = Recording(mutate(draw, answers[number % 3]), draw.choice((1, 64, 10_000)))
        link = Link(CONTROLLER, Door("plain", "127.0.0.1", 389), stream, DirectoryOptions())
        try:
            list(Searcher(link).rounds(REQUEST, paging(1000)))
        except DirectoryError:
            endings["error"] += 1
            # An error that broke the stream leaves nothing open behind it.
            assert link.closed or not stream.closed
        else:
            endings["whole"] += 1
    assert min(endings.values()) > LOOP_MUTATIONS_COUNT // 50


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_in_any_pieces_are_messages_or_wire_error(pieces):
    framer = Framer(limit_bytes=1000)
    try:
        for piece in pieces:
            for message in framer.feed(piece):
                outcome(message, EntryReader())
    except WireError:
        return
    assert framer._have_bytes <= 1000


NAMES = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=150)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=300),
    st.lists(st.dictionaries(NAMES, st.lists(st.binary(max_size=300), max_size=5).map(tuple), max_size=6), max_size=4),
    st.sampled_from([ber.encode, windows]),
)
def test_every_entry_comes_back_as_it_was_written(dn, entries, put):
    reader = EntryReader()
    for attributes in entries:
        listed = [
            put(0x30, put(4, name.encode()), put(0x31, *(put(4, value) for value in values)))
            for name, values in attributes.items()
        ]
        inside = put(ber.SEARCH_ENTRY, put(4, dn.encode("utf-8", "replace")), put(0x30, *listed))
        [message] = Framer().feed(put(0x30, put(2, b"\x01"), inside))
        assert reader.read(message).attributes == attributes


@pytest.mark.parametrize("data", RECORDED)
def test_what_was_recorded_is_read_whole(data):
    messages = Framer().feed(data)
    assert messages
    assert "bad-ldap" not in [outcome(message, EntryReader()) for message in messages]
