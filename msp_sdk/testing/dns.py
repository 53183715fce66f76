"""A small DNS server for an estate: SRV, A, AAAA, NS and SOA records of its domain, over UDP and TCP.

It answers as a domain's own DNS server does: authoritative for its zones, no glue in the additional section,
``NXDOMAIN`` with an SOA for names that do not exist, no reverse zone. Answers that do not fit are truncated, so that
the client has to ask again over TCP.

What it does **not** prove: recursion, DNSSEC, dynamic updates, EDNS beyond the payload size, how a resolver behaves
under loss.

Example:
    >>> zone = DnsZone("northvalley.test")
    >>> zone.add_controller("dc1", "127.77.0.1", port=3890)
    >>> zone.add_address("srv1", "127.77.0.20")
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from attrs import mutable

from msp_sdk.testing.loopback import bind_both

_TTL_S = 60
_PLAIN_UDP_BYTES = 512
_READ_TIMEOUT_S = 10


class DnsZone:
    """The records of one zone. Names are relative to it, or absolute with a final dot."""

    def __init__(self, domain: str, *, name_server: str = "dc1") -> None:
        self.origin = dns.name.from_text(domain)
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], list[str]] = {}
        self.name_server = self.name(name_server)

    def name(self, text: str) -> dns.name.Name:
        """A name of this zone."""
        return dns.name.from_text(text, self.origin)

    def add(self, name: str, kind: str, value: str) -> None:
        """Add a record; ``value`` as in a zone file, its names absolute."""
        self._records.setdefault((self.name(name), dns.rdatatype.from_text(kind)), []).append(value)

    def add_address(self, name: str, address: str) -> None:
        """Add an A or AAAA record; a stale one is made in the same way."""
        self.add(name, "AAAA" if ":" in address else "A", address)

    def remove(self, name: str) -> None:
        """Forget every record of a name."""
        wanted = self.name(name)
        self._records = {key: values for key, values in self._records.items() if key[0] != wanted}

    def add_controller(
        self,
        name: str,
        address: str | None,
        *,
        port: int = 389,
        priority: int = 0,
        weight: int = 100,
        ad_site: str | None = None,
    ) -> None:
        """Add what a controller registers of itself: its address and its SRV records.

        Args:
            name: Its short name.
            address: None leaves its address record out.
            port: Where its LDAP is.
            priority: Lower ones are tried first.
            weight: Among equals, how often it is chosen.
            ad_site: Its site, for the names of that site; None leaves them out.
        """
        if address is not None:
            self.add_address(name, address)
        for service in ("_ldap._tcp.dc._msdcs", "_ldap._tcp"):
            self.add(service, "SRV", f"{priority} {weight} {port} {self.name(name)}")
        for service, door in (("_kerberos._tcp", 88), ("_gc._tcp", 3268)):
            self.add(service, "SRV", f"{priority} {weight} {door} {self.name(name)}")
        if ad_site is not None:
            self.add(f"_ldap._tcp.{ad_site}._sites.dc._msdcs", "SRV", f"{priority} {weight} {port} {self.name(name)}")

    def answer(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        """The records of a name, or None."""
        values = self._records.get((name, kind))
        if kind == dns.rdatatype.SOA and name == self.origin:
            values = [f"{self.name_server} hostmaster.{self.origin} 1 900 600 86400 {_TTL_S}"]
        if not values:
            return None
        return dns.rrset.from_text(name, _TTL_S, dns.rdataclass.IN, kind, *values)

    def exists(self, name: dns.name.Name) -> bool:
        """True for a name with a record, or above one."""
        return name == self.origin or any(key[0].is_subdomain(name) for key in self._records)


@mutable
class DnsFaults:
    """What goes wrong; change it while the server runs.

    Attributes:
        silent: Answer nothing.
        fail: Answer with an error, :attr:`rcode`.
        delay_s: Wait before each answer.
        only: Which questions, by name with its final dot and kind, are met with silence and errors; None means all.
    """

    silent: bool = False
    fail: bool = False
    rcode: dns.rcode.Rcode = dns.rcode.SERVFAIL
    delay_s: float = 0.0
    only: Callable[[str, str], bool] | None = None

    def meets(self, question: dns.rrset.RRset) -> bool:
        """True for a question that goes wrong."""
        return self.only is None or self.only(str(question.name), dns.rdatatype.to_text(question.rdtype))


class DnsServer:
    """Serves zones on one address and port, UDP and TCP.

    Args:
        zones: What it is authoritative for.
        address: Where to listen.
        port: 0 takes a port that is free for both, see :attr:`port`.
        outside: For names of no zone: ``nxdomain`` as a resolver says it, ``refused`` as a bare authority does.
    """

    def __init__(
        self,
        *zones: DnsZone,
        address: str = "127.0.0.1",
        port: int = 0,
        outside: Literal["nxdomain", "refused"] = "nxdomain",
    ) -> None:
        self.zones = zones
        self.address = address
        self.port = port
        self.faults = DnsFaults()
        self.queries: list[tuple[str, str, str]] = []
        self._outside = dns.rcode.NXDOMAIN if outside == "nxdomain" else dns.rcode.REFUSED
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> tuple[str, int]:
        """Address and port, as resolvers take it."""
        return self.address, self.port

    async def __aenter__(self) -> Self:
        tcp, udp = bind_both(self.address, self.port)
        self.port = tcp.getsockname()[1]
        self._tcp = await asyncio.start_server(self._serve_tcp, sock=tcp)
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A broken-off connection closes its socket in the loop's next turn.
        await asyncio.sleep(0)
        if self._tcp is not None:
            await self._tcp.wait_closed()

    def count(self, name: str) -> int:
        """How often a name was asked for, of any kind and by any way."""
        return sum(1 for asked, _, _ in self.queries if asked.rstrip(".").lower() == name.rstrip(".").lower())

    async def respond(self, wire: bytes, way: str) -> bytes | None:
        """The answer to a query, or None for silence."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        self.queries.append((str(question.name), dns.rdatatype.to_text(question.rdtype), way))
        await asyncio.sleep(self.faults.delay_s)
        if self.faults.silent and self.faults.meets(question):
            return None
        response = self._respond(query, question)
        limit = max(query.payload, _PLAIN_UDP_BYTES) if way == "udp" else 65535
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.AA | dns.flags.TC
            return short.to_wire()

    def _respond(self, query: dns.message.Message, question: dns.rrset.RRset) -> dns.message.Message:
        response = dns.message.make_response(query)
        if self.faults.fail and self.faults.meets(question):
            response.set_rcode(self.faults.rcode)
            return response
        zone = next((zone for zone in self.zones if question.name.is_subdomain(zone.origin)), None)
        if zone is None:
            response.set_rcode(self._outside)
            return response
        response.flags |= dns.flags.AA
        found = zone.answer(question.name, question.rdtype)
        if found is not None:
            response.answer.append(found)
            return response
        if not zone.exists(question.name):
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = zone.answer(zone.origin, dns.rdatatype.SOA)
        if soa is not None:
            response.authority.append(soa)
        return response

    def serve_datagram(self, data: bytes, peer: Any) -> None:
        """Answer one datagram."""
        self._keep(asyncio.get_running_loop().create_task(self._serve_udp(data, peer)))

    async def _serve_udp(self, data: bytes, peer: Any) -> None:
        answer = await self.respond(data, "udp")
        if answer is not None and self._udp is not None:
            self._udp.sendto(answer, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                answer = await self.respond(data, "tcp")
                if answer is None:
                    break
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.serve_datagram(data, addr)
