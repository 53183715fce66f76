"""Check in at Central and report.

Example:
    >>> async with CheckinClient(enrolment) as checkin:  # doctest: +SKIP
    ...     reply = await checkin.check_in(status)
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from attrs import evolve, field, frozen

from msp_sdk.checkin.holdings import Holdings, absorb, learn_domain_names
from msp_sdk.checkin.outbox import Outbox, Report
from msp_sdk.errors import StateError, WireError
from msp_sdk.models.checkin import CheckinReply, CheckinRequest
from msp_sdk.models.credential import Credential, CredentialState, SealedSecret
from msp_sdk.models.provision import Enrolment
from msp_sdk.secret import Secret
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.security.sealing import SealContext
from msp_sdk.wire.http import CentralHttp, HttpOptions
from msp_sdk.wire.routes import CHECKIN

SKEW_PROBLEM_S = 60.0
# Whatever Central asks for: never a loop, never silence for longer than an hour.
_SHORTEST_S = 0.2
_LONGEST_S = 3600.0


@frozen
class ApplianceStatus:
    """How an appliance is, as the caller knows it. The client adds versions and identity."""

    hostname: str
    agent_version: str
    ip_addresses: tuple[str, ...] = ()
    uptime_seconds: float = 0.0
    nixos_version: str | None = None
    all_mac_addresses: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    completed: Mapping[str, int] = field(factory=dict)
    credential_states: tuple[CredentialState, ...] = ()
    health: Mapping[str, object] = field(factory=dict)


class CheckinClient:
    """Checks in, keeps what Central gives (in memory), and sends reports.

    Args:
        enrolment: What claiming gave.
        keys: The device's keys; without them Central gives no credentials.
        outbox: Where reports wait; without one, :meth:`report` sends at once or raises.
        key: Gives the API key at each call; the enrolment's when absent.
        options: Patience of the HTTP client.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        keys: DevicePrivateKeys | None = None,
        outbox: Outbox | None = None,
        key: Callable[[], Secret] | None = None,
        options: HttpOptions | None = None,
    ) -> None:
        self._enrolment = enrolment
        self._keys = keys
        self._outbox = outbox
        # One attempt a check-in: the interval is the retry, and a late answer to an old one helps nobody.
        self._beats = CentralHttp(
            enrolment.api_endpoint, key=key or (lambda: enrolment.api_key), options=options or HttpOptions(attempts=1)
        )
        self._reports = CentralHttp(
            enrolment.api_endpoint, key=key or (lambda: enrolment.api_key), options=options or HttpOptions()
        )
        self.holdings = Holdings()
        self.clock_skew_s: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._beats.aclose()
        await self._reports.aclose()

    @property
    def http(self) -> CentralHttp:
        """The connection for everything but the heartbeat, such as fetching a package."""
        return self._reports

    async def check_in(self, status: ApplianceStatus) -> CheckinReply:
        """Say how we are and take what Central says; :attr:`holdings` follow.

        Raises:
            NotEnrolledError: The key is wrong or was revoked.
            RateLimitedError: Come again later; ``retry_after_s``.
            TransportError: No answer. Nothing is lost: wishes are numbers and stay.
            WireError: The reply does not fit.
        """
        health = dict(status.health)
        if self.clock_skew_s is not None and abs(self.clock_skew_s) > SKEW_PROBLEM_S:
            health["clock_skew_s"] = round(self.clock_skew_s, 1)
        request = CheckinRequest(
            site_id=self._enrolment.site_id,
            hostname=status.hostname,
            mac_address=self._enrolment.mac_address,
            ip_addresses=status.ip_addresses,
            uptime_seconds=status.uptime_seconds,
            agent_version=status.agent_version,
            nixos_version=status.nixos_version,
            all_mac_addresses=status.all_mac_addresses or None,
            subnets=status.subnets,
            credentials_version=self.holdings.credentials_version,
            targets_version=self.holdings.targets_version,
            completed=status.completed,
            credential_states=status.credential_states,
            health=health,
        )
        reply = await self._beats.call(CHECKIN, CheckinReply, body=request)
        self.clock_skew_s = (datetime.now(UTC) - reply.server_time).total_seconds()
        self.holdings = absorb(self.holdings, reply, self._open)
        return reply

    async def report(self, report: Report) -> None:
        """Keep a report in the outbox and try to send all that wait.

        Raises:
            NotEnrolledError: The key is no longer good; the report is kept.
            StateError: There is no outbox.
        """
        await self.keep(report)
        await self.flush()

    async def keep(self, report: Report) -> None:
        """Keep a report in the outbox; it is on disk when this returns. :meth:`flush` sends it.

        Raises:
            StateError: There is no outbox.
            ConfigError: It cannot be written.
        """
        if self._outbox is None:
            raise StateError("this client was made without an outbox.", remedy="Pass outbox=Outbox(folder).")
        # A report of a big site takes a second to render: the heartbeat goes on meanwhile.
        await asyncio.to_thread(self._outbox.put, report)

    @property
    def waiting_count(self) -> int:
        """How many reports wait for Central."""
        return len(self._outbox) if self._outbox is not None else 0

    @property
    def refused(self) -> Mapping[str, str]:
        """What Central refused for good and has not got since: by what it is about, a code; empty when all is well."""
        return self._outbox.refused if self._outbox is not None else {}

    async def clear_refused(self, matter: str) -> None:
        """Say that what was refused of a matter stands no more: it is said anew, or there is no such thing now.

        Raises:
            ConfigError: It cannot be written.
        """
        if self._outbox is not None and matter in self._outbox.refused:
            await asyncio.to_thread(self._outbox.clear_refused, matter)

    def learn_domain_names(self, domain_names: Mapping[str, str]) -> None:
        """Hold each credential under the full name of its domain, also one that was stored under its NetBIOS name.

        Args:
            domain_names: Full names by folded NetBIOS names.
        """
        if domain_names != self.holdings.domain_names:
            self.holdings = learn_domain_names(self.holdings, domain_names)

    def forget(self) -> None:
        """Forget everything that Central gave, but not which versions were seen: the key is no longer good."""
        self.holdings = Holdings(seen_versions=self.holdings.seen_versions)

    async def flush(self) -> int:
        """Send the reports that wait; returns how many were taken."""
        return await self._outbox.flush(self._reports) if self._outbox is not None else 0

    def _open(self, sealed: SealedSecret, credential: Credential) -> Secret:
        if self._keys is None:
            raise StateError("a sealed password needs the device's keys.", code="no-device-keys")
        context = SealContext(
            partner_id=self._enrolment.partner.id,
            site_id=self._enrolment.site_id,
            appliance_id=self._enrolment.appliance_id,
            credential_id=credential.id,
            version=credential.version,
            type=credential.type,
            username=credential.username,
            place=credential.host or credential.domain_name or "",
        )
        try:
            return self._keys.open(sealed, context)
        except WireError:
            # Ask for everything again: the next reply may hold an envelope that opens.
            self.holdings = evolve(self.holdings, credentials_version=None)
            raise


def next_wait_s(
    interval_s: float, failures: int, retry_after_s: float | None, draw: Callable[[], float] = random.random
) -> float:
    """How long to wait until the next check-in.

    Args:
        interval_s: The interval that Central gave; kept between 0.2 s and an hour.
        failures: How many check-ins in a row have failed.
        retry_after_s: What Central asked for, if it did.
        draw: Gives a number in [0, 1).

    Returns:
        The interval ± 10 % after a success; full-jitter back-off up to 5 minutes after failures.
    """
    if retry_after_s is not None:
        # "At once" would make a loop of it, and no appliance is silent for a day because of one answer.
        return _bounded(retry_after_s, 1.0) * (1 + 0.1 * draw())
    if failures == 0:
        return _bounded(interval_s) * (0.9 + 0.2 * draw())
    # The exponent is bounded too: an appliance that is cut off for weeks must not overflow.
    longest = min(max(_bounded(interval_s), 1.0) * 2.0 ** min(failures - 1, 20), 300.0)
    return max(_SHORTEST_S, longest * draw())


def _bounded(wait_s: float, shortest_s: float = _SHORTEST_S) -> float:
    return min(max(wait_s, shortest_s), _LONGEST_S)


def phase_s(appliance_id: str, interval_s: float) -> float:
    """Where in the interval this appliance's first check-in lies, so that a fleet spreads itself evenly."""
    number = int.from_bytes(hashlib.sha256(appliance_id.encode()).digest()[:8], "big")
    return interval_s * (number / 2**64)
