"""The directory of one domain: read in full when that is owed, then followed by its changes at each check-in.

The last good result stays, whatever fails (lesson 24), and a full reading reconciles what changes cannot tell, on a
clock of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from attrs import evolve, frozen

from msp_sdk.enumeration import AdSubnet, ControllerFailure, KnownDomain, narrow, place
from msp_sdk.enumeration.locality import OUT_OF_SCOPE
from msp_sdk.errors import DirectoryError, LogonError, MspError
from msp_sdk.models.computer import (
    Computer,
    Enumeration,
    EnumerationChanges,
    EnumerationFailure,
    EnumerationReport,
    FailedController,
    apply_changes,
    make_changes_results,
    make_enumeration_results,
)
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.scope import SiteScope
from runners.appliance.domain_watch import FIRST_WAIT_S, LONGEST_WAIT_S, DomainWatch
from runners.appliance.kept_connection import DirectoryReader, KeptConnections
from runners.appliance.kept_enumeration import EnumerationFiles, KeptEnumeration
from runners.appliance.state import UnreadDomain
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)
T = TypeVar("T")

# A full reading reconciles: daily, more often for an account that does not see what was deleted, and hourly where
# nothing tells what changes.
RECONCILE_S = 24 * 3600.0
RECONCILE_BLIND_S = 6 * 3600.0
RECONCILE_WITHOUT_CURSOR_S = 3600.0
# What failed for good is looked at again after this, or at once when what it rests on is another.
FAILED_AGAIN_S = 3600.0
# A cursor that is lost once is made good at once; a directory that loses every one is read ever more seldom.
LOSSES_REMEMBERED_S = 2 * 3600.0
LOSS_FIRST_WAIT_S, LOSS_LONGEST_WAIT_S = 300.0, 3600.0
CURSOR_LOST = "cursor-lost"
NO_CURSOR = "no-cursor"
# A controller may give many reasons; a report names so many of them.
MOST_FAILURES = 50
_NO_ANSWER = frozenset({"unreachable-controller", "no-address"})


@frozen
class _Reading:
    """What a directory said when it was read in full."""

    enumeration: Enumeration
    ad_subnets: tuple[AdSubnet, ...]
    netbios_name: str | None
    others: tuple[KnownDomain, ...]


@frozen
class _Narrowed:
    """The computers of an enumeration under another scope than it was read in."""

    enumeration: Enumeration
    scope: SiteScope
    computers: tuple[Computer, ...]


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
        left_out: objectGUIDs of computers that were read once, and that the scope leaves out.
        problems: What does not work now, as codes.
    """

    def __init__(self, tools: Tools, domains: DomainWatch, domain_name: str) -> None:
        self._tools = tools
        self._domains = domains
        self._name = domain_name
        self._connections: KeptConnections = tools.directory
        self._files = EnumerationFiles(tools.state, domain_name)
        self.kept: KeptEnumeration | None = None
        self._narrowed: _Narrowed | None = None
        self.newcomers: set[str] = set()
        self.left_out: set[str] = set()
        self.problems: dict[str, str] = {}
        self._enumerating = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._following = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._losing = tools.backoff(LOSS_FIRST_WAIT_S, LOSS_LONGEST_WAIT_S)
        self._is_cursor_lost = False
        self._lost_at_s = float("-inf")
        self._tried_with: object = None
        self._reported_failure: str | None = None
        self._failures: tuple[ControllerFailure, ...] = ()
        self._unread_file = f"unread-{domain_name}"
        self._unread = tools.state.load(self._unread_file, UnreadDomain)
        self._refused_with = self._unread.refused if self._unread else ()
        if self._unread is not None and self._unread.code:
            self.problems["enumeration"] = self._unread.code
        self._followed_at_beat = -1
        # Drawn once: a fleet that was started together does not read together.
        self._jitter = 0.85 + 0.3 * tools.draw()

    async def load(self) -> None:
        """Remember what was read before a restart; a big site's takes a while."""
        self._hold(await asyncio.to_thread(self._files.load))

    def _hold(self, kept: KeptEnumeration | None) -> None:
        self.kept = kept
        self._tools.ad_subnets[self._name] = kept.ad_subnets if kept else ()

    def forget(self) -> None:
        """Delete what is kept: nothing names this domain any more."""
        self._files.forget()
        self._forget_unread()

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
        known = self._narrowed
        if known is None or known.enumeration is not kept.enumeration or known.scope != scope:
            computers = narrow(kept.enumeration.computers, scope, self._name)
            known = _Narrowed(kept.enumeration, scope, place(computers, self._tools.locality(self._name)))
            self._narrowed = known
        return known.computers

    # Reading in full.

    def has_answered(self, generation: int) -> bool:
        """Whether a wish was answered, with a reading or with why there is none."""
        answered = (self.kept.generation if self.kept else 0, self._unread.generation if self._unread else 0)
        return generation <= max(answered)

    async def read_if_owed(self, domain: Domain) -> None:
        """Read in full if that is wished, or time to. It ends with a report, also where it fails for good."""
        holdings = self._tools.checkin.holdings
        credentials = holdings.for_domain(domain.name)
        generation = holdings.wished.get(ENUMERATION, 0)
        if not credentials:  # it is being leased to a sibling, or is on its way
            return
        accounts = _accounts(credentials)
        if self.has_answered(generation) and (accounts == self._refused_with or not self._is_to_read_again()):
            if self._unread is None:
                self._enumerating.reset()
                self.problems.pop("enumeration", None)
            return
        # A new wish, or anything else that it rests on: what failed before says nothing of it (lesson 45).
        tried_with = (generation, accounts, domain.controllers, holdings.scope, holdings.policy)
        if tried_with != self._tried_with:
            self._tried_with = tried_with
            self._enumerating.reset()
        if self._enumerating.due():
            await self._read(domain, credentials, generation)

    def _is_to_read_again(self) -> bool:
        """True when the last full reading is too old or none, or what followed it was lost."""
        kept = self.kept
        if kept is None or self._unread is not None:
            # It failed for good, and what it failed for may have been mended.
            return self._unread is not None
        if kept.full_at is None or kept.scope != self._scope:
            return True
        if self._is_cursor_lost and self._losing.due():
            return True
        longest_s = RECONCILE_S if kept.sees_removals else RECONCILE_BLIND_S
        if kept.enumeration.cursor is None:
            longest_s = RECONCILE_WITHOUT_CURSOR_S
        age = self._tools.clock.now() - kept.full_at
        return not timedelta(0) <= age < timedelta(seconds=longest_s * self._jitter)

    async def _read(self, domain: Domain, credentials: Sequence[Credential], generation: int) -> None:
        # Another scope may come while we read.
        scope = self._scope

        async def work(reader: DirectoryReader) -> _Reading:
            ad_subnets = await reader.ad_subnets(scope.ad_sites) if scope.ad_sites else ()
            enumeration = await reader.enumerate()
            netbios_name = domain.netbios_name or await reader.netbios_name()
            return _Reading(enumeration, ad_subnets, netbios_name, await _others(reader))

        try:
            reading = await self._with_reader(domain, credentials, work)
        except MspError as error:
            if error.retryable or error.code in _NO_ANSWER:
                await self._failed_for_now(error, domain)
            else:
                refused = _accounts(credentials) if isinstance(error, LogonError) else ()
                await self._failed_for_good(error, generation, domain, refused)
            return
        await self._domains.name(domain, reading.netbios_name)
        self._domains.lead_to(entry.name for entry in reading.others)
        self._tools.ad_subnets[self._name] = reading.ad_subnets
        self.newcomers.clear()
        known = self.kept.enumeration.computers if self.kept else ()
        computers = await self._locate(domain, reading.enumeration.computers, known)
        await self._keep(evolve(reading, enumeration=evolve(reading.enumeration, computers=computers)), generation, scope)
        self._enumerating.succeeded()
        self._reported_failure = None
        self.problems.pop("enumeration", None)
        if not self._losing.failures:
            self.problems.pop("directory-changes", None)

    async def _with_reader(
        self, domain: Domain, credentials: Sequence[Credential], work: Callable[[DirectoryReader], Awaitable[T]]
    ) -> T:
        """Work with the first account that is let in; each is another one, so each has its one logon.

        Raises:
            LogonError: None is let in; the first one's error.
            MspError: As the work says, or the scope leaves nothing to read.
        """
        refusal: LogonError | None = None
        self._failures = ()
        holdings = self._tools.checkin.holdings
        open_with = self._connections.credential(domain.name)
        for credential in sorted(credentials, key=lambda entry: entry != open_with):
            reader = await self._connections.open(domain, credential, holdings)
            try:
                return await work(reader)
            except LogonError as error:
                self._failures = tuple(reader.failures)
                await self._connections.close(domain.name)
                if error.retryable:
                    raise
                logger.warning("%s is not let in (%s): %s", credential.username, error.code, error)
                refusal = refusal or error
            except MspError as error:
                self._failures = tuple(reader.failures)
                if error.code != CURSOR_LOST:
                    await self._connections.close(domain.name)
                raise
        raise refusal or LogonError("there is no account for this domain.", code="no-credential")

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
        self._note_left_out(enumeration)
        self._hold(kept)
        self._refused_with = ()
        self._is_cursor_lost = False
        self._following.reset()
        self._followed_at_beat = tools.beats
        self._forget_unread()
        logger.info("enumerated %s: %d computers", enumeration.domain_name, len(enumeration.computers))

    def _note_left_out(self, enumeration: Enumeration) -> None:
        """Who was there and is missing now is gone only if this reading is sure to have looked at it."""
        present = {computer.object_guid for computer in enumeration.computers}
        self.left_out -= present
        self.left_out |= {
            computer.object_guid
            for computer in (self.kept.enumeration.computers if self.kept else ())
            if computer.object_guid not in present
            and not enumeration.scope.covers(
                hostname=computer.hostname, ou_path=computer.ou_path, role=computer.role
            )
        }

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
            changes = await self._with_reader(domain, credentials, lambda reader: reader.changes(since=since))
        except LogonError as error:
            if not error.retryable:
                self._refused_with = _accounts(credentials)
                await self._report_failure(error, None, domain)
            self._not_followed(error)
        except DirectoryError as error:
            if error.code != CURSOR_LOST:
                self._not_followed(error)
                return
            self._lose_cursor()
            await self.read_if_owed(domain)
        except MspError as error:
            self._not_followed(error)
        else:
            await self._take(domain, kept, changes)
            self._following.succeeded()
            self.problems.pop("directory-changes", None)

    def _not_followed(self, error: MspError) -> None:
        """The last good result stays, and Central hears of it at the next check-in."""
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
        now_at = evolve(kept, sees_removals=changes.complete)
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
        results = evolve(results, base_cursor=kept.reported_cursor)
        await tools.report(EnumerationReport(report_id(), results=results))
        followed = evolve(
            now_at,
            enumeration=await asyncio.to_thread(apply_changes, kept.enumeration, news),
            reported_cursor=changes.cursor,
        )
        await asyncio.to_thread(self._files.add_changes, kept, news)
        self._hold(followed)
        self._note_newcomers(news.changed, known)
        self.left_out -= {entry.object_guid for entry in news.changed}
        self.left_out |= {entry.object_guid for entry in removed if entry.reason == OUT_OF_SCOPE}
        logger.info("changes in %s: %d computers, %d gone", domain.name, len(changed), len(removed))

    async def _locate(
        self, domain: Domain, computers: Sequence[Computer], known: Sequence[Computer]
    ) -> tuple[Computer, ...]:
        """Where they are. What the directory says is true whatever DNS does; who is not found is looked up again soon."""
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
            if before is None or before.skipped_reason == "new" or before.fqdn != computer.fqdn:
                self.newcomers.add(computer.object_guid)

    # When it does not work.

    def _say(self, what: str, code: str, detail: str) -> None:
        """Central hears of it at the next check-in; the log hears of it once."""
        if self.problems.get(what) != code:
            logger.warning("%s: %s (%s): %s", self._name, what, code, detail)
        self.problems[what] = code

    async def _failed_for_now(self, error: MspError, domain: Domain) -> None:
        self._enumerating.failed()
        self._say("enumeration", error.code, str(error))
        if error.code in _NO_ANSWER:
            self._domains.doubt()
        if self._reported_failure != error.code:
            await self._report_failure(error, None, domain)
            self._reported_failure = error.code

    async def _failed_for_good(
        self, error: MspError, generation: int, domain: Domain, refused: tuple[str, ...]
    ) -> None:
        """The wish is answered. What a person mends is seen when it comes by Central, or within the hour."""
        self._enumerating.succeeded(FAILED_AGAIN_S)
        self._refused_with = refused
        self.problems["enumeration"] = error.code
        unread = UnreadDomain(generation, error.code, error.detail, refused)
        if unread == self._unread:
            return
        logger.error("%s was not read (%s): %s", domain.name, error.code, error.detail)
        await self._report_failure(error, generation, domain)
        self._unread = unread
        self._tools.state.save(self._unread_file, self._unread)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread = None
            self._tools.state.remove(self._unread_file)

    async def _report_failure(self, error: MspError, generation: int | None, domain: Domain) -> None:
        """Say why, and what each controller answered."""
        failure = EnumerationFailure(
            code=error.code,
            detail=error.detail,
            remedy=error.remedy or remedy_of(error.code),
            controllers_tried=tuple(controller.fqdn for controller in domain.controllers),
            generation=generation,
            domain_name=domain.name,
            failures=tuple(
                FailedController(entry.controller, entry.code, entry.detail, entry.door or None)
                for entry in self._failures[-MOST_FAILURES:]
            ),
            site_scope=self._scope,
        )
        await self._tools.report(EnumerationReport(report_id(), failed=failure))


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
