"""What is there: find the domain, read its computers, merge them with what people set.

Each step keeps its last good result, reports what it found, and leaves what failed for a moment to the next pass.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
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
from msp_sdk.models.domain import Domain, DomainDiscovery, make_discovery_report
from msp_sdk.models.generation import ENUMERATION, owed
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import MergeResult, TargetsReport
from msp_sdk.wire.converter import dumps
from runners.appliance.backoff import Backoff
from runners.appliance.state import KeptEnumeration, ReportedTargets
from runners.appliance.wiring import Tools

logger = logging.getLogger(__name__)

VERIFY_AGAIN_S = 24 * 3600.0
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0


def report_id() -> str:
    """A new id for a report."""
    return str(uuid.uuid4())


class Survey:
    """The site as the appliance sees it: its domain, computers and targets."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.discovery: DomainDiscovery | None = tools.state.load_discovery()
        tools.domain = self.domain
        self.kept: KeptEnumeration | None = tools.state.load("enumeration", KeptEnumeration)
        self.merge: MergeResult | None = None
        # After a restart the domain that was found is believed at once, and looked for again.
        self._discovering = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._enumerating = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._reported_discovery: DomainDiscovery | None = None
        self._reported_failure: str | None = None
        self.problems: dict[str, str] = {}

    @property
    def domain(self) -> Domain | None:
        """The believed domain, or None."""
        return self.discovery.best if self.discovery else None

    async def discover(self) -> None:
        """Look for the domain when it is time to; keep the last good answer."""
        if not self._discovering.due():
            return
        try:
            found = await self._tools.discoverer.discover()
        except DiscoveryError as error:
            self._discovering.failed()
            self._problem("discovery", error)
            return
        self.problems.pop("discovery", None)
        if found.best is None:
            self._discovering.failed()
        else:
            self._discovering.succeeded(VERIFY_AGAIN_S)
            self._tools.state.save("discovery", found)
        if found.best is None and self.domain is not None:
            logger.warning("the domain %s does not answer now; the last good discovery stays", self.domain.name)
            return
        self.discovery = found
        self._tools.domain = found.best
        await self._report_discovery(found)

    async def _report_discovery(self, found: DomainDiscovery) -> None:
        if _essence(found) != _essence(self._reported_discovery):
            await self._tools.checkin.report(make_discovery_report(report_id(), found))
            self._reported_discovery = found

    async def enumerate(self) -> None:
        """Read the directory if that is owed. It ends with a report, also where it fails for good."""
        holdings = self._tools.checkin.holdings
        if ENUMERATION not in owed(holdings.wished, self._tools.completed.completed):
            self._enumerating.reset()
            return
        if holdings.credentials is None or not self._enumerating.due():
            return
        generation = holdings.wished[ENUMERATION]
        domain = self.domain
        if domain is None:
            if self.discovery is not None:
                await self._failed_for_good("no-domain", "discovery found no domain to read.", generation)
            return
        credentials = holdings.for_domain(domain.name)
        if not credentials:
            return  # it is being leased to a sibling, or is on its way
        await self._read(domain, credentials[0], generation)

    async def _read(self, domain: Domain, credential: Credential, generation: int) -> None:
        tools = self._tools
        try:
            async with tools.enumerator(domain, credential) as enumerator:
                enumeration = await enumerator.enumerate()
                netbios_name = domain.netbios_name or await enumerator.netbios_name()
            computers = await tools.locate(domain, enumeration.computers)
        except LogonError as error:
            if error.retryable:
                await self._failed_for_now(error)
            else:
                await self._failed_for_good(error.code, error.detail, generation, domain)
            return
        except MspError as error:
            await self._failed_for_now(error, domain)
            return
        await self._name_domain(domain, netbios_name)
        self._enumerating.succeeded()
        self._reported_failure = None
        self.problems.pop("enumeration", None)
        await self._keep(evolve(enumeration, computers=computers), computers, generation)

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
        self.kept = KeptEnumeration(enumeration, generation)
        tools.state.save("enumeration", self.kept)
        results = make_enumeration_results(enumeration, computers, generation=generation)
        # The report is on disk before the work counts as done: a crash in between repeats, and never skips.
        await tools.checkin.report(EnumerationReport(report_id(), results=results))
        tools.completed.complete(ENUMERATION, generation)
        logger.info("enumerated %s: %d computers", enumeration.domain_name, len(computers))

    async def _failed_for_now(self, error: MspError, domain: Domain | None = None) -> None:
        self._enumerating.failed()
        self._problem("enumeration", error)
        if self._reported_failure != error.code:
            self._reported_failure = error.code
            await self._report_failure(error.code, error.detail, None, domain)

    async def _failed_for_good(self, code: str, detail: str, generation: int, domain: Domain | None = None) -> None:
        self.problems["enumeration"] = code
        logger.error("the directory was not read (%s): %s", code, detail)
        await self._report_failure(code, detail, generation, domain)
        self._tools.completed.complete(ENUMERATION, generation)

    async def _report_failure(self, code: str, detail: str, generation: int | None, domain: Domain | None) -> None:
        failure = EnumerationFailure(
            code=code,
            detail=detail,
            remedy=remedy_of(code),
            controllers_tried=tuple(controller.fqdn for controller in domain.controllers) if domain else (),
            generation=generation,
        )
        await self._tools.checkin.report(EnumerationReport(report_id(), failed=failure))

    async def merge_targets(self) -> None:
        """Merge all sources, and report the list when it is another one than the last."""
        tools = self._tools
        holdings = tools.checkin.holdings
        if holdings.credentials is None:
            return
        enumeration = self.kept.enumeration if self.kept else None
        if enumeration is None and not self._walks_alone():
            return
        merged = tools.merger(holdings.policy).merge(
            manual=holdings.manual_targets,
            credentials=holdings.credentials,
            enumerated=enumeration,
            previous=self.merge,
        )
        self.merge = await tools.reach_manual(merged)
        generation = self.kept.generation if self.kept else tools.completed.completed.get(ENUMERATION, 0)
        report = TargetsReport("", generation, self.merge.targets, self.merge.skipped)
        digest = hashlib.sha256(dumps(report)).hexdigest()
        last = tools.state.load("reported-targets", ReportedTargets)
        if last is None or last.digest != digest:
            await tools.checkin.report(evolve(report, report_id=report_id()))
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


def _essence(discovery: DomainDiscovery | None) -> object:
    """What of a discovery is worth a report: everything but when it was made."""
    if discovery is None:
        return None
    unmoving = datetime(1970, 1, 1, tzinfo=UTC)
    domains = tuple(evolve(domain, discovered_at=unmoving, evidence=()) for domain in discovery.domains)
    return domains, () if domains else discovery.hints
