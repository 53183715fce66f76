"""The one connection to the directory that stays open between passes: a logon a minute fills the customer's log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from attrs import frozen

from msp_sdk.checkin import Holdings
from msp_sdk.directory.session import SkippedDoor
from msp_sdk.errors import MspError
from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Enumeration, EnumerationChanges
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.site import SiteScope


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

    async def enumerate(self) -> Enumeration:
        """Read all computers."""
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


class KeptConnection:
    """Keeps at most one reader of a directory open.

    It holds no secret: a credential's opener is called at the bind alone, which goes through the ledger.

    Args:
        make: Makes a reader for a domain and an account, under the site's policy and scope as they are then.
    """

    def __init__(self, make: Callable[[Domain, Credential], DirectoryReader]) -> None:
        self._make = make
        self._reader: DirectoryReader | None = None
        self._basis: _Basis | None = None

    @property
    def reader(self) -> DirectoryReader | None:
        """What is open now."""
        return self._reader

    @property
    def credential(self) -> Credential | None:
        """The account that the open one was made with."""
        return self._basis.credential if self._basis else None

    async def open(self, domain: Domain, credential: Credential, holdings: Holdings) -> DirectoryReader:
        """A reader of this domain with this account; the one that is open, if it is that one."""
        basis = _Basis(domain.name.casefold(), credential, holdings.policy, holdings.scope)
        if self._reader is None or self._basis != basis:
            await self.close()
            self._reader = await self._make(domain, credential).__aenter__()
            self._basis = basis
        return self._reader

    def is_ours(self, domain: Domain | None, holdings: Holdings) -> bool:
        """True while nothing is open, or what is open rests on what still holds."""
        basis = self._basis
        if basis is None:
            return True
        return (
            domain is not None
            and basis.credential in (holdings.credentials or ())
            and basis == _Basis(domain.name.casefold(), basis.credential, holdings.policy, holdings.scope)
        )

    async def close(self) -> None:
        """End the connection, if there is one; it is gone when this returns."""
        reader, self._reader, self._basis = self._reader, None, None
        if reader is not None:
            with contextlib.suppress(MspError):
                await reader.__aexit__(None, None, None)
