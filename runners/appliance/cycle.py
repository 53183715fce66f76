"""One pass of the appliance's work: find, read, follow, merge, deploy, scan; each step only if it is owed or due."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from msp_sdk.errors import MspError, NotEnrolledError
from runners.appliance.domain_watch import FIRST_WAIT_S, LONGEST_WAIT_S
from runners.appliance.fleet import Fleet
from runners.appliance.scans import Scans
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools

logger = logging.getLogger(__name__)


class Cycle:
    """The appliance's work, one pass at a time.

    A step that fails is a problem of that step: it is said at the next check-in, tried again with back-off, and the
    others go on. That holds for our own mistakes too; they are logged with their trace and said as ``internal``.
    """

    def __init__(self, tools: Tools) -> None:
        self._survey = Survey(tools)
        self._fleet = Fleet(tools)
        self._scans = Scans(tools)
        self._steps: Mapping[str, Callable[[], Awaitable[None]]] = {
            "let-go": self._survey.directory.let_go,
            "discover": self._survey.domains.discover,
            "enumerate": self._survey.directory.enumerate,
            "sweep": self._survey.subnets.sweep,
            "follow": self._survey.directory.follow,
            "merge-targets": self._survey.merge_targets,
            "deploy": self._deploy,
            "scan": self._scan,
        }
        self._waiting = {name: tools.backoff(FIRST_WAIT_S, LONGEST_WAIT_S) for name in self._steps}
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> dict[str, str]:
        """What does not work now, by step, as reason or error codes."""
        return {**self._survey.problems, **self._fleet.problems, **self._problems}

    @property
    def directory_facts(self) -> dict[str, object]:
        """How the directory is read now."""
        return self._survey.directory.facts

    async def run(self) -> None:
        """Make one pass.

        Raises:
            NotEnrolledError: The key is no longer good; there is nothing to work for.
        """
        for name in self._steps:
            await self._step(name)

    async def watch_directory(self) -> None:
        """After a check-in, beside a pass that may be busy with hosts for an hour: who has joined is listed now.

        What rests on something that Central has withdrawn is closed first.
        """
        with contextlib.suppress(NotEnrolledError):  # the heartbeat says so
            await self._step("let-go")
            await self._step("follow")

    async def _step(self, name: str) -> None:
        if not self._waiting[name].due():
            return
        try:
            await self._steps[name]()
        except NotEnrolledError:
            raise
        except MspError as error:
            self._failed(name, error.code)
            if self._waiting[name].failures == 1:
                logger.error("%s failed (%s): %s", name, error.code, error)  # noqa: TRY400 (we know why)
        except Exception:
            # One bad value from a stranger must not end the appliance: the next step, the next pass go on.
            self._failed(name, "internal")
            logger.exception("%s failed unforeseen", name)
        else:
            self._waiting[name].succeeded()
            self._problems.pop(name, None)

    def _failed(self, name: str, code: str) -> None:
        self._waiting[name].failed()
        self._problems[name] = code

    async def _deploy(self) -> None:
        if self._survey.merge is not None:
            await self._fleet.roll_out(self._survey.merge)

    async def _scan(self) -> None:
        await self._scans.scan(self._survey.merge)
