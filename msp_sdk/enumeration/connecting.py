"""A session with one of a domain's controllers: which one, by which door, and the next one when it fails."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import attrs
from attrs import frozen

from msp_sdk.directory.entry import domain_to_dn
from msp_sdk.directory.session import DirectoryOptions, DirectorySession, LogonWalk, open_session
from msp_sdk.errors import DirectoryError, DiscoveryError, MspError, PartialResultError, StateError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.reason import reason
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.threads import ThreadPool

if TYPE_CHECKING:
    from msp_sdk.network.resolver import Resolver

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class ControllerFailure:
    """Why a controller was passed over, or one of its doors.

    Attributes:
        door: Such as ``kerberos``; empty for the whole controller.
    """

    controller: str
    code: str
    detail: str
    door: str = ""


def default_ledger_path() -> Path:
    """Where the ledger lies for whoever uses the library without saying where: one file for all their logons."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "msp" / "logons.db"


def nearest_first(domain: Domain) -> tuple[DomainController, ...]:
    """The controllers in the order in which they are tried, otherwise the domain's own.

    Those that were seen with an open door come before those that were not, since each dead one costs seconds; then
    those of our own site before the others.
    """
    ours = (domain.ad_site or "").casefold()

    def rank(controller: DomainController) -> tuple[bool, bool]:
        return not controller.doors, not ours or (controller.ad_site or "").casefold() != ours

    return tuple(sorted(domain.controllers, key=rank))


class Connector:
    """Keeps one session, and a thread to use it in.

    Args:
        domain: Whose controllers.
        credential: Who logs on.
        ledger: Counts logons.
        options: Patience, CAs.
        resolver: Finds addresses; None means the domain's own DNS servers.

    Attributes:
        controllers: In the order in which they are tried.
        failures: The controllers and doors that were passed over since we last set out from the first one, in order.
        session: The present one.
    """

    def __init__(
        self,
        domain: Domain,
        credential: Credential,
        ledger: LogonLedger,
        *,
        options: DirectoryOptions,
        resolver: Resolver | None,
    ) -> None:
        self.controllers = nearest_first(domain)
        self.failures: list[ControllerFailure] = []
        self.session: DirectorySession | None = None
        self._domain = domain
        # What a controller says of its domain is surer than what a person typed.
        self._credential = attrs.evolve(credential, netbios_name=domain.netbios_name or credential.netbios_name)
        self._ledger = ledger
        self._options = options
        self._resolver = resolver
        self._pool: ThreadPool | None = None
        self._codes: tuple[str, ...] = ()
        self._walk = LogonWalk()

    @property
    def base_dn(self) -> str:
        """The root of the domain's partition."""
        return self._domain.base_dn or domain_to_dn(self._domain.name)

    def start(self) -> None:
        """Make the thread. One: a session is never used from two at once, and closing waits for its turn."""
        self._pool = ThreadPool("directory", 1)

    async def stop(self) -> None:
        """Close the session and end the thread; a logon that is under way there opens no further door."""
        self._walk.cancelled.set()
        pool, self._pool = self._pool, None
        if pool is not None:
            # Its turn comes after a connect that was cancelled here but went on in the thread.
            await pool.run(self._close)
            pool.close()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the thread.

        Raises:
            StateError: There is none.
        """
        if self._pool is None:
            raise StateError("use the enumerator in an async with block.")
        return await self._pool.run(function, *args, **kwargs)

    async def ready(self) -> DirectorySession:
        """The session that stands, or a new one.

        Raises:
            LogonError: Refused, not allowed, or its end is not known; no other controller is tried.
            DirectoryError: No controller could be asked.
        """
        # To know it, the session looks at its socket, which belongs to the pool's thread.
        if self.session is not None and await self.run(operator.attrgetter("closed"), self.session):
            await self.drop()
        return self.session or await self._connect(self.controllers)

    async def drop(self) -> None:
        """End the session."""
        await self.run(self._close)

    async def at_any(self, work: Callable[[DirectorySession], Awaitable[T]]) -> T:
        """Do work at a controller; where one fails on the way, from the start at the next.

        Raises:
            LogonError: Refused, not allowed, or its end is not known; no other controller is tried.
            DirectoryError: The last one's, or what the work raises and no other controller mends.
        """
        waiting: Sequence[DomainController] = self.controllers
        # What was learnt for another piece of work, days ago perhaps, says nothing of this one.
        self._walk = LogonWalk()
        # A controller ends a session that was idle for long: that is no failure of the controller.
        idle = self.session is not None
        while True:
            session = self.session or await self._connect(waiting)
            try:
                return await work(session)
            except DirectoryError as error:
                if not error.retryable:
                    raise
                if isinstance(error, PartialResultError) or not idle:
                    waiting = self._after_failure(session, error, waiting)
                idle = False
                await self.drop()
                if not waiting:
                    raise

    def is_closed(self, codes: Collection[str]) -> bool:
        """True if the last attempt to connect ended at every controller with one of these codes."""
        return bool(self._codes) and all(code in codes for code in self._codes)

    async def locate(self, controller: DomainController) -> DomainController:
        """The controller with its addresses, by the domain's own DNS servers.

        Raises:
            DirectoryError: DNS knows none.
            DiscoveryError: DNS could not be asked.
        """
        if controller.addresses:
            return controller
        addresses = await (self._resolver or _resolver_of(self._domain)).addresses(controller.fqdn)
        if not addresses:
            raise DirectoryError(
                f"DNS knows no address for {controller.fqdn}.",
                code="unreachable-controller",
                remedy=reason("no-address").remedy,
                retryable=True,
            )
        return attrs.evolve(controller, addresses=addresses)

    def _after_failure(
        self, session: DirectorySession, error: MspError, waiting: Sequence[DomainController]
    ) -> Sequence[DomainController]:
        """Note a controller that failed while it was read, and return those that are left."""
        name = session.source.split(" ", maxsplit=1)[0]
        self.failures.append(ControllerFailure(name, error.code, error.detail))
        return tuple(controller for controller in waiting if controller.fqdn != name)

    def _close(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def _open(self, controller: DomainController, walk: LogonWalk) -> DirectorySession:
        # One that nobody waited for any more may have come about all the same: that saves a logon.
        if self.session is not None and not self.session.closed:
            return self.session
        self.session = open_session(controller, self._credential, ledger=self._ledger, options=self._options, walk=walk)
        return self.session

    async def _connect(self, controllers: Sequence[DomainController]) -> DirectorySession:
        """A session with the first of these controllers that takes us."""
        errors: list[MspError] = []
        if controllers is self.controllers:
            # A fresh start. What was so days ago explains nothing of today.
            self.failures.clear()
            self._walk = LogonWalk()
        for controller in controllers:
            try:
                session = await self.run(self._open, await self.locate(controller), self._walk)
            except asyncio.CancelledError:
                # Its thread goes on, and must not send the password for nobody.
                self._walk.cancelled.set()
                raise
            except (DirectoryError, DiscoveryError) as error:
                # LogonError is no DirectoryError: a refused password passes straight through.
                errors.append(error)
                self.failures.append(ControllerFailure(controller.fqdn, error.code, error.detail))
            else:
                self._codes = ()
                self.failures += [
                    ControllerFailure(skipped.controller, skipped.code, skipped.detail, skipped.door)
                    for skipped in session.skipped_doors
                ]
                return session
        self._codes = tuple(error.code for error in errors)
        known = reason("unreachable-controller")
        if not errors:
            raise DirectoryError(f"{self._domain.name} has no controllers.", code=known.code, remedy=known.remedy)
        # What somebody can act on comes before a silent port.
        telling = next((error for error in errors if error.code != known.code), errors[-1])
        if isinstance(telling, DirectoryError):
            raise telling
        raise DirectoryError(telling.detail, code=known.code, remedy=known.remedy, retryable=True) from telling


def _resolver_of(domain: Domain) -> Resolver:
    # Where controllers carry their addresses, as discovery's do, nobody waits for a DNS library.
    from msp_sdk.network.resolver import Resolver  # noqa: PLC0415 (it costs a tenth of a second)

    return Resolver.of_domain(domain.dns_servers)
