"""The clock of the daemon's work, passed in so that tests need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import field, frozen


@frozen
class Clock:
    """Both clocks: one for waits, which nobody sets back, and one for what is remembered over a restart."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
