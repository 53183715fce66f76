"""One pass of the appliance's work: find, read, merge, deploy, scan; each step only if it is owed or due."""

from __future__ import annotations

import logging

from msp_sdk.errors import MspError, NotEnrolledError
from runners.appliance.fleet import Fleet
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools

logger = logging.getLogger(__name__)


class Cycle:
    """The appliance's work, one pass at a time.

    A step that fails is a problem of that step: it is said at the next check-in, and the others go on.
    """

    def __init__(self, tools: Tools) -> None:
        self._survey = Survey(tools)
        self._fleet = Fleet(tools)

    @property
    def problems(self) -> dict[str, str]:
        """What does not work now, by step, as reason or error codes."""
        return {**self._survey.problems, **self._fleet.problems}

    async def run(self) -> None:
        """Make one pass.

        Raises:
            NotEnrolledError: The key is no longer good; there is nothing to work for.
        """
        for step in (
            self._survey.discover,
            self._survey.enumerate,
            self._survey.merge_targets,
            self._deploy,
            self._scan,
        ):
            try:
                await step()
            except NotEnrolledError:
                raise
            except MspError as error:
                name = step.__name__.strip("_")
                if self._fleet.problems.get(name) != error.code:
                    logger.error("%s failed (%s): %s", name, error.code, error)  # noqa: TRY400 (no trace for what we know)
                self._fleet.problems[name] = error.code
            else:
                self._fleet.problems.pop(step.__name__.strip("_"), None)

    async def _deploy(self) -> None:
        if self._survey.merge is not None:
            await self._fleet.roll_out(self._survey.merge)

    async def _scan(self) -> None:
        await self._fleet.scan(self._survey.merge)
