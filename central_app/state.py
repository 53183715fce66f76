"""What every handler of a running Central shares. It hangs at ``app.ctx.central``."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import define, field
from sanic import Request

from central_app.database.connection import Database
from central_app.problems import ProblemError
from central_app.settings import CentralSettings
from central_app.vault import Vault

_WINDOW_S = 60.0
_MOST_NAMES = 50_000


class RateLimiter:
    """How often each name did something within the last minute. One a budget: no budget starves another."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._starts: dict[str, tuple[float, int]] = {}

    def take(self, name: str) -> None:
        """Count one.

        Raises:
            ProblemError: ``rate-limited``, with the seconds to wait.
        """
        now = self._clock()
        start, count = self._starts.get(name, (now, 0))
        if now - start >= _WINDOW_S:
            start, count = now, 0
        if count >= self._per_minute:
            raise ProblemError("rate-limited", retry_after_s=max(1, round(_WINDOW_S - (now - start))))
        if len(self._starts) >= _MOST_NAMES and name not in self._starts:
            self._forget(now)
        self._starts[name] = (start, count + 1)

    def _forget(self, now: float) -> None:
        self._starts = {name: entry for name, entry in self._starts.items() if now - entry[0] < _WINDOW_S}
        if len(self._starts) >= _MOST_NAMES:
            # Nobody has that many honest addresses in a minute; better everybody waits than memory grows.
            raise ProblemError("rate-limited", retry_after_s=int(_WINDOW_S))


def budget_name(address: str) -> str:
    """Whose budget an address draws on: whoever has one IPv6 address has all of its /64."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    return str(known.ipv4_mapped or ipaddress.IPv6Network((known, 64), strict=False))


def utc_now() -> datetime:
    """The clock of Central, at its edge."""
    return datetime.now(UTC)


@define
class Central:
    """The parts of a running Central.

    Attributes:
        endpoint: ``api_endpoint``: known once the port is bound.
        stopping: Set when Central is to stop; event streams end then.
    """

    settings: CentralSettings
    db: Database
    vault: Vault
    endpoint: str
    claims_by_address: RateLimiter
    claims_by_code: RateLimiter
    logins_by_address: RateLimiter
    reports_by_appliance: RateLimiter
    stopping: asyncio.Event = field(factory=asyncio.Event)
    now: Callable[[], datetime] = utc_now


def central_of(request: Request) -> Central:
    """The parts, from a request."""
    central: Central = request.app.ctx.central
    return central
