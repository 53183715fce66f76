"""Which domain the appliance stands in: found, kept over restarts, looked for again when something speaks for it.

A domain is verified once a day, at once when the network is another one, and soon when no controller of it answered.
What was found stays until DNS denies it or something else takes its place (lesson 19).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import evolve

from msp_sdk.discovery.evidence import CLOCK_SKEW, ENTRA_HINT
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.domain import (
    CONTROLLER_FAILED,
    DNS_UNANSWERED,
    Domain,
    DomainController,
    DomainDiscovery,
    Evidence,
    SweptHost,
    make_discovery_report,
)
from runners.appliance.network_marks import NetworkMarks
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

VERIFY_AGAIN_S = 24 * 3600.0
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
# A directory that does not answer makes us doubt what we know of its controllers, but not every few seconds.
DOUBT_AGAIN_S = 60.0
# A network that cannot be asked so often holds up nothing else; it is asked again all the same.
MOST_FAILURES = 3
# What a domain has for good, and does not say each time.
_LASTING = ("netbios_name", "forest", "base_dn", "functional_level", "forest_functional_level")


class DomainWatch:
    """The domain of the site, as far as it is known."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.discovery: DomainDiscovery | None = tools.state.load_discovery()
        # After a restart the domain that was found is believed at once, and looked for again.
        self._looking = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._failed_count = 0
        self._swept: tuple[SweptHost, ...] = ()
        # What is not yet on disk, or not yet told: a write that fails is tried again in the next pass.
        self._unsaved: DomainDiscovery | None = None
        self._untold: DomainDiscovery | None = None
        self._reported: DomainDiscovery | None = None
        self._marks: NetworkMarks | None = None
        self._marked_at_beat = -1
        self._looked_at_s = float("-inf")
        self.network_changes = 0
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

    @property
    def has_looked(self) -> bool:
        """Discovery has come to a result, or failed so often that no other work waits for it (lesson 59)."""
        return self.discovery is not None or self._failed_count >= MOST_FAILURES

    @property
    def has_settled_for_none(self) -> bool:
        """There is no domain to wait for: none was found, or DNS gave no usable answer so often (lesson 59)."""
        is_denied = self.discovery is not None and not self.discovery.dns_failed
        return self.domain is None and (is_denied or self._failed_count >= MOST_FAILURES)

    def _tell(self) -> None:
        self._tools.checkin.learn_domain_names(full_names(self.found))
        self._tools.domain, self._tools.domains = self.domain, self.found

    async def discover(self) -> None:
        """Look for the domain when it is time to; keep the last good answer."""
        self._tell()
        await self._look_at_the_network()
        if self._looking.due():
            await self._look()
        await self._write_down()

    async def _look(self) -> None:
        self._looked_at_s = self._tools.clock.monotonic()
        try:
            found = await self._tools.discoverer.discover((*self.found, *self._leads.values()))
        except DiscoveryError as error:
            self._looking.failed()
            self._failed_count += 1
            self._say_problem(error.code, str(error))
            if self.discovery is None and self.has_looked:
                # Not known is worth a word too: the site would look as if nobody had tried.
                nothing = Evidence(DNS_UNANSWERED, "this network", error.detail)
                self._untold = DomainDiscovery((), evidence=(nothing,), swept=self._swept)
            return
        missing = missing_in(found, self.found, {domain.name for domain in self.held})
        if missing:
            # Out of reach, and nothing speaks against them: the last good answer stays.
            names = ", ".join(domain.name for domain in missing)
            self._say_problem("unreachable-controller", f"{names}: no controller answers now; what is known stays")
        elif found.dns_failed:
            self._failed_count += 1
            self._say_problem("dns-failed", "DNS gives no usable answer: whether there is a domain is not known")
        else:
            self.problems.pop("discovery", None)
        if found.best is not None:
            domains = _by_confidence((*found.domains, *missing))
            self.discovery = _with_what_was_read(self.discovery, evolve(found, domains=domains))
        elif missing and self.discovery is not None:
            self.discovery = evolve(self.discovery, domains=missing)
        else:
            self.discovery = found
        self.discovery = evolve(self.discovery, swept=self._swept)
        self._tell()
        self._judge_clock()
        self._untold = self.discovery
        if self.discovery.best is not None:
            self._unsaved = self.discovery
        else:
            # What DNS denies does not come back with a restart.
            self._tools.state.remove("discovery")
        if missing or found.best is None:
            self._looking.failed()
        else:
            self._looking.succeeded(VERIFY_AGAIN_S)

    def _say_problem(self, code: str, text: str) -> None:
        if self.problems.get("discovery") != code:
            logger.warning("discovery: %s", text)
        self.problems["discovery"] = code

    async def _write_down(self) -> None:
        """Keep and report what is new. What fails here fails the step: it is tried again soon."""
        if self._unsaved is not None:
            self._tools.state.save("discovery", self._unsaved)
            self._unsaved = None
        if self._untold is not None:
            if essence(self._untold) != essence(self._reported):
                await self._tools.report(make_discovery_report(report_id(), self._untold))
                self._reported = self._untold
            self._untold = None

    async def tell_swept(self, swept: tuple[SweptHost, ...]) -> None:
        """Tell with the discovery what a sweep of the own subnets found."""
        if swept == self._swept:
            return
        self._swept = swept
        if self.discovery is not None:
            self.discovery = evolve(self.discovery, swept=swept)
        last = self.discovery or self._untold or self._reported
        self._untold = None if last is None else evolve(last, swept=swept)
        await self._write_down()

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
        self._unsaved = self._untold = self.discovery
        await self._write_down()

    async def _look_at_the_network(self) -> None:
        """Another lease, resolver or subnet: what is true of the network is found out anew, at once."""
        if self._marked_at_beat == self._tools.beats:
            return
        self._marked_at_beat = self._tools.beats
        marks = await asyncio.to_thread(self._tools.network_marks)
        before, self._marks = self._marks, marks
        if before is not None and marks != before:
            logger.info("the network has changed: the domain is looked for again")
            self.network_changes += 1
            self._looking.reset()


def missing_in(found: DomainDiscovery, known: Sequence[Domain], held: Collection[str]) -> tuple[Domain, ...]:
    """The domains that we believe in although they did not answer (lesson 19).

    One for which somebody gave a credential stays. Any other stays until a DNS server that knew it says that it does
    not exist, or until the network is another one: none of those that we know answered, and a new one did.

    Args:
        found: What discovery found now.
        known: What it had found before.
        held: The names of those that a credential is for.
    """
    names, before = {domain.name for domain in found.domains}, {domain.name for domain in known}
    has_moved = bool(names) and not names & before
    return tuple(
        domain
        for domain in known
        if domain.name not in names and (domain.name in held or not (has_moved or domain.name in found.denied))
    )


def full_names(domains: Sequence[Domain]) -> dict[str, str]:
    """The names of domains by their folded NetBIOS names; a short name that two of them have is nobody's."""
    short_names = [(domain.netbios_name or "").casefold() for domain in domains]
    return {
        short_name: domain.name
        for short_name, domain in zip(short_names, domains, strict=True)
        if short_name and short_names.count(short_name) == 1
    }


def _by_confidence(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    return tuple(sorted(domains, key=lambda domain: -domain.confidence))


def _with_what_was_read(before: DomainDiscovery | None, found: DomainDiscovery) -> DomainDiscovery:
    """What was found, with what nobody said this time: a NetBIOS name may be read by a logon only."""
    known = {domain.name: domain for domain in before.domains} if before else {}
    return evolve(found, domains=tuple(_filled(domain, known.get(domain.name)) for domain in found.domains))


def _filled(domain: Domain, before: Domain | None) -> Domain:
    if before is None:
        return domain
    told: dict[str, Any] = {name: getattr(before, name) for name in _LASTING if getattr(domain, name) is None}
    return evolve(domain, **told)


def _lasting(controller: DomainController) -> DomainController:
    addresses = tuple(sorted(controller.addresses))
    return evolve(controller, addresses=addresses, doors=(), supported_controls=(), clock_skew_s=None)


def essence(discovery: DomainDiscovery | None) -> object:
    """What of a discovery is worth a report: everything but when it was made, orders, and what flaps.

    A door that opens and closes is told with the next thing that changes; so are a clock and a list of controls.
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
    return discovery.hints, discovery.swept, is_silent, discovery.dns_failed, joined_elsewhere
