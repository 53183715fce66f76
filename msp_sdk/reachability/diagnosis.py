"""What the doors of a host, and other signs of life, say about it. No I/O.

Silence is never called "off" (lesson 56): a firewall that drops everything looks the same. Only on our own subnet,
where nothing stands in between, does the table of neighbours tell more: a network card that answers belongs to a
machine that is on (or sleeps with a card that answers for it), and where none answers nobody is at that address.

Example:
    >>> diagnose([]).reason
    'no-address'
    >>> diagnose([Door("10.0.0.7", 5986, "silent")], [Sign("ping", "10.0.0.7", "answered")]).reason
    'winrm-blocked'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from msp_sdk.network.probe import Door

SignKind = Literal["tcp", "ping", "neighbour"]

# Somebody is there: a door that answers, either way; an echo; a network card that answered just now.
_ALIVE = frozenset({"open", "refused", "answered", "present"})
# The system's names for "there is no way there from here".
_NO_ROUTE = frozenset({"ENETUNREACH", "ENETDOWN"})


@frozen
class Sign:
    """One thing that was looked at, and what it said.

    Attributes:
        said: Of ``tcp``: a door's state. Of ``ping``: ``answered``, ``silent`` or ``unavailable`` (this machine may not
            ping). Of ``neighbour``, on our own subnet alone: ``present`` or ``absent``.
        port: Of ``tcp``.
        detail: More for a person, such as the hardware address; may be empty.
        age_s: How long ago it was looked at, in seconds; 0 for just now.
    """

    kind: SignKind
    address: str
    said: str
    port: int | None = None
    detail: str = ""
    age_s: float = 0.0

    @property
    def is_alive(self) -> bool:
        """True when it shows that somebody is there."""
        return self.said in _ALIVE


@frozen
class Diagnosis:
    """Whether a host can be reached.

    Attributes:
        doors: Ports that stand open, ascending.
        reachable: None when our own side's trouble kept us from finding out.
        reason: A reason code; None when it is reachable.
        is_on: Something shows that the machine is on. False means unknown: nothing proves that one is off.
        evidence: Everything that was looked at, in that order.
    """

    doors: tuple[int, ...]
    reachable: bool | None
    reason: str | None
    is_on: bool = False
    evidence: tuple[Sign, ...] = ()


def diagnose(doors: Sequence[Door], life: Sequence[Sign] = ()) -> Diagnosis:
    """Judge a host by its doors, and by what else was seen of it.

    Args:
        doors: Those that we want open, of all its addresses, in any order; empty when it has no address.
        life: Other signs: further doors, pings, neighbours. They count where no door answered.
    """
    evidence = (*(Sign("tcp", door.address, door.state, door.port, door.detail) for door in doors), *life)
    ports = tuple(sorted({door.port for door in doors if door.state == "open"}))
    if ports:
        return Diagnosis(ports, reachable=True, reason=None, is_on=True, evidence=evidence)
    reachable, reason, is_on = _judge_closed(doors, life)
    return Diagnosis((), reachable, reason, is_on, evidence)


def _judge_closed(doors: Sequence[Door], life: Sequence[Sign]) -> tuple[bool | None, str, bool]:
    """Reachable, reason and ``is_on`` of a host without an open door; the first line that fits."""
    states = {door.state for door in doors}
    silent_at = {door.address for door in doors if door.state == "silent"}
    absent_at = {sign.address for sign in life if sign.said == "absent"}
    table: tuple[tuple[bool, str, bool], ...] = (
        (not doors, "no-address", False),
        ("refused" in states, "winrm-closed", True),
        (any(sign.is_alive for sign in life), "winrm-blocked", True),
        (bool(silent_at) and silent_at <= absent_at, "not-at-address", False),
        (bool(silent_at), "no-answer", False),
        # Not "unknown": whoever works on hosts leaves those alone that cannot be reached, and no others.
        ("excluded" in states, "address-excluded", False),
        (all(door.detail in _NO_ROUTE for door in doors), "no-route", False),
    )
    return next(((False, reason, is_on) for fits, reason, is_on in table if fits), (None, "internal", False))
