"""ADEnumerator: reads every computer of a domain, from whichever of its controllers answers.

* Controllers are tried in their order on trouble with the connection or the certificate. A refused password ends it
  at once: no other controller sees it.
* One bind for the life of the enumerator, kept open: a logon a minute would fill the customer's event log.
* An error is never an empty result, and half an answer is :class:`~msp_sdk.errors.PartialResultError`.

Example:
    >>> async with ADEnumerator(domain, credential, ledger=ledger) as enumerator:  # doctest: +SKIP
    ...     enumeration = await enumerator.enumerate()
    ...     len(enumeration.servers)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import attrs
from attrs import field, frozen

from msp_sdk.directory.entry import domain_to_dn
from msp_sdk.directory.session import DirectoryOptions, DirectorySession, open_session
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, COMPUTER_FILTER, ServiceAccount, classify
from msp_sdk.errors import DirectoryError, DiscoveryError, MspError, PartialResultError, StateError
from msp_sdk.models.computer import Computer, Enumeration
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.reason import reason
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver
from msp_sdk.network.threads import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

_CONCURRENT_LOOKUPS = 100


@frozen
class EnumerationOptions:
    """How an enumeration works.

    Attributes:
        directory: Patience, page size, CAs.
        resolver: Finds the addresses of controllers that carry none; None means the domain's own DNS servers.
        clock: The present, aware.
    """

    directory: DirectoryOptions = field(factory=DirectoryOptions)
    resolver: Resolver | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


@frozen
class ControllerFailure:
    """Why a controller was passed over."""

    controller: str
    code: str
    detail: str


def default_ledger_path() -> Path:
    """Where the ledger lies for whoever uses the library without saying where: one file for all their logons."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "msp" / "logons.db"


class ADEnumerator:
    """Reads a domain's computers.

    Args:
        domain: As discovery found it, or made by hand with at least one controller.
        credential: An account that may read the directory; it needs no administrator.
        ledger: Counts logons; None means the one at :func:`default_ledger_path`.
        options: Limits and patience.

    Attributes:
        failures: The controllers that were passed over, in order.
    """

    def __init__(
        self,
        domain: Domain,
        credential: Credential,
        *,
        ledger: LogonLedger | None = None,
        options: EnumerationOptions | None = None,
    ) -> None:
        self.domain = domain
        self.credential = credential
        self.failures: list[ControllerFailure] = []
        self._options = options or EnumerationOptions()
        self._ledger = ledger or LogonLedger(default_ledger_path())
        self._pool: ThreadPool | None = None
        self._session: DirectorySession | None = None
        self._service_accounts_count = 0

    async def __aenter__(self) -> Self:
        # One thread: a session is never used from two at once, and closing waits for its turn.
        self._pool = ThreadPool("directory", 1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            # Its turn comes after a connect that was cancelled here but went on in the thread.
            await pool.run(self._close_session)
            pool.close()

    @property
    def source(self) -> str | None:
        """Controller and door of the session, such as ``dc1.corp.example ldaps``; None before the first one."""
        return None if self._session is None else self._session.source

    async def prove(self) -> str:
        """Log on once at a controller, to prove the credential (again), and return the controller's name.

        It always makes a bind of its own, also when a session stands.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        await self._drop_session()
        session = await self._connect(self.domain.controllers)
        return session.source.split(" ", maxsplit=1)[0]

    async def netbios_name(self) -> str | None:
        """Read the domain's NetBIOS name where the directory keeps it; None when it cannot be read. Never guessed.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        session = await self._ready()
        root = await self._run(session.root_dse)
        if root.configuration_dn is None:
            return None
        wanted = f"(&(objectClass=crossRef)(nCName={_escape_filter(self._base_dn)}))"
        page = await self._run(session.page, f"CN=Partitions,{root.configuration_dn}", wanted, ("nETBIOSName",))
        return next((name for entry in page.entries if (name := entry.text("nETBIOSName"))), None)

    async def enumerate(self) -> Enumeration:
        """Read all computers. After a broken connection the next controller is read from the start.

        Returns:
            A complete reading; empty only if the directory holds no computer.

        Raises:
            LogonRejectedError: The password or account was refused; never try again.
            LogonNotAllowedError: The ledger said no; nothing was sent.
            BindRejectedError: No controller shows a certificate that is verified or listed; nothing was sent.
            PartialResultError: The last controller stopped half-way; ``received`` holds what it sent.
            DirectoryError: No controller could be asked.
        """
        waiting = list(self.domain.controllers)
        # A controller ends a session that was idle for long: that is no failure of the controller.
        idle = self._session is not None
        while True:
            computers: list[Computer] = []
            session = self._session or await self._connect(waiting)
            try:
                # One by one: what came before a break is kept.
                async for computer in self._read(session):
                    computers.append(computer)  # noqa: PERF401 (as the comment says)
            except DirectoryError as error:
                if not error.retryable:
                    raise
                partial = isinstance(error, PartialResultError)
                if partial or not idle:
                    waiting = self._after_failure(error, waiting)
                idle = False
                await self._drop_session()
                if not waiting:
                    raise (_with_received(error, computers) if partial else error) from error.__cause__
            else:
                return Enumeration(
                    domain_name=self.domain.name,
                    computers=tuple(computers),
                    enumerated_at=self._options.clock(),
                    source=session.source,
                    service_accounts_count=self._service_accounts_count,
                )

    async def stream(self) -> AsyncIterator[Computer]:
        """Read all computers one by one; at most a page of them is held.

        Raises:
            PartialResultError: It broke after a part, which has been given out already.
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        async for computer in self._read(await self._ready()):
            yield computer

    async def _read(self, session: DirectorySession) -> AsyncIterator[Computer]:
        self._service_accounts_count = 0
        now = self._options.clock()
        cookie = b""
        while True:
            page = await self._run(session.page, self._base_dn, COMPUTER_FILTER, COMPUTER_ATTRIBUTES, cookie=cookie)
            for entry in page.entries:
                found = classify(entry, domain_name=self.domain.name, now=now)
                if isinstance(found, ServiceAccount):
                    self._service_accounts_count += 1
                else:
                    yield found
            cookie = page.cookie
            if not cookie:
                return

    @property
    def _base_dn(self) -> str:
        return self.domain.base_dn or domain_to_dn(self.domain.name)

    async def _ready(self) -> DirectorySession:
        if self._session is not None and self._session.closed:
            await self._drop_session()
        return self._session or await self._connect(self.domain.controllers)

    def _current(self) -> DirectorySession:
        if self._session is None:
            raise StateError("there is no session.")
        return self._session

    def _after_failure(self, error: MspError, waiting: Sequence[DomainController]) -> list[DomainController]:
        """Note a controller that failed while it was read, and return those that are left after it."""
        name = self._current().source.split(" ", maxsplit=1)[0]
        self.failures.append(ControllerFailure(name, error.code, error.detail))
        names = [controller.fqdn for controller in waiting]
        return list(waiting[names.index(name) + 1 :]) if name in names else []

    async def _drop_session(self) -> None:
        await self._run(self._close_session)

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open_session(self, controller: DomainController) -> DirectorySession:
        self._session = open_session(controller, self.credential, ledger=self._ledger, options=self._options.directory)
        return self._session

    async def _connect(self, controllers: Sequence[DomainController]) -> DirectorySession:
        """A session with the first of these controllers that takes us."""
        errors: list[MspError] = []
        for controller in controllers:
            try:
                return await self._run(self._open_session, await self._locate(controller))
            except (DirectoryError, DiscoveryError) as error:
                # LogonError is no DirectoryError: a refused password passes straight through.
                errors.append(error)
                self.failures.append(ControllerFailure(controller.fqdn, error.code, error.detail))
        known = reason("unreachable-controller")
        if not errors:
            raise DirectoryError(f"{self.domain.name} has no controllers.", code=known.code, remedy=known.remedy)
        # What somebody can act on comes before a silent port.
        telling = next((error for error in errors if error.code != known.code), errors[-1])
        if isinstance(telling, DirectoryError):
            raise telling
        raise DirectoryError(telling.detail, code=known.code, remedy=known.remedy, retryable=True) from telling

    async def _locate(self, controller: DomainController) -> DomainController:
        """The controller with its addresses, by the domain's own DNS servers."""
        if controller.addresses:
            return controller
        resolver = self._options.resolver or Resolver.of_domain(self.domain.dns_servers)
        addresses = await resolver.addresses(controller.fqdn)
        if not addresses:
            known = reason("no-address")
            raise DirectoryError(
                f"DNS knows no address for {controller.fqdn}.",
                code="unreachable-controller",
                remedy=known.remedy,
                retryable=True,
            )
        return attrs.evolve(controller, addresses=addresses)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._pool is None:
            raise StateError("use the enumerator in an async with block.")
        return await self._pool.run(function, *args, **kwargs)


async def with_addresses(computers: Iterable[Computer], resolver: Resolver) -> tuple[Computer, ...]:
    """Look up the addresses of computers by the domain's DNS; the order is kept.

    A name without an address gets ``unreachable_reason="no-address"``. A name that could not be asked for keeps no
    reason: nobody knows.

    Raises:
        DiscoveryError: Not one look-up was answered. Retryable.
    """
    limit = asyncio.Semaphore(_CONCURRENT_LOOKUPS)
    failures: list[DiscoveryError] = []
    answered = 0

    async def look_up(computer: Computer) -> Computer:
        nonlocal answered
        if computer.fqdn is None:
            return computer
        async with limit:
            try:
                addresses = await resolver.addresses(computer.fqdn)
            except DiscoveryError as error:
                failures.append(error)
                return computer
        answered += 1
        return attrs.evolve(computer, ip_addresses=addresses, unreachable_reason=None if addresses else "no-address")

    found = await asyncio.gather(*(look_up(computer) for computer in computers))
    if failures and not answered:
        raise failures[0]
    return tuple(found)


def _with_received(error: DirectoryError, computers: Sequence[Computer]) -> PartialResultError:
    return PartialResultError(error.detail, received=tuple(computers))


def _escape_filter(value: str) -> str:
    """A value inside an LDAP filter (RFC 4515)."""
    return "".join(f"\\{ord(character):02x}" if character in "\\*()\0" else character for character in value)
