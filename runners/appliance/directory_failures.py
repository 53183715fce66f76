"""Why the directory of a domain is not read: each reason is reported once, and the final one outlives a restart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msp_sdk.enumeration import ControllerFailure
from msp_sdk.errors import MspError
from msp_sdk.models.computer import EnumerationFailure, EnumerationReport, FailedController
from msp_sdk.models.domain import Domain
from msp_sdk.models.reason import remedy_of
from runners.appliance.state import UnreadDomain
from runners.appliance.wiring import Tools, report_id

logger = logging.getLogger(__name__)

# A controller may give many reasons; a report names so many of them.
MOST_FAILURES = 50


class DirectoryFailures:
    """Reports why a directory is not read, and remembers which wish that has answered.

    Args:
        tools: What it works with.
        domain_name: Folded.
    """

    def __init__(self, tools: Tools, domain_name: str) -> None:
        self._tools = tools
        self._file = f"unread-{domain_name}"
        self._final = tools.state.load(self._file, UnreadDomain)
        self._reported_code: str | None = None

    @property
    def is_final(self) -> bool:
        """True while the last wish was answered with why there is no reading."""
        return self._final is not None

    @property
    def generation(self) -> int:
        """Of the wish that was answered so; 0 when none was."""
        return self._final.generation if self._final else 0

    @property
    def code(self) -> str:
        """Why; empty when it is not so."""
        return self._final.code if self._final else ""

    @property
    def refused(self) -> tuple[str, ...]:
        """The accounts, by ledger key, that were refused; empty when it was not for them."""
        return self._final.refused if self._final else ()

    def forget(self) -> None:
        """The directory was read, or is nothing to us any more."""
        self._reported_code = None
        if self._final is not None:
            self._final = None
            self._tools.state.remove(self._file)

    async def for_now(self, error: MspError, domain: Domain, failures: Sequence[ControllerFailure]) -> None:
        """It is still owed."""
        if self._reported_code != error.code:
            await self.report(error, domain, failures)
            self._reported_code = error.code

    async def for_good(
        self,
        error: MspError,
        generation: int,
        domain: Domain,
        failures: Sequence[ControllerFailure],
        *,
        refused: tuple[str, ...] = (),
    ) -> None:
        """It answers the wish; ``refused`` are the accounts, by ledger key, if it was they."""
        final = UnreadDomain(generation, error.code, error.detail, refused)
        if final == self._final:
            return
        logger.error("%s was not read (%s): %s", domain.name, error.code, error.detail)
        await self.report(error, domain, failures, generation)
        self._final = final
        self._tools.state.save(self._file, final)

    async def report(
        self, error: MspError, domain: Domain, failures: Sequence[ControllerFailure], generation: int | None = None
    ) -> None:
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
                for entry in failures[-MOST_FAILURES:]
            ),
            site_scope=self._tools.checkin.holdings.scope,
        )
        await self._tools.report(EnumerationReport(report_id(), failed=failure))
