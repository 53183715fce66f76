"""The connections that stay open between passes, one to a domain: a logon a minute fills the customer's log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from attrs import evolve, frozen

from msp_sdk.checkin import Holdings
from msp_sdk.directory.session import SkippedDoor
from msp_sdk.enumeration import AdSubnet, ControllerFailure, KnownDomain
from msp_sdk.errors import LogonError, MspError
from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Enumeration, EnumerationChanges
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.reason import ACCOUNT_REASONS
from msp_sdk.models.scope import SiteScope

logger = logging.getLogger(__name__)
T = TypeVar("T")


class DirectoryReader(Protocol):
    """A reader of one domain with one account: what the daemon needs of an enumerator.

    Its methods raise ``LogonError`` where the account is not let in, ``DirectoryError`` with the code
    ``cursor-lost`` where changes cannot go on from a cursor, and other ``MspError`` where the directory fails.
    """

    async def __aenter__(self) -> Self:
        """Begin; nothing is connected yet."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the connection."""
        ...

    @property
    def source(self) -> str | None:
        """Controller and door of the session; None before the first one."""
        ...

    @property
    def skipped_doors(self) -> tuple[SkippedDoor, ...]:
        """The ways in that were passed over before this one took us."""
        ...

    @property
    def failures(self) -> Sequence[ControllerFailure]:
        """The controllers and doors that did not take us, and why, in order."""
        ...

    async def enumerate(self) -> Enumeration:
        """Read all computers."""
        ...

    async def ad_subnets(self, ad_sites: Iterable[str]) -> tuple[AdSubnet, ...]:
        """Read which networks are of which AD site; these sites must be there."""
        ...

    async def other_domains(self) -> tuple[KnownDomain, ...]:
        """Read which other domains the directory knows."""
        ...

    async def changes(self, since: str) -> EnumerationChanges:
        """Read what has changed since a cursor."""
        ...

    async def netbios_name(self) -> str | None:
        """Read the domain's NetBIOS name."""
        ...


@frozen
class _Basis:
    """What a connection rests on: when one of these is another one, or gone, it must not be used any more."""

    domain_name: str
    credential: Credential
    policy: SitePolicy
    scope: SiteScope


@frozen
class _Open:
    reader: DirectoryReader
    basis: _Basis


class KeptConnections:
    """Keeps at most one reader of each domain open.

    It holds no secret: a credential's opener is called at the bind alone, which goes through the ledger.

    Args:
        make: Makes a reader for a domain and an account, under the site's policy and scope as they are then.
        refuse: Notes in the logon ledger that an account was refused, by its reason, under another id.
    """

    def __init__(
        self, make: Callable[[Domain, Credential], DirectoryReader], refuse: Callable[[Credential, str], None]
    ) -> None:
        self._make = make
        self._refuse = refuse
        self._open: dict[str, _Open] = {}
        self._failures: dict[str, tuple[ControllerFailure, ...]] = {}

    def reader(self, domain_name: str) -> DirectoryReader | None:
        """What is open to a domain now."""
        found = self._open.get(domain_name.casefold())
        return found.reader if found else None

    def credential(self, domain_name: str) -> Credential | None:
        """The account that the open one was made with."""
        found = self._open.get(domain_name.casefold())
        return found.basis.credential if found else None

    async def open(self, domain: Domain, credential: Credential, holdings: Holdings) -> DirectoryReader:
        """A reader of this domain with this account; the one that is open, if it is that one."""
        basis = _basis(domain, credential, holdings)
        found = self._open.get(basis.domain_name)
        if found is None or found.basis != basis:
            await self.close(domain.name)
            found = _Open(await self._make(domain, credential).__aenter__(), basis)
            self._open[basis.domain_name] = found
        return found.reader

    def failures(self, domain_name: str) -> tuple[ControllerFailure, ...]:
        """What each controller and door of a domain answered when it last did not work, in order."""
        return self._failures.get(domain_name.casefold(), ())

    async def use(
        self,
        domain: Domain,
        credentials: Sequence[Credential],
        holdings: Holdings,
        work: Callable[[DirectoryReader], Awaitable[T]],
    ) -> T:
        """Work with the first account that is let in.

        Each has its one logon; one that was stored twice, with the same password, has one as well, whatever door and
        host would see the second.

        Raises:
            LogonError: None is let in; the first error, but one that waiting may mend before one that it does not.
            ConfigError: The scope leaves nothing to read.
            MspError: As the work says.
        """
        refusal: LogonError | None = None
        refused: list[tuple[Credential, LogonError]] = []
        self._failures.pop(domain.name.casefold(), None)
        open_with = self.credential(domain.name)
        for credential in sorted(credentials, key=lambda entry: entry != open_with):
            # The domain's own short name, which tells one spelling from another, is surer than what a person typed.
            named = evolve(credential, netbios_name=domain.netbios_name or credential.netbios_name)
            try:
                known = next((error for other, error in refused if named.is_same_logon(other)), None)
            except MspError as error:
                logger.warning("%s cannot be told from one that is not let in: %s", credential.username, error)
                continue
            if known is not None:
                logger.warning("%s was stored twice, and is not let in (%s)", credential.username, known.code)
                if not known.retryable:
                    # Hosts must not see it either.
                    await asyncio.to_thread(self._refuse, credential, known.code)
                continue
            reader = await self.open(domain, credential, holdings)
            try:
                return await work(reader)
            except MspError as error:
                self._failures[domain.name.casefold()] = tuple(reader.failures)
                if error.code != "cursor-lost":
                    await self.close(domain.name)
                if not isinstance(error, LogonError) or (error.retryable and error.code not in ACCOUNT_REASONS):
                    raise
                logger.warning("%s is not let in (%s): %s", credential.username, error.code, error)
                refused.append((named, error))
                if refusal is None or (error.retryable and not refusal.retryable):
                    refusal = error
        raise refusal or LogonError("there is no account for this domain.", code="no-credential")

    async def let_go(self, domains: Iterable[Domain], holdings: Holdings) -> None:
        """Close what rests on something that holds no more: another domain, account, policy or scope."""
        for name in self.baseless(domains, holdings):
            await self.close(name)

    def baseless(self, domains: Iterable[Domain], holdings: Holdings) -> tuple[str, ...]:
        """The domains, folded, to which something is open that rests on what holds no more."""
        held = [_basis(domain, entry, holdings) for domain in domains for entry in holdings.for_domain(domain.name)]
        return tuple(name for name, found in self._open.items() if found.basis not in held)

    async def close(self, domain_name: str | None = None) -> None:
        """End the connection to a domain, or all of them; they are gone when this returns."""
        for name in tuple(self._open) if domain_name is None else (domain_name.casefold(),):
            found = self._open.pop(name, None)
            if found is not None:
                with contextlib.suppress(MspError):
                    await found.reader.__aexit__(None, None, None)


def _basis(domain: Domain, credential: Credential, holdings: Holdings) -> _Basis:
    return _Basis(domain.name.casefold(), credential, holdings.policy, holdings.scope)
