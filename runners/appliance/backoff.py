"""When work that failed is due again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """Doubles the wait with every failure, up to a longest one, with jitter.

    Args:
        first_s: Wait after the first failure.
        longest_s: No wait is longer.
        clock: Monotonic seconds.
        draw: Gives a number in [0, 1).
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._clock = clock
        self._draw = draw
        self.failures = 0
        self._due_at = 0.0

    def due(self) -> bool:
        """True when the work may be tried."""
        return self._clock() >= self._due_at

    def wait_s(self) -> float:
        """Seconds until it is due; 0 when it is."""
        return max(0.0, self._due_at - self._clock())

    def failed(self) -> None:
        """It failed: wait longer than the last time."""
        self.failures += 1
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self.failures - 1, 30))
        self._due_at = self._clock() + wait_s * (0.75 + 0.25 * self._draw())

    def succeeded(self, again_in_s: float = 0.0) -> None:
        """It went well; due again after ``again_in_s``."""
        self.failures = 0
        self._due_at = self._clock() + again_in_s

    def reset(self) -> None:
        """Something changed: try at once."""
        self.succeeded()
