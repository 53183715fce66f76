"""The own subnets, where a person asked for a look at them: once a day, and at once in another network.

What was seen is compared with what the directories hold each time that is another thing: nothing is said to be in no
directory before all of it has been read.
"""

from __future__ import annotations

from msp_sdk.discovery.sweep import judge_swept
from msp_sdk.models.computer import Computer, EnumerationScope
from msp_sdk.models.domain import SweptHost
from runners.appliance.directories import Directories
from runners.appliance.domain_watch import DomainWatch
from runners.appliance.wiring import Tools

SWEEP_AGAIN_S = 24 * 3600.0


class SweepWatch:
    """The last look at the own subnets."""

    def __init__(self, tools: Tools, domains: DomainWatch, directory: Directories) -> None:
        self._tools = tools
        self._domains = domains
        self._directory = directory
        self._hosts: tuple[SweptHost, ...] = ()
        self._judged_from: object = None
        self._due_at_s = float("-inf")
        self._network = 0

    async def sweep(self) -> None:
        """Look when it is time to, and tell what is in no directory.

        Raises:
            DiscoveryError: Our own side could not knock at any door; the last result stays.
        """
        look = self._tools.sweep
        if look is None or not self._domains.has_looked:
            return
        now, network = self._tools.clock.monotonic(), self._domains.network_changes
        if now >= self._due_at_s or network != self._network:
            self._hosts = (await look()).hosts
            self._due_at_s, self._network = now + SWEEP_AGAIN_S, network
        sources = (self._hosts, self._domains.found, self._computers())
        if sources != self._judged_from:
            await self._domains.tell_swept(judge_swept(*sources))
            self._judged_from = sources

    def _computers(self) -> tuple[Computer, ...] | None:
        """What the found domains hold; None while one of them has not been read in full, with all of its units."""
        whole = (kept.enumeration for kept in self._directory.kept if kept.enumeration.scope == EnumerationScope())
        read = {enumeration.domain_name.casefold() for enumeration in whole}
        if any(domain.name.casefold() not in read for domain in self._domains.found):
            return None
        return self._directory.computers
