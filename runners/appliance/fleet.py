"""What is done to hosts: rollouts, each host on its own, remembered so that nothing is done twice.

A rollout is looked at again before each host: one that was paused or cancelled takes no further host, and what is
under way on a host comes to its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path

from attrs import evolve, frozen

from msp_sdk.checkin import deployment_matter
from msp_sdk.deployment import AgentDeployer
from msp_sdk.errors import MspError
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.rollout import DeploymentReport, Outcome, OutcomeError, Rollout, Wave, why_out_of_scope
from msp_sdk.models.target import MergeResult, Target
from runners.appliance.backoff import Backoff
from runners.appliance.due import circumstances, is_due, is_same_outcome, seconds_until_due
from runners.appliance.state import HostRecord, RolloutRecord
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

HOSTS_AT_ONCE = 32
HOSTS_IN_A_PASS = 1000
REPORT_EVERY_S = 1.0
REPORT_EVERY_COUNT = 50
# A report of this many outcomes stays far below the contract's 1 MiB.
MOST_IN_A_REPORT = 500
# Outcomes that Central refused are told for so long after the end of their rollout.
TOLD_FOR_S = 24 * 3600.0


@frozen
class _Tried:
    """What came of a target, and in which circumstances."""

    target: Target
    outcome: Outcome
    circumstances: str


@frozen
class _Quiet:
    """A rollout with nothing to do: from what that follows, and when a waiting host is due again (monotonic)."""

    rollout: Rollout
    sources: object
    until: float


class Fleet:
    """The hosts, and what rollouts do to them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._packages: dict[str, Backoff] = {}
        self._records: dict[str, RolloutRecord] = {}
        self._quiet: dict[str, _Quiet] = {}
        # Since when the rollouts of refused reports are active no more.
        self._gone_at: dict[str, float] = {}
        self.problems: dict[str, str] = {}

    async def roll_out(self, merge: MergeResult) -> None:
        """Bring every active rollout one step further."""
        rollouts = self._tools.checkin.holdings.rollouts
        await self._clear_refused(rollouts)
        for rollout_id in set(self._quiet) - {rollout.id for rollout in rollouts}:
            del self._quiet[rollout_id]
            self._records.pop(rollout_id, None)
        unsupported = [rollout.id for rollout in rollouts if rollout.state == "active" and _asks_for_more(rollout)]
        if not unsupported:
            self.problems.pop("rollout", None)
        elif self.problems.get("rollout") != "unsupported-rollout":
            # To work outside of a window, or on all hosts at once, is worse than not to work.
            self.problems["rollout"] = "unsupported-rollout"
            logger.error("the rollouts %s ask for waves or a window, which this version does not know", unsupported)
        for rollout in rollouts:
            if rollout.state == "active" and rollout.id not in unsupported:
                await self._one_rollout(rollout, merge)

    async def _clear_refused(self, rollouts: Iterable[Rollout]) -> None:
        """What Central refused of a rollout that has long ended is told no more; a missing one may be back."""
        checkin, now = self._tools.checkin, self._tools.clock.monotonic()
        active = {deployment_matter(rollout.id) for rollout in rollouts}
        gone = [name for name in checkin.refused if name.startswith(deployment_matter("")) and name not in active]
        self._gone_at = {matter: self._gone_at.get(matter, now) for matter in gone}
        for matter, gone_at in self._gone_at.items():
            if now - gone_at >= TOLD_FOR_S:
                await checkin.clear_refused(matter)

    async def _one_rollout(self, rollout: Rollout, merge: MergeResult) -> None:
        holdings = self._tools.checkin.holdings
        sources = (merge, holdings.credentials, holdings.policy, self._tools.pins())
        quiet = self._quiet.get(rollout.id)
        if (
            quiet
            and quiet.rollout == rollout
            and quiet.sources == sources
            and self._tools.clock.monotonic() < quiet.until
        ):
            return
        record = await self._record_of(rollout)
        now = self._tools.clock.now()
        due: list[Target] = []
        outside: list[_Tried] = []
        waits: list[float] = []
        for target in merge.targets:
            known = record.hosts.get(target.key)
            reason = why_out_of_scope(rollout.scope, target)
            if reason is not None:
                if known is None:
                    outside.append(_Tried(target, _left_out(target, reason), ""))
            elif is_due(known, self._circumstances(target), now):
                due.append(target)
            elif known is not None:
                waits.append(seconds_until_due(known, now))
        if outside:
            await self._keep(rollout, outside)
        if due and await self._has_package(rollout):
            # The rest has its turn in the next pass: a wish for an enumeration does not wait for a whole estate.
            await self._work(rollout, await self._look_again(due[:HOSTS_IN_A_PASS], record))
        elif not due:
            self._quiet[rollout.id] = _Quiet(
                rollout, sources, self._tools.clock.monotonic() + min(waits, default=float("inf"))
            )

    async def _look_again(self, due: list[Target], record: RolloutRecord) -> list[tuple[Target, str]]:
        """The targets as they are now, each with the circumstances in which it is due.

        What the last enumeration found may be hours old: a host that has waited is knocked at, and its name looked
        up, before it is refused for that again. All together, at one polite pace.
        """
        asleep = [target for target in due if target.reachable is not True and target.key in record.hosts]
        found = {target.key: target for target in await self._tools.reach(asleep)}
        # Taken before the work: a credential that changes meanwhile makes the host due again.
        return [(found.get(target.key, target), self._circumstances(target)) for target in due]

    async def _record_of(self, rollout: Rollout) -> RolloutRecord:
        known = self._records.get(rollout.id)
        if known is None or known.generation != rollout.generation:
            known = await asyncio.to_thread(self._tools.state.load_rollout, rollout.id, rollout.generation)
            self._records[rollout.id] = known
        return known

    async def _has_package(self, rollout: Rollout) -> bool:
        if rollout.action != "install":
            return True
        waiting = self._packages.setdefault(rollout.package.sha256, self._tools.backoff(5.0, 300.0))
        if not waiting.due():
            return False
        try:
            await self._tools.packages.fetch(rollout.package)
        except MspError as error:
            waiting.failed()
            self.problems["package"] = error.code
            logger.warning("the package %s is not to be had: %s", rollout.package.name, error)
            return False
        waiting.succeeded()
        self.problems.pop("package", None)
        return True

    def _circumstances(self, target: Target) -> str:
        holdings = self._tools.checkin.holdings
        credential = holdings.credential(target.credential_id) if target.credential_id else None
        key = credential.ledger_key if credential else None
        return circumstances(target, key, holdings.policy, self._tools.pins())

    def _is_wanted(self, rollout: Rollout) -> bool:
        """True while Central still wishes this very rollout."""
        return any(
            entry.id == rollout.id and entry.generation == rollout.generation and entry.state == "active"
            for entry in self._tools.checkin.holdings.rollouts
        )

    def _wanted(self, rollout: Rollout, due: Iterable[tuple[Target, str]]) -> Iterator[tuple[Target, str]]:
        """The targets one by one, until the rollout is paused, cancelled or raised."""
        for entry in due:
            if not self._is_wanted(rollout):
                logger.info("the rollout %s is not wanted any more: no further host is begun", rollout.id)
                return
            yield entry

    async def _work(self, rollout: Rollout, due: list[tuple[Target, str]]) -> None:
        deployer = self._tools.deployer(rollout.package, _file_once(self._tools.packages.path(rollout.package)))
        pending = self._wanted(rollout, due)
        done: asyncio.Queue[_Tried | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for target, tried_in in pending:
                    await done.put(_Tried(target, await self._one_host(deployer, rollout, target), tried_in))
            finally:
                done.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(min(HOSTS_AT_ONCE, len(due)))]
        try:
            await self._collect(rollout, done, len(workers))
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _one_host(self, deployer: AgentDeployer, rollout: Rollout, target: Target) -> Outcome:
        plan = await deployer.plan([target], action=rollout.action)
        # The same id after a crash finds again what was staged on the host.
        async with aclosing(deployer.apply(plan, run_id=_run_id(rollout))) as outcomes:
            return await anext(outcomes)

    async def _collect(self, rollout: Rollout, done: asyncio.Queue[_Tried | None], running: int) -> None:
        batch: list[_Tried] = []
        keep_at, took_s = time.monotonic() + REPORT_EVERY_S, 0.0
        while running:
            result = await done.get()
            if result is None:
                running -= 1
            else:
                batch.append(result)
            # Writing the record of a big rollout takes its time: never more than a tenth of all.
            full = len(batch) >= REPORT_EVERY_COUNT and time.monotonic() >= keep_at - REPORT_EVERY_S + 10 * took_s
            if batch and (full or not running or time.monotonic() >= keep_at + 10 * took_s):
                begun = time.monotonic()
                await self._keep(rollout, batch)
                batch, took_s = [], time.monotonic() - begun
                keep_at = time.monotonic() + REPORT_EVERY_S

    async def _keep(self, rollout: Rollout, entries: list[_Tried]) -> None:
        record = await self._record_of(rollout)
        now = self._tools.clock.now()
        hosts: dict[str, HostRecord] = dict(record.hosts)
        news: list[Outcome] = []
        for tried in entries:
            before = hosts.get(tried.target.key)
            outcome = tried.outcome
            counted = evolve(outcome, attempts=before.outcome.attempts + 1 if before else 1)
            if before is not None and is_same_outcome(before.outcome, outcome):
                # A host that is still asleep is no news, and not an attempt either.
                counted = before.outcome
            else:
                news.append(counted)
            hosts[tried.target.key] = HostRecord(counted, now, tried.circumstances)
        # Reported first: a crash in between reports twice, which is harmless, and never not at all.
        for begin in range(0, len(news), MOST_IN_A_REPORT):
            part = tuple(news[begin : begin + MOST_IN_A_REPORT])
            await self._tools.report(DeploymentReport(report_id(), part, rollout.id, rollout.generation))
        changed = evolve(record, hosts=hosts)
        await asyncio.to_thread(self._tools.state.save, f"rollout-{rollout.id}", changed)
        self._records[rollout.id] = changed


def _asks_for_more(rollout: Rollout) -> bool:
    return rollout.window is not None or rollout.waves != (Wave(),)


def _run_id(rollout: Rollout) -> str:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in rollout.id)
    return f"{letters[:50]}-{rollout.generation}"


def _left_out(target: Target, reason: str) -> Outcome:
    return Outcome(
        hostname=target.hostname,
        object_guid=target.object_guid,
        success=False,
        state="skipped",
        action="skip",
        step="plan",
        error=OutcomeError(reason, "the rollout does not cover it.", remedy_of(reason)),
    )


def _file_once(path: Path) -> Callable[[], bytes]:
    """Gives the package's file; it is read once for all hosts, and only if one needs it."""
    content: list[bytes] = []

    def read() -> bytes:
        if not content:
            content.append(path.read_bytes())
        return content[0]

    return read
