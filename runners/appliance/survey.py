"""What is there: find the domain, read its computers, merge them with what people set.

Each step keeps its last good result, reports what it found, and leaves what failed for a moment to the next pass.
A pass over an unchanged world asks nobody and sends nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from attrs import evolve

from msp_sdk.errors import DiscoveryError, LogonError, MspError
from msp_sdk.models.computer import (
    Computer,
    Enumeration,
    EnumerationFailure,
    EnumerationReport,
    make_enumeration_results,
)
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import CONTROLLER_FAILED, Domain, DomainDiscovery, make_discovery_report
from msp_sdk.models.generation import ENUMERATION, owed
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import MergeResult, Target, TargetsReport
from msp_sdk.wire.converter import dumps
from runners.appliance.state import KeptEnumeration, ReportedTargets, UnreadDomain
from runners.appliance.wiring import Tools

logger = logging.getLogger(__name__)

VERIFY_AGAIN_S = 24 * 3600.0
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
# A host that only people named is knocked at again: when it was out of reach, and when our own side had trouble.
KNOCK_AGAIN_S = 300.0
ASK_AGAIN_S = 30.0


def report_id() -> str:
    """A new id for a report."""
    return str(uuid.uuid4())


class Survey:
    """The site as the appliance sees it: its domain, computers and targets."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.discovery: DomainDiscovery | None = tools.state.load_discovery()
        self.kept: KeptEnumeration | None = tools.state.load("enumeration", KeptEnumeration)
        self.merge: MergeResult | None = None
        # After a restart the domain that was found is believed at once, and looked for again.
        self._discovering = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._enumerating = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._tried_with: object = None
        self._reported_discovery: DomainDiscovery | None = None
        self._reported_failure: str | None = None
        self._unread = tools.state.load("unread-domain", UnreadDomain)
        self._merged_from: object = None
        self._knock_at: dict[str, float] = {}
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
        if not self._discovering.due():
            return
        try:
            found = await self._tools.discoverer.discover()
        except DiscoveryError as error:
            self._discovering.failed()
            self._problem("discovery", error)
            return
        believed = self.domain
        if believed is not None and self._is_missing(believed, found):
            # It is out of reach, and no other network speaks against it: the last good answer stays.
            self._discovering.failed()
            if self.problems.get("discovery") != "unreachable-controller":
                logger.warning("the domain %s does not answer now; the last good discovery stays", believed.name)
            self.problems["discovery"] = "unreachable-controller"
            return
        self.problems.pop("discovery", None)
        if found.best is None:
            self._discovering.failed()
        else:
            self._discovering.succeeded(VERIFY_AGAIN_S)
            found = _with_names_of(self.discovery, found)
            self._tools.state.save("discovery", found)
        self.discovery = found
        self._tools.domain = self.domain
        await self._report_discovery(found)

    def _is_missing(self, believed: Domain, found: DomainDiscovery) -> bool:
        """True when the domain that we believe in did not answer, and nothing takes its place.

        Another domain takes it only while nobody has given a credential for the one that we believe in.
        """
        if any(domain.name == believed.name for domain in found.domains):
            return False
        return found.best is None or bool(self._tools.checkin.holdings.for_domain(believed.name))

    async def _report_discovery(self, found: DomainDiscovery) -> None:
        if _essence(found) != _essence(self._reported_discovery):
            await self._tools.report(make_discovery_report(report_id(), found))
            self._reported_discovery = found

    async def enumerate(self) -> None:
        """Read the directory if that is owed. It ends with a report, also where it fails for good."""
        holdings = self._tools.checkin.holdings
        if holdings.credentials is None:
            return
        domain = self.domain
        credentials = holdings.for_domain(domain.name) if domain is not None else ()
        generation = holdings.wished.get(ENUMERATION, 0)
        if not self._is_owed(credentials):
            self._enumerating.reset()
            self.problems.pop("enumeration", None)
            return
        # A new wish, another credential or other controllers: what failed before says nothing of it (lesson 45).
        tried_with = (generation, [entry.ledger_key for entry in credentials], domain and domain.controllers)
        if tried_with != self._tried_with:
            self._tried_with = tried_with
            self._enumerating.reset()
        if not self._enumerating.due():
            return
        if domain is None:
            if self.discovery is not None:
                # A domain that appears later is read then, although this wish has been answered.
                self._keep_unread(generation)
                await self._failed_for_good("no-domain", "discovery found no domain to read.", generation)
            return
        if credentials:  # without one it is being leased to a sibling, or is on its way
            await self._read(domain, credentials, generation)

    def _is_owed(self, credentials: Sequence[Credential]) -> bool:
        holdings = self._tools.checkin.holdings
        if ENUMERATION in owed(holdings.wished, self._tools.completed.completed):
            return True
        return self._unread is not None and bool(credentials)

    def _keep_unread(self, generation: int) -> None:
        self._unread = UnreadDomain(generation)
        self._tools.state.save("unread-domain", self._unread)

    async def _read(self, domain: Domain, credentials: Sequence[Credential], generation: int) -> None:
        """Read with the first credential that is let in; each is another account, so each has its one logon."""
        refusal: LogonError | None = None
        for credential in credentials:
            try:
                await self._read_with(domain, credential, generation)
            except LogonError as error:
                if error.retryable:
                    await self._failed_for_now(error, domain)
                    return
                logger.warning("%s is not let in (%s): %s", credential.username, error.code, error)
                refusal = refusal or error
            except MspError as error:
                await self._failed_for_now(error, domain)
                return
            else:
                return
        if refusal is not None:
            await self._failed_for_good(refusal.code, refusal.detail, generation, domain)

    async def _read_with(self, domain: Domain, credential: Credential, generation: int) -> None:
        tools = self._tools
        async with tools.enumerator(domain, credential) as enumerator:
            enumeration = await enumerator.enumerate()
            netbios_name = domain.netbios_name or await enumerator.netbios_name()
        computers = await tools.locate(domain, enumeration.computers)
        await self._name_domain(domain, netbios_name)
        await self._keep(evolve(enumeration, computers=computers), computers, generation)
        self._enumerating.succeeded()
        self._reported_failure = None
        self.problems.pop("enumeration", None)

    async def _name_domain(self, domain: Domain, netbios_name: str | None) -> None:
        """The directory says the NetBIOS name only to those who have logged on."""
        if netbios_name == domain.netbios_name or self.discovery is None:
            return
        named = tuple(
            evolve(entry, netbios_name=netbios_name) if entry.name == domain.name else entry
            for entry in self.discovery.domains
        )
        self.discovery = evolve(self.discovery, domains=named)
        self._tools.domain = self.domain
        self._tools.state.save("discovery", self.discovery)
        await self._report_discovery(self.discovery)

    async def _keep(self, enumeration: Enumeration, computers: tuple[Computer, ...], generation: int) -> None:
        tools = self._tools
        kept = KeptEnumeration(enumeration, generation)
        await asyncio.to_thread(tools.state.save, "enumeration", kept)
        self.kept = kept
        results = make_enumeration_results(enumeration, computers, generation=generation)
        # The report is on disk before the work counts as done: a crash in between repeats, and never skips.
        await tools.report(EnumerationReport(report_id(), results=results))
        tools.completed.complete(ENUMERATION, generation)
        if self._unread is not None:
            self._unread = None
            tools.state.remove("unread-domain")
        logger.info("enumerated %s: %d computers", enumeration.domain_name, len(computers))

    async def _failed_for_now(self, error: MspError, domain: Domain | None = None) -> None:
        self._enumerating.failed()
        self._problem("enumeration", error)
        if self._reported_failure != error.code:
            await self._report_failure(error.code, error.detail, None, domain)
            self._reported_failure = error.code

    async def _failed_for_good(self, code: str, detail: str, generation: int, domain: Domain | None = None) -> None:
        self.problems["enumeration"] = code
        logger.error("the directory was not read (%s): %s", code, detail)
        await self._report_failure(code, detail, generation, domain)
        self._tools.completed.complete(ENUMERATION, generation)
        if domain is not None and self._unread is not None:
            self._unread = None
            self._tools.state.remove("unread-domain")

    async def _report_failure(self, code: str, detail: str, generation: int | None, domain: Domain | None) -> None:
        failure = EnumerationFailure(
            code=code,
            detail=detail,
            remedy=remedy_of(code),
            controllers_tried=tuple(controller.fqdn for controller in domain.controllers) if domain else (),
            generation=generation,
        )
        await self._tools.report(EnumerationReport(report_id(), failed=failure))

    async def merge_targets(self) -> None:
        """Merge all sources when one has changed, and report the list when it is another one than the last."""
        tools = self._tools
        holdings = tools.checkin.holdings
        if holdings.credentials is None:
            return
        if self.kept is None and not self._walks_alone():
            return
        sources = (self.kept, holdings.manual_targets, holdings.credentials, holdings.policy)
        if sources == self._merged_from and not self._to_knock_at(self.merge):
            return
        merged = await asyncio.to_thread(
            tools.merger(holdings.policy).merge,
            manual=holdings.manual_targets,
            credentials=holdings.credentials,
            enumerated=self.kept.enumeration if self.kept else None,
            previous=self.merge,
        )
        self.merge = await self._knock(merged)
        await self._report_targets(self.merge)
        self._merged_from = sources

    def _to_knock_at(self, merged: MergeResult | None) -> list[Target]:
        """Targets that no enumeration has probed and that are not known to be reachable, when it is time to."""
        now = self._tools.clock.monotonic()
        return [
            target
            for target in (merged.targets if merged else ())
            if target.reachable is not True
            and (target.object_guid is None or target.reachable is None or target.key in self._knock_at)
            and now >= self._knock_at.get(target.key, 0.0)
        ]

    async def _knock(self, merged: MergeResult) -> MergeResult:
        unknown = self._to_knock_at(merged)
        if not unknown:
            return merged
        probed = {target.key: target for target in await self._tools.reach(unknown)}
        now = self._tools.clock.monotonic()
        for key, target in probed.items():
            self._knock_at[key] = now + (ASK_AGAIN_S if target.reachable is None else KNOCK_AGAIN_S)
        return evolve(merged, targets=tuple(probed.get(target.key, target) for target in merged.targets))

    async def _report_targets(self, merged: MergeResult) -> None:
        tools = self._tools
        generation = self.kept.generation if self.kept else tools.completed.completed.get(ENUMERATION, 0)
        report = TargetsReport("", generation, merged.targets, merged.skipped)
        digest = hashlib.sha256(await asyncio.to_thread(dumps, report)).hexdigest()
        last = tools.state.load("reported-targets", ReportedTargets)
        if last is None or last.digest != digest:
            await tools.report(evolve(report, report_id=report_id()))
            tools.state.save("reported-targets", ReportedTargets(digest))

    def _walks_alone(self) -> bool:
        """Discovery found no directory, and a person named hosts: there is work without one."""
        holdings = self._tools.checkin.holdings
        named = holdings.manual_targets or any(entry.host for entry in holdings.credentials or ())
        return self.discovery is not None and self.domain is None and bool(named)

    def _problem(self, what: str, error: MspError) -> None:
        if self.problems.get(what) != error.code:
            logger.warning("%s: %s", what, error)
        self.problems[what] = error.code


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
    """What of a discovery is worth a report: everything but when it was made."""
    if discovery is None:
        return None
    unmoving = datetime(1970, 1, 1, tzinfo=UTC)
    domains = tuple(evolve(domain, discovered_at=unmoving, evidence=()) for domain in discovery.domains)
    if domains:
        return domains
    # Controllers that DNS names and that are silent are another thing than no directory.
    return discovery.hints, any(entry.kind == CONTROLLER_FAILED for entry in discovery.evidence)
