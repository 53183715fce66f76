"""What tests of the appliance do in more than one file: a pass, a look, a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools


async def turn(lab: Any, tools: Tools, survey: Survey, after_s: float = 60) -> None:
    """A check-in, a pass, and what waits is sent."""
    lab.time.at_s += after_s
    await lab.beat(tools)
    await survey.domains.discover()
    await survey.directory.enumerate()
    await survey.directory.follow()
    await survey.merge_targets()
    await tools.checkin.flush()


async def look(survey: Survey) -> None:
    """A pass without a check-in."""
    await survey.domains.discover()
    await survey.directory.enumerate()
    await survey.merge_targets()


def binds(lab: Any) -> list[str]:
    """How each logon of the service account ended, in order."""
    return [outcome for _, outcome in lab.estate.credential.attempts]


async def until(condition: Callable[[], object], longest_s: float = 15.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(longest_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)
