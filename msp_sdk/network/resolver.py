"""Names: SRV and address records, asked of the right DNS servers.

The right ones are the domain's own servers for the domain's names; the appliance's own resolver is often a router
that knows none of them. Addresses travel beside names, so that nothing later resolves again by the system
(a domain called ``.local`` would go to mDNS).

No such name is an empty answer. A server that fails or is silent is :class:`~msp_sdk.errors.DiscoveryError`.

Example:
    >>> parse_server("127.0.0.1:5353")
    ('127.0.0.1', 5353)
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
from attrs import field, frozen

from msp_sdk.errors import ConfigError, DiscoveryError, WireError
from msp_sdk.models.domain import DomainController

DNS_PORT = 53
_MAX_PORT = 65535
_MAX_WEIGHT = 65535
# Above this a domain's DNS server loses queries in bursts.
_CONCURRENT = 100
# Once a name has addresses of one kind, the other kind has so long to come.
_AFTER_ADDRESSES_S = 0.2

DnsServer = tuple[str, int]
Draw = Callable[[int], int]


@frozen
class SrvRecord:
    """One SRV record; ``target`` without the final dot."""

    target: str
    port: int
    priority: int = 0
    weight: int = 100


@frozen
class ResolvConf:
    """What a resolv.conf says: servers and search domains, in its order."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@frozen
class ResolverOptions:
    """How patient a look-up is: per server and in all."""

    timeout_s: float = 2.0
    lifetime_s: float = 5.0


@frozen
class SrvAnswer:
    """The records and the server that gave them, as :func:`render_server` has it; both may be empty."""

    records: tuple[SrvRecord, ...] = ()
    server: str = field(default="")


def parse_server(text: str) -> DnsServer:
    """Read ``HOST``, ``HOST:PORT`` or ``[V6]:PORT`` of a DNS server; the host is an IP address.

    Raises:
        ConfigError: It is no address or no port. Not retryable.
    """
    host, port = text.strip(), DNS_PORT
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        text_port = rest.removeprefix(":")
    elif host.count(":") == 1:
        host, _, text_port = host.partition(":")
    else:
        text_port = ""
    try:
        ipaddress.ip_address(host.partition("%")[0])
        port = int(text_port) if text_port else port
    except ValueError:
        port = 0
    if not 0 < port <= _MAX_PORT:
        raise ConfigError(
            f"{text!r} is no DNS server.", code="bad-resolver", remedy="Give an IP address, or ADDRESS:PORT."
        )
    return host, port


def render_server(server: DnsServer) -> str:
    """The text that :func:`parse_server` reads; port 53 is left out."""
    host, port = server
    if port == DNS_PORT:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read a resolv.conf: the last ``search`` or ``domain`` line wins, as the C library has it."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.partition("#")[0].partition(";")[0].split()
        if len(words) < 2:  # noqa: PLR2004 (a keyword and a value)
            continue
        if words[0] == "nameserver":
            # The C library passes over what is no address; one bad line must not end all discovery.
            if _is_address(words[1]):
                servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(word.strip(".").lower() for word in words[1:] if word.strip("."))
    return ResolvConf(tuple(servers), search)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_resolv_conf(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """Read the file; a missing or unreadable one says nothing."""
    try:
        return parse_resolv_conf(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ResolvConf()


def order_controllers(records: Sequence[SrvRecord], draw: Draw) -> tuple[DomainController, ...]:
    """Order domain controllers for connection attempts.

    Args:
        records: SRV answers in any order; may be empty. A target of ``.`` says that there is no such service.
        draw: Returns an int in [0, n]; injected so that tests are exact.

    Returns:
        One entry per distinct (host, port), lowest priority first, by weight among equals; without addresses.

    Raises:
        WireError: A record's priority, weight or port is out of range. Not retryable.

    Source: RFC 2782.
    """
    for record in records:
        if not (0 <= record.priority <= _MAX_WEIGHT and 0 <= record.weight <= _MAX_WEIGHT):
            raise WireError(f"the SRV record for {record.target} has a priority or weight out of range.", path="srv")
        if not 0 <= record.port <= _MAX_PORT:
            raise WireError(f"the SRV record for {record.target} has a port out of range.", path="srv")
    ordered: dict[tuple[str, int], DomainController] = {}
    usable = [record for record in records if record.target.strip(".") and record.port]
    for priority in sorted({record.priority for record in usable}):
        # Weight zero first: it is then chosen only when the draw is zero.
        waiting = sorted((record for record in usable if record.priority == priority), key=_weight_then_name)
        while waiting:
            threshold = draw(sum(record.weight for record in waiting))
            chosen = waiting.pop(_index_at(waiting, threshold))
            name = chosen.target.rstrip(".").lower()
            ordered.setdefault((name, chosen.port), DomainController(name, chosen.port))
    return tuple(ordered.values())


def _index_at(records: Sequence[SrvRecord], threshold: int) -> int:
    """The first index whose running sum of weights reaches the threshold; the last if none does."""
    running = 0
    for index, record in enumerate(records):
        running += record.weight
        if running >= threshold:
            return index
    return len(records) - 1


def _weight_then_name(record: SrvRecord) -> tuple[bool, str, int]:
    return record.weight > 0, record.target.lower(), record.port


class Resolver:
    """Asks DNS servers.

    Args:
        servers: (address, port) of the servers, in order; None means those of resolv.conf.
        search: Search domains; kept beside the servers for discovery, never appended to a name by itself.
        options: Patience.

    Attributes:
        has_replied: A server has said something by now, an error included: there is somebody to ask.
        has_answered: One has said something of use; that it has nothing to say to us (``REFUSED``) is.

    Raises:
        ConfigError: A server is no IP address.
    """

    def __init__(
        self,
        servers: Sequence[DnsServer] | None = None,
        *,
        search: Sequence[str] | None = None,
        options: ResolverOptions | None = None,
    ) -> None:
        if servers is None:
            servers = tuple((server, DNS_PORT) for server in read_resolv_conf().servers)
        self.servers: tuple[DnsServer, ...] = tuple(servers)
        self.search: tuple[str, ...] = tuple(search or ())
        self._options = options or ResolverOptions()
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.timeout = self._options.timeout_s
        self._resolver.lifetime = self._options.lifetime_s
        try:
            self._resolver.nameservers = [
                dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(host)), port) for host, port in self.servers
            ]
        except ValueError as error:
            raise ConfigError("a DNS server is not an IP address.", code="bad-resolver") from error
        self._limit = asyncio.Semaphore(_CONCURRENT)
        self.has_replied = False
        self.has_answered = False

    def each(self) -> tuple[Resolver, ...]:
        """One resolver for each of the servers, so that they can be asked side by side."""
        return tuple(Resolver((server,), search=self.search, options=self._options) for server in self.servers)

    @classmethod
    def of_domain(cls, dns_servers: Iterable[str], *, options: ResolverOptions | None = None) -> Resolver:
        """The resolver for a domain's names, from ``Domain.dns_servers``; the system's when the domain lists none."""
        servers = tuple(parse_server(server) for server in dns_servers)
        return cls(servers or None, options=options)

    async def srv(self, name: str) -> tuple[SrvRecord, ...]:
        """SRV records of an absolute name, unordered; empty when there are none.

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        return (await self.srv_answer(name)).records

    async def srv_answer(self, name: str) -> SrvAnswer:
        """As :meth:`srv`, with the server that answered."""
        answer = await self._ask(name, dns.rdatatype.SRV)
        if answer is None or answer.rrset is None:
            return SrvAnswer()
        records = tuple(
            SrvRecord(rdata.target.to_text(omit_final_dot=True), rdata.port, rdata.priority, rdata.weight)
            for rdata in answer.rrset
        )
        server = render_server((answer.nameserver or "", answer.port or DNS_PORT))
        return SrvAnswer(records, server)

    async def addresses(self, name: str) -> tuple[str, ...]:
        """A, then AAAA records of an absolute name; empty when there are none. An address is its own answer.

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        try:
            return (str(ipaddress.ip_address(name)),)
        except ValueError:
            pass
        kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
        tasks = [asyncio.ensure_future(self._addresses_of_kind(name, kind)) for kind in kinds]
        pending = set(tasks)
        patience_s: float | None = None
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                if any(task.exception() is None and task.result() for task in done):
                    # Some servers keep silent when they are asked for the other kind.
                    patience_s = _AFTER_ADDRESSES_S
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        failures = [task.exception() for task in tasks if not task.cancelled() and task.exception() is not None]
        found = [
            address for task in tasks if not task.cancelled() and not task.exception() for address in task.result()
        ]
        # One kind of address is enough to go on with.
        if not found and failures and failures[0] is not None:
            raise failures[0]
        return tuple(found)

    async def _addresses_of_kind(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[str, ...]:
        answer = await self._ask(name, kind)
        return () if answer is None or answer.rrset is None else tuple(rdata.address for rdata in answer.rrset)

    async def name_servers(self, domain: str) -> tuple[str, ...]:
        """Names of a zone's own DNS servers; empty when there are none.

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        answer = await self._ask(domain, dns.rdatatype.NS)
        if answer is None or answer.rrset is None:
            return ()
        return tuple(rdata.target.to_text(omit_final_dot=True) for rdata in answer.rrset)

    async def serves(self, domain: str) -> bool:
        """True when the servers know the zone of this very name (its SOA record).

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        answer = await self._ask(domain, dns.rdatatype.SOA)
        return answer is not None and answer.rrset is not None

    async def reverse_names(self, address: str) -> tuple[str, ...]:
        """Names that reverse DNS gives an address, without the final dot; empty when there are none.

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        try:
            name = dns.reversename.from_address(address.partition("%")[0])
        except (dns.exception.DNSException, ValueError):
            return ()
        answer = await self._ask(name.to_text(), dns.rdatatype.PTR)
        if answer is None or answer.rrset is None:
            return ()
        return tuple(rdata.target.to_text(omit_final_dot=True).lower() for rdata in answer.rrset)

    async def alias(self, name: str) -> str | None:
        """The name that an absolute name is an alias of (CNAME), without the final dot; None when it is none.

        Raises:
            DiscoveryError: The servers failed or were silent. Retryable.
        """
        answer = await self._ask(name, dns.rdatatype.CNAME)
        if answer is None or answer.rrset is None:
            return None
        return str(answer.rrset[0].target.to_text(omit_final_dot=True)).lower()

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer | None:
        """The answer, or None when the name does not exist."""
        name = name.removesuffix(".")
        if not self.servers:
            raise DiscoveryError("no DNS server is known.", code="no-dns-server", remedy="Give a resolver.")
        where = ", ".join(map(render_server, self.servers))
        try:
            absolute = _absolute(name)
            async with self._limit:
                answer = await self._resolver.resolve(absolute, kind, raise_on_no_answer=False, search=False)
            self.has_replied = self.has_answered = True
        except dns.resolver.NXDOMAIN:
            self.has_replied = self.has_answered = True
            return None
        except dns.exception.Timeout as error:
            self.has_replied |= any(_responses(error))
            raise DiscoveryError(
                f"the DNS servers {where} did not answer for {name}.", code="dns-no-answer", remedy="Check the network."
            ) from error
        except dns.resolver.NoNameservers as error:
            code, how = _why_none_served(error)
            self.has_replied |= any(_responses(error))
            self.has_answered |= code == "dns-refused"
            raise DiscoveryError(f"the DNS servers {where} {how} for {name}.", code=code) from error
        except (dns.exception.DNSException, UnicodeError, ValueError) as error:
            raise DiscoveryError(
                f"the DNS servers {where} failed for {name}: {type(error).__name__}.", code="dns-failed"
            ) from error
        except OSError as error:
            raise DiscoveryError(f"the DNS servers {where} cannot be reached.", code="dns-unreachable") from error
        return answer


def _absolute(name: str) -> dns.name.Name:
    """A name as Windows' DNS has it: letters beyond ASCII as UTF-8, not as IDNA (sites may be called so)."""
    if name.isascii():
        return dns.name.from_text(name)
    return dns.name.Name([*(label.encode() for label in name.rstrip(".").split(".")), b""])


def _responses(error: dns.exception.DNSException) -> list[dns.message.Message | None]:
    """What the servers said before the resolver gave up on them; None where one said nothing."""
    return [failure[4] for failure in error.kwargs.get("errors", ())]


def _why_none_served(error: dns.resolver.NoNameservers) -> tuple[str, str]:
    """Code and words. A server that refuses is there, and has nothing to say to us; one without an answer is not."""
    failures = error.kwargs.get("errors", ())
    responses = _responses(error)
    if all(isinstance(failure[3], OSError) for failure in failures):
        return "dns-unreachable", "could not be reached"
    if all(response is not None and response.rcode() == dns.rcode.REFUSED for response in responses):
        return "dns-refused", "refused to answer"
    return "dns-failed", "failed"
