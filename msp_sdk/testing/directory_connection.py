"""One client of a stand-in directory: who it is, what it asks, its cookies."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import sansldap
from attrs import frozen

from msp_sdk.testing import directory_wire as wire
from msp_sdk.testing.directory_data import DirectoryEntry
from msp_sdk.testing.directory_dirsync import DirSyncRefused, read_delta
from msp_sdk.testing.directory_filter import is_known
from msp_sdk.testing.directory_logons import SealedStream, judge_logon
from msp_sdk.testing.directory_rights import Reader
from msp_sdk.testing.directory_spec import SUPPORTED_CONTROLS
from msp_sdk.testing.ntlm import NTLM, NtlmAcceptor

if TYPE_CHECKING:
    from msp_sdk.testing.directory import LdapServer

_START_TLS = "1.3.6.1.4.1.1466.20037"
_PAGED, _SHOW_DELETED, _DIRSYNC, _DOMAIN_SCOPE = SUPPORTED_CONTROLS
_READ_BYTES = 65536
_FLUSH_BYTES = 256 * 1024
_LENGTH_BYTES = 4
_NOT_BOUND = (
    "000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind must be"
    " completed on the connection., data 0, v4563\0"
)
_NEEDS_TLS = (
    "00002028: LdapErr: DSID-0C0903CB, comment: The server requires binds to turn on integrity checking if SSL\\TLS"
    " are not already active on the connection, data 0, v4563\0"
)
_REFUSED = "80090308: LdapErr: DSID-0C09050F, comment: AcceptSecurityContext error, data {code}, v4563\0"
_NO_RIGHT = "00002105: SecErr: DSID-0315170B, problem 4003 (INSUFF_ACCESS_RIGHTS), data 0\n\0"
_NO_EXTENSION = "00002040: SvcErr: DSID-031401E7, problem 5010 (UNAVAIL_EXTENSION), data 0\n\0"
# The texts from here on are guesses.
_NO_SEAL_IN_TLS = "00002029: LdapErr: DSID-0C0904A2, comment: no signing or sealing inside TLS, data 0, v4563\0"
_NOT_HERE = "00002035: LdapErr: DSID-0C090B8A, comment: the stand-in does not do this, data 0, v4563\0"
_NO_SUCH_RULE = "00002047: LdapErr: DSID-0C090B2A, comment: a filter that the stand-in does not know, data 0, v4563\0"
_NO_LDAP = "00000057: LdapErr: DSID-0C0C0090, comment: Error decoding ldap message, data 0, v4563\0"
_ELSEWHERE = "0000202B: RefErr: DSID-0310084A, data 0, 1 access points\n\tref 1: '{host}'\n\0"
_MODIFY, _ADD, _DELETE, _RENAME, _COMPARE, _ABANDON = 6, 8, 10, 12, 14, 16
_WRITES = (_MODIFY, _ADD, _DELETE, _RENAME)
_RANGE = re.compile(r"([A-Za-z0-9.-]+);range=(\d+)-(\d+|\*)", re.ASCII | re.IGNORECASE)
_SAME_COOKIE = b"again"
_Code = sansldap.LDAPResultCode


@frozen
class BindSeen:
    """A bind that arrived: the name, whether under TLS, and ``ok``, ``anonymous`` or why not. Never the password."""

    name: str
    tls: bool
    outcome: str


class _Drop(Exception):  # noqa: N818 (an order, not an error)
    """Break the connection now."""


class Connection:
    """One client: its logon, its cookies."""

    def __init__(
        self, server: LdapServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tls: bool
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.tls = tls
        self.username: str | None = None
        self._requests = wire.RequestReader()
        self._cookies: dict[bytes, list[DirectoryEntry]] = {}
        self._out = bytearray()
        self._sent_bytes = 0
        self._ntlm: NtlmAcceptor | None = None
        self._sealed: SealedStream | None = None

    async def run(self) -> None:
        """Answer until the client or a fault ends it."""
        abort = False
        faults = self.server.faults
        try:
            while data := await self.reader.read(_READ_BYTES):
                if faults.silent:
                    continue
                if faults.nonsense:
                    self.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    break
                if self._sealed is not None:
                    data = self._sealed.feed(data)
                for message in self._requests.feed(data):
                    if isinstance(message, sansldap.UnbindRequest):
                        await close(self.writer, abort=False)
                        return
                    await asyncio.sleep(faults.delay_s)
                    await self._answer(message)
                    await self._flush()
        except _Drop:
            abort = True
        except ValueError:
            # As Windows ends a connection over which something came that is no request.
            self._send(wire.write_extended(0, _Code.PROTOCOL_ERROR, _NO_LDAP, wire.DISCONNECTION))
            with contextlib.suppress(_Drop, OSError):
                await self._flush()
        except OSError:
            # The client went away.
            pass
        await close(self.writer, abort=abort)

    # What goes out.

    def _send(self, message: bytes) -> None:
        garble = self.server.faults.garble
        self._out += message if garble is None else garble(message)

    def _number(self, message: sansldap.LDAPMessage) -> int:
        return message.message_id + (1000 if self.server.faults.wrong_message_id else 0)

    async def _flush(self) -> None:
        data = bytes(self._out)
        self._out.clear()
        if self._sealed is not None and data:
            data = self._sealed.seal(data)
        faults = self.server.faults
        if faults.drop_after_bytes is not None:
            left = faults.drop_after_bytes - self._sent_bytes
            if len(data) > left:
                self.writer.write(data[: max(left, 0)])
                await self.writer.drain()
                # What was written is to arrive before the break.
                await asyncio.sleep(0)
                raise _Drop
        self._sent_bytes += len(data)
        if faults.drip_s is None:
            self.writer.write(data)
        else:
            for at in range(len(data)):
                self.writer.write(data[at : at + 1])
                await asyncio.sleep(faults.drip_s)
        await self.writer.drain()

    async def _answer(self, message: sansldap.LDAPMessage | wire.OtherRequest) -> None:
        match message:
            case wire.OtherRequest():
                self._refuse(message)
            case sansldap.BindRequest():
                await self._bind(message)
            case sansldap.SearchRequest():
                await self._search(message)
            case sansldap.ExtendedRequest(name=name) if name == _START_TLS:
                await self._start_tls(message)
            case sansldap.ExtendedRequest():
                self._send(wire.write_extended(self._number(message), _Code.PROTOCOL_ERROR))
            case _:
                raise ValueError("an answer came in the place of a request")

    def _refuse(self, request: wire.OtherRequest) -> None:
        """Nobody writes here over LDAP: to all it is as if they had no right to."""
        if request.kind == _ABANDON:
            return
        if request.kind not in (*_WRITES, _COMPARE):
            raise ValueError("no such request")
        if self.username is None:
            self._send(wire.write_other(request, _Code.OPERATIONS_ERROR, _NOT_BOUND))
        elif request.kind in _WRITES:
            self._send(wire.write_other(request, _Code.INSUFFICIENT_ACCESS_RIGHTS, _NO_RIGHT))
        else:
            self._send(wire.write_other(request, _Code.UNWILLING_TO_PERFORM, _NOT_HERE))

    async def _start_tls(self, message: sansldap.ExtendedRequest) -> None:
        offered = self.server.offers_tls and not self.tls
        refusal = () if offered else (_Code.UNAVAILABLE, "00000000: LdapErr: no certificate\0")
        code, text = refusal or (_Code.SUCCESS, "")
        self._send(wire.write_extended(self._number(message), code, text, _START_TLS))
        if offered:
            await self._flush()
            await self.server.start_tls(self.writer)
            self.tls = True

    # Logons.

    async def _bind(self, message: sansldap.BindRequest) -> None:
        self.username = None
        if self.server.faults.drop_at_bind:
            self.server.binds.append(BindSeen(message.name, self.tls, "dropped"))
            raise _Drop
        credential = message.authentication
        if isinstance(credential, sansldap.SaslCredential):
            await self._bind_sasl(message, credential)
            return
        outcome, code, text = self._judge(message)
        self.server.binds.append(BindSeen(message.name, self.tls, outcome))
        self._send(wire.write_bind(self._number(message), code, text))

    def _judge(self, message: sansldap.BindRequest) -> tuple[str, int, str]:
        """What becomes of a simple bind: outcome, result code, text."""
        credential = message.authentication
        if not isinstance(credential, sansldap.SimpleCredential):
            return "unknown", _Code.AUTH_METHOD_NOT_SUPPORTED, ""
        if not credential.password:
            # Also with a name: Windows takes it for an anonymous bind.
            return "anonymous", _Code.SUCCESS, ""
        if self.server.faults.bind_answer is not None:
            code, text = self.server.faults.bind_answer
            return "fault", code, text
        if not self.tls and self.server.demands_signing:
            return "in-clear", _Code.STRONG_AUTH_REQUIRED, _NEEDS_TLS
        accounts = self.server.accounts
        account = accounts.find(message.name)
        refused = accounts.check(account, credential.password, f"ldap {self.server.fqdn}")
        if refused is not None or account is None:
            return f"{refused:x}", _Code.INVALID_CREDENTIALS, _REFUSED.format(code=f"{refused:x}")
        self.username = account.username
        return "ok", _Code.SUCCESS, ""

    async def _bind_sasl(self, message: sansldap.BindRequest, credential: sansldap.SaslCredential) -> None:
        """One step of NTLM; the second one ends it."""
        number, token = self._number(message), credential.credentials or b""
        if credential.mechanism.upper() not in ("GSS-SPNEGO", "NTLM") or not token.startswith(NTLM):
            self.server.binds.append(BindSeen(message.name, self.tls, "no-such-mechanism"))
            self._send(wire.write_bind(number, _Code.AUTH_METHOD_NOT_SUPPORTED, "00002027: LdapErr: no such method\0"))
            return
        if self._ntlm is None:
            self._ntlm = NtlmAcceptor(self.server.certificate_der if self.tls and self.server.demands_binding else None)
            challenge = self._ntlm.challenge(token)
            self._send(wire.write_bind(number, _Code.SASL_BIND_IN_PROGRESS, token=challenge))
            return
        ntlm, self._ntlm = self._ntlm, None
        if self.server.faults.bind_answer is not None:
            code, text = self.server.faults.bind_answer
            self.server.binds.append(BindSeen("", self.tls, "fault"))
            self._send(wire.write_bind(number, code, text))
            return
        logon = judge_logon(ntlm, token, self.server.accounts, f"ldap {self.server.fqdn}")
        if logon.account is not None and not (self.tls or logon.protected) and self.server.demands_signing:
            self.server.binds.append(BindSeen(logon.name, self.tls, "unsigned"))
            self._send(wire.write_bind(number, _Code.STRONG_AUTH_REQUIRED, _NEEDS_TLS))
            return
        if logon.account is None:
            self.server.binds.append(BindSeen(logon.name, self.tls, logon.refusal))
            self._send(wire.write_bind(number, _Code.INVALID_CREDENTIALS, _REFUSED.format(code=logon.refusal)))
            return
        if self.tls and logon.protected:
            # MS-ADTS 5.1.2.2: the one or the other. Samba refuses it too.
            self.server.binds.append(BindSeen(logon.name, self.tls, "sealed-in-tls"))
            self._send(wire.write_bind(number, _Code.UNWILLING_TO_PERFORM, _NO_SEAL_IN_TLS))
            return
        self.server.binds.append(BindSeen(logon.name, self.tls, "ok"))
        self.username = logon.account.username
        self._send(wire.write_bind(number, _Code.SUCCESS))
        await self._flush()
        if logon.protected:
            self._sealed = SealedStream(logon.context)

    # Searches.

    @property
    def _reader(self) -> Reader:
        return self.server.spec.rights.reader(self.username or "")

    async def _search(self, message: sansldap.SearchRequest) -> None:
        server = self.server
        server.searches_count += 1
        controls = {control.control_type: control for control in message.controls}
        if any(control.critical and name not in SUPPORTED_CONTROLS for name, control in controls.items()):
            self._done(message, _Code.UNAVAILABLE_CRITICAL_EXTENSION, _NO_EXTENSION)
        elif message.base_object == "" and message.scope == sansldap.SearchScope.BASE:
            self._send_entry(message, server.spec.root_dse())
            self._done(message)
        elif self.username is None:
            self._done(message, _Code.OPERATIONS_ERROR, _NOT_BOUND)
        elif server.faults.search_answer is not None:
            self._done(message, *server.faults.search_answer)
        elif not is_known(message.filter):
            self._done(message, _Code.INAPPROPRIATE_MATCHING, _NO_SUCH_RULE)
        elif (dirsync := controls.get(_DIRSYNC)) is not None:
            await self._dirsync(message, dirsync)
        else:
            paged = controls.get(_PAGED)
            assert paged is None or isinstance(paged, sansldap.PagedResultControl)  # noqa: S101 (sansldap knows it)
            await self._plain_search(message, paged, controls)

    async def _plain_search(
        self,
        message: sansldap.SearchRequest,
        paged: sansldap.PagedResultControl | None,
        controls: dict[str, sansldap.LDAPControl],
    ) -> None:
        found = self._look_up(message, paged, show_deleted=_SHOW_DELETED in controls)
        if found is None:
            return
        faults = self.server.faults
        if faults.empty_pages and paged is not None:
            self._cookies[_SAME_COOKIE] = found
            self._done(message, controls=[wire.ReplyControl(_PAGED, wire.write_page_value(_SAME_COOKIE))])
            return
        limit = self.server.spec.max_page_size
        if paged is not None:
            limit = min(limit, paged.size or limit)
        elif message.size_limit:
            limit = min(limit, message.size_limit)
        await self._send_entries(message, found[:limit])
        rest = found[limit:]
        if not rest and _DOMAIN_SCOPE not in controls:
            self._send_referrals(message)
        if faults.disconnect is not None:
            self._send(wire.write_extended(0, _Code.UNAVAILABLE, faults.disconnect, wire.DISCONNECTION))
            await self._flush()
            raise _Drop
        if paged is None:
            self._done(message, _Code.SIZE_LIMIT_EXCEEDED if rest else _Code.SUCCESS)
            return
        control = wire.ReplyControl(_PAGED, wire.write_page_value(self._cookie(paged.cookie, found, rest)))
        self._done(message, controls=[control])

    def _cookie(self, before: bytes, found: list[DirectoryEntry], rest: list[DirectoryEntry]) -> bytes:
        """Keep what is left, and say under which cookie."""
        faults = self.server.faults
        if faults.endless_pages and not rest:
            rest = found
        if not rest:
            return b""
        cookie = before if faults.repeat_cookie and before else secrets.token_bytes(16)
        self._cookies[cookie] = rest
        return cookie

    def _look_up(
        self, message: sansldap.SearchRequest, paged: sansldap.PagedResultControl | None, *, show_deleted: bool
    ) -> list[DirectoryEntry] | None:
        """What the search finds, or what its cookie has left; None when it was answered with an error."""
        if paged is not None and paged.cookie:
            found = self._cookies.pop(paged.cookie, None)
            if found is None:
                self._done(message, _Code.UNWILLING_TO_PERFORM, "00000057: LdapErr: unknown cookie\0")
            return found
        spec = self.server.spec
        found = spec.find(message.base_object, message.scope, message.filter, self._reader, show_deleted=show_deleted)
        if found is None and (host := spec.referral(message.base_object)) is not None:
            url, text = f"ldap://{host}/{message.base_object}", _ELSEWHERE.format(host=host)
            self._send(wire.write_done(self._number(message), _Code.REFERRAL, text, referral=url))
        elif found is None:
            self._done(message, _Code.NO_SUCH_OBJECT, "0000208D: NameErr: DSID-0310028B, problem 2001 (NO_OBJECT)\0")
        return found

    async def _dirsync(self, message: sansldap.SearchRequest, control: sansldap.LDAPControl) -> None:
        if self.server.faults.refuse_dirsync:
            self._done(message, _Code.INSUFFICIENT_ACCESS_RIGHTS, _NO_RIGHT)
            return
        try:
            flags, max_bytes, cookie = wire.read_dirsync_value(control.value)
        except ValueError:
            self._done(message, _Code.PROTOCOL_ERROR, "00000057: LdapErr: Error decoding ldap message\0")
            return
        try:
            delta = read_delta(
                self.server.spec.log, message, self._reader, flags=flags, max_bytes=max_bytes, cookie=cookie
            )
        except DirSyncRefused as refusal:
            self._done(message, refusal.code, refusal.text)
            return
        for dn, attributes in delta.rows:
            await self._count_entry()
            self._send(wire.write_entry(self._number(message), dn, attributes, types_only=message.types_only))
        value = wire.write_dirsync_value(delta.cookie, more=delta.more)
        self._done(message, controls=[wire.ReplyControl(_DIRSYNC, value)])

    async def _send_entries(self, message: sansldap.SearchRequest, entries: list[DirectoryEntry]) -> None:
        for entry in entries:
            await self._count_entry()
            self._send_entry(message, entry)

    async def _count_entry(self) -> None:
        drop_after = self.server.faults.drop_after_entries
        if drop_after is not None and self.server.entries_sent_count >= drop_after:
            await self._flush()
            raise _Drop
        self.server.entries_sent_count += 1
        if len(self._out) > _FLUSH_BYTES:
            await self._flush()

    def _send_entry(self, message: sansldap.SearchRequest, entry: DirectoryEntry) -> None:
        rows = _wanted(entry, message.attributes, self.server.spec.max_val_range)
        self._send(wire.write_entry(self._number(message), entry.dn, rows, types_only=message.types_only))

    def _send_referrals(self, message: sansldap.SearchRequest) -> None:
        """The other partitions, as a search from the domain's root is told of them."""
        spec = self.server.spec
        if message.base_object.lower() != spec.base_dn.lower() or message.scope != sansldap.SearchScope.SUBTREE:
            return
        for host, partition in (
            (f"ForestDnsZones.{spec.domain}", f"DC=ForestDnsZones,{spec.base_dn}"),
            (f"DomainDnsZones.{spec.domain}", f"DC=DomainDnsZones,{spec.base_dn}"),
            (spec.domain, spec.configuration_dn),
        ):
            self._send(wire.write_reference(self._number(message), f"ldap://{host}/{partition}"))

    def _done(
        self,
        message: sansldap.SearchRequest,
        code: int = _Code.SUCCESS,
        text: str = "",
        controls: Sequence[wire.ReplyControl] = (),
    ) -> None:
        self._send(wire.write_done(self._number(message), code, text, controls))
        if self.server.faults.entries_after_done:
            self._send(wire.write_entry(self._number(message), "CN=late", [("cn", (b"late",))]))


def _wanted(entry: DirectoryEntry, asked: Sequence[str], most: int) -> Iterator[tuple[str, Sequence[bytes]]]:
    """What was asked for; an attribute of too many values comes empty, and in a range beside."""
    folded = {name.lower() for name in asked}
    ranges = {found[1].lower(): found for name in asked if (found := _RANGE.fullmatch(name))}
    everything = not folded or "*" in folded
    for name, values in entry.attributes.items():
        low = name.lower()
        if (found := ranges.get(low)) is not None:
            yield _range(name, values, int(found[2]), None if found[3] == "*" else int(found[3]), most)
        elif everything or low in folded:
            if len(values) > most:
                yield name, ()
                yield _range(name, values, 0, None, most)
            else:
                yield name, values


def _range(name: str, values: Sequence[bytes], start: int, last: int | None, most: int) -> tuple[str, Sequence[bytes]]:
    end = min(start + most, len(values), len(values) if last is None else last + 1)
    shown = "*" if end >= len(values) else str(end - 1)
    return f"{name};range={start}-{shown}", values[start:end]


async def close(writer: asyncio.StreamWriter, *, abort: bool) -> None:
    """End a connection, at once or after what is on its way."""
    if abort:
        writer.transport.abort()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()
