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

from attrs import evolve

from msp_sdk.enumeration import ControllerFailure
from msp_sdk.errors import DirectoryError, DiscoveryError, LogonError, MspError
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
from runners.appliance.domain_watch import FIRST_WAIT_S, LONGEST_WAIT_S, DomainWatch
from runners.appliance.kept_connection import DirectoryReader, KeptConnections
from runners.appliance.kept_enumeration import EnumerationFiles, KeptEnumeration
from runners.appliance.state import UnreadDomain
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)
T = TypeVar("T")

# A full reading reconciles: daily, more often for an account that does not see what was deleted, and soon after a
# change of controllers; not at once, since one that comes and goes would be read in full each time.
RECONCILE_S = 24 * 3600.0
RECONCILE_BLIND_S = 6 * 3600.0
RECONCILE_MOVED_S = 900.0
CURSOR_LOST = "cursor-lost"
# A controller may give many reasons; a report names so many of them.
MOST_FAILURES = 50
_NO_ANSWER = frozenset({"unreachable-controller", "no-address"})


class DirectoryWatch:
    """What the directory of a domain holds, as it was last read. Its steps are taken one at a time.

    Args:
        tools: What it works with.
        domains: Told of controllers that do not answer, and of names that only a logon could read.
        domain_name: Folded.

    Attributes:
        kept: The last good result; None before the first one.
        newcomers: objectGUIDs of computers that joined or got their name while we looked on. DNS may not know their
            address yet.
        problems: What does not work now, as codes.
    """

    def __init__(self, tools: Tools, domains: DomainWatch, domain_name: str) -> None:
        self._tools = tools
        self._domains = domains
        self._connections: KeptConnections = tools.directory
        self._files = EnumerationFiles(tools.state, domain_name)
        self.kept: KeptEnumeration | None = None
        self._is_cursor_lost = False
        self.newcomers: set[str] = set()
        self.problems: dict[str, str] = {}
        self._enumerating = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._following = tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._tried_with: object = None
        self._refused_with: object = None
        self._reported_failure: str | None = None
        self._failures: tuple[ControllerFailure, ...] = ()
        self._unread_file = f"unread-{domain_name}"
        self._unread = tools.state.load(self._unread_file, UnreadDomain)
        self._followed_at_beat = -1
        # Drawn once: a fleet that was started together does not read together.
        self._jitter = 0.85 + 0.3 * tools.draw()

    async def load(self) -> None:
        """Remember what was read before a restart; a big site's takes a while."""
        self.kept = await asyncio.to_thread(self._files.load)

    def forget(self) -> None:
        """Delete what is kept: nothing names this domain any more."""
        self._files.forget()
        self._forget_unread()

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
        if self.has_answered(generation) and not self._is_to_reconcile(credentials):
            self._enumerating.reset()
            self.problems.pop("enumeration", None)
            return
        # A new wish, another credential or other controllers: what failed before says nothing of it (lesson 45).
        tried_with = (generation, self._accounts(credentials), domain.controllers)
        if tried_with != self._tried_with:
            self._tried_with = tried_with
            self._enumerating.reset()
        if self._enumerating.due():
            await self._read(domain, credentials, generation)

    def _is_to_reconcile(self, credentials: Sequence[Credential]) -> bool:
        """True when the last full reading is too old, or what followed it was lost."""
        kept = self.kept
        if kept is None or self._accounts(credentials) == self._refused_with:
            return False
        if kept.full_at is None or self._is_cursor_lost or kept.ous != self._tools.checkin.holdings.scope.ous:
            return True
        age = self._tools.clock.now() - kept.full_at
        longest_s = RECONCILE_S if kept.sees_removals else RECONCILE_BLIND_S
        if kept.at_another_controller:
            longest_s = RECONCILE_MOVED_S
        return not timedelta(0) <= age < timedelta(seconds=longest_s * self._jitter)

    @staticmethod
    def _accounts(credentials: Sequence[Credential]) -> tuple[str, ...]:
        return tuple(entry.ledger_key for entry in credentials)

    async def _read(self, domain: Domain, credentials: Sequence[Credential], generation: int) -> None:
        async def work(reader: DirectoryReader) -> tuple[Enumeration, str | None]:
            enumeration = await reader.enumerate()
            return enumeration, domain.netbios_name or await reader.netbios_name()

        # Another scope may come while we read.
        ous = self._tools.checkin.holdings.scope.ous
        try:
            enumeration, netbios_name = await self._with_reader(domain, credentials, work)
            computers = await self._tools.locate(domain, enumeration.computers)
        except LogonError as error:
            if error.retryable:
                await self._failed_for_now(error, domain)
            else:
                self._refused_with = self._accounts(credentials)
                await self._failed_for_good(error, generation, domain)
            return
        except MspError as error:
            await self._failed_for_now(error, domain)
            return
        await self._domains.name(domain, netbios_name)
        await self._keep(evolve(enumeration, computers=computers), generation, ous)
        self._enumerating.succeeded()
        self._reported_failure = None
        self.problems.pop("enumeration", None)
        self.problems.pop("directory-changes", None)

    async def _with_reader(
        self, domain: Domain, credentials: Sequence[Credential], work: Callable[[DirectoryReader], Awaitable[T]]
    ) -> T:
        """Work with the first account that is let in; each is another one, so each has its one logon.

        Raises:
            LogonError: None is let in; the first one's error.
            MspError: As the work says.
        """
        refusal: LogonError | None = None
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

    async def _keep(self, enumeration: Enumeration, generation: int, ous: tuple[str, ...]) -> None:
        tools = self._tools
        results = await asyncio.to_thread(
            make_enumeration_results, enumeration, enumeration.computers, generation=generation
        )
        # The report is on disk before the work counts as done: a crash in between repeats, and never skips.
        await tools.report(EnumerationReport(report_id(), results=results))
        kept = KeptEnumeration(
            enumeration,
            generation,
            full_at=tools.clock.now(),
            reported_cursor=enumeration.cursor,
            ous=ous,
        )
        await asyncio.to_thread(self._files.save_full, kept)
        self.kept = kept
        self.newcomers.clear()
        self._refused_with = None
        self._is_cursor_lost = False
        self._following.reset()
        self._followed_at_beat = tools.beats
        self._forget_unread()
        logger.info("enumerated %s: %d computers", enumeration.domain_name, len(enumeration.computers))

    # Following.

    async def follow(self, domain: Domain) -> None:
        """Ask what has changed, once after each check-in. An unchanged directory is told to nobody."""
        tools = self._tools
        holdings = tools.checkin.holdings
        kept = self.kept
        credentials = holdings.for_domain(domain.name)
        if self._followed_at_beat == tools.beats or not self._following.due():
            return
        if kept is None or kept.enumeration.cursor is None or not credentials:
            return
        if self._is_cursor_lost or kept.ous != holdings.scope.ous or self._accounts(credentials) == self._refused_with:
            return
        self._followed_at_beat = tools.beats
        since = kept.enumeration.cursor
        try:
            changes = await self._with_reader(domain, credentials, lambda reader: reader.changes(since=since))
        except LogonError as error:
            if not error.retryable:
                self._refused_with = self._accounts(credentials)
                await self._report_failure(error, None, domain)
            self._not_followed(error)
        except DirectoryError as error:
            if error.code != CURSOR_LOST:
                self._not_followed(error)
                return
            logger.warning("%s cannot tell what has changed since then: it is read in full", domain.name)
            self._is_cursor_lost = True
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
        if self.problems.get("directory-changes") != error.code:
            logger.warning("changes of the directory: %s", error)
        self.problems["directory-changes"] = error.code
        if error.code in _NO_ANSWER:
            self._domains.doubt()

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
            self.kept = evolve(now_at, enumeration=apply_changes(kept.enumeration, nothing))
            return
        news = evolve(changes, changed=await self._locate(domain, changed), removed=removed)
        results = make_changes_results(news, news.changed)
        results = evolve(results, base_cursor=kept.reported_cursor)
        await tools.report(EnumerationReport(report_id(), results=results))
        followed = evolve(
            now_at,
            enumeration=await asyncio.to_thread(apply_changes, kept.enumeration, news),
            reported_cursor=changes.cursor,
        )
        await asyncio.to_thread(self._files.add_changes, kept, news)
        self.kept = followed
        self._note_newcomers(news.changed, known)
        logger.info("changes in %s: %d computers, %d gone", domain.name, len(changed), len(removed))

    async def _locate(self, domain: Domain, computers: Sequence[Computer]) -> tuple[Computer, ...]:
        try:
            return await self._tools.locate(domain, computers)
        except DiscoveryError as error:
            # What the directory says is true whatever DNS does; the targets are looked up again by themselves.
            logger.warning("names of changed computers: %s", error)
            return tuple(computers)

    def _note_newcomers(self, changed: Sequence[Computer], known: dict[str, Computer]) -> None:
        for computer in changed:
            before = known.get(computer.object_guid)
            if before is None or before.skipped_reason == "new" or before.fqdn != computer.fqdn:
                self.newcomers.add(computer.object_guid)

    # When it does not work.

    async def _failed_for_now(self, error: MspError, domain: Domain) -> None:
        self._enumerating.failed()
        if self.problems.get("enumeration") != error.code:
            logger.warning("enumeration: %s", error)
        self.problems["enumeration"] = error.code
        if error.code in _NO_ANSWER:
            self._domains.doubt()
        if self._reported_failure != error.code:
            await self._report_failure(error, None, domain)
            self._reported_failure = error.code

    async def _failed_for_good(self, error: MspError, generation: int, domain: Domain) -> None:
        self.problems["enumeration"] = error.code
        logger.error("%s was not read (%s): %s", domain.name, error.code, error.detail)
        await self._report_failure(error, generation, domain)
        self._unread = UnreadDomain(generation)
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
            remedy=remedy_of(error.code),
            controllers_tried=tuple(controller.fqdn for controller in domain.controllers),
            generation=generation,
            domain_name=domain.name,
            failures=tuple(
                FailedController(entry.controller, entry.code, entry.detail, entry.door or None)
                for entry in self._failures[-MOST_FAILURES:]
            ),
        )
        await self._tools.report(EnumerationReport(report_id(), failed=failure))


def _essence(computer: Computer | None) -> Computer | None:
    """What the directory says of a computer, without what we found out about the way there."""
    if computer is None:
        return None
    return evolve(computer, ip_addresses=(), reachable=None, doors=(), unreachable_reason=None)
