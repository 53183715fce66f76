"""A directory that speaks LDAP as an Active Directory controller does, in this process, on any address and port.

What it does as Windows does:

* rootDSE for anybody and nothing else without a bind (``operationsError``); no simple bind in clear
  (``strongerAuthRequired``); StartTLS and LDAPS; sub-codes of refused logons in the diagnostic text; one count of bad
  passwords with WS-Man (:mod:`msp_sdk.testing.accounts`).
* NTLM by SASL, sealed afterwards; refused without signing, over TLS without channel binding, and over TLS with
  signing or sealing of its own (MS-ADTS 5.1.2.2).
* Paging with cookies, and **answers without paging cut at 1,000 entries**; attributes of more than 1,500 values in
  ranges; referrals to the other partitions at the end of a search from the domain's root, and to its own controllers
  for another domain's base; ``<GUID=...>`` as a base; the in-chain rule.
* What it does not know is refused, never passed over: critical controls, matching rules, extensions, writes.
* **Changes**: ``uSNChanged`` per controller, DirSync with only what changed, tombstones, partners that hear of a
  change later (:mod:`~msp_sdk.testing.directory_log`, :mod:`~msp_sdk.testing.directory_dirsync`).
* Rights, as few as are needed: deleted objects, hidden units, confidential attributes
  (:mod:`~msp_sdk.testing.directory_rights`).
* Lengths of four bytes in everything constructed.

What it does **not** prove: Kerberos (a KDC proves it, such as Samba's), SPNEGO's own negotiation, access control
beyond those three, conflicts between partners, the recycle bin, the schema's syntaxes and matching rules, limits on
time, the real speed of a controller; with which result Windows refuses SASL's own protection inside TLS
(``unwillingToPerform`` here), and whether it has judged the password by then (here it has). Where the documents do not
say how Windows refuses, the code is a guess, named in its module.

Example:
    >>> async with LdapServer(spec, accounts, certificate=issued) as server:  # doctest: +SKIP
    ...     controller = DomainController("dc1.northvalley.test", server.port, ("127.0.0.1",))
"""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self

from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.directory_connection import BindSeen, Connection, close
from msp_sdk.testing.directory_faults import LdapFaults
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.loopback import bind_both

__all__ = ["BindSeen", "DirectorySpec", "LdapFaults", "LdapServer"]


class LdapServer:
    """A controller of one domain.

    Args:
        spec: The domain and its entries.
        accounts: Who may bind.
        address: Where to listen.
        port: The LDAP port; 0 takes a free one, see :attr:`port`.
        ldaps_port: The LDAPS port; 0 takes a free one, None means no LDAPS.
        certificate: What it shows; None is a controller without one.
        demands_signing: Without TLS, a simple bind and NTLM without signing are refused
            (``LDAPServerIntegrity=2``).
        demands_binding: Over TLS, NTLM without channel binding is refused (``LdapEnforceChannelBinding=2``).
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
        demands_signing: bool = True,
        demands_binding: bool = True,
    ) -> None:
        self.spec = spec
        self.accounts = accounts
        self.address = address
        self.port = port
        self.ldaps_port = ldaps_port
        self.demands_signing = demands_signing
        self.demands_binding = demands_binding
        self.faults = LdapFaults()
        self.binds: list[BindSeen] = []
        self.connections_count = 0
        self.searches_count = 0
        self.entries_sent_count = 0
        self._certificate = certificate
        self._context = None if certificate is None else certificate.server_context()
        if self._context:
            self._context.sni_callback = self._begin_tls
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
    def certificate_der(self) -> bytes | None:
        """What it shows, or None."""
        return None if self._certificate is None else self._certificate.der

    @property
    def password_binds(self) -> list[BindSeen]:
        """The binds that carried a password."""
        return [seen for seen in self.binds if seen.outcome != "anonymous"]

    async def __aenter__(self) -> Self:
        if self.port:
            plain = await asyncio.start_server(self._serve_plain, self.address, self.port)
        else:
            # A controller answers pings at the same number, see `netlogon`.
            tcp, udp = bind_both(self.address)
            udp.close()
            self.port = tcp.getsockname()[1]
            plain = await asyncio.start_server(self._serve_plain, sock=tcp)
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
        await close(writer, abort=True)

    async def _serve_plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(Connection(self, reader, writer, tls=False))

    def _begin_tls(self, *_: object) -> int | None:
        """A controller without a certificate breaks off within the handshake, before anything can be sent to it."""
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE if self.faults.refuse_tls else None

    async def _serve_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(Connection(self, reader, writer, tls=True))

    async def _serve(self, connection: Connection) -> None:
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
