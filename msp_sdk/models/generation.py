"""Generations: how many times something was wished and how many times it was done.

A lost reply loses nothing, since nothing is cleared by being sent.

Example:
    >>> owed({"enumeration": 3, "scan": 1}, {"enumeration": 2, "scan": 1})
    ('enumeration',)
"""

from __future__ import annotations

from collections.abc import Mapping

ENUMERATION = "enumeration"
SCAN = "scan"

# Most urgent first: a scan wants to know the computers.
WORK = (ENUMERATION, SCAN)


def owed(wished: Mapping[str, int], completed: Mapping[str, int]) -> tuple[str, ...]:
    """What the appliance still has to do, most urgent first. Empty when nothing is owed."""
    known = [work for work in WORK if work in wished]
    others = sorted(work for work in wished if work not in WORK)
    return tuple(work for work in (*known, *others) if wished[work] > completed.get(work, 0))


def acknowledge(done: int, sent: int, wished: int) -> int:
    """The new count of what is done, after an appliance said ``sent``.

    It never goes back, and a wrong ``sent`` never swallows a future wish.
    """
    return max(done, min(sent, wished))
