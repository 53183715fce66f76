"""What the directory says of a host and a credential: is the password right, and whose are the host's service names.

One bind at one controller, through the ledger, as everywhere; then one search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msp_sdk.directory.entry import domain_to_dn
from msp_sdk.directory.session import DirectoryOptions, DirectorySession, LogonWalk, open_session
from msp_sdk.errors import DirectoryError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.finding import Finding, fine, remark, trouble
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.threads import ThreadPool

_SERVICES = ("HOST", "HTTP", "WSMAN")
_ESCAPED = {letter: f"\\{ord(letter):02x}" for letter in "\\*()\0"}


class DoctorDirectory(Protocol):
    """Where the doctor asks. ``principals`` are answered by the accounts that hold each, sorted; often one, or none."""

    async def prove(self, credential: Credential) -> str:
        """Log on once at a controller, and return its name; raises as ``open_session`` does."""
        ...

    async def holders(self, principals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Who holds these names, after :meth:`prove`."""
        ...

    async def aclose(self) -> None:
        """End it."""
        ...


class DomainDirectory:
    """A domain's own controllers, tried in order.

    Args:
        domain: Whose.
        ledger: Counts the logon.
        options: Patience, CAs.
    """

    def __init__(self, domain: Domain, ledger: LogonLedger, *, options: DirectoryOptions | None = None) -> None:
        self._domain = domain
        self._ledger = ledger
        self._options = options or DirectoryOptions()
        self._session: DirectorySession | None = None
        self._walk = LogonWalk()
        self._pool = ThreadPool("doctor-directory", 1)

    async def prove(self, credential: Credential) -> str:
        """See :class:`DoctorDirectory`.

        Raises:
            LogonError: Refused, not allowed, or its end is not known; no other controller is tried.
            DirectoryError: No controller could be asked.
        """
        self._session = await self._pool.run(self._open, credential)
        return self._session.source.split(" ", maxsplit=1)[0]

    def _open(self, credential: Credential) -> DirectorySession:
        failure = DirectoryError(f"there is no controller of {self._domain.name}.", code="unreachable-controller")
        for controller in self._domain.controllers:
            try:
                return open_session(controller, credential, ledger=self._ledger, options=self._options, walk=self._walk)
            except DirectoryError as error:
                failure = error
        raise failure

    async def holders(self, principals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See :class:`DoctorDirectory`.

        Raises:
            DirectoryError: The controller could not be asked.
        """
        return await self._pool.run(self._find, principals)

    def _find(self, principals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        if self._session is None:
            raise DirectoryError("nobody is logged on at a controller.", code="directory-failed")
        parts = "".join(f"(servicePrincipalName={_escape(principal)})" for principal in principals)
        base = self._domain.base_dn or domain_to_dn(self._domain.name)
        found: dict[str, set[str]] = {principal: set() for principal in principals}
        attributes = ("sAMAccountName", "servicePrincipalName")
        for page in self._session.pages(base, f"(|{parts})", attributes):
            for entry in page:
                held = {name.casefold() for name in entry.texts("servicePrincipalName")}
                for principal in principals:
                    if principal.casefold() in held:
                        found[principal].add(entry.text("sAMAccountName") or entry.dn)
        return {principal: tuple(sorted(accounts)) for principal, accounts in found.items()}

    async def aclose(self) -> None:
        """See :class:`DoctorDirectory`; a logon that is under way opens no further door."""
        self._walk.cancelled.set()
        if self._session is not None:
            await self._pool.run(self._session.close)
        self._pool.close()


def service_names(fqdn: str) -> tuple[str, ...]:
    """The names of a host's service that a client of WinRM may ask the KDC for."""
    return tuple(f"{service}/{fqdn}" for service in _SERVICES)


def look_at_service_names(fqdn: str, holders: Mapping[str, Sequence[str]], *, kerberos: bool) -> Finding:
    """Whether a KDC can give a ticket for the host.

    Args:
        fqdn: The host's whole name.
        holders: By service name, the accounts that hold it.
        kerberos: False when another mechanism is used, so that it stops nothing.
    """
    host, http = f"HOST/{fqdn}", f"HTTP/{fqdn}"
    evidence: dict[str, object] = {"holders": {name: list(accounts) for name, accounts in holders.items()}}
    ours, web = tuple(holders.get(host, ())), tuple(holders.get(http, ()))
    if len(ours) == 1:
        if web and web != ours:
            title = f"{host} is {ours[0]}'s; {http} is {', '.join(web)}'s, so tools that ask for that one fail."
            return remark("spn", "duplicate-service-principal", title, evidence)
        return fine("spn", f"The directory knows {host}: it is {ours[0]}'s.", evidence)
    if ours:
        code, title = (
            "duplicate-service-principal",
            f"{host} is claimed by {', '.join(ours)}: no KDC gives a ticket for it.",
        )
    elif web:
        return fine("spn", f"The directory knows {http} alone: it is {web[0]}'s.", evidence)
    else:
        code, title = "no-service-principal", f"The directory knows no service of the name {host}."
    return trouble("spn", code, title, evidence) if kerberos else remark("spn", code, title, evidence)


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in text)
