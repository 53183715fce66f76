"""DomainDiscoverer: finds the Active Directory domains of the network it stands in, without any credential.

Hints (settings, resolv.conf, the system's resolver, DHCP leases, the own name) are asked for by SRV at all DNS
servers at once. The DNS servers themselves are asked as if they were controllers, since they mostly are: so a domain
is found even where no suffix is known. Controllers that are found are asked for themselves; what agrees is a domain.

Finding nothing is a result, with everything that was tried. Only a network that cannot be asked at all is an error.

Example:
    >>> discovery = await DomainDiscoverer().discover()  # doctest: +SKIP
    >>> discovery.best.name
    'northvalley.test'
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import attrs

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.controllers import Onlooker, Seen
from msp_sdk.discovery.evidence import rank
from msp_sdk.discovery.hints import Hints, canonical_name, read_hints, with_parents
from msp_sdk.discovery.options import DiscoveryOptions
from msp_sdk.discovery.panel import hear
from msp_sdk.discovery.proof import Found, Prover
from msp_sdk.discovery.sweep import sweep_subnets
from msp_sdk.errors import ConfigError, DiscoveryError
from msp_sdk.models.domain import Domain, DomainController, DomainDiscovery, Evidence, Hint, SweptHost
from msp_sdk.network.probe import DoorProber
from msp_sdk.network.resolver import Resolver, parse_server

__all__ = ["DiscoveryOptions", "DomainDiscoverer"]

_NAMES_ASKED = 16
_SERVERS_ASKED = 8
_NOBODY_THERE = ("dns-no-answer", "dns-unreachable")
_Task = asyncio.Task[tuple[Hint, ...]]


class DomainDiscoverer:
    """Finds domains.

    Args:
        resolver: Which DNS servers to ask; None means those of the settings, else all that the machine knows.
        options: Settings and patience.

    Raises:
        ConfigError: A setting is no address or no name.
    """

    def __init__(self, resolver: Resolver | None = None, *, options: DiscoveryOptions | None = None) -> None:
        self._options = options or DiscoveryOptions()
        for name in self._options.search:
            if canonical_name(name) is None:
                raise ConfigError(f"{name!r} is no name of a domain.", code="bad-search")
        self._resolver = resolver

    async def discover(self, known: Sequence[Domain] = ()) -> DomainDiscovery:
        """Look for domains.

        Args:
            known: Domains that somebody knows of; their names are hints.

        Returns:
            The believed domains, most certain first; may be none. ``evidence`` holds everything that was tried.

        Raises:
            DiscoveryError: No DNS server could be asked about any name. Retryable.
        """
        options = self._options
        settings = options.search or (self._resolver.search if self._resolver is not None else ())
        hints = await asyncio.to_thread(read_hints, settings, root=options.root, hostname=options.hostname)
        hints = attrs.evolve(hints, names=(*hints.names, *(Hint(domain.name, "known before") for domain in known)))
        resolvers = self._resolvers(hints)
        onlooker = Onlooker(options)
        try:
            walk = _Walk(hints, resolvers, onlooker, options, follows_servers=not settings)
            found, (swept, sweeping) = await asyncio.gather(walk.run(), self._sweep(resolvers))
        finally:
            onlooker.close()
        return _conclude(hints, found, swept, sweeping)

    def _resolvers(self, hints: Hints) -> tuple[Resolver, ...]:
        """A resolver for each DNS server: those that a person set, else all that the machine was told of."""
        options = self._options
        if self._resolver is not None:
            return self._resolver.each()
        servers = options.resolvers or tuple(parse_server(hint.value) for hint in hints.servers)
        return Resolver(servers, options=options.dns).each()[:_SERVERS_ASKED]

    async def _sweep(self, resolvers: Sequence[Resolver]) -> tuple[tuple[SweptHost, ...], tuple[Evidence, ...]]:
        if not self._options.sweep:
            return (), ()
        return await sweep_subnets(DoorProber(self._options.doors), _near(resolvers), root=self._options.root)


class _Walk:
    """One discovery: names are examined as they come to light, all side by side."""

    def __init__(
        self,
        hints: Hints,
        resolvers: Sequence[Resolver],
        onlooker: Onlooker,
        options: DiscoveryOptions,
        *,
        follows_servers: bool,
    ) -> None:
        self._hints = hints
        self._resolvers = resolvers
        self._onlooker = onlooker
        self._options = options
        self._prover = Prover(resolvers, onlooker, options)
        self._follows_servers = follows_servers
        self._found: dict[str, Found] = {}
        self._evidence: list[Evidence] = []
        self._tasks: set[_Task] = set()

    async def run(self) -> tuple[Found, ...]:
        met = asyncio.ensure_future(self._meet_servers())
        try:
            self._follow(self._hints.names, met)
            if self._follows_servers:
                self._tasks.add(asyncio.ensure_future(_domains_of(met)))
                self._tasks.add(asyncio.ensure_future(self._reverse_names()))
            while self._tasks:
                done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._follow(task.result(), met)
            await met
        finally:
            for each in (met, *self._tasks):
                each.cancel()
            await asyncio.gather(met, *self._tasks, return_exceptions=True)
        return (*self._found.values(), Found(evidence=tuple(self._evidence)))

    def _follow(self, hints: Sequence[Hint], met: asyncio.Future[Sequence[Seen]]) -> None:
        for hint in hints:
            if hint.value not in self._found and len(self._found) < _NAMES_ASKED:
                # It keeps its place among the names, whichever is done first.
                self._found[hint.value] = Found()
                self._tasks.add(asyncio.ensure_future(self._examine(hint, met)))

    async def _examine(self, hint: Hint, met: asyncio.Future[Sequence[Seen]]) -> tuple[Hint, ...]:
        found = await self._prover.examine(hint, met)
        self._found[hint.value] = found
        return found.leads

    async def _meet_servers(self) -> Sequence[Seen]:
        """The DNS servers that are controllers themselves."""
        if not self._follows_servers:
            return ()
        near = [server for resolver in _near(self._resolvers) for server, _ in resolver.servers]
        port = self._options.ldap_port
        looked = await asyncio.gather(
            *(self._onlooker.meet(DomainController(server, port, (server,))) for server in near)
        )
        for server, seen in zip(near, looked, strict=True):
            holds = ", ".join(seen.domains())
            said = f"it is a controller of {holds}" if holds else "it does not answer as one"
            self._evidence.append(Evidence(kinds.ASKED_AS_CONTROLLER, server, said))
        return [_with_own_name(seen) for seen in looked if seen.domains()]

    async def _reverse_names(self) -> tuple[Hint, ...]:
        """Domains of the names that reverse DNS gives the DNS servers."""
        hints: list[Hint] = []

        async def one(server: str) -> None:
            heard = await hear(near, lambda resolver: resolver.reverse_names(server))
            gone = [error for _, error in heard.failed if error.code in _NOBODY_THERE]
            if len(gone) == len(near):
                self._evidence.append(Evidence(kinds.DNS_FAILED, server, gone[0].detail))
            elif not heard.answers:
                self._evidence.append(Evidence(kinds.NO_REVERSE_NAME, server, "reverse DNS has no name for it"))
            names = [name.partition(".")[2] for name in heard.first or ()]
            hints.extend(Hint(name, f"reverse name of {server}") for name in names)

        near = _near(self._resolvers)
        await asyncio.gather(*(one(server) for resolver in near for server, _ in resolver.servers))
        whole = [hint for hint in with_parents(hints) if canonical_name(hint.value) and "." in hint.value]
        return tuple(whole)


async def _domains_of(met: asyncio.Future[Sequence[Seen]]) -> tuple[Hint, ...]:
    seen = await asyncio.shield(met)
    said = (Hint(name, f"DNS server {one.controller.addresses[0]}") for one in seen for name in one.domains())
    # A stranger's text is a name only if it looks like one.
    return tuple(hint for hint in said if canonical_name(hint.value) == hint.value)


def _with_own_name(seen: Seen) -> Seen:
    """A controller that was met by its address, with the name that it gives itself."""
    name = (seen.netlogon.controller if seen.netlogon else None) or (seen.root.dns_host_name if seen.root else None)
    if not name or canonical_name(name) != name:
        return seen
    return attrs.evolve(seen, controller=attrs.evolve(seen.controller, fqdn=name))


def is_near(server: str) -> bool:
    """True for an address that is not the internet's: nobody pings a public resolver as a controller."""
    return not ipaddress.ip_address(server.partition("%")[0]).is_global


def _near(resolvers: Sequence[Resolver]) -> list[Resolver]:
    return [resolver for resolver in resolvers if all(is_near(server) for server, _ in resolver.servers)]


def _conclude(
    hints: Hints, found: Sequence[Found], swept: tuple[SweptHost, ...], sweeping: tuple[Evidence, ...]
) -> DomainDiscovery:
    domains = rank(result.domain for result in found if result.domain is not None)
    evidence = tuple(item for result in found for item in result.evidence)
    if not hints.names:
        nothing = "no search domain, lease or own name says a domain"
        evidence = (*evidence, Evidence(kinds.NO_HINT, "this machine", nothing))
    failed = [item for item in evidence if item.kind == kinds.DNS_FAILED]
    answered = any(item.kind.startswith("srv-") or item.kind == kinds.DNS_REFUSED for item in evidence)
    if not domains and failed and not answered and not sweeping:
        raise DiscoveryError(
            f"no DNS server could be asked: {failed[0].detail}",
            code="dns-unreachable",
            remedy="Check the network, or give a resolver.",
        )
    return DomainDiscovery(domains, hints.names, (*evidence, *sweeping), swept)
