"""What is done to hosts: rollouts and scans, each host on its own, remembered so that nothing is done twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import aclosing
from datetime import UTC, datetime

from attrs import evolve

from msp_sdk.errors import MspError
from msp_sdk.models.compliance import CheckResult, ScanReport
from msp_sdk.models.generation import ENUMERATION, SCAN, owed
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.rollout import DeploymentReport, Outcome, OutcomeError, Rollout, why_out_of_scope
from msp_sdk.models.target import MergeResult, Target
from runners.appliance.backoff import Backoff
from runners.appliance.state import HostRecord, RolloutRecord
from runners.appliance.survey import report_id
from runners.appliance.wiring import Tools

logger = logging.getLogger(__name__)

# A host that was off is looked for again after this long, a package that was not to be had after that.
WAITING_AGAIN_S = 300.0
REPORT_EVERY_S = 1.0
REPORT_EVERY_COUNT = 50


class Fleet:
    """The hosts, and what the appliance does to them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._packages = Backoff(5.0, 300.0)
        self.problems: dict[str, str] = {}

    async def roll_out(self, merge: MergeResult) -> None:
        """Bring every active rollout one step further."""
        for rollout in self._tools.checkin.holdings.rollouts:
            if rollout.state == "active":
                await self._one_rollout(rollout, merge)

    async def _one_rollout(self, rollout: Rollout, merge: MergeResult) -> None:
        tools = self._tools
        record = tools.state.load_rollout(rollout.id, rollout.generation)
        now = datetime.now(UTC)
        due, outside = [], []
        for target in merge.targets:
            reason = why_out_of_scope(rollout.scope, target)
            if reason is not None:
                if target.key not in record.hosts:
                    outside.append((target, _left_out(target, reason)))
            elif self._is_due(target, record.hosts.get(target.key), now):
                due.append(target)
        if outside:
            record = await self._keep(rollout, record, outside)
        if not due or not self._packages.due():
            return
        if rollout.action == "install":
            try:
                await tools.packages.fetch(rollout.package)
            except MspError as error:
                self._packages.failed()
                self.problems["package"] = error.code
                logger.warning("the package %s is not to be had: %s", rollout.package.name, error)
                return
            self._packages.succeeded()
            self.problems.pop("package", None)
        await self._work(rollout, record, due)

    def _is_due(self, target: Target, record: HostRecord | None, now: datetime) -> bool:
        if record is None:
            return True
        if record.outcome.state == "done":
            return False
        if record.credential != self._credential_key(target):
            return True
        return record.outcome.state == "waiting" and (now - record.at).total_seconds() >= WAITING_AGAIN_S

    def _credential_key(self, target: Target) -> str | None:
        if target.credential_id is None:
            return None
        credential = self._tools.checkin.holdings.credential(target.credential_id)
        return credential.ledger_key if credential else None

    async def _work(self, rollout: Rollout, record: RolloutRecord, due: list[Target]) -> None:
        by_key = {target.key: target for target in due}
        by_name = {target.hostname: target for target in due}
        deployer = self._tools.deployer(rollout.package)
        plan = await deployer.plan(due, action=rollout.action)
        batch: list[tuple[Target, Outcome]] = []
        flushed_at = time.monotonic()
        # The same id after a crash finds again what was staged on the hosts.
        async with aclosing(deployer.apply(plan, run_id=_run_id(rollout))) as outcomes:
            async for outcome in outcomes:
                target = by_key.get(outcome.object_guid or "") or by_name[outcome.hostname]
                before = record.hosts.get(target.key)
                attempts = before.outcome.attempts + 1 if before else 1
                batch.append((target, evolve(outcome, attempts=attempts)))
                if len(batch) >= REPORT_EVERY_COUNT or time.monotonic() - flushed_at >= REPORT_EVERY_S:
                    record = await self._keep(rollout, record, batch)
                    batch, flushed_at = [], time.monotonic()
        if batch:
            await self._keep(rollout, record, batch)

    async def _keep(
        self, rollout: Rollout, record: RolloutRecord, batch: Iterable[tuple[Target, Outcome]]
    ) -> RolloutRecord:
        entries = list(batch)
        now = datetime.now(UTC)
        hosts = {
            **record.hosts,
            **{target.key: HostRecord(outcome, now, self._credential_key(target)) for target, outcome in entries},
        }
        report = DeploymentReport(
            report_id(),
            tuple(outcome for _, outcome in entries),
            rollout_id=rollout.id,
            generation=rollout.generation,
        )
        # Reported first: a crash in between reports twice, which is harmless, and never not at all.
        await self._tools.checkin.report(report)
        changed = evolve(record, hosts=hosts)
        self._tools.state.save(f"rollout-{rollout.id}", changed)
        return changed

    async def scan(self, merge: MergeResult | None) -> None:
        """Scan the reachable targets if that is owed; it waits until an enumeration that is owed has ended."""
        tools = self._tools
        wished = tools.checkin.holdings.wished
        still_owed = owed(wished, tools.completed.completed)
        if SCAN not in still_owed or ENUMERATION in still_owed:
            return
        results: list[CheckResult] = []
        targets = [target for target in merge.targets if target.reachable is not False] if merge else []
        async for result in tools.scanner().scan(targets):
            results.append(result)  # noqa: PERF401 (an asynchronous comprehension hides the interruption point)
        await tools.checkin.report(ScanReport(report_id(), tuple(results), generation=wished[SCAN]))
        tools.completed.complete(SCAN, wished[SCAN])
        logger.info("scanned %d hosts", len(targets))


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
