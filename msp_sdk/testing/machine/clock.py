"""The time of a virtual machine: it passes when somebody says so, and what was to happen meanwhile happens then.

Example:
    >>> clock = Clock()
    >>> done = []
    >>> _ = clock.call_later(5, lambda: done.append("five"))
    >>> clock.advance(4.9), done
    (None, [])
    >>> clock.advance(0.1), done
    (None, ['five'])
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import mutable

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


@mutable(eq=False)
class Timer:
    """What is to happen once; ``cancelled`` keeps it from happening."""

    at_s: float
    work: Callable[[], None]
    cancelled: bool = False


class Clock:
    """Virtual time, with everything that waits for it.

    Args:
        start: What a correct clock shows at the beginning; aware.
        skew: How much later than that the machine believes it is; may be negative.
    """

    def __init__(self, start: datetime = START, *, skew: timedelta = timedelta()) -> None:
        self.skew = skew
        self.elapsed_s = 0.0
        self._start = start
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """What the machine believes; aware UTC."""
        return self._start + timedelta(seconds=self.elapsed_s) + self.skew

    def call_later(self, delay_s: float, work: Callable[[], None]) -> Timer:
        """Let something happen after ``delay_s`` seconds of this clock."""
        timer = Timer(self.elapsed_s + max(0.0, delay_s), work)
        heapq.heappush(self._timers, (timer.at_s, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due happens in its order, each at its own time."""
        until_s = self.elapsed_s + seconds
        while self._timers and self._timers[0][0] <= until_s:
            at_s, _, timer = heapq.heappop(self._timers)
            self.elapsed_s = max(self.elapsed_s, at_s)
            if not timer.cancelled:
                timer.work()
        self.elapsed_s = max(self.elapsed_s, until_s)

    def wait(self, until: Callable[[], bool], *, timeout_s: float, step_s: float = 0.5) -> bool:
        """Let time pass in steps until something holds; False when it does not within ``timeout_s`` seconds."""
        end_s = self.elapsed_s + timeout_s
        while not until():
            if self.elapsed_s >= end_s:
                return False
            self.advance(min(step_s, end_s - self.elapsed_s))
        return True

    def forget(self) -> None:
        """Drop everything that waits, as a machine does whose power goes."""
        self._timers.clear()
