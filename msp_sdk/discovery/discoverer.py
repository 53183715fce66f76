"""DomainDiscoverer: finds the Active Directory domains of the network it stands in, without any credential.

Hints (settings, resolv.conf, the system's resolver, DHCP leases, the own name) are asked for by SRV at all DNS
servers at once. The DNS servers themselves are asked as if they were controllers, since they mostly are: so a domain
is found even where no suffix is known. Controllers that are found are asked for themselves; what agrees is a domain.

Finding nothing is a result, with everything that was tried. Only a network that cannot be asked at all is an error:
no DNS server is known, or none says a word. Servers that say nothing but errors leave the result open.

Example:
    >>> discovery = await DomainDiscoverer().discover()  # doctest: +SKIP
    >>> discovery.best.name
    'northvalley.test'
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import attrs

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.controllers import Onlooker
from msp_sdk.discovery.evidence import rank
from msp_sdk.discovery.hints import Hints, canonical_name, read_hints
from msp_sdk.discovery.options import DiscoveryOptions
from msp_sdk.discovery.sweep import Sweep, judge_swept, sweep_subnets
from msp_sdk.discovery.walk import Walk, near
from msp_sdk.errors import ConfigError, DiscoveryError
from msp_sdk.models.domain import Domain, DomainDiscovery, Evidence
from msp_sdk.network.own_networks import read_own_networks
from msp_sdk.network.probe import DoorProber, Pace
from msp_sdk.network.resolver import Resolver, parse_server, render_server

__all__ = ["DiscoveryOptions", "DomainDiscoverer"]

_SERVERS_ASKED = 8
_OURSELVES = "this machine"


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
            known: Domains that were found before. They are asked for again, at the DNS servers that they had then
                too: so they are found although the network's resolver is another one by now.

        Returns:
            The believed domains, most certain first; may be none. ``evidence`` holds everything that was tried.
            ``dns_failed`` says that there are none because DNS gave no usable answer.

        Raises:
            DiscoveryError: No DNS server is known (``no-dns-server``), or none said a word (``dns-unreachable``), and
                no sweep was asked for: what that finds is a result. Retryable.
        """
        options = attrs.evolve(self._options, pace=self._options.pace or Pace(self._options.doors))
        settings = options.search or (self._resolver.search if self._resolver is not None else ())
        hints = await asyncio.to_thread(read_hints, settings, root=options.root, hostname=options.hostname)
        networks = await asyncio.to_thread(read_own_networks, options.root)
        resolvers, left_out = self._resolvers(hints)
        own = {domain.name: self._resolvers_of(domain) for domain in known}
        onlooker = Onlooker(options)
        sweeping = asyncio.create_task(_sweep(options, near(resolvers, networks)))
        try:
            walk = Walk(resolvers, networks, onlooker, options, own)
            await walk.run(hints.names, follows_servers=not settings)
            sweep = await sweeping
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            onlooker.close()
        domains = rank(found.domain for found in walk.found.values() if found.domain is not None)
        evidence = (*walk.evidence, *left_out)
        if not hints.names:
            nothing = "no search domain, lease or own name says a domain"
            evidence = (*evidence, Evidence(kinds.NO_HINT, _OURSELVES, nothing))
        if not domains:
            asked = (*resolvers, *(resolver for group in own.values() for resolver in group))
            evidence = (*evidence, *_judge_dns(asked, evidence, is_swept=options.sweep))
        return DomainDiscovery(
            domains,
            hints.names,
            (*evidence, *sweep.evidence),
            judge_swept(sweep.hosts, domains),
            tuple(name for name, found in walk.found.items() if found.is_denied),
        )

    def _resolvers(self, hints: Hints) -> tuple[tuple[Resolver, ...], tuple[Evidence, ...]]:
        """A resolver for each DNS server: those that a person set, else all that the machine was told of.

        And the evidence of those that are too many.
        """
        options = self._options
        if self._resolver is not None:
            return self._resolver.each(), ()
        servers = options.resolvers or tuple(parse_server(hint.value) for hint in hints.servers)
        asked, others = servers[:_SERVERS_ASKED], servers[_SERVERS_ASKED:]
        told = ", ".join(map(render_server, others))[: kinds.DETAIL_MAX]
        left_out = (Evidence(kinds.NOT_ASKED, told, "there are more DNS servers than are asked"),) if others else ()
        return Resolver(asked, options=options.dns).each(), left_out

    def _resolvers_of(self, domain: Domain) -> tuple[Resolver, ...]:
        servers = tuple(parse_server(server) for server in domain.dns_servers[:_SERVERS_ASKED])
        return Resolver(servers, options=self._options.dns).each()


async def _sweep(options: DiscoveryOptions, resolvers: Sequence[Resolver]) -> Sweep:
    if not options.sweep:
        return Sweep()
    try:
        return await sweep_subnets(DoorProber(options.doors, pace=options.pace), resolvers, root=options.root)
    except DiscoveryError as error:
        return Sweep(evidence=(Evidence(kinds.SWEEP_FAILED, "own subnets", error.detail),))


def _judge_dns(resolvers: Sequence[Resolver], evidence: Iterable[Evidence], *, is_swept: bool) -> tuple[Evidence, ...]:
    """What it means that no domain was found: a network that cannot be asked is not one without a directory.

    Raises:
        DiscoveryError: As :meth:`DomainDiscoverer.discover` says.
    """
    items = tuple(evidence)
    failed = [item.detail for item in items if item.kind == kinds.DNS_FAILED]
    if not resolvers:
        failed = ["no DNS server is known."]
    elif not failed or any(resolver.has_answered for resolver in resolvers):
        return ()
    if is_swept or any(resolver.has_replied for resolver in resolvers):
        is_told = any(item.kind == kinds.UNANSWERED for item in items)
        return () if is_told else (Evidence(kinds.UNANSWERED, _OURSELVES, failed[0]),)
    if not resolvers:
        raise DiscoveryError(failed[0], code="no-dns-server", remedy="Check the network's DHCP, or give a resolver.")
    raise DiscoveryError(
        f"no DNS server could be asked: {failed[0]}",
        code="dns-unreachable",
        remedy="Check the network, or give a resolver.",
    )
