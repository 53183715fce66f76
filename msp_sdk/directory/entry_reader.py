"""Entries out of messages: strict as :mod:`msp_sdk.directory.ber`, and made for tens of thousands of them. Pure."""

from __future__ import annotations

from msp_sdk.directory.ber import (
    LONG,
    LONG_FOUR,
    OCTETS,
    SEARCH_ENTRY,
    SEQUENCE,
    SET,
    Message,
    expect,
    long_length,
    nonsense,
)
from msp_sdk.directory.entry import Entry, Held

# Heads and repeated sets of values are kept; strangers cannot make the tables grow.
_KEPT_COUNT = 2048
_KEPT_SET_BYTES = 100


class EntryReader:
    """Reads entries, and what repeats from entry to entry is checked and decoded once.

    An attribute's head, all bytes before its first value, says where everything in it lies. So one that was checked
    is known by its bytes, and entries after the first few are cut up by looking heads up.

    Attributes:
        ranged: The last entry has an attribute of which only a range came.
    """

    def __init__(self) -> None:
        self.ranged = False
        # A head to the attribute's name, the size of its first value, and of all values if there are more (else 0).
        self._heads: dict[bytes, tuple[str, int, int]] = {}
        self._sets: dict[bytes, tuple[bytes, ...]] = {}

    def read(self, message: Message) -> Entry:
        """Read a SearchResultEntry.

        Raises:
            WireError: It is none, or its parts do not fit together.
        """
        _, tag, data, at, end = message
        if tag != SEARCH_ENTRY:
            raise nonsense("a message is no entry")
        self.ranged = False
        start, at = expect(data, at, end, OCTETS)
        dn = data[start:at].decode("utf-8", "replace")
        at, stop = expect(data, at, end, SEQUENCE)
        if stop != end:
            raise nonsense("an entry goes on after its attributes")
        attributes: dict[str, Held] = {}
        heads, sets = self._heads, self._sets
        try:
            while at < end:
                # 30 84 LL LL LL LL 04 nn name 31 84 LL LL LL LL 04 nn, or 30 LL 04 nn name 31 LL 04 nn.
                start = at + (data[at + 7] + 16 if data[at + 1] == LONG_FOUR else data[at + 3] + 8)
                known = heads.get(data[at:start])
                if known is None:
                    at = self._attribute(data, at, end, attributes)
                    continue
                name, size, rest = known
                if rest:
                    at = start - 2 + rest
                    raw = data[start - 2 : at]
                    attributes[name] = sets.get(raw) or self._values(raw)
                else:
                    at = start + size
                    attributes[name] = data[start:at]
        except IndexError:
            raise nonsense("an entry ends early") from None
        if at != end:
            raise nonsense("an attribute is longer than its entry")
        return Entry(dn, attributes)

    def _attribute(self, data: bytes, at: int, end: int, attributes: dict[str, Held]) -> int:
        """Read one attribute the careful way, remember its head, and return where it ends."""
        begin = at
        at, stop = expect(data, at, end, SEQUENCE)
        start, at = expect(data, at, stop, OCTETS)
        name = data[start:at].decode("utf-8", "replace").lower()
        if not name:
            raise nonsense("an attribute has no name")
        name_size = at - start
        start, at = expect(data, at, stop, SET)
        if at != stop:
            raise nonsense("an attribute's parts do not fit")
        values = self._values(data[start:stop])
        attributes[name] = values[0] if len(values) == 1 else values
        if ";range=" in name:
            self.ranged = True
        elif values and len(values[0]) < LONG and len(self._heads) < _KEPT_COUNT:
            head = start + 2 - begin
            if head == name_size + (16 if data[begin + 1] == LONG_FOUR else 8):
                self._heads[data[begin : begin + head]] = (
                    name,
                    len(values[0]),
                    0 if len(values) == 1 else stop - start,
                )
        return stop

    def _values(self, raw: bytes) -> tuple[bytes, ...]:
        """The values in the inside of a set."""
        values = []
        at, end = 0, len(raw)
        while at < end:
            start = at + 2
            if start > end:
                raise nonsense("a value ends early")
            length = raw[at + 1]
            if raw[at] != OCTETS:
                raise nonsense("a value is of another kind")
            if length >= LONG:
                length, start = long_length(raw, start, length)
            at = start + length
            values.append(raw[start:at])
        if at != end:
            raise nonsense("a value is longer than what holds it")
        found = tuple(values)
        if len(found) > 1 and end <= _KEPT_SET_BYTES:
            if len(self._sets) >= _KEPT_COUNT:
                self._sets.clear()
            self._sets[raw] = found
        return found
