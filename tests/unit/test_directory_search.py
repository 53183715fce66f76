"""Searching against a peer that answers request by request as a test has it: pages, ranges, breaks, endless ones."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Framer, Message
from msp_sdk.directory.connection import DirectoryOptions, connect, encode_search
from msp_sdk.directory.doors import Door
from msp_sdk.directory.search import Continuation, Searcher, paging
from msp_sdk.directory.session import DirectorySession, open_anonymous
from msp_sdk.enumeration.reading import FullReading, Judge
from msp_sdk.errors import ConfigError, DirectoryError, PartialResultError
from msp_sdk.models.domain import DomainController
from tests.unit.ldap_peer import BASE, SEARCH_REQUEST, Answer, Peer, done, entry, make_session, referral

ABANDON_REQUEST = 0x50


def cookie_of(message: Message) -> bytes:
    control = ber.find_control(ber.read_controls(message), ber.PAGED_RESULTS)
    assert control is not None
    assert control.critical
    return ber.read_paged(control.value)


def pages(session: DirectorySession) -> Iterator[list[str]]:
    for page in session.pages(BASE, "(objectClass=computer)", ("name",)):
        yield [str(one.text("name")) for one in page]


def two_pages(number: int, message: Message) -> bytes:
    assert cookie_of(message) == (b"" if number == 1 else b"next")
    return entry(message, f"SRV{number}") + referral(message) + done(message, b"next" if number == 1 else b"")


def test_the_next_page_is_asked_for_before_this_one_is_given_out():
    session, peer = make_session(two_pages)
    reading = pages(session)
    assert next(reading) == ["SRV1"]
    assert len(peer.searches) == 2
    assert list(reading) == [["SRV2"]]
    assert len(peer.searches) == 2


def test_other_reads_may_come_between_two_pages():
    def answer(number: int, message: Message) -> bytes:
        if number == 3:
            return entry(message, "between") + done(message)
        return two_pages(number, message)

    session, _ = make_session(answer)
    reading = pages(session)
    assert next(reading) == ["SRV1"]
    found = session.read(f"CN=between,{BASE}", ("name",))
    assert found is not None
    assert found.text("name") == "between"
    assert list(reading) == [["SRV2"]]


def test_an_iterator_that_is_left_early_leaves_a_session_that_still_reads():
    def answer(number: int, message: Message) -> bytes:
        return entry(message, f"SRV{number}") + done(message, b"more" if number < 3 else b"")

    session, peer = make_session(answer)
    reading = pages(session)
    assert next(reading) == ["SRV1"]
    reading.close()
    assert [message.tag for message in peer.requests] == [SEARCH_REQUEST, SEARCH_REQUEST, ABANDON_REQUEST]
    # What still comes of the abandoned page is passed over.
    assert list(pages(session)) == [["SRV3"]]
    assert not session.closed


@pytest.mark.parametrize("code", [3, 4, 11])
def test_an_answer_that_was_cut_short_is_partial_with_what_came(code):
    # Lesson 24: an error is never a short list.
    session, _ = make_session(lambda _, message: entry(message, "SRV1") + done(message, b"", code))
    with pytest.raises(PartialResultError) as caught:
        list(pages(session))
    assert [one.text("name") for one in caught.value.received] == ["SRV1"]
    assert not session.closed


def test_a_refusal_after_a_page_is_partial_and_before_any_entry_an_error():
    def later(number: int, message: Message) -> bytes:
        return entry(message, "SRV1") + done(message, b"next") if number == 1 else done(message, None, 53)

    session, _ = make_session(later)
    reading = pages(session)
    assert next(reading) == ["SRV1"]
    with pytest.raises(PartialResultError, match="unwillingToPerform said so"):
        next(reading)
    session, _ = make_session(lambda _, message: done(message, None, 53))
    with pytest.raises(DirectoryError) as caught:
        list(pages(session))
    assert not isinstance(caught.value, PartialResultError)
    assert (caught.value.code, caught.value.retryable) == ("directory-failed", False)


@pytest.mark.parametrize("code", [51, 52, 80])
def test_a_controller_that_is_busy_or_in_trouble_may_be_asked_again(code):
    session, _ = make_session(lambda _, message: done(message, None, code))
    with pytest.raises(DirectoryError) as caught:
        list(pages(session))
    assert caught.value.retryable


def test_a_connection_that_ends_within_an_entry_is_partial():
    session, _ = make_session(lambda _, message: entry(message, "SRV1") + entry(message, "SRV2")[:-3])
    with pytest.raises(PartialResultError) as caught:
        list(pages(session))
    assert len(caught.value.received) == 1
    assert session.closed


def test_a_page_that_came_is_given_out_though_the_next_cannot_be_asked_for():
    session, peer = make_session(two_pages)
    close = peer.sendall

    def close_after_one(data: bytes) -> None:
        close(data)
        peer.closed = True

    peer.sendall = close_after_one
    reading = pages(session)
    assert next(reading) == ["SRV1"]
    with pytest.raises(PartialResultError):
        next(reading)


@pytest.mark.parametrize("repeated", ["same page", "some pages", "empty pages"])
def test_pages_without_an_end_are_noticed(repeated):
    def answer(number: int, message: Message) -> bytes:
        if repeated == "same page":
            return entry(message, "SRV1") + done(message, b"again %d" % number)
        page = entry(message, f"SRV{number % 3}") if repeated == "some pages" else b""
        return page + done(message, b"again %d" % (number % 3))

    session, peer = make_session(answer)
    with pytest.raises(PartialResultError, match="circles"):
        list(pages(session))
    assert len(peer.searches) < 100


def test_more_entries_than_a_page_may_hold_are_refused():
    def answer(_: int, message: Message) -> bytes:
        return b"".join(entry(message, f"SRV{number}") for number in range(11)) + done(message, b"")

    session, _ = make_session(answer, page_size=10)
    with pytest.raises(PartialResultError, match="longer than what was asked"):
        list(pages(session))
    assert session.closed


def test_many_empty_pages_that_go_on_are_no_circle():
    # Few computers among very many other objects: the controller ends a page when it has looked at enough of them.
    def answer(number: int, message: Message) -> bytes:
        if number <= 200:
            return done(message, b"at %d" % number)
        return entry(message, "SRV1") + done(message, b"")

    session, _ = make_session(answer)
    assert [name for page in pages(session) for name in page] == ["SRV1"]


def test_nonsense_before_any_entry_is_an_error_that_another_controller_may_mend():
    session, _ = make_session(lambda *_: b"\x99" * 40)
    with pytest.raises(DirectoryError) as caught:
        list(pages(session))
    assert not isinstance(caught.value, PartialResultError)
    assert (caught.value.code, caught.value.retryable) == ("directory-failed", True)
    assert session.closed


def test_a_cookie_that_stays_the_same_is_no_circle():
    def answer(number: int, message: Message) -> bytes:
        return entry(message, f"SRV{number}") + done(message, b"same" if number < 4 else b"")

    session, _ = make_session(answer)
    assert len(list(pages(session))) == 4


def test_what_comes_after_the_end_of_a_search_is_refused():
    session, _ = make_session(lambda _, message: done(message, b"") + entry(message, "LATE"))
    with pytest.raises(DirectoryError, match="after its end"):
        list(pages(session))


@pytest.mark.parametrize("wrong", [0, 1, 77])
def test_an_answer_with_anothers_number_is_never_taken_for_ours(wrong):
    def answer(_: int, message: Message) -> bytes:
        stranger = message._replace(message_id=message.message_id + wrong)
        return entry(stranger, "SRV1") + done(message, b"")

    session, _ = make_session(answer)
    if wrong == 0:
        assert list(pages(session)) == [["SRV1"]]
        return
    with pytest.raises(DirectoryError, match="nobody had asked"):
        list(pages(session))
    assert session.closed


def test_a_notice_of_disconnection_is_retryable_and_says_why():
    name = ber.encode(0x8A, ber.NOTICE_OF_DISCONNECTION.encode())
    inside = ber.encode(ber.EXTENDED_RESPONSE, b"\x0a\x01\x34\x04\0", ber.encode_text("shutting down"), name)
    session, _ = make_session(lambda _, __: ber.encode_message(0, inside))
    with pytest.raises(DirectoryError, match="unavailable shutting down") as caught:
        session.root_dse()
    assert caught.value.retryable
    assert session.closed


def ranges(*answers: dict[str, tuple[bytes, ...]]) -> Answer:
    def answer(number: int, message: Message) -> bytes:
        if number == 1:
            return entry(message, "SRV1", **answers[0]) + done(message, b"")
        return entry(message, "SRV1", **answers[number - 1]) + done(message)

    return answer


def numbered(start: int, end: int) -> tuple[bytes, ...]:
    return tuple(b"HOST/%d" % number for number in range(start, end))


def test_an_attribute_that_comes_in_ranges_is_read_to_its_end():
    answer = ranges(
        {"spn": (), "spn_range_0-1499": numbered(0, 1500)},
        {"spn_range_1500-2999": numbered(1500, 3000)},
        {"spn_range_3000-*": numbered(3000, 3010)},
    )
    session, peer = make_session(answer)
    [[found]] = session.pages(BASE, "(objectClass=computer)", ("spn",))
    assert found.values("spn") == numbered(0, 3010)
    assert set(found.attributes) == {"name", "spn"}
    assert [b"spn;range=1500-*" in peer.searches[1].data, b"spn;range=3000-*" in peer.searches[2].data] == [True, True]


@pytest.mark.parametrize(
    "answers",
    [
        [{"spn_range_0-5": numbered(0, 2)}],
        [{"spn_range_0-x": numbered(0, 2)}],
        [{"spn_range_0-1": numbered(0, 2)}, {"spn_range_2-9": numbered(2, 4)}],
        [{"spn_range_0-1": numbered(0, 2)}, {"spn_range_2-1": ()}, *[{"spn_range_2-1": ()}] * 2000],
    ],
    ids=["too few", "no number", "too few later", "no end"],
)
def test_ranges_that_do_not_fit_are_an_error_and_never_a_short_list(answers):
    session, _ = make_session(ranges(*answers))
    with pytest.raises(DirectoryError):
        list(session.pages(BASE, "(objectClass=computer)", ("spn",)))


def test_ranges_that_do_not_fit_are_an_error_of_ours_in_a_base_read_too():
    session, _ = make_session(ranges({"spn_range_0-5": numbered(0, 2)}))
    with pytest.raises(DirectoryError, match="does not fit"):
        session.read(BASE, ("spn",))


def test_names_of_attributes_are_asked_for_without_their_values():
    def answer(_: int, message: Message) -> bytes:
        return entry(message, "SRV1", name=(), laps=()) + done(message, b"")

    session, peer = make_session(answer)
    [[found]] = session.pages(BASE, "(objectClass=computer)", ("laps",), types_only=True)
    assert found.attributes == {"name": (), "laps": ()}
    # base, scope, aliases, size, time, typesOnly
    assert b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\xff" in peer.searches[0].data


def test_a_base_read_of_nothing_is_none_and_of_two_entries_an_error():
    session, _ = make_session(lambda _, message: done(message, None, 32))
    assert session.read(BASE, ("name",)) is None
    session, _ = make_session(lambda _, message: entry(message, "A") + entry(message, "B") + done(message))
    with pytest.raises(DirectoryError):
        session.read(BASE, ("name",))


def test_a_filter_that_is_none_is_an_error_of_ours_and_sends_nothing():
    session, peer = make_session(two_pages)
    with pytest.raises(ConfigError, match="no LDAP filter"):
        list(session.pages(BASE, "(objectClass=computer", ("name",)))
    assert peer.requests == []
    assert not session.closed


def test_bytes_in_a_filter_are_sent_as_they_are():
    guid = bytes(range(240, 256))
    text = "".join(f"\\{byte:02x}" for byte in guid)
    assert guid in encode_search(BASE, f"(|(objectGUID={text})(cn=\\2a))", ()).operation


def test_a_session_that_broke_answers_with_an_error_and_says_that_it_is_closed():
    session, _ = make_session(lambda _, __: b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(DirectoryError, match="does not speak as a directory"):
        session.root_dse()
    assert session.closed
    with pytest.raises(DirectoryError, match="closed"):
        session.read("", ("*",))


def test_a_peer_that_trickles_bytes_is_not_waited_for_longer_than_a_message_may_take():
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        peer, _ = listener.accept()
        with peer:
            for byte in b"\x30\x84\0\0\xff\xff" + b"\0" * 100:
                try:
                    peer.send(bytes((byte,)))
                except OSError:
                    return
                time.sleep(0.1)

    thread = threading.Thread(target=trickle)
    thread.start()
    controller = DomainController("dc1.corp.example", listener.getsockname()[1], ("127.0.0.1",))
    session = open_anonymous(controller, DirectoryOptions(connect_timeout_s=1, receive_timeout_s=0.4, ldaps_port=1))
    with pytest.raises(DirectoryError, match="in time"):
        session.root_dse()
    listener.close()
    thread.join()
    assert session.closed


@pytest.mark.parametrize("said", [b"", "notice"])
def test_a_session_that_the_controller_ended_while_it_was_idle_says_so(said):
    name = ber.encode(0x8A, ber.NOTICE_OF_DISCONNECTION.encode())
    notice = ber.encode_message(0, ber.encode(ber.EXTENDED_RESPONSE, b"\x0a\x01\x34\x04\0\x04\0", name))
    listener = socket.create_server(("127.0.0.1", 0))
    controller = DomainController("dc1.corp.example", listener.getsockname()[1], ("127.0.0.1",))
    session = open_anonymous(controller, DirectoryOptions(connect_timeout_s=1, ldaps_port=1))
    peer, _ = listener.accept()
    with peer, listener:
        assert not session.closed
        if said:
            peer.sendall(notice)
        else:
            peer.close()
        deadline = time.monotonic() + 5
        while not session.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert session.closed
        with pytest.raises(DirectoryError, match="closed"):
            session.root_dse()


def test_what_is_sent_in_clear_behind_the_answer_to_start_tls_is_refused():
    listener = socket.create_server(("127.0.0.1", 0))

    def inject() -> None:
        peer, _ = listener.accept()
        with peer:
            [request] = Framer().feed(peer.recv(4096))
            answer = ber.encode(ber.EXTENDED_RESPONSE, b"\x0a\x01\0\x04\0\x04\0")
            peer.sendall(ber.encode_message(request.message_id, answer) + b"\x30")
            peer.recv(4096)

    thread = threading.Thread(target=inject)
    thread.start()
    from msp_sdk.network.pins import seeing_context

    port = listener.getsockname()[1]
    controller = DomainController("dc1.corp.example", port, ("127.0.0.1",))
    options = DirectoryOptions(connect_timeout_s=1, receive_timeout_s=2)
    with pytest.raises(DirectoryError) as caught:
        connect(controller, Door("starttls", "127.0.0.1", port), seeing_context(), options)
    assert caught.value.code == "no-tls"
    thread.join()
    listener.close()


def test_rounds_go_on_by_whatever_control_they_are_given():
    def answer(number: int, message: Message) -> bytes:
        [control] = ber.read_controls(message)
        assert control == Control("1.2.3", value=b"from here" if number == 1 else b"then here")
        inside = ber.encode(ber.SEARCH_DONE, b"\x0a\x01\0\x04\0\x04\0")
        return entry(message, f"SRV{number}") + ber.encode_message(
            message.message_id, inside, [Control("1.2.3", value=b"then here")]
        )

    session, peer = make_session(answer)
    continuation = Continuation(
        lambda cookie: Control("1.2.3", value=cookie),
        lambda controls: (controls[0].value or b"", len(peer.searches) < 2),
    )
    found = list(
        Searcher(session._link).rounds(
            encode_search(BASE, "(cn=*)", ("name",)), continuation, cookie=b"from here", whole=False
        )
    )
    assert [(one.cookie, one.more) for one in found] == [(b"then here", True), (b"then here", False)]


def test_a_page_size_is_what_is_asked_for():
    control = paging(321).control(b"c")
    assert control == ber.paged_control(321, b"c")


def test_referrals_without_end_end_the_connection():
    session, peer = make_session(lambda _, message: referral(message) * 20_000)
    with pytest.raises(DirectoryError, match="referrals without end"):
        list(pages(session))
    assert peer.closed


def test_what_nobody_reads_yet_is_bounded():
    # While the rest of a range is waited for, the page that was asked for ahead may not fill the memory.
    def answer(number: int, message: Message) -> bytes:
        if number == 1:
            half = {"servicePrincipalName_range_0-0": (b"a",)}
            return entry(message, "SRV1", **half) + done(message, b"next")
        return b"" if number > 2 else b"".join([entry(message, "X", description=(bytes(1 << 20),))] * 140)

    session, peer = make_session(answer)
    with pytest.raises(DirectoryError, match="more came than anybody asked for"):
        list(pages(session))
    assert peer.closed


def test_notices_without_end_are_no_answer():
    inside = ber.encode(ber.EXTENDED_RESPONSE, ber.encode_number(0, 0x0A), b"\x04\0", b"\x04\0")
    notice = ber.encode_message(ber.UNSOLICITED_ID, inside)

    class Chatterbox(Peer):
        def recv(self, size: int) -> bytes:
            return notice * 100

    session, peer = make_session(lambda _, __: b"", peer=Chatterbox, answer_timeout_s=0.2)
    with pytest.raises(DirectoryError, match="everything but the answer"):
        list(pages(session))
    assert peer.closed


@pytest.mark.parametrize("code", [3, 4, 11, 53])
def test_a_controller_whose_dirsync_is_refused_or_cut_short_at_once_is_read_by_pages(code):
    def answer(number: int, message: Message) -> bytes:
        if number == 1:
            return entry(message, "", supportedControl=(ber.DIRSYNC.encode(),)) + done(message)
        controls = {control.oid for control in ber.read_controls(message)}
        if ber.DIRSYNC in controls:
            return entry(message, "SRV1", objectGUID=(bytes(16),)) + done(message, None, code)
        return entry(message, "SRV1", objectGUID=(bytes(16),)) + done(message, b"")

    session, _ = make_session(answer)
    reading = FullReading(session, BASE, Judge("corp.example", datetime(2026, 3, 1, tzinfo=UTC)))
    found = [computer.sam_account_name for batch in reading.batches() for computer in batch.computers]
    assert (found, reading.cursor) == (["SRV1"], None)
