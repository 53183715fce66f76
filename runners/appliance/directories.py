"""The directories of a site: each domain that somebody gave a credential for is read from its own controllers, in turn.

A wish is answered when each of them has been read, or cannot be. One bound connection to each is kept between passes.
It rests on the domain, the account, the policy and the scope; when one of these is another one, or withdrawn, it is
closed at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from msp_sdk.checkin import enumeration_matter
from msp_sdk.models.computer import Computer, EnumerationFailure, EnumerationReport
from msp_sdk.models.domain import Domain
from msp_sdk.models.generation import ENUMERATION, owed
from msp_sdk.models.reason import remedy_of
from runners.appliance.directory_watch import DirectoryWatch
from runners.appliance.domain_watch import DomainWatch
from runners.appliance.kept_enumeration import KeptEnumeration, kept_domains
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)
NO_DOMAIN = "no-domain"


class Directories:
    """What the directories hold, as they were last read; one step at a time."""

    def __init__(self, tools: Tools, domains: DomainWatch) -> None:
        self._tools = tools
        self._domains = domains
        self._watches: dict[str, DirectoryWatch] = {}
        self._is_loaded = False
        self._own_problems: dict[str, str] = {}
        self._busy = asyncio.Lock()
        self._step: asyncio.Task[None] | None = None

    # What is known.

    @property
    def kept(self) -> tuple[KeptEnumeration, ...]:
        """The last good result of each domain, by name; empty before the first one."""
        return tuple(watch.kept for _, watch in sorted(self._watches.items()) if watch.kept is not None)

    @property
    def computers(self) -> tuple[Computer, ...]:
        """The computers of all of them; the same object while nothing has changed, where there is one domain."""
        watches = [watch for _, watch in sorted(self._watches.items()) if watch.kept is not None]
        if len(watches) == 1:
            return watches[0].computers
        return tuple(computer for watch in watches for computer in watch.computers)

    @property
    def left_out(self) -> frozenset[str]:
        """Computers, by objectGUID, that were there once and that the site's scope leaves out."""
        return frozenset(guid for watch in self._watches.values() for guid in watch.left_out)

    @property
    def newcomers(self) -> set[str]:
        """Computers, by objectGUID, whose address DNS may not know yet."""
        return {guid for watch in self._watches.values() for guid in watch.newcomers}

    @property
    def problems(self) -> dict[str, str]:
        """What does not work now, as codes; of a domain that is not the first, under its name."""
        first = self._domains.domain
        found = dict(self._own_problems)
        for name, watch in self._watches.items():
            is_first = first is not None and name == first.name.casefold()
            found |= {what if is_first else f"{what}:{name}": code for what, code in watch.problems.items()}
        return found

    @property
    def facts(self) -> dict[str, object]:
        """Which doors were passed over and why, and which one took us; empty when the first one did."""
        for name in self._watches:
            reader = self._tools.directory.reader(name)
            if reader is not None and reader.skipped_doors:
                skipped = [
                    {"controller": door.controller, "door": door.door, "code": door.code}
                    for door in reader.skipped_doors
                ]
                return {"source": reader.source, "skipped_doors": skipped}
        return {}

    # Steps of a pass.

    async def enumerate(self) -> None:
        """Read in full what is owed. It ends with a report, also where it fails for good."""
        await self._work(self._enumerate)

    async def follow(self) -> None:
        """Ask each domain what has changed, once after each check-in."""
        await self._work(self._follow)

    async def let_go(self) -> None:
        """Close the connections whose basis was withdrawn; a step that works on one is broken off."""
        holdings = self._tools.checkin.holdings
        if self._step is not None and self._tools.directory.baseless(self._domains.held, holdings):
            self._step.cancel()
        async with self._busy:
            await self._let_go_of_what_is_not_ours()

    async def _work(self, step: Callable[[], Coroutine[None, None, None]]) -> None:
        """Take a step. One that was broken off loses nothing: what it did not keep is still owed."""
        async with self._busy:
            await self._let_go_of_what_is_not_ours()
            self._step = asyncio.create_task(step())
            try:
                await self._step
            except asyncio.CancelledError:
                us = asyncio.current_task()
                if us is None or us.cancelling():
                    raise
                logger.warning("what the directory was read with has been withdrawn: the step was broken off")
            finally:
                self._step = None
            # It may have been withdrawn at the very end.
            await self._let_go_of_what_is_not_ours()

    async def _let_go_of_what_is_not_ours(self) -> None:
        await self._tools.directory.let_go(self._domains.held, self._tools.checkin.holdings)

    async def _enumerate(self) -> None:
        tools = self._tools
        if tools.checkin.holdings.credentials is None:
            return
        await self._load()
        self._own_problems.clear()
        generation = tools.checkin.holdings.wished.get(ENUMERATION, 0)
        is_wished = bool(ENUMERATION in owed(tools.checkin.holdings.wished, tools.completed.completed))
        if is_wished and self._domains.has_settled_for_none:
            # A domain that appears later is read then, although this wish has been answered.
            await self._say_no_domain(generation)
            tools.completed.complete(ENUMERATION, generation)
            return
        watches = []
        if self._domains.found:
            await tools.checkin.clear_refused(enumeration_matter(""))
        for domain in self._domains.held:
            watches.append(await self._watch(domain))
            await watches[-1].read_if_owed(domain)
        if is_wished and watches and all(watch.has_answered(generation) for watch in watches):
            tools.completed.complete(ENUMERATION, generation)
        await self._forget_what_nothing_names()

    async def _follow(self) -> None:
        for domain in self._domains.held:
            await (await self._watch(domain)).follow(domain)

    async def _load(self) -> None:
        if not self._is_loaded:
            for name in kept_domains(self._tools.state):
                await self._named(name)
            self._is_loaded = True

    async def _watch(self, domain: Domain) -> DirectoryWatch:
        await self._load()
        return await self._named(domain.name.casefold())

    async def _named(self, name: str) -> DirectoryWatch:
        watch = self._watches.get(name)
        if watch is None:
            watch = DirectoryWatch(self._tools, self._domains, name)
            await watch.load()
            self._watches[name] = watch
        return watch

    async def _forget_what_nothing_names(self) -> None:
        """What another domain held stays until the one that took its place has been read."""
        held = {domain.name.casefold() for domain in self._domains.held}
        named = held | {domain.name.casefold() for domain in self._domains.found}
        if any(watch.kept for name, watch in self._watches.items() if name in held):
            for name in [name for name in self._watches if name not in named]:
                logger.warning("nothing speaks of %s any more: what it held is forgotten", name)
                await self._watches.pop(name).forget()

    async def _say_no_domain(self, generation: int) -> None:
        # Where the network could not be asked, that is the reason: nobody knows whether there is one.
        code = self._domains.problems.get("discovery", NO_DOMAIN)
        self._own_problems["enumeration"] = code
        detail = "discovery found no domain to read."
        logger.error("the directory was not read (%s): %s", code, detail)
        failure = EnumerationFailure(code, detail, remedy_of(code), generation=generation)
        await self._tools.report(EnumerationReport(report_id(), failed=failure))
