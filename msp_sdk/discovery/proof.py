"""Is this name a domain? Asks DNS for its controllers, asks those, and keeps everything that was said.

One :class:`Prover` serves one discovery: it knows which DNS servers there are and which of them turned out to be
controllers themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import attrs
from attrs import frozen

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.controllers import Onlooker, Seen
from msp_sdk.discovery.evidence import confidence, is_believed
from msp_sdk.discovery.hints import canonical_name, is_parent
from msp_sdk.discovery.options import DiscoveryOptions
from msp_sdk.discovery.panel import failure_of, hear, names_of, refuses
from msp_sdk.discovery.rounds import CONTROLLERS_ASKED, look_in_rounds
from msp_sdk.errors import DiscoveryError, WireError
from msp_sdk.models.domain import Domain, DomainController, Evidence, Hint
from msp_sdk.network.resolver import (
    DNS_PORT,
    Resolver,
    ResolverOptions,
    SrvRecord,
    order_controllers,
    render_server,
)

_DNS_SERVERS_ASKED = 12
_ENTRA = "enterpriseregistration"
_ENTRA_TARGETS = (".windows.net", ".microsoftonline.com", ".microsoftonline.us", ".azure.cn")
# A domain's DNS server is near; one that takes longer to say that it knows the zone is not worth asking each day.
_VERIFYING = ResolverOptions(timeout_s=0.5, lifetime_s=1.0)
_FIRST = (("_ldap._tcp.dc._msdcs", kinds.SRV_DC), ("_ldap._tcp", kinds.SRV_LDAP))
_MORE = (("_kerberos._tcp", kinds.SRV_KERBEROS), ("_ldap._tcp.pdc._msdcs", kinds.SRV_PDC))


@frozen
class Found:
    """What came of one name: a domain or none, all evidence, and names that it leads to.

    Attributes:
        is_denied: A DNS server that knew this domain before says that it does not exist.
    """

    domain: Domain | None = None
    evidence: tuple[Evidence, ...] = ()
    leads: tuple[Hint, ...] = ()
    is_denied: bool = False


@frozen
class _Named:
    """Controllers as one DNS server names them; none of DNS at all when ``resolver`` is None."""

    records: tuple[SrvRecord, ...]
    resolver: Resolver | None
    met: tuple[DomainController, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@frozen
class _Asked:
    """What the DNS servers said of a name's controllers, who was late, and whether one denied what it knew."""

    named: tuple[_Named, ...]
    late: tuple[Resolver, ...] = ()
    is_denied: bool = False


class Prover:
    """Examines names.

    Args:
        resolvers: One for each DNS server.
        onlooker: Looks at controllers.
        options: Of the discovery.
        own: For domains that were known before, by name: one for each DNS server that knew it then. They are asked
            for that name beside the others.
    """

    def __init__(
        self,
        resolvers: Sequence[Resolver],
        onlooker: Onlooker,
        options: DiscoveryOptions,
        own: Mapping[str, Sequence[Resolver]] | None = None,
    ) -> None:
        self._resolvers = tuple(resolvers)
        self._own = own or {}
        self._onlooker = onlooker
        self._options = options
        self._nonsense = f"x{options.draw(2**40):x}"

    async def examine(self, hint: Hint, met: asyncio.Future[Sequence[Seen]]) -> Found:
        """Ask for one name.

        Args:
            hint: The name.
            met: DNS servers that turned out to be controllers; waited for only when DNS names none.
        """
        evidence: list[Evidence] = []
        asked, entra = await asyncio.gather(
            self._named(hint.value, self._servers_of(hint.value), evidence), self._entra(hint)
        )
        evidence += entra
        named, late = asked.named, asked.late
        if not named:
            own = [seen.controller for seen in await asyncio.shield(met) if seen.holds(hint.value)]
            if not own:
                return Found(evidence=tuple(evidence), is_denied=asked.is_denied)
            named, late = (_Named((), None, tuple(own)),), ()
        found = await self._confirm_any(hint, named, evidence)
        if found.domain is None and late:
            # A liar that is quick must not hide the one that is slow and tells the truth.
            waited_for = await self._named(hint.value, late, evidence, is_patient=True)
            if waited_for.named:
                found = await self._confirm_any(hint, waited_for.named, evidence)
        return found

    def _servers_of(self, name: str) -> tuple[Resolver, ...]:
        """Whom to ask for a name: everybody, and those who knew the domain before."""
        asked = {resolver.servers for resolver in self._resolvers}
        return (*self._resolvers, *(each for each in self._own.get(name, ()) if each.servers not in asked))

    async def _confirm_any(self, hint: Hint, named: Sequence[_Named], evidence: list[Evidence]) -> Found:
        """The surest of what the servers say; what was tried in vain is added to the evidence."""
        tried = await asyncio.gather(*(self._confirm(hint, each) for each in named))
        best = max(tried, key=lambda found: 0 if found.domain is None else found.domain.confidence)
        if best.domain is not None:
            domain = attrs.evolve(best.domain, evidence=(*evidence, *best.domain.evidence))
            return Found(domain, domain.evidence, best.leads)
        evidence += [item for found in tried for item in found.evidence]
        return Found(None, tuple(evidence), tuple(lead for found in tried for lead in found.leads))

    async def _named(
        self, name: str, resolvers: Sequence[Resolver], evidence: list[Evidence], *, is_patient: bool = False
    ) -> _Asked:
        """What each DNS server says of its controllers; the same answer of several servers counts once."""

        async def ask(resolver: Resolver) -> tuple[tuple[str, tuple[SrvRecord, ...]], ...]:
            answers = await asyncio.gather(
                *(resolver.srv(f"{service}.{name}") for service, _ in _FIRST), return_exceptions=True
            )
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            said = [answer for answer in answers if not isinstance(answer, BaseException)]
            if failures and not any(said):
                raise failures[0]
            pairs = zip((kind for _, kind in _FIRST), answers, strict=True)
            return tuple(
                (kind, records) for kind, records in pairs if not isinstance(records, BaseException) and records
            )

        if not resolvers:
            evidence.append(Evidence(kinds.DNS_FAILED, "this machine", "no DNS server is known."))
        heard = await hear(resolvers, ask, is_patient=is_patient)
        evidence += [failure_of(resolver, error) for resolver, error in heard.failed]
        if not heard.answers:
            evidence += [
                Evidence(kinds.SRV_NONE, names_of(resolver), f"{_FIRST[0][0]}.{name} does not exist")
                for resolver in heard.nothing
            ]
            if not heard.nothing and not any(refuses(error) for _, error in heard.failed):
                evidence.append(Evidence(kinds.UNANSWERED, name, "no DNS server gives a usable answer about it"))
        named: dict[frozenset[SrvRecord], _Named] = {}
        for resolver, said in heard.answers:
            records = said[0][1]
            lines = tuple(self._srv(kind, resolver, name, found) for kind, found in said)
            named.setdefault(frozenset(records), _Named(records, resolver, evidence=lines))
        knew = {resolver.servers for resolver in self._own.get(name, ())}
        is_denied = not heard.answers and any(resolver.servers in knew for resolver in heard.nothing)
        return _Asked(tuple(named.values()), heard.late, is_denied)

    def _srv(self, kind: str, resolver: Resolver, name: str, records: Iterable[SrvRecord]) -> Evidence:
        targets = ", ".join(sorted({f"{record.target}:{record.port}" for record in records}))
        return Evidence(kind, names_of(resolver), f"{name}: {targets}"[: kinds.DETAIL_MAX])

    async def _entra(self, hint: Hint) -> list[Evidence]:
        """Whether the name belongs to an organisation of Entra ID; above a provider's suffix it is the provider's."""
        name = hint.value
        if "." not in name or is_parent(hint):
            return []
        heard = await hear(self._resolvers, lambda resolver: resolver.alias(f"{_ENTRA}.{name}"))
        target = heard.first
        if target is None or not target.endswith(_ENTRA_TARGETS):
            return []
        return [Evidence(kinds.ENTRA_HINT, names_of(heard.answers[0][0]), f"{_ENTRA}.{name} is {target}")]

    async def _confirm(self, hint: Hint, named: _Named) -> Found:
        """Ask the controllers themselves."""
        name = hint.value
        try:
            ordered = order_controllers(named.records, self._options.draw) or named.met
        except WireError as error:
            where = "" if named.resolver is None else names_of(named.resolver)
            return Found(evidence=(*named.evidence, Evidence(kinds.DNS_FAILED, where, error.detail)))
        looked, more, lies = await asyncio.gather(
            self._look_at(name, ordered, named.resolver), self._more(name, named), self._lies(name, named)
        )
        of_site: list[Evidence] = []
        site, own = await self._in_our_site(name, looked.values(), named, of_site)
        unseen = [each for each in own[:CONTROLLERS_ASKED] if each not in looked]
        looked |= await self._look_at(name, unseen, named.resolver)
        seen = list(looked.values())
        evidence = [*named.evidence, *more, *lies, *of_site, *(item for one in seen for item in one.evidence)]
        if own:
            evidence.append(Evidence(kinds.SRV_SITE, site, ", ".join(each.fqdn for each in own)[: kinds.DETAIL_MAX]))
        leads = self._leads(name, seen)
        if not any(one.holds(name) for one in seen) or not is_believed(evidence):
            return Found(None, _of_liars(evidence) if lies else tuple(evidence), leads)
        nearest = dict.fromkeys((*own, *ordered))
        controllers = tuple(
            looked[each].controller if each in looked else each
            for each in sorted(nearest, key=lambda each: _place(name, looked.get(each)))
        )
        return await self._make(hint, named, controllers, seen, evidence, leads)

    async def _look_at(
        self, name: str, controllers: Sequence[DomainController], resolver: Resolver | None
    ) -> dict[DomainController, Seen]:
        return await look_in_rounds(
            controllers, lambda each: self._look(each, resolver, name), lambda seen: seen.holds(name)
        )

    async def _look(self, controller: DomainController, resolver: Resolver | None, name: str) -> Seen:
        if controller.addresses or resolver is None:
            return await self._onlooker.look(controller, name)
        heard = await hear((resolver,), lambda each: each.addresses(controller.fqdn))
        failed = [failure_of(each, error) for each, error in heard.failed]
        if not heard.answers:
            # Its name lies in a zone that another server knows (disjoint suffixes).
            others = [each for each in self._servers_of(name) if each is not resolver]
            heard = await hear(others, lambda each: each.addresses(controller.fqdn))
        if failed and not heard.answers:
            nowhere = Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, "no DNS server tells its address.")
            return Seen(controller, (*failed, nowhere))
        return await self._onlooker.look(attrs.evolve(controller, addresses=heard.first or ()), name)

    async def _more(self, name: str, named: _Named) -> list[Evidence]:
        resolver = named.resolver
        if resolver is None:
            return []

        evidence: list[Evidence] = []

        async def one(service: str, kind: str) -> None:
            records = await _srv_or_nothing(resolver, f"{service}.{name}", evidence)
            if records:
                evidence.append(self._srv(kind, resolver, name, records))

        await asyncio.gather(*(one(service, kind) for service, kind in _MORE))
        return evidence

    async def _lies(self, name: str, named: _Named) -> list[Evidence]:
        """A DNS server that knows controllers of a name that cannot exist says nothing by knowing others."""
        if named.resolver is None:
            return []
        absurd = f"{_FIRST[0][0]}.{self._nonsense}.{name}"
        # No answer to this one is no news: it is no name of anybody's.
        records = await _srv_or_nothing(named.resolver, absurd, [])
        if not records:
            return []
        return [Evidence(kinds.DNS_LIES, names_of(named.resolver), f"it answers for {absurd} too")]

    async def _in_our_site(
        self, name: str, seen: Iterable[Seen], named: _Named, evidence: list[Evidence]
    ) -> tuple[str, tuple[DomainController, ...]]:
        """The controllers of our site, or of the one next to it when ours has none; and which site that is."""
        told = next((one.netlogon for one in seen if one.netlogon is not None and one.holds(name)), None)
        if told is None or named.resolver is None:
            return "", ()
        for site in filter(None, dict.fromkeys((told.client_site, told.next_site))):
            records = await _srv_or_nothing(named.resolver, f"_ldap._tcp.{site}._sites.dc._msdcs.{name}", evidence)
            if records:
                return site, order_controllers(records, self._options.draw)
        return "", ()

    def _leads(self, name: str, seen: Sequence[Seen]) -> tuple[Hint, ...]:
        """Other domains that controllers speak of: what they hold instead, and the root of the forest."""
        leads = [Hint(other, f"controller of {name}") for one in seen for other in one.domains() if other != name]
        forests = (
            (one.netlogon.forest if one.netlogon else None) or (one.root.forest if one.root else None)
            for one in seen
            if one.holds(name)
        )
        leads += [Hint(forest, f"forest of {name}") for forest in forests if forest and forest != name]
        distinct = {lead.value: lead for lead in reversed(leads) if canonical_name(lead.value) == lead.value}
        return tuple(distinct.values())[::-1]

    async def _make(
        self,
        hint: Hint,
        named: _Named,
        controllers: tuple[DomainController, ...],
        seen: Sequence[Seen],
        evidence: list[Evidence],
        leads: tuple[Hint, ...],
    ) -> Found:
        agreeing = [one for one in seen if one.holds(hint.value)]
        netlogon = next((one.netlogon for one in agreeing if one.netlogon is not None), None)
        roots = [one.root for one in agreeing if one.root is not None]
        root = next(iter(roots), None)
        forest = (netlogon.forest if netlogon else None) or (root.forest if root else None)
        if named.resolver is not None and forest:
            catalogs = await _srv_or_nothing(named.resolver, f"_gc._tcp.{forest}", evidence)
            if catalogs:
                evidence.append(self._srv(kinds.SRV_GC, named.resolver, forest, catalogs))
        servers = await self._dns_servers(hint.value, named, agreeing, evidence)
        evidence.append(Evidence(kinds.HINT, hint.source, hint.value))
        domain = Domain(
            name=hint.value,
            controllers=controllers,
            discovered_at=self._options.clock(),
            netbios_name=netlogon.netbios_name if netlogon and netlogon.netbios_name else None,
            forest=forest,
            ad_site=next((one.netlogon.client_site for one in agreeing if one.netlogon), None) or None,
            base_dn=root.base_dn if root else None,
            dns_servers=servers,
            discovery_method="srv" if named.resolver is not None else "dns-server",
            confidence=confidence(evidence),
            evidence=tuple(evidence),
            certificates=tuple(one.certificate for one in seen if one.certificate is not None),
            functional_level=next((each.domain_level for each in roots if each.domain_level is not None), None),
            forest_functional_level=next((each.forest_level for each in roots if each.forest_level is not None), None),
        )
        return Found(domain, domain.evidence, leads)

    async def _dns_servers(
        self, name: str, named: _Named, agreeing: Sequence[Seen], evidence: list[Evidence]
    ) -> tuple[str, ...]:
        """Servers that know the domain's zone: its controllers, its name servers, then whoever answered before."""
        candidates = [(one.controller.addresses[0], DNS_PORT) for one in agreeing if one.controller.addresses]
        said = named.resolver
        if said is not None:
            candidates += [(address, DNS_PORT) for address in await _name_server_addresses(said, name)]
        candidates += [server for resolver in self._servers_of(name) for server in resolver.servers]
        distinct = list(dict.fromkeys(candidates))[:_DNS_SERVERS_ASKED]
        heard = await hear(Resolver(distinct, options=_VERIFYING).each(), lambda each: each.serves(name))
        good = [names_of(resolver) for resolver, _ in heard.answers]
        evidence += [Evidence(kinds.DNS_SERVER, server, f"knows the zone of {name}") for server in good]
        if not good and said is not None:
            # It named the controllers: better than none.
            good = [render_server(server) for server in said.servers]
        return tuple(good)


def _place(name: str, seen: Seen | None) -> int:
    """Where a controller is tried: those that answered, then those that nobody asked, then the silent ones."""
    if seen is None:
        return 1
    return 0 if seen.holds(name) and not (seen.netlogon and seen.netlogon.paused) else 2


def _of_liars(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """What a lying DNS named is no controller that keeps silent."""
    return tuple(
        attrs.evolve(item, kind=kinds.NO_CONTROLLER) if item.kind == kinds.ROOT_DSE_FAILED else item
        for item in evidence
    )


async def _srv_or_nothing(resolver: Resolver, name: str, evidence: list[Evidence]) -> tuple[SrvRecord, ...]:
    """Records that we can do without; that the server failed is kept as evidence."""
    try:
        return await resolver.srv(name)
    except DiscoveryError as error:
        evidence.append(failure_of(resolver, error))
        return ()


async def _name_server_addresses(resolver: Resolver, name: str) -> list[str]:
    try:
        servers = await resolver.name_servers(name)
    except DiscoveryError:
        return []
    found = await asyncio.gather(
        *(resolver.addresses(server) for server in servers[:CONTROLLERS_ASKED]), return_exceptions=True
    )
    return [address for addresses in found if isinstance(addresses, tuple) for address in addresses]
