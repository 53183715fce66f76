"""What is there: the domain, its computers, and the targets that come of them and of what people set.

Each step keeps its last good result, reports what it found, and leaves what failed for a moment to the next pass.
A pass over an unchanged world asks nobody but the directory, and sends nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Container, Sequence

from attrs import evolve, frozen

from msp_sdk.enumeration import Locality
from msp_sdk.enumeration.locality import OUT_OF_SCOPE
from msp_sdk.models.computer import Computer
from msp_sdk.models.domain import Domain
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.models.target import MergeResult, Target, TargetsReport
from msp_sdk.wire.converter import dumps
from runners.appliance.directories import Directories
from runners.appliance.domain_watch import DomainWatch
from runners.appliance.kept_enumeration import KeptEnumeration
from runners.appliance.locating import leave_out
from runners.appliance.state import ReportedTargets
from runners.appliance.sweep_watch import SweepWatch
from runners.appliance.wiring import Tools, report_id

# A host that only people named is knocked at again: when it was out of reach, and when our own side had trouble.
# So is a computer that has just joined: its address may come minutes after its name.
KNOCK_AGAIN_S = 300.0
ASK_AGAIN_S = 30.0


@frozen
class _Elsewhere:
    """From what it follows that a target lies outside the site; with anything else it has to be found out anew."""

    computer: Computer
    locality: Locality


class Survey:
    """The site as the appliance sees it: its domain, computers and targets."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.domains = DomainWatch(tools)
        self.directory = Directories(tools, self.domains)
        self.subnets = SweepWatch(tools, self.domains, self.directory)
        self.merge: MergeResult | None = None
        self._merged_from: object = None
        self._read_at: object = None
        self._knock_at: dict[str, float] = {}
        # Targets whose address, when it was looked up again, lay outside the site.
        self._elsewhere: dict[str, _Elsewhere] = {}

    @property
    def domain(self) -> Domain | None:
        """The believed domain."""
        return self.domains.domain

    @property
    def kept(self) -> KeptEnumeration | None:
        """The last good reading of the directory that was read last, with what has changed since."""
        return max(self.directory.kept, key=lambda kept: kept.enumeration.enumerated_at, default=None)

    @property
    def problems(self) -> dict[str, str]:
        """What does not work now, as codes."""
        return {**self.domains.problems, **self.directory.problems}

    async def merge_targets(self) -> None:
        """Merge all sources when one has changed, and report the list when it is another one than the last."""
        tools = self._tools
        holdings = tools.checkin.holdings
        if holdings.credentials is None:
            return
        if not self.directory.kept and not self._walks_alone():
            return
        kept = self.directory.kept
        computers = self.directory.computers if kept else None
        generation = self._generation()
        sources = (computers, generation, holdings.manual_targets, holdings.credentials, holdings.policy)
        if sources == self._merged_from and not self._to_knock_at(self.merge):
            return
        merged = await asyncio.to_thread(
            tools.merger(holdings.policy).merge,
            manual=holdings.manual_targets,
            credentials=holdings.credentials,
            enumerated=computers,
            previous=self._remembered(),
            left_out=self.directory.left_out,
        )
        self._knock_soon_at_newcomers(merged)
        self._call_back(merged, computers or ())
        self.merge = await self._knock(merged, computers or ())
        await self._report_targets(self.merge)
        self._merged_from = sources

    def _remembered(self) -> MergeResult | None:
        """The last list, without those who had gone before the last full reading: that has been told."""
        read_at = tuple(kept.full_at for kept in self.directory.kept)
        if self.merge is None or read_at == self._read_at:
            return self.merge
        self._read_at = read_at
        return evolve(
            self.merge, skipped=tuple(entry for entry in self.merge.skipped if entry.reason != "not-in-directory")
        )

    def _call_back(self, merged: MergeResult, computers: Sequence[Computer]) -> None:
        """Whoever was elsewhere is looked for again when the directory, or the site's scope, says something new."""
        if self._elsewhere:
            known = self._standing(merged, computers, self._elsewhere)
            for key in [key for key, found in self._elsewhere.items() if known.get(key) != found]:
                del self._elsewhere[key]
                self._knock_at[key] = 0.0

    def _standing(
        self, merged: MergeResult, computers: Sequence[Computer], keys: Container[str]
    ) -> dict[str, _Elsewhere]:
        """What decides where these targets, by key, lie for us."""
        wanted = {target.object_guid: target for target in merged.targets if target.key in keys}
        return {
            wanted[computer.object_guid].key: _Elsewhere(computer, self._tools.locality(computer.domain_name))
            for computer in computers
            if computer.object_guid in wanted
        }

    def _knock_soon_at_newcomers(self, merged: MergeResult) -> None:
        soon = self._tools.clock.monotonic() + ASK_AGAIN_S
        for target in merged.targets:
            if target.object_guid in self.directory.newcomers and target.reachable is False:
                self._knock_at.setdefault(target.key, soon)

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

    async def _knock(self, merged: MergeResult, computers: Sequence[Computer]) -> MergeResult:
        unknown = self._to_knock_at(merged)
        probed = {target.key: target for target in await self._tools.reach(unknown)} if unknown else {}
        now = self._tools.clock.monotonic()
        for key, target in probed.items():
            self._knock_at[key] = now + (ASK_AGAIN_S if target.reachable is None else KNOCK_AGAIN_S)
            self._elsewhere.pop(key, None)
        elsewhere = {key for key, target in probed.items() if target.unreachable_reason == OUT_OF_SCOPE}
        if elsewhere:
            self._elsewhere |= self._standing(merged, computers, elsewhere)
        listed = {target.key for target in merged.targets}
        self._knock_at = {key: at for key, at in self._knock_at.items() if key in listed}
        known = evolve(merged, targets=tuple(probed.get(target.key, target) for target in merged.targets))
        return leave_out(known, self._elsewhere)

    async def _report_targets(self, merged: MergeResult) -> None:
        tools = self._tools
        report = TargetsReport("", self._generation(), merged.targets, merged.skipped)
        digest = hashlib.sha256(await asyncio.to_thread(dumps, report)).hexdigest()
        last = tools.state.load("reported-targets", ReportedTargets)
        if last is None or last.digest != digest:
            await tools.report(evolve(report, report_id=report_id()))
            tools.state.save("reported-targets", ReportedTargets(digest))

    def _generation(self) -> int:
        """Of the last wish that a reading, or its failure, has answered."""
        answered = self._tools.completed.completed.get(ENUMERATION, 0)
        return max((kept.generation for kept in self.directory.kept), default=answered)

    def _walks_alone(self) -> bool:
        """Discovery found no directory, or failed too often, and a person named hosts: there is work without one."""
        holdings = self._tools.checkin.holdings
        named = holdings.manual_targets or any(entry.host for entry in holdings.credentials or ())
        return self.domains.has_looked and self.domain is None and bool(named)
