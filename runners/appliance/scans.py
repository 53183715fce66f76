"""Scans: all reachable targets when that is wished, and the first scan of each that appears in between."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msp_sdk.models.compliance import CheckResult, ScanReport
from msp_sdk.models.generation import ENUMERATION, SCAN, owed
from msp_sdk.models.target import MergeResult, Target
from runners.appliance.state import ScannedHosts
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

# A report of this many results stays far below the contract's 1 MiB.
MOST_IN_A_REPORT = 500


class Scans:
    """The scans of the site's hosts."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._scanned = dict((tools.state.load("scanned", ScannedHosts) or ScannedHosts()).hosts)

    async def scan(self, merge: MergeResult | None) -> None:
        """Scan what is owed; it waits until an enumeration that is owed has ended."""
        tools = self._tools
        wished = tools.checkin.holdings.wished
        still_owed = owed(wished, tools.completed.completed)
        if ENUMERATION in still_owed or tools.checkin.holdings.credentials is None:
            return
        reachable = [target for target in merge.targets if target.reachable is not False] if merge else []
        if SCAN in still_owed:
            generation = wished[SCAN]
            # All of it is said anew.
            await tools.checkin.clear_refused("scan")
            await self._scan(reachable, generation)
            tools.completed.complete(SCAN, generation)
            return
        # The first scan of each reachable target is owed by itself: one that was named or woke up later would never
        # have it, and the site would never be complete. Another credential may see more than the last one.
        missing = [target for target in reachable if self._scanned.get(target.key) != self._credential_key(target)]
        if missing:
            await self._scan(missing, None)

    async def _scan(self, targets: Sequence[Target], generation: int | None) -> None:
        tools = self._tools
        keys = {target.key: self._credential_key(target) for target in targets}
        batch: list[CheckResult] = []
        async for result in tools.scanner().scan(targets):
            batch.append(result)
            if len(batch) >= MOST_IN_A_REPORT:
                await tools.report(ScanReport(report_id(), tuple(batch)))
                batch = []
        # The generation comes with the last part: what is acknowledged is whole.
        if batch or generation is not None:
            await tools.report(ScanReport(report_id(), tuple(batch), generation=generation))
        self._scanned |= keys
        tools.state.save("scanned", ScannedHosts(self._scanned))
        logger.info("scanned %d hosts", len(targets))

    def _credential_key(self, target: Target) -> str:
        credential_id = target.credential_id
        credential = self._tools.checkin.holdings.credential(credential_id) if credential_id else None
        return credential.ledger_key if credential else ""
