"""Which domain the appliance stands in: found, kept over restarts, looked for again when something speaks for it.

A domain is verified once a day, at once when the network is another one, and soon when no controller of it answered.
What was found stays until something better is (lesson 19).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from attrs import evolve

from msp_sdk.discovery.evidence import CLOCK_SKEW, ENTRA_HINT
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.domain import CONTROLLER_FAILED, Domain, DomainDiscovery, make_discovery_report
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
        self.problems: dict[str, str] = {}

    @property
    def domain(self) -> Domain | None:
        """The believed domain: the first that a credential is for, else the most certain; or None."""
        if self.discovery is None:
            return None
        holdings = self._tools.checkin.holdings
        held = (domain for domain in self.discovery.domains if holdings.for_domain(domain.name))
        return next(held, self.discovery.best)

    async def discover(self) -> None:
        """Look for the domain when it is time to; keep the last good answer."""
        self._tools.domain = self.domain
        await self._look_at_the_network()
        if not self._looking.due():
            return
        self._looked_at_s = self._tools.clock.monotonic()
        try:
            found = await self._tools.discoverer.discover()
        except DiscoveryError as error:
            self._looking.failed()
            if self.problems.get("discovery") != error.code:
                logger.warning("discovery: %s", error)
            self.problems["discovery"] = error.code
            return
        believed = self.domain
        if believed is not None and self._is_missing(believed, found):
            # It is out of reach, and no other network speaks against it: the last good answer stays.
            self._looking.failed()
            if self.problems.get("discovery") != "unreachable-controller":
                logger.warning("the domain %s does not answer now; the last good discovery stays", believed.name)
            self.problems["discovery"] = "unreachable-controller"
            return
        self.problems.pop("discovery", None)
        if found.best is None:
            self._looking.failed()
        else:
            self._looking.succeeded(VERIFY_AGAIN_S)
            found = _with_names_of(self.discovery, found)
            self._tools.state.save("discovery", found)
        self.discovery = found
        self._tools.domain = self.domain
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

    async def name(self, domain: Domain, netbios_name: str | None) -> None:
        """Keep the NetBIOS name, which the directory may say only to those who have logged on."""
        if netbios_name == domain.netbios_name or self.discovery is None:
            return
        named = tuple(
            evolve(entry, netbios_name=netbios_name) if entry.name == domain.name else entry
            for entry in self.discovery.domains
        )
        self.discovery = evolve(self.discovery, domains=named)
        self._tools.domain = self.domain
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

    def _is_missing(self, believed: Domain, found: DomainDiscovery) -> bool:
        """True when the domain that we believe in did not answer, and nothing takes its place.

        Another domain takes it only while nobody has given a credential for the one that we believe in.
        """
        if any(domain.name == believed.name for domain in found.domains):
            return False
        return found.best is None or bool(self._tools.checkin.holdings.for_domain(believed.name))

    async def _report(self, found: DomainDiscovery) -> None:
        if _essence(found) != _essence(self._reported):
            await self._tools.report(make_discovery_report(report_id(), found))
            self._reported = found


def _with_names_of(before: DomainDiscovery | None, found: DomainDiscovery) -> DomainDiscovery:
    """What was found, with the NetBIOS names that only a logon could read."""
    known = {domain.name: domain.netbios_name for domain in before.domains} if before else {}
    return evolve(
        found,
        domains=tuple(
            evolve(domain, netbios_name=domain.netbios_name or known.get(domain.name)) for domain in found.domains
        ),
    )


def _essence(discovery: DomainDiscovery | None) -> object:
    """What of a discovery is worth a report: everything but when it was made, in which order controllers are tried."""
    if discovery is None:
        return None
    unmoving = datetime(1970, 1, 1, tzinfo=UTC)
    domains = tuple(
        evolve(
            domain,
            discovered_at=unmoving,
            evidence=(),
            controllers=tuple(sorted(domain.controllers, key=lambda controller: controller.fqdn)),
        )
        for domain in discovery.domains
    )
    if domains:
        return domains, discovery.swept
    # Controllers that DNS names and that are silent are another thing than no directory.
    is_silent = any(entry.kind == CONTROLLER_FAILED for entry in discovery.evidence)
    joined_elsewhere = tuple(entry for entry in discovery.evidence if entry.kind == ENTRA_HINT)
    return discovery.hints, discovery.swept, is_silent, joined_elsewhere
