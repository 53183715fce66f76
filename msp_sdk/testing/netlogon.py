"""Answers netlogon pings (CLDAP) as a Windows controller does: one datagram in, one or none out.

It tells the domain, the forest, the controller's flags and its site, and ours by the address that asks, with names
packed the DNS way. A ping for another domain gets an empty result. It does **not** prove what Windows does with a
user's name in a ping, over named pipes, or with NT 4 structures.

Example:
    >>> async with NetlogonServer(spec, port=ldap.port) as netlogon:  # doctest: +SKIP
    ...     netlogon.pings_count
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import sansldap
from attrs import mutable

from msp_sdk.testing.directory_spec import DirectorySpec

# PDC, GC, LDAP, DS, KDC, TIME, CLOSEST, WRITABLE, GOOD_TIME, FULL_SECRETS, WEB_SERVICES, 2012, 2012 R2, 2016.
FLAGS = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000
READ_ONLY_FLAGS = 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x800 | 0x2000 | 0x4000 | 0x8000 | 0x10000
_OPCODE, _PAUSED = 23, 24
_VERSION = 0x1 | 0x4
_NEXT_SITE = 0x10


@mutable
class NetlogonFaults:
    """What goes wrong; change it while the server runs.

    Attributes:
        silent: Answer nothing.
        lose: So many pings get lost before one is answered.
        nonsense: Answer with these bytes.
        paused: It says that it is stopping.
    """

    silent: bool = False
    lose: int = 0
    nonsense: bytes | None = None
    paused: bool = False


class NetlogonServer:
    """The UDP side of one controller.

    Args:
        spec: Of the directory whose controller this is.
        address: Where to listen.
        port: That of the controller's LDAP; 0 takes a free one.
        sites: AD sites by subnet, for the site of whoever asks; nobody has one when it is empty.
        flags: What the controller says it is.
    """

    def __init__(
        self,
        spec: DirectorySpec,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        sites: Mapping[str, str] | None = None,
        flags: int = FLAGS,
    ) -> None:
        self.spec = spec
        self.address = address
        self.port = port
        self.sites = dict(sites or {})
        self.flags = flags
        self.faults = NetlogonFaults()
        self.pings_count = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Self:
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Pings(self), local_addr=(self.address, self.port)
        )
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()
            # The socket is closed in the loop's next turn.
            await asyncio.sleep(0)

    def take(self, datagram: bytes, peer: Any) -> None:
        """Answer one datagram."""
        self.pings_count += 1
        if self.faults.silent or self._transport is None:
            return
        if self.faults.lose:
            self.faults.lose -= 1
            return
        answer = self.faults.nonsense if self.faults.nonsense is not None else self.respond(datagram, peer[0])
        if answer is not None:
            self._transport.sendto(answer, peer)

    def respond(self, datagram: bytes, peer: str) -> bytes | None:
        """The answer to a ping from an address; None for what is no ping."""
        session = _Session()
        try:
            (message,) = session.receive(datagram)
        except (sansldap.LDAPError, ValueError):
            return None
        if not isinstance(message, sansldap.SearchRequest):
            return None
        asked = _equalities(message.filter)
        domain = asked.get("dnsdomain", self.spec.domain.encode()).decode("utf-8", "replace").rstrip(".").lower()
        if domain == self.spec.domain.lower():
            packed = self.netlogon(peer, int.from_bytes(asked.get("ntver", b""), "little"))
            attribute = sansldap.PartialAttribute("Netlogon", [packed])
            session.search_result_entry(message.message_id, "", [attribute])
        session.done(message.message_id)
        return session.data_to_send()

    def netlogon(self, peer: str, version: int) -> bytes:
        """NETLOGON_SAM_LOGON_RESPONSE_EX for whoever asks from this address."""
        spec = self.spec
        host = f"{spec.hostname}.{spec.domain}"
        opcode = _PAUSED if self.faults.paused else _OPCODE
        head = struct.pack("<HHI", opcode, 0, self.flags) + uuid.uuid5(uuid.NAMESPACE_DNS, spec.domain).bytes_le
        names = [
            *(spec.forest or spec.domain, spec.domain, host, spec.netbios_name, spec.hostname.upper(), ""),
            *(spec.ad_site, self._site_of(peer)),
        ]
        if version & _NEXT_SITE:
            names.append(spec.ad_site)
        return _with_names(head, names) + struct.pack("<IHH", _VERSION | version & _NEXT_SITE, 0xFFFF, 0xFFFF)

    def _site_of(self, peer: str) -> str:
        address = ipaddress.ip_address(peer.partition("%")[0])
        inside = [
            (network, site)
            for text, site in self.sites.items()
            if (network := ipaddress.ip_network(text)).version == address.version and address in network
        ]
        return max(inside, key=lambda pair: pair[0].prefixlen)[1] if inside else ""


class _Session(sansldap.LDAPServer):
    """sansldap's, with an end of search that carries no empty list of referrals: Samba's client refuses one."""

    def done(self, message_id: int) -> None:
        success = sansldap.LDAPResult(
            result_code=sansldap.LDAPResultCode.SUCCESS, matched_dn="", diagnostics_message="", referrals=None
        )
        self._send(sansldap.SearchResultDone(message_id, [], success))


class _Pings(asyncio.DatagramProtocol):
    def __init__(self, server: NetlogonServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.take(data, addr)


def _equalities(wanted: sansldap.LDAPFilter) -> dict[str, bytes]:
    parts = wanted.filters if isinstance(wanted, sansldap.FilterAnd) else [wanted]
    return {part.attribute.lower(): part.value for part in parts if isinstance(part, sansldap.FilterEquality)}


def _with_names(head: bytes, names: list[str]) -> bytes:
    """Names behind each other, each pointing back to what was written before (MS-ADTS 6.3.7)."""
    out = bytearray(head)
    written: dict[tuple[str, ...], int] = {}
    for name in names:
        labels = tuple(name.split(".")) if name else ()
        while labels:
            at = written.get(labels)
            if at is not None:
                out += (0xC000 | at).to_bytes(2, "big")
                break
            written[labels] = len(out)
            encoded = labels[0].encode()
            out += bytes((len(encoded),)) + encoded
            labels = labels[1:]
        else:
            out.append(0)
    return bytes(out)
