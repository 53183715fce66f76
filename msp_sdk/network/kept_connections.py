"""Connections to a SQLite file that are kept open between two uses: to open one anew costs more than to use it.

They belong to the file that was there when they were opened, and to the process that opened them: when another file
lies in its place, or after a fork, none of them is used again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from pathlib import Path

_KEPT_MOST = 8


class KeptConnections:
    """For many threads; a connection is with one of them at a time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._free: list[sqlite3.Connection] = []
        self._owner = self._identity()
        # What a forked child must neither use nor close: a close there would let go of its parent's locks.
        self._inherited: list[sqlite3.Connection] = []
        weakref.finalize(self, _close_all, self._free, os.getpid())

    def take(self) -> sqlite3.Connection | None:
        """A connection that is free; None when there is none."""
        now = self._identity()
        with self._lock:
            if now != self._owner:
                if now[0] == self._owner[0]:
                    _close_all(self._free, os.getpid())
                else:
                    self._inherited += self._free
                self._free.clear()
                self._owner = now
            return self._free.pop() if self._free else None

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection that works and is in no transaction."""
        with self._lock:
            if len(self._free) < _KEPT_MOST and self._identity() == self._owner:
                self._free.append(connection)
                return
        connection.close()

    def _identity(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return os.getpid(), 0, 0
        return os.getpid(), found.st_dev, found.st_ino


def _close_all(connections: list[sqlite3.Connection], owner: int) -> None:
    if os.getpid() != owner:
        return
    for connection in connections:
        connection.close()
    connections.clear()
