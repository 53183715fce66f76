"""What opened and worked at a host is remembered for some minutes, and tried first. No I/O; shared by threads.

Of more hosts than can be remembered the oldest are forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from attrs import frozen

from msp_sdk.models.credential import Credential
from msp_sdk.models.target import Target
from msp_sdk.windows.doors import Door, Mechanism, name_of

_MANY = 10_000


@frozen
class Way:
    """How a host was logged on to.

    Attributes:
        service: By which the KDC knew the host; empty without Kerberos.
        barred: Why it was not Kerberos; empty where it was.
    """

    address: str
    door: Door
    mechanism: Mechanism
    service: str = ""
    barred: str = ""


@frozen
class PassedDoor:
    """A door that was passed by, and why; ``code`` is a reason."""

    address: str
    port: int
    code: str
    detail: str


@frozen
class _Known:
    way: Way
    until: float


class WayMemory:
    """The ways, by host and credential.

    Args:
        keep_s: For how long; 0 for not at all.
        clock: Seconds that only rise.
    """

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Known] = {}

    def get(self, target: Target, credential: Credential) -> Way | None:
        """What worked here not long ago; None for nothing."""
        with self._lock:
            known = self._known.get(_key(target, credential))
        return known.way if known is not None and self._clock() < known.until else None

    def keep(self, target: Target, credential: Credential, way: Way) -> None:
        """It has worked. The time begins anew."""
        known = _Known(way, self._clock() + self._keep_s)
        key = _key(target, credential)
        with self._lock:
            self._known.pop(key, None)
            while len(self._known) >= _MANY:
                # They stand in the order in which they came.
                del self._known[next(iter(self._known))]
            self._known[key] = known

    def forget(self, target: Target, credential: Credential) -> None:
        """It has not worked."""
        with self._lock:
            self._known.pop(_key(target, credential), None)


def _key(target: Target, credential: Credential) -> tuple[str, str]:
    return name_of(target).casefold(), credential.ledger_key
