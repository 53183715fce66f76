"""Searches over a connection: page after page, whole entries, never a short list.

* The next page is asked for before this one is decoded: the controller works while we do.
* A page at a time is held, however large the directory is.
* An attribute of which only a range came (``servicePrincipalName;range=0-1499``) is read to its end.
* Referrals to other directories are passed over. An answer that was cut short, broke off or goes round in circles is
  :class:`~msp_sdk.errors.PartialResultError`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import attrs
from attrs import frozen

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Message, Result
from msp_sdk.directory.connection import Link, SearchRequest, encode_search
from msp_sdk.directory.entry import Entry
from msp_sdk.directory.entry_reader import EntryReader
from msp_sdk.errors import DirectoryError, PartialResultError, WireError

SUCCESS = 0
NO_SUCH_OBJECT = 32
# Time, size or an administrator's limit.
_CUT_SHORT = frozenset({3, 4, 11})
# The controller is busy, unavailable, or in trouble with itself: another one, or later.
_BUSY = frozenset({51, 52, 80})
# Empty rounds in a row, with cookies that came before and with ones that go on: a controller that looks for few
# computers among many other objects ends a round when it has looked at enough of them.
_STUCK_ROUNDS_COUNT = 50
_EMPTY_ROUNDS_COUNT = 10_000
_ROUNDS_COUNT = 100_000
_PIECE_COUNT = 100
_ROUND_BYTES = 128 * 1024 * 1024
# How much of a round may be something else than entries.
_OTHERS_COUNT = 10_000
_RANGES_COUNT = 1000


@frozen
class Round:
    """A page of entries or a round of changes, or a part of one.

    Attributes:
        cookie: Where to go on.
        more: There is more to be had at once.
    """

    entries: tuple[Entry, ...]
    cookie: bytes
    more: bool


@frozen
class Continuation:
    """How a search goes on from round to round.

    Attributes:
        control: The control that asks for the round after a cookie.
        read: What the controls of an answer say: the next cookie, and whether there is more.
        limit_count: More entries than this in a round are nonsense; None knows no limit.
    """

    control: Callable[[bytes], Control]
    read: Callable[[Sequence[Control]], tuple[bytes, bool]]
    limit_count: int | None = None


def paging(page_size: int) -> Continuation:
    """Paging (RFC 2696)."""

    def read(controls: Sequence[Control]) -> tuple[bytes, bool]:
        control = ber.find_control(controls, ber.PAGED_RESULTS)
        cookie = b"" if control is None else ber.read_paged(control.value)
        return cookie, bool(cookie)

    return Continuation(lambda cookie: ber.paged_control(page_size, cookie), read, page_size)


class Searcher:
    """Searches over one connection; several may be under way, taken in turns by one thread."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._reader = EntryReader()

    def rounds(
        self,
        request: SearchRequest,
        continuation: Continuation,
        *,
        cookie: bytes = b"",
        controls: Sequence[Control] = (),
        whole: bool = True,
    ) -> Iterator[Round]:
        """Read round after round; leaving the iterator early abandons what is under way.

        A long answer comes in several rounds; all but its last carry the cookie with which it was asked for.

        Args:
            request: What to look for.
            continuation: How it goes on.
            cookie: Where to begin.
            controls: Sent with each request.
            whole: Complete attributes of which only a range came.

        Raises:
            PartialResultError: It was cut short, or broke after a part; ``received`` holds what came of the round that
                was not given out.
            DirectoryError: The directory refused; or the connection broke or carried nonsense: retryable.
        """
        link = self.link
        message_id: int | None = link.send(request.operation, (*controls, continuation.control(cookie)))
        begun = False
        watch = _CircleWatch()
        try:
            while message_id is not None:
                messages: list[Message] = []
                failure: DirectoryError | None = None
                try:
                    before = cookie
                    result = self._collect(message_id, messages, continuation.limit_count)
                    self._check(result, partial=begun or bool(messages))
                    cookie, more = continuation.read(result.controls)
                    watch.look(messages, cookie, more=more)
                except (DirectoryError, WireError) as error:
                    self._break_off(error, messages, begun=begun)
                message_id = None
                if more:
                    try:
                        message_id = link.send(request.operation, (*controls, continuation.control(cookie)))
                    except DirectoryError as error:
                        failure = error
                # In pieces: what is read and used at once is still near the processor.
                pieces = [messages[at : at + _PIECE_COUNT] for at in range(0, len(messages), _PIECE_COUNT)] or [[]]
                for piece in pieces[:-1]:
                    yield Round(self._decode(piece, whole=whole, begun=begun), before, more=True)
                    begun = True
                yield Round(self._decode(pieces[-1], whole=whole, begun=begun), cookie, more)
                begun = True
                if failure is not None:
                    self._break_off(failure, [], begun=True)
        finally:
            if message_id is not None:
                link.abandon(message_id)

    def read(self, dn: str, attributes: Sequence[str], controls: Sequence[Control] = ()) -> Entry | None:
        """Read one entry; None when there is none.

        Raises:
            DirectoryError: The directory refused; or the connection broke or carried nonsense: retryable.
        """
        try:
            entry = self._read(dn, attributes, controls)
            return self._complete(entry) if entry is not None and self._reader.ranged else entry
        except WireError as error:
            raise self.link.nonsense(error) from error

    def _read(self, dn: str, attributes: Sequence[str], controls: Sequence[Control] = ()) -> Entry | None:
        request = encode_search(dn, "(objectClass=*)", attributes, one=True)
        message_id = self.link.send(request.operation, controls)
        messages: list[Message] = []
        result = self._collect(message_id, messages, 1)
        if result.code == NO_SUCH_OBJECT:
            return None
        self._check(result, partial=False)
        return self._reader.read(messages[0]) if messages else None

    def _collect(self, message_id: int, messages: list[Message], limit_count: int | None) -> Result:
        """Take the entries of one answer as they come, until its end."""
        link = self.link
        size = others_count = 0
        deadline = time.monotonic() + link.answer_timeout_s
        while True:
            came = link.receive(message_id)
            if time.monotonic() > deadline:
                raise WireError("an answer has no end.")
            for message in came:
                if message.tag == ber.SEARCH_ENTRY:
                    messages.append(message)
                    size += len(message.data)
                    if size > _ROUND_BYTES or (limit_count is not None and len(messages) > limit_count):
                        raise WireError("an answer is longer than what was asked for.")
                elif message.tag == ber.SEARCH_DONE:
                    link.done(message_id)
                    if message is not came[-1]:
                        raise WireError("a search went on after its end.")
                    return ber.read_result(message)
                elif message.tag not in (ber.SEARCH_REFERENCE, ber.INTERMEDIATE_RESPONSE):
                    raise WireError("a search was answered by something else.")
                else:
                    others_count += 1
                    if others_count > _OTHERS_COUNT:
                        raise WireError("a search was answered by referrals without end.")

    def _check(self, result: Result, *, partial: bool) -> None:
        if result.code == SUCCESS:
            return
        if result.code in _CUT_SHORT or partial:
            raise PartialResultError(f"{self.link.name} stopped after a part of the answer: {result.described}.")
        raise DirectoryError(
            f"{self.link.name} refused the search: {result.described}.",
            code="directory-failed",
            retryable=result.code in _BUSY,
            context={"result": result.code},
        )

    def _decode(self, messages: Sequence[Message], *, whole: bool, begun: bool) -> tuple[Entry, ...]:
        reader = self._reader
        read = reader.read
        try:
            if not whole:
                return tuple([read(message) for message in messages])
            entries: list[Entry] = []
            for message in messages:
                entry = read(message)
                entries.append(self._complete(entry) if reader.ranged else entry)
            return tuple(entries)
        except (WireError, DirectoryError) as error:
            self._break_off(error, [], begun=begun)

    def _break_off(self, error: DirectoryError | WireError, messages: Sequence[Message], *, begun: bool) -> NoReturn:
        """Raise what an error means once a part of the answer has come."""
        told = self.link.nonsense(error) if isinstance(error, WireError) else error
        received: list[Entry] = []
        # It is cut short already; what can be read of it is kept.
        with contextlib.suppress(WireError):
            received.extend(self._reader.read(message) for message in messages)
        if not (begun or received or isinstance(told, PartialResultError)):
            if told is error:
                raise told
            raise told from error
        raise PartialResultError(
            told.detail if isinstance(told, PartialResultError) else f"{told.detail} A part had come.",
            received=tuple(received),
        ) from error

    def _complete(self, entry: Entry) -> Entry:
        """The entry with all values of the attributes of which only a range came."""
        attributes = entry.attributes
        for option in [name for name in attributes if ";range=" in name]:
            values = list(attributes.pop(option))
            name, _, bounds = option.partition(";range=")
            for _ in range(_RANGES_COUNT):
                high = bounds.partition("-")[2]
                if high == "*":
                    break
                if not high.isdecimal() or int(high) + 1 != len(values):
                    raise WireError(f"a range of {name} does not fit what came before it.")
                further = self._read(entry.dn, (f"{name};range={len(values)}-*",))
                found = {} if further is None else further.attributes
                nexts = [key for key in found if key.startswith(f"{name};range={len(values)}-")]
                if not nexts:
                    # The object, or the rest of its values, is gone by now.
                    break
                bounds = nexts[0].partition(";range=")[2]
                values.extend(found[nexts[0]])
            else:
                raise WireError(f"the ranges of {name} have no end.")
            attributes[name] = tuple(values)
        return attrs.evolve(entry, attributes=attributes)


class _CircleWatch:
    """Notices a server that never comes to an end: empty rounds, a round that comes again, more than any directory."""

    def __init__(self) -> None:
        self._count = 0
        self._empty_count = 0
        self._stuck_count = 0
        self._empty_cookies: set[int] = set()
        self._beginning = b""
        self._seen: set[int] = set()

    def look(self, messages: Sequence[Message], cookie: bytes, *, more: bool) -> None:
        """Look at a round. A cookie alone may stay the same: Samba's does.

        Raises:
            PartialResultError: The search goes round in circles.
        """
        self._count += 1
        if messages:
            self._empty_count = self._stuck_count = 0
            self._empty_cookies.clear()
        else:
            self._empty_count += 1
            self._stuck_count += hash(cookie) in self._empty_cookies
            self._empty_cookies.add(hash(cookie))
        again = False
        if messages:
            beginning = messages[0].data[messages[0].start :]
            mark = hash((cookie, beginning))
            again = mark in self._seen or beginning == self._beginning
            self._seen.add(mark)
            self._beginning = beginning
        stuck = self._stuck_count > _STUCK_ROUNDS_COUNT or self._empty_count > _EMPTY_ROUNDS_COUNT
        if more and (again or stuck or self._count > _ROUNDS_COUNT):
            raise PartialResultError("the directory goes round in circles: its pages have no end.")
