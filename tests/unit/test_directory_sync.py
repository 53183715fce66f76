"""Changes since: DirSync, uSNChanged, what was deleted, and the cursor between two readings."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ldap3.protocol.microsoft import dir_sync_control
from ldap3.utils.asn1 import encode as encode_pyasn1

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Message
from msp_sdk.directory.sync import (
    OBJECT_SECURITY,
    SyncCursor,
    can_read_deleted,
    parse_cursor,
    read_deleted_since,
    read_dirsync,
    read_usn,
    render_cursor,
)
from msp_sdk.errors import DirectoryError, PartialResultError, WireError
from tests.unit.ldap_peer import BASE, done, entry, make_session

COMPUTERS = "(objectClass=computer)"
DELETED = f"CN=Deleted Objects,{BASE}"


def round_end(message: Message, cookie: bytes, *, more: bool = False) -> bytes:
    value = ber.dirsync_control(int(more), 0, cookie).value
    inside = ber.encode(ber.SEARCH_DONE, b"\x0a\x01\0\x04\0\x04\0")
    return ber.encode_message(message.message_id, inside, [Control(ber.DIRSYNC, critical=True, value=value)])


def control_of(message: Message, oid: str) -> Control:
    control = ber.find_control(ber.read_controls(message), oid)
    assert control is not None
    return control


def test_the_control_asks_for_what_the_account_may_see_as_another_library_writes_it():
    session, peer = make_session(lambda _, message: round_end(message, b"c1"))
    list(read_dirsync(session, BASE, COMPUTERS, ("name",), b"c0"))
    sent = control_of(peer.searches[0], ber.DIRSYNC)
    flags, max_bytes = OBJECT_SECURITY, 2 * 1024 * 1024
    assert sent == ber.dirsync_control(flags, max_bytes, b"c0")
    theirs = dir_sync_control(True, True, False, False, False, max_bytes, b"c0")
    assert bytes(theirs["controlValue"]) == sent.value
    assert bytes(encode_pyasn1(theirs)) in peer.searches[0].data


def test_rounds_go_on_until_there_is_no_more_and_the_last_cookie_is_the_next_beginning():
    def answer(number: int, message: Message) -> bytes:
        _, cookie = ber.read_dirsync_value(control_of(message, ber.DIRSYNC).value)
        assert cookie == b"c%d" % (number - 1)
        return entry(message, f"SRV{number}") + round_end(message, b"c%d" % number, more=number < 3)

    session, peer = make_session(answer)
    reading = read_dirsync(session, BASE, COMPUTERS, ("name",), b"c0")
    assert next(reading).cookie == b"c1"
    assert len(peer.searches) == 2
    rest = list(reading)
    assert [(one.cookie, one.more) for one in rest] == [(b"c2", True), (b"c3", False)]
    assert len(peer.searches) == 3


def test_a_delta_carries_what_changed_and_a_removed_attribute_is_empty():
    # Lesson 53: Windows sends no more than the attributes that changed.
    def answer(_: int, message: Message) -> bytes:
        return entry(message, "SRV1", operatingSystem=(), objectGUID=(b"g" * 16,)) + round_end(message, b"c1")

    session, _ = make_session(answer)
    [found] = read_dirsync(session, BASE, COMPUTERS, ("name",))
    [changed] = found.entries
    assert changed.attributes == {"name": (b"SRV1",), "operatingsystem": (), "objectguid": (b"g" * 16,)}


@pytest.mark.parametrize("code", [1, 2, 12, 50, 53])
@pytest.mark.parametrize(("cookie", "expected"), [(b"", "dirsync-refused"), (b"old", "cursor-lost")])
def test_a_refusal_says_whether_the_way_or_the_cookie_is_at_fault(code, cookie, expected):
    session, _ = make_session(lambda _, message: done(message, None, code))
    with pytest.raises(DirectoryError) as caught:
        list(read_dirsync(session, BASE, COMPUTERS, ("name",), cookie))
    assert (caught.value.code, caught.value.retryable) == (expected, False)
    assert not session.closed


@pytest.mark.parametrize("cookie", [b"", b"old"])
def test_a_busy_or_broken_controller_is_no_refusal(cookie):
    session, _ = make_session(lambda _, message: done(message, None, 51))
    with pytest.raises(DirectoryError) as caught:
        list(read_dirsync(session, BASE, COMPUTERS, ("name",), cookie))
    assert (caught.value.code, caught.value.retryable) == ("directory-failed", True)
    session, _ = make_session(lambda _, __: b"")
    with pytest.raises(DirectoryError) as caught:
        list(read_dirsync(session, BASE, COMPUTERS, ("name",), cookie))
    assert (caught.value.code, caught.value.retryable) == ("unreachable-controller", True)


def test_a_break_after_a_round_is_partial_and_that_rounds_cookie_holds():
    def answer(number: int, message: Message) -> bytes:
        return entry(message, "SRV1") + round_end(message, b"c1", more=True) if number == 1 else b""

    session, _ = make_session(answer)
    reading = read_dirsync(session, BASE, COMPUTERS, ("name",))
    assert next(reading).cookie == b"c1"
    with pytest.raises(PartialResultError):
        next(reading)


def test_a_round_without_a_cookie_is_an_error_and_never_no_change():
    session, _ = make_session(lambda _, message: done(message))
    with pytest.raises(DirectoryError, match="without a cookie"):
        list(read_dirsync(session, BASE, COMPUTERS, ("name",), b"c0"))


def test_rounds_without_an_end_are_noticed():
    session, _ = make_session(lambda _, message: round_end(message, b"again", more=True))
    with pytest.raises(PartialResultError, match="circles"):
        list(read_dirsync(session, BASE, COMPUTERS, ("name",)))


def test_changes_by_usn_begin_after_the_one_that_was_seen():
    session, peer = make_session(lambda _, message: entry(message, "SRV1") + done(message, b""))
    [[found]] = read_usn(session, BASE, COMPUTERS, ("name",), 41)
    assert found.text("name") == "SRV1"
    # greaterOrEqual [5] { uSNChanged, 42 }
    assert b"\xa5\x10\x04\x0auSNChanged\x04\x0242" in peer.searches[0].data


def test_deleted_objects_are_claimed_only_by_an_account_that_sees_them():
    def blind(_: int, message: Message) -> bytes:
        assert control_of(message, ber.SHOW_DELETED).critical
        return done(message, None, 32)

    session, peer = make_session(blind)
    assert not can_read_deleted(session, BASE)
    with pytest.raises(DirectoryError) as caught:
        list(read_deleted_since(session, 7, domain_dn=BASE))
    assert caught.value.code == "deleted-hidden"
    assert len(peer.searches) == 2


@pytest.mark.parametrize("code", [50, 53])
def test_a_refusal_to_show_deleted_objects_is_no_and_a_broken_connection_an_error(code):
    session, _ = make_session(lambda _, message: done(message, None, code))
    assert not can_read_deleted(session, BASE)
    session, _ = make_session(lambda _, __: b"")
    with pytest.raises(DirectoryError):
        can_read_deleted(session, BASE)


def test_tombstones_are_read_where_they_lie_after_the_change_that_was_seen():
    def answer(number: int, message: Message) -> bytes:
        assert control_of(message, ber.SHOW_DELETED).critical
        assert DELETED.encode() in message.data
        if number == 1:
            return entry(message, "Deleted Objects", objectClass=(b"container",)) + done(message)
        assert b"uSNChanged\x04\x018" in message.data
        return entry(message, "SRV1", isDeleted=(b"TRUE",)) + done(message, b"")

    session, _ = make_session(answer)
    [[gone]] = read_deleted_since(session, 7, domain_dn=BASE)
    assert gone.text("isDeleted") == "TRUE"


CURSORS = st.builds(
    SyncCursor,
    st.sampled_from(["dirsync", "usn"]),
    st.text(st.characters(codec="utf-8"), min_size=1),
    st.binary(),
    st.integers(0, 2**63),
    st.text(st.characters(codec="utf-8")),
)


@settings(max_examples=200, deadline=None)
@given(CURSORS)
def test_a_cursor_comes_back_as_it_was(cursor):
    text = render_cursor(cursor)
    assert text.isascii()
    assert parse_cursor(text) == cursor


@settings(max_examples=200, deadline=None)
@given(CURSORS, st.data())
def test_a_damaged_cursor_is_another_one_or_wire_error(cursor, data):
    text = render_cursor(cursor)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    with contextlib.suppress(WireError):
        assert isinstance(parse_cursor(damaged), SyncCursor)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "msp1.",
        "msp1.!!!",
        "msp1.bnVsbA==",
        "msp2.W10=",
        "msp1.WyJ1c24iLCJEQz14IiwiIiwtMSwiIl0=",
        "msp1." + "A" * 70_000,
    ],
)
def test_what_is_no_cursor_is_said_to_be_none(text):
    with pytest.raises(WireError, match="no cursor"):
        parse_cursor(text)
