"""A directory that speaks LDAP as an Active Directory controller does, in this process, on any address and port.

What it does as Windows does: rootDSE for anybody and nothing else without a bind (``operationsError``); no simple
bind in clear (``strongerAuthRequired``); StartTLS and LDAPS; sub-codes of refused logons in the diagnostic text;
one count of bad passwords with WS-Man (:mod:`msp_sdk.testing.accounts`); paging with cookies, and **answers without
paging cut at 1,000 entries**; referrals to the other partitions at the end of a search from the domain's root.

What it does **not** prove: SASL (Kerberos, NTLM, signing), channel binding, access control on entries, replication,
DirSync, the schema's syntaxes and matching rules, range retrieval, limits on time, the real speed of a controller.
For those a Samba or Windows controller is needed.

Example:
    >>> async with LdapServer(spec, accounts, certificate=issued) as server:  # doctest: +SKIP
    ...     controller = DomainController("dc1.northvalley.test", server.port, ("127.0.0.1",))
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import sansldap
from attrs import frozen, mutable

from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.directory_data import DirectoryEntry, DirectorySpec

__all__ = ["BindSeen", "DirectorySpec", "LdapFaults", "LdapServer"]

_START_TLS = "1.3.6.1.4.1.1466.20037"
_READ_BYTES = 65536
_FLUSH_EVERY = 100
_NOT_BOUND = (
    "000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind must be"
    " completed on the connection., data 0, v4563\0"
)
_NEEDS_TLS = (
    "00002028: LdapErr: DSID-0C0903CB, comment: The server requires binds to turn on integrity checking if SSL\\TLS"
    " are not already active on the connection, data 0, v4563\0"
)
_REFUSED = "80090308: LdapErr: DSID-0C09050F, comment: AcceptSecurityContext error, data {code:x}, v4563\0"
_Code = sansldap.LDAPResultCode


@mutable
class LdapFaults:
    """What goes wrong; change it while the server runs.

    Attributes:
        drop_after_entries: Break the connection after so many entries of all searches together.
        drop_at_bind: Break it when a bind arrives, before its outcome is said.
        delay_s: Wait before each answer.
        refuse_tls: A controller without a certificate: StartTLS is refused, LDAPS breaks off.
        bind_answer: Refuse every bind with this result code and text instead of looking at the password.
        nonsense: Answer everything with bytes that are no LDAP.
    """

    drop_after_entries: int | None = None
    drop_at_bind: bool = False
    delay_s: float = 0.0
    refuse_tls: bool = False
    bind_answer: tuple[int, str] | None = None
    nonsense: bool = False


@frozen
class BindSeen:
    """A bind that arrived: the name, whether under TLS, and ``ok``, ``anonymous`` or why not. Never the password."""

    name: str
    tls: bool
    outcome: str


class _Drop(Exception):  # noqa: N818 (an order, not an error)
    """Break the connection now."""


class _Session(sansldap.LDAPServer):
    """sansldap's server session, with replies that carry no empty referral list (ldap3 breaks on one)."""

    def result(self, code: int = _Code.SUCCESS, text: str = "") -> sansldap.LDAPResult:
        return sansldap.LDAPResult(result_code=_Code(code), matched_dn="", diagnostics_message=text, referrals=None)

    def reply(self, message: sansldap.LDAPMessage) -> None:
        if isinstance(message, sansldap.BindResponse):
            self.state = sansldap.SessionState.OPENED
        self._send(message)
        if isinstance(message, sansldap.SearchResultDone):
            self._search_requests.discard(message.message_id)


class LdapServer:
    """A controller of one domain.

    Args:
        spec: The domain and its entries.
        accounts: Who may bind.
        address: Where to listen.
        port: The LDAP port; 0 takes a free one, see :attr:`port`.
        ldaps_port: The LDAPS port; 0 takes a free one, None means no LDAPS.
        certificate: What it shows; None is a controller without one.
    """

    def __init__(
        self,
        spec: DirectorySpec,
        accounts: Accounts,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        ldaps_port: int | None = None,
        certificate: IssuedCertificate | None = None,
    ) -> None:
        self.spec = spec
        self.accounts = accounts
        self.address = address
        self.port = port
        self.ldaps_port = ldaps_port
        self.faults = LdapFaults()
        self.binds: list[BindSeen] = []
        self.connections_count = 0
        self.searches_count = 0
        self.entries_sent_count = 0
        self._certificate = certificate
        self._context = None if certificate is None else certificate.server_context()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def fqdn(self) -> str:
        """The controller's name."""
        return f"{self.spec.hostname}.{self.spec.domain}"

    @property
    def certificate_sha256(self) -> str:
        """The digest of what it shows; empty without a certificate."""
        return "" if self._certificate is None else self._certificate.sha256

    @property
    def password_binds(self) -> list[BindSeen]:
        """The binds that carried a password."""
        return [seen for seen in self.binds if seen.outcome != "anonymous"]

    async def __aenter__(self) -> Self:
        plain = await asyncio.start_server(self._serve_plain, self.address, self.port)
        self.port = plain.sockets[0].getsockname()[1]
        self._servers.append(plain)
        if self.ldaps_port is not None:
            # Without a certificate Windows listens all the same and breaks the hand-shake off.
            tls = (
                await asyncio.start_server(
                    self._serve_tls, self.address, self.ldaps_port, ssl=self._context, ssl_handshake_timeout=None
                )
                if self._context
                else await asyncio.start_server(self._break_off, self.address, self.ldaps_port)
            )
            self.ldaps_port = tls.sockets[0].getsockname()[1]
            self._servers.append(tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A broken-off connection closes its socket in the loop's next turn.
        await asyncio.sleep(0)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    async def _break_off(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_count += 1
        await _close(writer, abort=True)

    async def _serve_plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(_Connection(self, reader, writer, tls=False))

    async def _serve_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.refuse_tls:
            await self._break_off(reader, writer)
            return
        await self._serve(_Connection(self, reader, writer, tls=True))

    async def _serve(self, connection: _Connection) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (streams run their callback as a task)
        self._tasks.add(task)
        self.connections_count += 1
        try:
            await connection.run()
        except asyncio.CancelledError:
            connection.writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def start_tls(self, writer: asyncio.StreamWriter) -> None:
        """Switch a connection to TLS. Only after :attr:`offers_tls`."""
        assert self._context is not None  # noqa: S101 (the caller asked offers_tls)
        await writer.start_tls(self._context)

    @property
    def offers_tls(self) -> bool:
        """True when it has a certificate and no fault hides it."""
        return self._context is not None and not self.faults.refuse_tls


class _Connection:
    """One client: its session, who it is, its cookies."""

    def __init__(
        self, server: LdapServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tls: bool
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.tls = tls
        self.bound = False
        self.session = _Session()
        self.cookies: dict[bytes, list[DirectoryEntry]] = {}

    async def run(self) -> None:
        abort = False
        try:
            while data := await self.reader.read(_READ_BYTES):
                if self.server.faults.nonsense:
                    self.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    break
                for message in self.session.receive(data):
                    await asyncio.sleep(self.server.faults.delay_s)
                    await self.answer(message)
                    await self.flush()
        except _Drop:
            abort = True
        except (sansldap.LDAPError, OSError):
            # The client said good-bye, went away, or sent what is no LDAP.
            pass
        await _close(self.writer, abort=abort)

    async def flush(self) -> None:
        self.writer.write(self.session.data_to_send())
        await self.writer.drain()

    async def answer(self, message: sansldap.LDAPMessage) -> None:
        match message:
            case sansldap.BindRequest():
                self.bind(message)
            case sansldap.SearchRequest():
                await self.search(message)
            case sansldap.ExtendedRequest(name=name) if name == _START_TLS:
                await self.start_tls(message)
            case sansldap.ExtendedRequest():
                self.session.reply(
                    sansldap.ExtendedResponse(
                        message.message_id, [], self.session.result(_Code.PROTOCOL_ERROR), None, None
                    )
                )

    async def start_tls(self, message: sansldap.ExtendedRequest) -> None:
        offered = self.server.offers_tls and not self.tls
        result = self.session.result(*(() if offered else (_Code.UNAVAILABLE, "00000000: LdapErr: no certificate\0")))
        self.session.reply(sansldap.ExtendedResponse(message.message_id, [], result, _START_TLS, None))
        if offered:
            await self.flush()
            await self.server.start_tls(self.writer)
            self.tls = True

    def bind(self, message: sansldap.BindRequest) -> None:
        self.bound = False
        if self.server.faults.drop_at_bind:
            self.server.binds.append(BindSeen(message.name, self.tls, "dropped"))
            raise _Drop
        outcome, code, text = self.judge(message)
        self.server.binds.append(BindSeen(message.name, self.tls, outcome))
        self.bound = outcome == "ok"
        self.session.reply(sansldap.BindResponse(message.message_id, [], self.session.result(code, text)))

    def judge(self, message: sansldap.BindRequest) -> tuple[str, int, str]:
        """What becomes of a bind: outcome, result code, text."""
        credential = message.authentication
        if not isinstance(credential, sansldap.SimpleCredential):
            return "no-sasl", _Code.AUTH_METHOD_NOT_SUPPORTED, "the stand-in knows simple binds only\0"
        if not credential.password:
            # Also with a name: Windows takes it for an anonymous bind.
            return "anonymous", _Code.SUCCESS, ""
        if self.server.faults.bind_answer is not None:
            code, text = self.server.faults.bind_answer
            return "fault", code, text
        if not self.tls:
            return "in-clear", _Code.STRONG_AUTH_REQUIRED, _NEEDS_TLS
        accounts = self.server.accounts
        refused = accounts.check(accounts.find(message.name), credential.password, f"ldap {self.server.fqdn}")
        if refused is not None:
            return f"{refused:x}", _Code.INVALID_CREDENTIALS, _REFUSED.format(code=refused)
        return "ok", _Code.SUCCESS, ""

    async def search(self, message: sansldap.SearchRequest) -> None:
        server = self.server
        server.searches_count += 1
        if message.base_object == "" and message.scope == sansldap.SearchScope.BASE:
            self.send_entry(message, server.spec.root_dse())
            self.done(message)
            return
        control = next((entry for entry in message.controls if isinstance(entry, sansldap.PagedResultControl)), None)
        found = self.look_up(message, control)
        if found is None:
            return
        limit = server.spec.max_page_size
        if control is not None:
            limit = min(limit, control.size or limit)
        elif message.size_limit:
            limit = min(limit, message.size_limit)
        await self.send_entries(message, found[:limit])
        rest = found[limit:]
        if control is None:
            if not rest:
                self.send_referrals(message)
            self.done(message, _Code.SIZE_LIMIT_EXCEEDED if rest else _Code.SUCCESS)
            return
        cookie = secrets.token_bytes(16) if rest else b""
        if rest:
            self.cookies[cookie] = rest
        else:
            self.send_referrals(message)
        self.done(message, controls=[sansldap.PagedResultControl(critical=False, size=0, cookie=cookie)])

    def look_up(
        self, message: sansldap.SearchRequest, control: sansldap.PagedResultControl | None
    ) -> list[DirectoryEntry] | None:
        """What the search finds, or what its cookie has left; None when it was answered with an error."""
        found: list[DirectoryEntry] | None = None
        if not self.bound:
            self.done(message, _Code.OPERATIONS_ERROR, _NOT_BOUND)
        elif control is not None and control.cookie:
            found = self.cookies.pop(control.cookie, None)
            if found is None:
                self.done(message, _Code.UNWILLING_TO_PERFORM, "00000057: LdapErr: unknown cookie\0")
        else:
            found = self.server.spec.find(message.base_object, message.scope, message.filter)
            if found is None:
                self.done(message, _Code.NO_SUCH_OBJECT, "0000208D: NameErr: DSID-0310028B, problem 2001 (NO_OBJECT)\0")
        return found

    async def send_entries(self, message: sansldap.SearchRequest, entries: list[DirectoryEntry]) -> None:
        for number, entry in enumerate(entries, 1):
            drop_after = self.server.faults.drop_after_entries
            if drop_after is not None and self.server.entries_sent_count >= drop_after:
                await self.flush()
                raise _Drop
            self.send_entry(message, entry)
            self.server.entries_sent_count += 1
            if number % _FLUSH_EVERY == 0:
                await self.flush()

    def send_entry(self, message: sansldap.SearchRequest, entry: DirectoryEntry) -> None:
        attributes = [
            sansldap.PartialAttribute(name, list(values)) for name, values in _wanted(entry, message.attributes)
        ]
        self.session.reply(sansldap.SearchResultEntry(message.message_id, [], entry.dn, attributes))

    def send_referrals(self, message: sansldap.SearchRequest) -> None:
        """The other partitions, as a search from the domain's root is told of them."""
        spec = self.server.spec
        if message.base_object.lower() != spec.base_dn.lower() or message.scope != sansldap.SearchScope.SUBTREE:
            return
        for host, partition in (
            (f"ForestDnsZones.{spec.domain}", f"DC=ForestDnsZones,{spec.base_dn}"),
            (f"DomainDnsZones.{spec.domain}", f"DC=DomainDnsZones,{spec.base_dn}"),
            (spec.domain, spec.configuration_dn),
        ):
            self.session.reply(sansldap.SearchResultReference(message.message_id, [], [f"ldap://{host}/{partition}"]))

    def done(
        self, message: sansldap.SearchRequest, code: int = _Code.SUCCESS, text: str = "", controls: Any = None
    ) -> None:
        self.session.reply(
            sansldap.SearchResultDone(message.message_id, controls or [], self.session.result(code, text))
        )


def _wanted(entry: DirectoryEntry, names: list[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    folded = {name.lower() for name in names}
    for name, values in entry.attributes.items():
        if not folded or "*" in folded or name.lower() in folded:
            yield name, values


async def _close(writer: asyncio.StreamWriter, *, abort: bool) -> None:
    if abort:
        writer.transport.abort()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()
