"""Entries out of messages: strict as :mod:`msp_sdk.directory.ber`, and made for tens of thousands of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

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

# What is remembered is bounded: strangers cannot make it grow.
_KEPT_COUNT = 2048
_KEPT_SET_BYTES = 100
_SIMILAR_COUNT = 4


class _Layout(NamedTuple):
    """Where everything lies in an entry that was read with care.

    Attributes:
        cut: Cuts what follows the name into leads (all bytes before an attribute's value, or values) and values.
        leads: What every entry of this layout has there; it holds all lengths, so nothing can lie elsewhere.
        several: The attributes whose part is a set of values, not one.
    """

    cut: Callable[[bytes, int], tuple[bytes, ...]]
    leads: tuple[bytes, ...]
    names: tuple[str, ...]
    several: tuple[str, ...]


class EntryReader:
    """Reads entries; what was checked once is known again by its bytes.

    Machines of one kind have entries of one layout: the same attributes, all of the same lengths. Such an entry is
    cut up in one go. In any other, each attribute is known by its head, all bytes before its first value; and one that
    is not is read with care.

    Attributes:
        ranged: The last entry has an attribute of which only a range came.
    """

    def __init__(self) -> None:
        self.ranged = False
        # By how many bytes follow the name of an entry.
        self._layouts: dict[int, list[_Layout]] = {}
        self._layouts_count = 0
        # A head to the attribute's name, how much follows it, and whether that is more than one value.
        self._heads: dict[bytes, tuple[str, int, bool]] = {}
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
        for layout in self._layouts.get(end - at, ()):
            parts = layout.cut(data, at)
            if parts[::2] == layout.leads:
                attributes: dict[str, Held] = dict(zip(layout.names, parts[1::2], strict=True))
                for name in layout.several:
                    raw = attributes[name]
                    attributes[name] = self._sets.get(raw) or self._values(raw)  # type: ignore[arg-type]  # it is bytes
                return Entry(dn, attributes)
        return Entry(dn, self._attributes(data, at, end))

    def _attributes(self, data: bytes, begin: int, end: int) -> dict[str, Held]:
        """Read attribute after attribute, and remember the layout."""
        at, stop = expect(data, begin, end, SEQUENCE)
        if stop != end:
            raise nonsense("an entry goes on after its attributes")
        attributes: dict[str, Held] = {}
        heads, sets = self._heads, self._sets
        # Where values begin and end, and whether it is a set of them.
        cuts: list[tuple[str, int, int, bool]] = []
        try:
            while at < end:
                # 30 84 LL LL LL LL 04 nn name 31 84 LL LL LL LL 04 nn, or 30 LL 04 nn name 31 LL 04 nn.
                start = at + (data[at + 7] + 16 if data[at + 1] == LONG_FOUR else data[at + 3] + 8)
                known = heads.get(data[at:start])
                if known is None:
                    name, start, at, several = self._attribute(data, at, end, attributes)
                else:
                    name, size, several = known
                    at = start + size
                    if several:
                        start -= 2
                        raw = data[start:at]
                        attributes[name] = sets.get(raw) or self._values(raw)
                    else:
                        attributes[name] = data[start:at]
                cuts.append((name, start, at, several))
        except IndexError:
            raise nonsense("an entry ends early") from None
        if at != end:
            raise nonsense("an attribute is longer than its entry")
        if cuts and not self.ranged and self._layouts_count < _KEPT_COUNT:
            self._remember(
                data[begin:end], [(name, first - begin, last - begin, more) for name, first, last, more in cuts]
            )
        return attributes

    def _remember(self, data: bytes, cuts: Sequence[tuple[str, int, int, bool]]) -> None:
        """Remember the layout of an entry that was read to its end."""
        similar = self._layouts.setdefault(len(data), [])
        if len(similar) == _SIMILAR_COUNT:
            return
        leads: list[bytes] = []
        sizes: list[int] = []
        at = 0
        for _, start, stop, _ in cuts:
            leads.append(data[at:start])
            sizes += (start - at, stop - start)
            at = stop
        cut = Struct("".join(f"{size}s" for size in sizes)).unpack_from
        names = tuple([name for name, _, _, _ in cuts])
        several = tuple([name for name, _, _, more in cuts if more])
        if at == len(data) and len(set(names)) == len(names):
            similar.append(_Layout(cut, tuple(leads), names, several))
            self._layouts_count += 1

    def _attribute(self, data: bytes, at: int, end: int, attributes: dict[str, Held]) -> tuple[str, int, int, bool]:
        """Read one attribute with care and remember its head.

        Returns:
            Its name, where its value or set of values begins and ends, and whether it is a set.
        """
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
                self._heads[data[begin : begin + head]] = (name, stop - start - 2, len(values) > 1)
        if len(values) == 1:
            return name, stop - len(values[0]), stop, False
        return name, start, stop, True

    def _values(self, raw: bytes) -> tuple[bytes, ...]:
        """The values in the inside of a set."""
        values = []
        at, end = 0, len(raw)
        try:
            while at < end:
                start = at + 2
                length = raw[at + 1]
                if raw[at] != OCTETS:
                    raise nonsense("a value is of another kind")
                if length >= LONG:
                    length, start = long_length(raw, start, length)
                at = start + length
                values.append(raw[start:at])
        except IndexError:
            raise nonsense("a value ends early") from None
        if at != end:
            raise nonsense("a value is longer than what holds it")
        found = tuple(values)
        # The kinds of an object are few and come early; the services of a computer are its own.
        if len(found) > 1 and end <= _KEPT_SET_BYTES and len(self._sets) < _KEPT_COUNT:
            self._sets[raw] = found
        return found
