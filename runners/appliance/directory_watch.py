"""The directory of one domain: read in full when that is owed, then followed by its changes at each check-in.

The last good result stays, whatever fails (lesson 24), and a full reading reconciles what changes cannot tell, on a
clock of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from attrs import evolve, frozen

from msp_sdk.checkin import REPORT_REFUSED, enumeration_matter
from msp_sdk.enumeration import AdSubnet, KnownDomain
from msp_sdk.enumeration.locality import OUT_OF_SCOPE
from msp_sdk.errors import ConfigError, DirectoryError, LogonError, MspError
from msp_sdk.models.computer import (
    Computer,
    Enumeration,
    EnumerationChanges,
    EnumerationReport,
    apply_changes,
    make_changes_results,
    make_enumeration_results,
)
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.models.scope import SiteScope
from runners.appliance.directory_failures import DirectoryFailures
from runners.appliance.domain_watch import FIRST_WAIT_S, LONGEST_WAIT_S, DomainWatch
from runners.appliance.kept_connection import DirectoryReader
from runners.appliance.kept_enumeration import EnumerationFiles, KeptEnumeration
from runners.appliance.reconciling import reconcile_s
from runners.appliance.scope_view import ScopeView
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

# What failed for good is looked at again after this, or at once when what it rests on is another.
FAILED_AGAIN_S = 3600.0
# A cursor that is lost once is made good at once; a directory that loses every one is read ever more seldom.
LOSSES_REMEMBERED_S = 2 * 3600.0
LOSS_FIRST_WAIT_S, LOSS_LONGEST_WAIT_S = 300.0, 3600.0
CURSOR_LOST = "cursor-lost"
NO_CURSOR = "no-cursor"
_NO_ANSWER = frozenset({"unreachable-controller", "no-address"})


@frozen
class _Reading:
    """What a directory said when it was read in full."""

    enumeration: Enumeration
    ad_subnets: tuple[AdSubnet, ...]
    netbios_name: str | None
    others: tuple[KnownDomain, ...]


class DirectoryWatch:
    """What the directory of a domain holds, as it was last read. Its steps are taken one at a time.

    Args:
        tools: What it works with.
        domains: Told of controllers that do not answer, and of what only a logon could read.
        domain_name: Folded.

    Attributes:
        kept: The last good result; None before the first one.
        newcomers: objectGUIDs of computers that joined or got their name while we looked on, or whose address DNS
            gave no answer about. It may know it soon.
        problems: What does not work now, as codes.
    """

    def __init__(self, tools: Tools, domains: DomainWatch, domain_name: str) -> None:
        self._tools = tools
        self._domains = domains
        self._name = domain_name
        self._connections = tools.directory
        self._files = EnumerationFiles(tools.state, domain_name)
        self.kept: KeptEnumeration | None = None
        self.newcomers: set[str] = set()
        self._view = ScopeView(domain_name)
        self.problems: dict[str, str] = {}
        self._enumerating = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._following = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._losing = tools.backoff(LOSS_FIRST_WAIT_S, LOSS_LONGEST_WAIT_S)
        self._is_cursor_lost = False
        self._lost_at_s = float("-inf")
        self._tried_with: object = None
        self._failed = DirectoryFailures(tools, domain_name)
        self._refused_with = self._failed.refused
        if self._failed.code:
            self.problems["enumeration"] = self._failed.code
        self._followed_at_beat = -1
        # Drawn once: a fleet that was started together does not read together.
        self._jitter = 0.85 + 0.3 * tools.draw()

    async def load(self) -> None:
        """Remember what was read before a restart; a big site's takes a while."""
        self._hold(await asyncio.to_thread(self._files.load))

    def _hold(self, kept: KeptEnumeration | None) -> None:
        self.kept = kept
        self._tools.ad_subnets[self._name] = kept.ad_subnets if kept else ()
        self._tools.excluded_ous[self._name] = kept.enumeration.scope.excluded_ous if kept else ()

    async def forget(self) -> None:
        """Delete what is kept: nothing names this domain any more."""
        await self._tools.checkin.clear_refused(enumeration_matter(self._name))
        self._hold(None)
        self._files.forget()
        self._failed.forget()

    @property
    def _scope(self) -> SiteScope:
        return self._tools.checkin.holdings.scope

    @property
    def computers(self) -> tuple[Computer, ...]:
        """What was read last, under the scope of now: a narrower one holds at once, whatever the directory does.

        The same object while nothing has changed.
        """
        kept, scope = self.kept, self._scope
        if kept is None:
            return ()
        if kept.scope == scope:
            return kept.enumeration.computers
        return self._view.narrowed(kept.enumeration, scope, self._tools.locality(self._name))

    @property
    def left_out(self) -> frozenset[str]:
        """ObjectGUIDs of computers that were read once, and that the scope leaves out."""
        return frozenset(self._view.left_out)

    # Reading in full.

    def has_answered(self, generation: int) -> bool:
        """Whether a wish was answered, with a reading or with why there is none."""
        return generation <= max(self.kept.generation if self.kept else 0, self._failed.generation)

    async def read_if_owed(self, domain: Domain) -> None:
        """Read in full if that is wished, or time to. It ends with a report, also where it fails for good."""
        holdings = self._tools.checkin.holdings
        credentials = holdings.for_domain(domain.name)
        generation = holdings.wished.get(ENUMERATION, 0)
        if not credentials:  # it is being leased to a sibling, or is on its way
            return
        accounts = _accounts(credentials)
        if self.has_answered(generation) and (accounts == self._refused_with or not self._is_to_read_again()):
            if not self._failed.is_final:
                self._enumerating.reset()
                self.problems.pop("enumeration", None)
            return
        # A new wish, or anything else that it rests on: what failed before says nothing of it (lesson 45).
        optional_ous = self._tools.optional_ous(self._name)
        tried_with = (generation, accounts, domain.controllers, holdings.scope, holdings.policy, optional_ous)
        if tried_with != self._tried_with:
            self._tried_with = tried_with
            self._enumerating.reset()
        if self._enumerating.due():
            await self._read(domain, credentials, generation)

    def _is_to_read_again(self) -> bool:
        """True when the last full reading is too old or none, or what followed it was lost."""
        kept = self.kept
        if kept is None or self._failed.is_final:
            # What it failed for may have been mended.
            return self._failed.is_final
        if kept.full_at is None or kept.scope != self._scope:
            return True
        if self._is_cursor_lost and self._losing.due():
            return True
        age = self._tools.clock.now() - kept.full_at
        return (
            not timedelta(0) <= age < timedelta(seconds=reconcile_s(kept, is_refused=self._is_refused) * self._jitter)
        )

    @property
    def _is_refused(self) -> bool:
        """Central could not take a report of this domain, and knows no better one.

        That changes do not go on from it is no news then: a wish for each of them would be answered with a reading
        that is refused again. So they do not say from where they go on, and a wish is always somebody's.
        """
        return self._tools.checkin.refused.get(enumeration_matter(self._name)) == REPORT_REFUSED

    async def _read(self, domain: Domain, credentials: Sequence[Credential], generation: int) -> None:
        # Another scope may come while we read.
        scope = self._scope

        async def work(reader: DirectoryReader) -> _Reading:
            ad_subnets = await reader.ad_subnets(scope.ad_sites) if scope.ad_sites else ()
            enumeration = await reader.enumerate()
            netbios_name = domain.netbios_name or await reader.netbios_name()
            return _Reading(enumeration, ad_subnets, netbios_name, await _others(reader))

        try:
            reading = await self._connections.use(domain, credentials, self._tools.checkin.holdings, work)
        except MspError as error:
            await self._not_read(error, generation, domain, credentials)
            return
        await self._domains.name(domain, reading.netbios_name)
        self._domains.lead_to(entry.name for entry in reading.others)
        self._tools.ad_subnets[self._name] = reading.ad_subnets
        self.newcomers.clear()
        known = self.kept.enumeration.computers if self.kept else ()
        computers = await self._locate(domain, reading.enumeration.computers, known)
        await self._keep(
            evolve(reading, enumeration=evolve(reading.enumeration, computers=computers)), generation, scope
        )
        self._enumerating.succeeded()
        self.problems.pop("enumeration", None)
        if not self._losing.failures:
            self.problems.pop("directory-changes", None)

    async def _keep(self, reading: _Reading, generation: int, scope: SiteScope) -> None:
        tools, enumeration = self._tools, reading.enumeration
        results = await asyncio.to_thread(
            make_enumeration_results, enumeration, enumeration.computers, generation=generation
        )
        # The report is on disk before the work counts as done: a crash in between repeats, and never skips.
        await tools.report(EnumerationReport(report_id(), results=evolve(results, site_scope=scope)))
        kept = KeptEnumeration(
            enumeration,
            generation,
            full_at=tools.clock.now(),
            reported_cursor=enumeration.cursor,
            scope=scope,
            ad_subnets=reading.ad_subnets,
        )
        await asyncio.to_thread(self._files.save_full, kept)
        self._view.note_reading(enumeration, self.kept.enumeration.computers if self.kept else ())
        self._hold(kept)
        self._refused_with = ()
        self._is_cursor_lost = False
        self._following.reset()
        self._followed_at_beat = tools.beats
        self._failed.forget()
        logger.info("enumerated %s: %d computers", enumeration.domain_name, len(enumeration.computers))
        if enumeration.unreadable_count:
            logger.warning("%d entries show no objectGUID and are not listed", enumeration.unreadable_count)

    # Following.

    async def follow(self, domain: Domain) -> None:
        """Ask what has changed, once after each check-in. An unchanged directory is told to nobody."""
        tools = self._tools
        holdings = tools.checkin.holdings
        kept = self.kept
        credentials = holdings.for_domain(domain.name)
        if self._followed_at_beat == tools.beats or not self._following.due() or kept is None or not credentials:
            return
        if self._is_cursor_lost or kept.scope != holdings.scope or _accounts(credentials) == self._refused_with:
            return
        since = kept.enumeration.cursor
        if since is None:
            self._say("directory-changes", NO_CURSOR, "what changes is seen only when all is read again")
            return
        self._followed_at_beat = tools.beats
        try:
            changes = await self._connections.use(
                domain, credentials, holdings, lambda reader: reader.changes(since=since)
            )
        except MspError as error:
            if error.code == CURSOR_LOST:
                self._lose_cursor()
                await self.read_if_owed(domain)
            else:
                await self._not_followed(error, domain, credentials)
        else:
            await self._take(domain, kept, changes)
            self._following.succeeded()
            self.problems.pop("directory-changes", None)

    async def _not_followed(self, error: MspError, domain: Domain, credentials: Sequence[Credential]) -> None:
        """The last good result stays, and Central hears of it at the next check-in; of what a person mends, at once."""
        failures = self._connections.failures(domain.name)
        if isinstance(error, LogonError) and not error.retryable:
            self._refused_with = _accounts(credentials)
            await self._failed.report(error, domain, failures)
        elif isinstance(error, ConfigError):
            # The scope names what was there, and is not any more.
            await self._failed.for_now(error, domain, failures)
        self._following.failed()
        self._say("directory-changes", error.code, str(error))
        if error.code in _NO_ANSWER:
            self._domains.doubt()

    def _lose_cursor(self) -> None:
        """It is read in full: at once, or under back-off where that helped little before."""
        now_s = self._tools.clock.monotonic()
        if now_s - self._lost_at_s < LOSSES_REMEMBERED_S:
            self._losing.failed()
            self._say("directory-changes", CURSOR_LOST, "again it cannot tell what has changed since the last reading")
        else:
            logger.warning("%s cannot tell what has changed since then: it is read in full", self._name)
            self._losing.reset()
        self._lost_at_s = now_s
        self._is_cursor_lost = True

    async def _take(self, domain: Domain, kept: KeptEnumeration, changes: EnumerationChanges) -> None:
        tools = self._tools
        now_at = evolve(
            kept,
            sees_removals=changes.complete,
            at_another_controller=kept.at_another_controller or changes.at_another_controller,
        )
        # What did not change is not looked at: a big site has a hundred thousand computers.
        named = {entry.object_guid for entry in changes.changed} | {entry.object_guid for entry in changes.removed}
        known = {entry.object_guid: entry for entry in kept.enumeration.computers if entry.object_guid in named}
        changed = tuple(entry for entry in changes.changed if _essence(entry) != _essence(known.get(entry.object_guid)))
        removed = tuple(entry for entry in changes.removed if entry.object_guid in known)
        if not changed and not removed:
            # Not worth a write: from the older place the same is asked once more.
            nothing = evolve(changes, changed=(), removed=())
            self._hold(evolve(now_at, enumeration=apply_changes(kept.enumeration, nothing)))
            return
        located = await self._locate(domain, changed, tuple(known.values()))
        news = evolve(changes, changed=located, removed=removed)
        results = make_changes_results(news, news.changed)
        results = evolve(results, base_cursor=None if self._is_refused else kept.reported_cursor)
        await tools.report(EnumerationReport(report_id(), results=results))
        followed = evolve(
            now_at,
            enumeration=await asyncio.to_thread(apply_changes, kept.enumeration, news),
            reported_cursor=changes.cursor,
        )
        await asyncio.to_thread(self._files.add_changes, kept, news)
        self._hold(followed)
        self._note_newcomers(news.changed, known)
        self._view.note_changes(news.changed, removed)
        logger.info("changes in %s: %d computers, %d gone", domain.name, len(changed), len(removed))

    async def _locate(
        self, domain: Domain, computers: Sequence[Computer], known: Sequence[Computer]
    ) -> tuple[Computer, ...]:
        """Where they are. What the directory says is true whatever DNS does; who is not found is asked for again."""
        located = await self._tools.locate(domain, computers, {entry.object_guid: entry for entry in known})
        self.newcomers |= located.unanswered
        if located.failure is not None:
            self._say("addresses", located.failure.code, str(located.failure))
        elif computers:
            self.problems.pop("addresses", None)
        return located.computers

    def _note_newcomers(self, changed: Sequence[Computer], known: dict[str, Computer]) -> None:
        for computer in changed:
            before = known.get(computer.object_guid)
            if before is None or before.os_name is None or before.fqdn != computer.fqdn:
                self.newcomers.add(computer.object_guid)

    # When it does not work.

    async def _not_read(
        self, error: MspError, generation: int, domain: Domain, credentials: Sequence[Credential]
    ) -> None:
        """The last good result stays. What fails for good answers the wish, and is tried when it may be mended."""
        self._say("enumeration", error.code, str(error))
        failures = self._connections.failures(domain.name)
        if error.retryable or error.code in _NO_ANSWER:
            self._enumerating.failed()
            if error.code in _NO_ANSWER:
                self._domains.doubt()
            await self._failed.for_now(error, domain, failures)
            return
        self._enumerating.succeeded(FAILED_AGAIN_S)
        self._refused_with = _accounts(credentials) if isinstance(error, LogonError) else ()
        await self._failed.for_good(error, generation, domain, failures, refused=self._refused_with)

    def _say(self, what: str, code: str, detail: str) -> None:
        """Central hears of it at the next check-in; the log hears of it once."""
        if self.problems.get(what) != code:
            logger.warning("%s: %s (%s): %s", self._name, what, code, detail)
        self.problems[what] = code


def _accounts(credentials: Sequence[Credential]) -> tuple[str, ...]:
    return tuple(entry.ledger_key for entry in credentials)


async def _others(reader: DirectoryReader) -> tuple[KnownDomain, ...]:
    """Which other domains the directory knows. They are no more than leads: a reading is good without them."""
    try:
        return await reader.other_domains()
    except DirectoryError as error:
        logger.info("which other domains there are was not read: %s", error)
        return ()


def _essence(computer: Computer | None) -> Computer | None:
    """What the directory says of a computer, without what we found out about the way there."""
    if computer is None:
        return None
    skipped_reason = None if computer.skipped_reason == OUT_OF_SCOPE else computer.skipped_reason
    return evolve(
        computer,
        ip_addresses=(),
        reachable=None,
        doors=(),
        unreachable_reason=None,
        ad_site=None,
        skipped_reason=skipped_reason,
    )
