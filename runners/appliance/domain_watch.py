"""Which domain the appliance stands in: found, kept over restarts, looked for again when something speaks for it.

A domain is verified once a day, at once when the network is another one, and soon when no controller of it answered.
What was found stays until something better is (lesson 19).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime

from attrs import evolve

from msp_sdk.discovery.evidence import CLOCK_SKEW, ENTRA_HINT
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.domain import CONTROLLER_FAILED, Domain, DomainController, DomainDiscovery, make_discovery_report
from runners.appliance.network_marks import NetworkMarks
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

VERIFY_AGAIN_S = 24 * 3600.0
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
# A directory that does not answer makes us doubt what we know of its controllers, but not every few seconds.
DOUBT_AGAIN_S = 60.0


class DomainWatch:
    """The domain of the site, as far as it is known."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.discovery: DomainDiscovery | None = tools.state.load_discovery()
        # After a restart the domain that was found is believed at once, and looked for again.
        self._looking = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._reported: DomainDiscovery | None = None
        self._marks: NetworkMarks | None = None
        self._marked_at_beat = -1
        self._looked_at_s = float("-inf")
        # Names that a directory knows, of its forest and its trusts: asked for without a credential, as any hint is.
        self._leads: dict[str, Domain] = {}
        self.problems: dict[str, str] = {}

    @property
    def found(self) -> tuple[Domain, ...]:
        """The domains that were found, the most certain first."""
        return self.discovery.domains if self.discovery is not None else ()

    @property
    def held(self) -> tuple[Domain, ...]:
        """Those that a credential is for."""
        holdings = self._tools.checkin.holdings
        return tuple(domain for domain in self.found if holdings.for_domain(domain.name))

    @property
    def domain(self) -> Domain | None:
        """The believed domain: the first that a credential is for, else the most certain; or None."""
        return next(iter((*self.held, *self.found)), None)

    def _tell(self) -> None:
        self._tools.domain, self._tools.domains = self.domain, self.found

    async def discover(self) -> None:
        """Look for the domain when it is time to; keep the last good answer."""
        self._tell()
        await self._look_at_the_network()
        if not self._looking.due():
            return
        self._looked_at_s = self._tools.clock.monotonic()
        try:
            found = await self._tools.discoverer.discover(tuple(self._leads.values()))
        except DiscoveryError as error:
            self._looking.failed()
            if self.problems.get("discovery") != error.code:
                logger.warning("discovery: %s", error)
            self.problems["discovery"] = error.code
            return
        missing = self._missing_in(found)
        if missing:
            # Out of reach, and nothing speaks against them: the last good answer stays.
            if self.problems.get("discovery") != "unreachable-controller":
                names = ", ".join(domain.name for domain in missing)
                logger.warning("%s: no controller answers now; the last good discovery stays", names)
            self.problems["discovery"] = "unreachable-controller"
            if found.best is None:
                self._looking.failed()
                return
            found = evolve(found, domains=_by_confidence((*found.domains, *missing)))
        else:
            self.problems.pop("discovery", None)
        if missing or found.best is None:
            self._looking.failed()
        else:
            self._looking.succeeded(VERIFY_AGAIN_S)
        if found.best is not None:
            found = _with_names_of(self.discovery, found)
            self._tools.state.save("discovery", found)
        self.discovery = found
        self._tell()
        self._judge_clock()
        await self._report(found)

    def _judge_clock(self) -> None:
        """A controller's clock far from ours will refuse Kerberos: it is said before it does."""
        domain = self.domain
        if domain is not None and any(entry.kind == CLOCK_SKEW for entry in domain.evidence):
            self.problems["directory-clock"] = "clock-skew"
        else:
            self.problems.pop("directory-clock", None)

    def doubt(self) -> None:
        """No controller answered: perhaps they are other ones by now. It is found out soon, whatever the clock says."""
        if self._tools.clock.monotonic() - self._looked_at_s >= DOUBT_AGAIN_S:
            self._looking.reset()

    def lead_to(self, names: Iterable[str]) -> None:
        """A directory names other domains: those that are new to us are looked for, soon."""
        known = {*self._leads, *(domain.name.casefold() for domain in self.found)}
        new = {name.casefold() for name in names} - known
        if new:
            now = self._tools.clock.now()
            self._leads |= {name: Domain(name, (), now) for name in sorted(new)}
            self._looking.reset()

    async def name(self, domain: Domain, netbios_name: str | None) -> None:
        """Keep the NetBIOS name, which the directory may say only to those who have logged on."""
        if netbios_name == domain.netbios_name or self.discovery is None:
            return
        named = tuple(
            evolve(entry, netbios_name=netbios_name) if entry.name == domain.name else entry
            for entry in self.discovery.domains
        )
        self.discovery = evolve(self.discovery, domains=named)
        self._tell()
        self._tools.state.save("discovery", self.discovery)
        await self._report(self.discovery)

    async def _look_at_the_network(self) -> None:
        """Another lease, resolver or subnet: what is true of the network is found out anew, at once."""
        if self._marked_at_beat == self._tools.beats:
            return
        self._marked_at_beat = self._tools.beats
        marks = await asyncio.to_thread(self._tools.network_marks)
        before, self._marks = self._marks, marks
        if before is not None and marks != before:
            logger.info("the network has changed: the domain is looked for again")
            self._looking.reset()

    def _missing_in(self, found: DomainDiscovery) -> tuple[Domain, ...]:
        """The domains that we believe in, that did not answer, and whose place nothing takes.

        Another domain takes it only while nobody has given a credential for the one that we believe in.
        """
        names = {domain.name for domain in found.domains}
        believed = self.held if found.best is not None else self.found
        return tuple(domain for domain in believed if domain.name not in names)

    async def _report(self, found: DomainDiscovery) -> None:
        if essence(found) != essence(self._reported):
            await self._tools.report(make_discovery_report(report_id(), found))
            self._reported = found


def _by_confidence(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    return tuple(sorted(domains, key=lambda domain: -domain.confidence))


def _with_names_of(before: DomainDiscovery | None, found: DomainDiscovery) -> DomainDiscovery:
    """What was found, with the NetBIOS names that only a logon could read."""
    known = {domain.name: domain.netbios_name for domain in before.domains} if before else {}
    return evolve(
        found,
        domains=tuple(
            evolve(domain, netbios_name=domain.netbios_name or known.get(domain.name)) for domain in found.domains
        ),
    )


def _lasting(controller: DomainController) -> DomainController:
    return evolve(controller, addresses=tuple(sorted(controller.addresses)), doors=())


def essence(discovery: DomainDiscovery | None) -> object:
    """What of a discovery is worth a report: everything but when it was made, orders, and what flaps.

    A door that opens and closes is told with the next thing that changes.
    """
    if discovery is None:
        return None
    unmoving = datetime(1970, 1, 1, tzinfo=UTC)
    domains = tuple(
        evolve(
            domain,
            discovered_at=unmoving,
            evidence=(),
            certificates=tuple(sorted(domain.certificates, key=lambda seen: (seen.controller, seen.sha256))),
            dns_servers=tuple(sorted(domain.dns_servers)),
            controllers=tuple(sorted((_lasting(entry) for entry in domain.controllers), key=lambda entry: entry.fqdn)),
        )
        for domain in discovery.domains
    )
    if domains:
        return domains, discovery.swept
    # Controllers that DNS names and that are silent are another thing than no directory.
    is_silent = any(entry.kind == CONTROLLER_FAILED for entry in discovery.evidence)
    joined_elsewhere = tuple(entry for entry in discovery.evidence if entry.kind == ENTRA_HINT)
    return discovery.hints, discovery.swept, is_silent, joined_elsewhere
