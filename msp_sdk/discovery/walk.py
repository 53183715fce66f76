"""One walk through everything that may be a domain: names are examined as they come to light, all side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import attrs

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.controllers import Onlooker, Seen
from msp_sdk.discovery.hints import canonical_name, with_parents
from msp_sdk.discovery.options import DiscoveryOptions
from msp_sdk.discovery.panel import failure_of, hear
from msp_sdk.discovery.proof import Found, Prover
from msp_sdk.models.domain import DomainController, Evidence, Hint
from msp_sdk.network.own_networks import OwnNetworks
from msp_sdk.network.resolver import Resolver

# So many names that the network hints at, and beside them so many that controllers and DNS servers lead to.
_NAMES_ASKED = 16
_LEADS_ASKED = 16
# A DNS server that takes connections and says nothing for so long is no controller that we could use.
_MEETING_S = 2.5
_Task = asyncio.Task[tuple[Hint, ...]]


class Walk:
    """One discovery's way from hint to hint.

    Args:
        resolvers: One for each DNS server.
        networks: Where we stand.
        onlooker: Looks at controllers.
        options: Of the discovery.
        own: For each domain that was known before, the DNS servers that knew it then.

    Attributes:
        found: What came of each name, in the order in which they came to light; complete after :meth:`run`.
    """

    def __init__(
        self,
        resolvers: Sequence[Resolver],
        networks: OwnNetworks,
        onlooker: Onlooker,
        options: DiscoveryOptions,
        own: Mapping[str, Sequence[Resolver]],
    ) -> None:
        self._resolvers = resolvers
        self._near = near(resolvers, networks)
        self._onlooker = onlooker
        self._port = options.ldap_port
        self._prover = Prover(resolvers, onlooker, options, own)
        self._known = tuple(Hint(name, "known before") for name in own)
        self.found: dict[str, Found] = {}
        self._evidence: list[Evidence] = []
        self._left_out: dict[str, None] = {}
        self._leads_count = 0
        self._tasks: set[_Task] = set()

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Everything that was tried."""
        tried = (*(item for found in self.found.values() for item in found.evidence), *self._evidence)
        left_out = ", ".join(name for name in self._left_out if name not in self.found)[: kinds.DETAIL_MAX]
        if not left_out:
            return tried
        return (*tried, Evidence(kinds.NOT_ASKED, left_out, "there are more names than are asked for"))

    async def run(self, names: Sequence[Hint], *, follows_servers: bool) -> None:
        """Examine the names, and what they lead to.

        Args:
            names: The hints.
            follows_servers: Also take the DNS servers for controllers, and their reverse names for hints.
        """
        met = asyncio.ensure_future(self._meet_servers() if follows_servers else _nobody())
        try:
            self._examine_all((*names[:_NAMES_ASKED], *self._known), met)
            self._left_out |= dict.fromkeys(hint.value for hint in names[_NAMES_ASKED:])
            if follows_servers:
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

    def _follow(self, leads: Sequence[Hint], met: asyncio.Future[Sequence[Seen]]) -> None:
        new = list({hint.value: hint for hint in leads if hint.value not in self.found}.values())
        room = _LEADS_ASKED - self._leads_count
        self._leads_count += len(new[:room])
        self._left_out |= dict.fromkeys(hint.value for hint in new[room:])
        self._examine_all(new[:room], met)

    def _examine_all(self, hints: Iterable[Hint], met: asyncio.Future[Sequence[Seen]]) -> None:
        for hint in hints:
            if hint.value not in self.found:
                # It keeps its place among the names, whichever is done first.
                self.found[hint.value] = Found()
                self._tasks.add(asyncio.ensure_future(self._examine(hint, met)))

    async def _examine(self, hint: Hint, met: asyncio.Future[Sequence[Seen]]) -> tuple[Hint, ...]:
        found = await self._prover.examine(hint, met)
        self.found[hint.value] = found
        return found.leads

    async def _meet_servers(self) -> Sequence[Seen]:
        """The DNS servers that are controllers themselves."""
        asked = [server for resolver in self._near for server, _ in resolver.servers]
        for resolver in self._resolvers:
            if resolver not in self._near:
                public = "it lies in the internet, outside our own networks"
                self._evidence += [
                    Evidence(kinds.NOT_ASKED_AS_CONTROLLER, server, public) for server, _ in resolver.servers
                ]
        looked = await asyncio.gather(*(self._meet(server) for server in asked))
        for server, seen in zip(asked, looked, strict=True):
            holds = ", ".join(seen.domains()) if seen else ""
            said = "it does not answer as one" if seen else "it gave no answer in time"
            if holds:
                said = f"it is a controller of {holds}"
            self._evidence.append(Evidence(kinds.ASKED_AS_CONTROLLER, server, said))
        return [_with_own_name(seen) for seen in looked if seen and seen.domains()]

    async def _meet(self, server: str) -> Seen | None:
        controller = DomainController(server, self._port, (server,))
        try:
            async with asyncio.timeout(_MEETING_S):
                return await self._onlooker.meet(controller)
        except TimeoutError:
            return None

    async def _reverse_names(self) -> tuple[Hint, ...]:
        """Domains of the names that reverse DNS gives the DNS servers."""
        hints: list[Hint] = []

        async def one(server: str) -> None:
            heard = await hear(self._near, lambda resolver: resolver.reverse_names(server))
            if heard.nothing and not heard.answers:
                self._evidence.append(Evidence(kinds.NO_REVERSE_NAME, server, "reverse DNS has no name for it"))
            elif not heard.answers:
                self._evidence += [failure_of(resolver, error) for resolver, error in heard.failed]
            names = [name.partition(".")[2] for name in heard.first or ()]
            hints.extend(Hint(name, f"reverse name of {server}") for name in names)

        await asyncio.gather(*(one(server) for resolver in self._near for server, _ in resolver.servers))
        whole = [hint for hint in with_parents(hints) if canonical_name(hint.value) and "." in hint.value]
        return tuple(whole)


def near(resolvers: Iterable[Resolver], networks: OwnNetworks) -> list[Resolver]:
    """Those of our own network: nobody pings a public resolver as a controller, or asks it for our own names."""
    return [resolver for resolver in resolvers if all(networks.is_near(server) for server, _ in resolver.servers)]


async def _nobody() -> Sequence[Seen]:
    return ()


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
