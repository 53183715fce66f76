"""Whose turn it is to ask the logon ledger: one at a time a credential, in the order of coming.

The ledger lets few logons of a credential happen at once, and whoever asks it polls. Without an order some of a
thousand hosts would be passed over until their patience ends, and would be reported as waiting for no reason. Here
only the first in the row asks, for as long as the ledger waits; the others wait behind it for as long as it takes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import field, mutable

from msp_sdk.errors import LogonNotAllowedError, UnreachableError

# How soon a cancelled one in the row notices it.
_LOOK_S = 0.5


def cancelled_error() -> UnreachableError:
    """What whoever waits gets when the work was cancelled."""
    return UnreachableError("the work was cancelled.", code="connection-lost")


@mutable(eq=False)
class _Row:
    waiting: deque[threading.Event] = field(factory=deque)
    failed_at: float = 0.0
    failure: LogonNotAllowedError | None = None


class Turns:
    """The rows, one a credential. Shared by all threads of one process; processes are kept apart by the ledger."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: defaultdict[str, _Row] = defaultdict(_Row)

    @contextmanager
    def turn(self, key: str, cancelled: threading.Event) -> Iterator[None]:
        """Wait for one's turn; the block asks the ledger, and leaves as soon as it has its answer.

        Args:
            key: The credential, as the ledger names it.
            cancelled: Ends the waiting.

        Raises:
            UnreachableError: It was cancelled.
            LogonNotAllowedError: The first in the row asked in vain for as long as the ledger waits. That answer is
                for everybody who stood in the row then; each asking for itself would take hours.
        """
        came_at = time.monotonic()
        mine = threading.Event()
        with self._lock:
            row = self._rows[key]
            row.waiting.append(mine)
            if row.waiting[0] is mine:
                mine.set()
        try:
            while not mine.wait(_LOOK_S):
                if cancelled.is_set():
                    raise cancelled_error()
            failure = row.failure
            if failure is not None and row.failed_at >= came_at:
                raise LogonNotAllowedError(failure.detail, code=failure.code, remedy=failure.remedy, retryable=True)
            try:
                yield
            except LogonNotAllowedError as error:
                if error.retryable:
                    row.failed_at, row.failure = time.monotonic(), error
                raise
        finally:
            with self._lock:
                row.waiting.remove(mine)
                if row.waiting:
                    row.waiting[0].set()
