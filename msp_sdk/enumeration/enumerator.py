"""ADEnumerator: reads every computer of a domain, from whichever of its controllers answers, and what changes there.

* Controllers of our own site come first; the next one is tried on trouble with the connection or the certificate. A
  refused password ends it at once: no other controller sees it.
* One bind for the life of the enumerator, kept open: a logon a minute would fill the customer's event log.
* Reading, decoding and judging happen in one worker thread, a batch at a time.
* An error is never an empty result, and half an answer is :class:`~msp_sdk.errors.PartialResultError`.

Example:
    >>> async with ADEnumerator(domain, credential, ledger=ledger) as enumerator:  # doctest: +SKIP
    ...     enumeration = await enumerator.enumerate()
    ...     changes = await enumerator.changes(since=enumeration.cursor)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
from attrs import field, frozen

from msp_sdk.directory.entry import ou_path
from msp_sdk.directory.session import DirectoryOptions, DirectorySession, SkippedDoor
from msp_sdk.enumeration.changes import read_changes
from msp_sdk.enumeration.classify import ClassifyRules, ServiceAccount, Unidentified
from msp_sdk.enumeration.connecting import Connector, ControllerFailure, default_ledger_path
from msp_sdk.enumeration.domains import KnownDomain, read_forest_domains, read_trusted_domains
from msp_sdk.enumeration.locality import AdSubnet, read_ad_subnets
from msp_sdk.enumeration.reading import FullReading, Judge, with_laps
from msp_sdk.enumeration.scope import Members, check_containers, check_places, normalise_scope, read_members
from msp_sdk.errors import (
    DirectoryError,
    DiscoveryError,
    MspError,
    PartialResultError,
    StateError,
    WindowsError,
    WireError,
)
from msp_sdk.models.computer import Computer, Enumeration, EnumerationChanges, EnumerationScope
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.reason import remedy_of
from msp_sdk.network.logons import LogonLedger

if TYPE_CHECKING:
    from msp_sdk.enumeration.winrm import ShellOpener
    from msp_sdk.network.resolver import Resolver

_CONCURRENT_LOOKUPS = 100
# Nothing else means that LDAP is closed; whoever answered and said no must not be gone round.
_CLOSED = frozenset({"unreachable-controller", "no-address"})


@frozen
class EnumerationOptions:
    """How an enumeration works.

    Attributes:
        directory: Patience, page size, CAs.
        resolver: Finds the addresses of controllers that carry none; None means the domain's own DNS servers.
        clock: The present, aware.
        scope: What of the domain is read.
        rules: What makes a computer stale, or its vendor's.
        optional_ous: Containers that the scope leaves out and that need not be in this domain; the scope of a
            reading does not name those that are not. Of all others ``scope-not-found`` is said.
        shells: Opens a shell on a controller where LDAP is closed on all of them; None leaves that untried. It needs
            a ``domain_admin``.
    """

    directory: DirectoryOptions = field(factory=DirectoryOptions)
    resolver: Resolver | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    scope: EnumerationScope = field(factory=EnumerationScope)
    rules: ClassifyRules = field(factory=ClassifyRules)
    optional_ous: tuple[str, ...] = ()
    shells: ShellOpener | None = None


class ADEnumerator:
    """Reads a domain's computers.

    Args:
        domain: As discovery found it, or made by hand with at least one controller.
        credential: An account that may read the directory; it needs no administrator.
        ledger: Counts logons; None means the one at :func:`default_ledger_path`.
        options: What is read, limits and patience.

    Raises:
        ConfigError: The scope names a role that does not exist, or a container of another domain.
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
        self._options = options or EnumerationOptions()
        self._scope = normalise_scope(self._options.scope, domain.name)
        self._connector = Connector(
            domain,
            credential,
            ledger or LogonLedger(default_ledger_path()),
            options=self._options.directory,
            resolver=self._options.resolver,
        )

    async def __aenter__(self) -> Self:
        self._connector.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connector.stop()

    @property
    def source(self) -> str | None:
        """Controller and door of the session, such as ``dc1.corp.example ldaps``; None before the first one."""
        session = self._connector.session
        return None if session is None else session.source

    @property
    def failures(self) -> list[ControllerFailure]:
        """The controllers and doors that were passed over, in order, since we last set out from the first one."""
        return self._connector.failures

    @property
    def skipped_doors(self) -> tuple[SkippedDoor, ...]:
        """The doors that were passed over before the present session's one took us."""
        session = self._connector.session
        return () if session is None else session.skipped_doors

    async def prove(self) -> str:
        """Log on once at a controller, to prove the credential (again), and return the controller's name.

        It always makes a bind of its own, also when a session stands.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        await self._connector.drop()
        session = await self._connector.ready()
        return session.source.split(" ", maxsplit=1)[0]

    async def netbios_name(self) -> str | None:
        """Read the domain's NetBIOS name where the directory keeps it; None when it cannot be read. Never guessed.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        ours = self.domain.name.lower()
        return next((known.netbios_name for known in await self.forest_domains() if known.name == ours), None)

    async def forest_domains(self) -> tuple[KnownDomain, ...]:
        """The domains of the forest, this one among them. Each is read from its own controllers.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        session = await self._connector.ready()
        root = await self._connector.run(session.root_dse)
        if root.configuration_dn is None:
            return ()
        return await self._connector.run(read_forest_domains, session, root.configuration_dn)

    async def trusted_domains(self) -> tuple[KnownDomain, ...]:
        """The domains at the other end of a trust. Each is read from its own controllers.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        session = await self._connector.ready()
        return await self._connector.run(read_trusted_domains, session, self._connector.base_dn)

    async def other_domains(self) -> tuple[KnownDomain, ...]:
        """The other domains of the forest, and those at the other end of a trust; by name, each once.

        Raises:
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        known = {entry.name: entry for entry in (*await self.trusted_domains(), *await self.forest_domains())}
        known.pop(self.domain.name.lower(), None)
        return tuple(known[name] for name in sorted(known))

    async def ad_subnets(self, ad_sites: Iterable[str] = ()) -> tuple[AdSubnet, ...]:
        """Which networks are of which of Active Directory's own sites, of the whole forest; may be empty.

        Args:
            ad_sites: Sites that must be there.

        Raises:
            ConfigError: ``scope-not-found``: there is no such site.
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        session = await self._connector.ready()
        root = await self._connector.run(session.root_dse)
        if root.configuration_dn is None:
            raise DirectoryError(f"{session.source} names no configuration.", code="directory-failed", retryable=True)
        return await self._connector.run(read_ad_subnets, session, root.configuration_dn, tuple(ad_sites))

    async def enumerate(self) -> Enumeration:
        """Read all computers of the scope. After a broken connection the next controller is read from the start.

        Returns:
            A complete reading; empty only if the scope holds no computer. Its ``cursor`` is where :meth:`changes`
            goes on, without a gap.

        Raises:
            LogonRejectedError: The password or account was refused; the ledger knows whether it is ever tried again.
            LogonNotAllowedError: The ledger said no; nothing was sent.
            LogonError: ``logon-unanswered``: a controller broke off at the logon. No other one was tried.
            BindRejectedError: No controller shows a certificate that is verified or listed; nothing was sent.
            PartialResultError: The last controller stopped half-way; ``received`` holds what it sent.
            DirectoryError: No controller could be asked.
            ConfigError: ``scope-not-found``: the scope names a container or a group that does not exist, or one that
                was renamed meanwhile; where a controller was read by WinRM, a container in which nothing lies.
        """
        try:
            return await self._connector.at_any(self._enumerate_at)
        except DirectoryError as error:
            if not self._is_closed(error):
                raise
            return await self._enumerate_by_shell(error)

    async def _enumerate_at(self, session: DirectorySession) -> Enumeration:
        run, base_dn = self._connector.run, self._connector.base_dn
        reading = FullReading(session, base_dn, await self._judge(session))
        computers: list[Computer] = []
        batches = reading.batches()
        try:
            while (batch := await run(next, batches, None)) is not None:
                if batch.replaces:
                    computers = batch.without_replaced(computers)
                computers += batch.computers
        except PartialResultError as error:
            received = [found for entry in error.received if (found := reading.take(entry))]
            raise PartialResultError(error.detail, received=(*computers, *received)) from error.__cause__
        # One that was renamed meanwhile let nobody in any more, or everybody; no change will ever tell of that.
        await self._check_containers(session)
        return Enumeration(
            domain_name=self.domain.name,
            computers=await run(with_laps, session, base_dn, computers, some=False),
            enumerated_at=reading.judge.now,
            source=session.source,
            service_accounts_count=reading.service_accounts_count,
            unreadable_count=reading.unreadable_count,
            cursor=reading.cursor,
            scope=reading.judge.scope,
        )

    async def changes(self, since: str) -> EnumerationChanges:
        """Read what has changed since the cursor of an enumeration, or of the changes before, in the same scope.

        Returns:
            Changed computers, whole, and those that are gone. ``complete`` is False where this account cannot see
            deletions: a full reading reconciles that.

        Raises:
            DirectoryError: ``cursor-lost``: changes cannot go on from there; read in full.
            ConfigError: ``scope-not-found``: a container of the scope is there no more, perhaps renamed, or a group.
                Nothing is claimed.
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, PartialResultError: As :meth:`enumerate`.
        """
        return await self._connector.at_any(lambda session: self._changes_at(session, since))

    async def _changes_at(self, session: DirectorySession, since: str) -> EnumerationChanges:
        judge = self._make_judge(self._scope, Members())
        optional = self._options.optional_ous
        return await self._connector.run(read_changes, session, self._connector.base_dn, judge, since, optional)

    async def stream(self) -> AsyncIterator[Computer]:
        """Read all computers of the scope one by one; at most two pages of them are held.

        Raises:
            PartialResultError: It broke after a part, which has been given out already.
            ConfigError: As :meth:`enumerate`; at the end where a container was renamed meanwhile.
            LogonRejectedError, LogonNotAllowedError, BindRejectedError, DirectoryError: As :meth:`enumerate`.
        """
        session = await self._connector.ready()
        pages = FullReading(session, self._connector.base_dn, await self._judge(session)).by_pages()
        try:
            while (batch := await self._connector.run(next, pages, None)) is not None:
                for computer in batch.computers:
                    yield computer
            await self._check_containers(session)
        finally:
            # Left early, it tells the controller so: in the session's own thread, and not with the garbage.
            with contextlib.suppress(StateError):
                await self._connector.run(pages.close)

    async def _judge(self, session: DirectorySession) -> Judge:
        scope = await self._check_containers(session)
        members = await self._connector.run(read_members, session, self._connector.base_dn, scope.groups)
        return self._make_judge(scope, members)

    async def _check_containers(self, session: DirectorySession) -> EnumerationScope:
        optional = self._options.optional_ous
        return await self._connector.run(check_containers, session, self._connector.base_dn, self._scope, optional)

    def _make_judge(self, scope: EnumerationScope, members: Members) -> Judge:
        return Judge(self.domain.name, self._options.clock(), self._options.rules, scope, members)

    # Where LDAP is closed.

    def _is_closed(self, error: DirectoryError) -> bool:
        return error.code in _CLOSED and bool(self.domain.controllers) and self._connector.is_closed(_CLOSED)

    async def _enumerate_by_shell(self, closed: DirectoryError) -> Enumeration:
        """Read on a controller itself; an account that may not go there is told so, and the error stays what it is."""
        shells = self._options.shells
        if shells is None:
            raise _untried(closed, "WinRM on a controller was not tried: it is not set up here.")
        if self.credential.type != "domain_admin":
            raise _untried(
                closed,
                "WinRM on a controller was not tried: it needs an administrator of the controller, and"
                f" {self.credential.username} is a {self.credential.type}.",
                remedy="Open LDAP (TCP 389 or 636) to the appliance, or store a domain_admin credential.",
            )
        if self._scope.groups:
            raise _untried(closed, "WinRM on a controller was not tried: it resolves no groups.")
        from msp_sdk.enumeration.winrm import controller_target, read_by_shell  # noqa: PLC0415 (seldom needed)

        failure: MspError | None = None
        for controller in self._connector.controllers:
            try:
                target = controller_target(await self._connector.locate(controller), self.domain.name)
                entries = await read_by_shell(shells, target, self.credential, self._connector.base_dn)
            except (WindowsError, WireError, DirectoryError, DiscoveryError) as error:
                # No other LogonError is one of these: a refused password passes straight through.
                failure = error
                self.failures.append(ControllerFailure(controller.fqdn, error.code, error.detail, "winrm"))
                continue
            # Groups were ruled out above.
            places = (ou_path(entry.dn) for entry in entries)
            scope = check_places(self._scope, places, self._options.optional_ous)
            judge = self._make_judge(scope, Members())
            found = [judge.judge(entry) for entry in entries]
            return Enumeration(
                domain_name=self.domain.name,
                computers=tuple(entry for entry in found if isinstance(entry, Computer) and judge.wants(entry)),
                enumerated_at=judge.now,
                source=f"{controller.fqdn} winrm",
                service_accounts_count=sum(isinstance(entry, ServiceAccount) for entry in found),
                unreadable_count=sum(isinstance(entry, Unidentified) for entry in found),
                scope=scope,
            )
        detail = "" if failure is None else f": {failure.detail}"
        raise _untried(closed, f"WinRM on the controllers did not help{detail}") from failure


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


def _untried(closed: DirectoryError, why: str, *, remedy: str = "") -> DirectoryError:
    return DirectoryError(
        f"{closed.detail} {why}",
        code=closed.code,
        remedy=remedy or closed.remedy or remedy_of(closed.code),
        retryable=closed.retryable,
        context=closed.context,
    )
