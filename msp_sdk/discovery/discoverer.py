"""DomainDiscoverer: finds the Active Directory domains of the network it stands in, without any credential.

Hints (settings, resolv.conf, DHCP leases, the own name) are asked for by SRV; the controllers that DNS names are
asked for their rootDSE; what agrees is a domain. Certificates are looked at, so that a person can list them.

Finding nothing is a result, with everything that was tried. Only a network that cannot be asked at all is an error.

Example:
    >>> discovery = await DomainDiscoverer().discover()  # doctest: +SKIP
    >>> discovery.best.name
    'northvalley.test'
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
from attrs import field, frozen

from msp_sdk.directory.root_dse import RootDse
from msp_sdk.directory.session import DirectoryOptions, read_root_dse, see_certificate
from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.evidence import confidence, is_believed, rank
from msp_sdk.discovery.hints import Hints, canonical_name, read_hints
from msp_sdk.errors import ConfigError, DirectoryError, DiscoveryError, WireError
from msp_sdk.models.domain import Domain, DomainController, DomainDiscovery, Evidence, Hint, SeenCertificate
from msp_sdk.network.resolver import (
    DnsServer,
    Draw,
    Resolver,
    ResolverOptions,
    SrvAnswer,
    order_controllers,
    parse_server,
    read_resolv_conf,
    render_server,
)
from msp_sdk.network.threads import ThreadPool

_THREADS = 8
# More controllers than this are listed, but neither asked nor looked at: a big domain has hundreds.
_CONTROLLERS_ASKED = 8
_NAMES_ASKED = 16
_SERVICES = (("_ldap._tcp.dc._msdcs", kinds.SRV_DC), ("_ldap._tcp", kinds.SRV_LDAP))


def _servers(given: Sequence[DnsServer | str] | None) -> tuple[DnsServer, ...]:
    return tuple(parse_server(item) if isinstance(item, str) else item for item in given or ())


def _names_of(given: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(given or ())


def _draw(highest: int) -> int:
    return random.randint(0, highest)  # noqa: S311 (spreads load, guards nothing)


@frozen
class DiscoveryOptions:
    """How discovery works.

    Attributes:
        resolvers: DNS servers that a person set, as (address, port) or text; with them neither
            resolv.conf nor leases are asked.
        search: Domains that a person set; with them no other hint is followed.
        dns: Patience of look-ups.
        directory: Patience of connections.
        root: Where the file system begins (resolv.conf, leases).
        hostname: The machine's own name; None asks the system.
        clock: The present, aware.
        draw: For weights among controllers.
    """

    resolvers: tuple[DnsServer, ...] = field(default=(), converter=_servers)
    search: tuple[str, ...] = field(default=(), converter=_names_of)
    dns: ResolverOptions = field(factory=ResolverOptions)
    directory: DirectoryOptions = field(factory=DirectoryOptions)
    root: Path = Path("/")
    hostname: str | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    draw: Draw = _draw


@frozen
class _Found:
    """What came of one name: a domain or none, the evidence, and another name that a controller gave."""

    domain: Domain | None
    evidence: tuple[Evidence, ...]
    leads_to: str | None = None


class DomainDiscoverer:
    """Finds domains.

    Args:
        resolver: Which DNS servers to ask; None means those of the settings, else resolv.conf and leases.
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

    async def discover(self) -> DomainDiscovery:
        """Look for domains.

        Returns:
            The believed domains, most certain first; may be none. ``evidence`` holds everything that was tried.

        Raises:
            DiscoveryError: No DNS server could be asked about any name. Retryable.
        """
        options = self._options
        settings = options.search or (self._resolver.search if self._resolver is not None else ())
        hints = await asyncio.to_thread(read_hints, settings, root=options.root, hostname=options.hostname)
        resolvers = self._resolvers(hints)
        pool = ThreadPool("discovery", _THREADS)
        try:
            return await self._discover(hints, resolvers, pool)
        finally:
            pool.close()

    def _resolvers(self, hints: Hints) -> tuple[Resolver, ...]:
        """The resolver to ask first, then those that leases name and it does not have."""
        options = self._options
        if self._resolver is not None:
            return (self._resolver,)
        if options.resolvers:
            return (Resolver(options.resolvers, options=options.dns),)
        own = tuple(parse_server(server) for server in read_resolv_conf(options.root / "etc/resolv.conf").servers)
        resolvers = [Resolver(own, options=options.dns)] if own else []
        for hint in hints.servers:
            server = parse_server(hint.value)
            if server not in own:
                resolvers.append(Resolver((server,), options=options.dns))
        return tuple(resolvers)

    async def _discover(self, hints: Hints, resolvers: Sequence[Resolver], pool: ThreadPool) -> DomainDiscovery:
        waiting = list(hints.names)[:_NAMES_ASKED]
        asked: set[str] = set()
        found: list[_Found] = []
        while waiting:
            batch = [hint for hint in waiting if hint.value not in asked]
            asked |= {hint.value for hint in batch}
            results = await asyncio.gather(*(self._examine(hint, resolvers, pool) for hint in batch))
            found += results
            # A controller that holds another domain than the one asked for leads there, with its own proof.
            leads = {result.leads_to: Hint(result.leads_to, "rootdse") for result in results if result.leads_to}
            waiting = [hint for name, hint in leads.items() if name not in asked][: _NAMES_ASKED - len(asked)]
        domains = rank(result.domain for result in found if result.domain is not None)
        evidence = tuple(item for result in found for item in result.evidence)
        if not hints.names:
            evidence = (Evidence("no-hint", "this machine", "no search domain, lease or own name says a domain"),)
        failed = [item for item in evidence if item.kind == kinds.DNS_FAILED]
        if not domains and failed and not any(item.kind.startswith("srv-") for item in evidence):
            raise DiscoveryError(
                f"no DNS server could be asked: {failed[0].detail}",
                code="dns-unreachable",
                remedy="Check the network, or give a resolver.",
                context={"names": sorted(asked)},
            )
        return DomainDiscovery(domains, (*hints.names, *hints.servers), evidence)

    async def _examine(self, hint: Hint, resolvers: Sequence[Resolver], pool: ThreadPool) -> _Found:
        """Everything that can be found out about one name."""
        evidence: list[Evidence] = []
        for resolver in resolvers:
            for service, kind in _SERVICES:
                answer = await self._srv(f"{service}.{hint.value}", kind, resolver, evidence)
                if answer is None:
                    # Who did not answer once is not waited for again.
                    break
                if answer.records:
                    return await self._confirm(hint, answer, resolver, evidence, pool)
        if not resolvers:
            evidence.append(Evidence(kinds.DNS_FAILED, "this machine", "no DNS server is known."))
        return _Found(None, tuple(evidence))

    async def _srv(self, name: str, kind: str, resolver: Resolver, evidence: list[Evidence]) -> SrvAnswer | None:
        try:
            answer = await resolver.srv_answer(name)
        except DiscoveryError as error:
            evidence.append(Evidence(kinds.DNS_FAILED, _names(resolver), error.detail))
            return None
        if answer.records:
            targets = ", ".join(sorted({f"{record.target}:{record.port}" for record in answer.records}))
            evidence.append(Evidence(kind, answer.server, f"{name}: {targets}"[:500]))
        else:
            evidence.append(Evidence(kinds.SRV_NONE, _names(resolver), f"{name} does not exist"))
        return answer

    async def _confirm(
        self, hint: Hint, answer: SrvAnswer, resolver: Resolver, evidence: list[Evidence], pool: ThreadPool
    ) -> _Found:
        """Ask the controllers that DNS names, and look at their certificates."""
        try:
            ordered = order_controllers(answer.records, self._options.draw)
        except WireError as error:
            evidence.append(Evidence(kinds.DNS_FAILED, answer.server, error.detail))
            return _Found(None, tuple(evidence))
        near, far = ordered[:_CONTROLLERS_ASKED], ordered[_CONTROLLERS_ASKED:]
        located = await asyncio.gather(*(self._locate(controller, resolver, evidence) for controller in near))
        roots = await asyncio.gather(*(self._root_dse(controller, pool, evidence) for controller in located))
        agreeing = [root for root in roots if root is not None and root.domain_name == hint.value]
        others = [root.domain_name for root in roots if root is not None and root.domain_name != hint.value]
        for root in roots:
            if root is None:
                continue
            agrees = root.domain_name == hint.value
            detail = f"says it holds {root.domain_name}, functional level {root.functional_level}"
            kind = kinds.ROOT_DSE if agrees else kinds.ROOT_DSE_DISAGREES
            evidence.append(Evidence(kind, root.dns_host_name or hint.value, detail))
        if not agreeing or not is_believed(evidence):
            leads_to = canonical_name(next((name for name in others if name), None) or "")
            return _Found(None, tuple(evidence), leads_to)
        certificates = await self._certificates(located, pool, evidence)
        if hint.source != "rootdse":
            evidence.append(Evidence(kinds.HINT, hint.source, hint.value))
        best = agreeing[0]
        domain = Domain(
            name=hint.value,
            controllers=(
                *(
                    attrs.evolve(controller, ad_site=root.ad_site if root is not None else None)
                    for controller, root in zip(located, roots, strict=True)
                ),
                *far,
            ),
            discovered_at=self._options.clock(),
            forest=best.forest,
            base_dn=best.base_dn,
            dns_servers=tuple(dict.fromkeys((answer.server, *map(render_server, resolver.servers)))),
            discovery_method="srv",
            confidence=confidence(evidence),
            evidence=tuple(evidence),
            certificates=certificates,
        )
        return _Found(domain, tuple(evidence))

    async def _locate(
        self, controller: DomainController, resolver: Resolver, evidence: list[Evidence]
    ) -> DomainController:
        try:
            addresses = await resolver.addresses(controller.fqdn)
        except DiscoveryError as error:
            evidence.append(Evidence(kinds.DNS_FAILED, _names(resolver), error.detail))
            return controller
        return attrs.evolve(controller, addresses=addresses)

    async def _root_dse(
        self, controller: DomainController, pool: ThreadPool, evidence: list[Evidence]
    ) -> RootDse | None:
        if not controller.addresses:
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, "DNS knows no address for it."))
            return None
        try:
            return await pool.run(read_root_dse, controller, self._options.directory)
        except DirectoryError as error:
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, error.detail))
            return None

    async def _certificates(
        self, controllers: Sequence[DomainController], pool: ThreadPool, evidence: list[Evidence]
    ) -> tuple[SeenCertificate, ...]:
        async def see(controller: DomainController) -> SeenCertificate | None:
            if not controller.addresses:
                return None
            try:
                seen = await pool.run(see_certificate, controller, self._options.directory)
            except DirectoryError as error:
                evidence.append(Evidence(kinds.CERTIFICATE_NONE, controller.fqdn, error.detail))
                return None
            evidence.append(Evidence(kinds.CERTIFICATE, controller.fqdn, seen.sha256))
            return seen

        seen = await asyncio.gather(*(see(controller) for controller in controllers))
        return tuple(certificate for certificate in seen if certificate is not None)


def _names(resolver: Resolver) -> str:
    return ", ".join(map(render_server, resolver.servers))
