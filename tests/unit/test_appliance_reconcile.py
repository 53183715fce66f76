"""When the directory is read in full again although its changes are followed; a scripted directory, a real Central."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from msp_sdk.errors import DirectoryError

DOMAIN = "northvalley.test"


def test_a_directory_that_loses_every_cursor_is_read_ever_more_seldom_and_that_is_said(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        directory = watched.directory
        directory.changes_failure = DirectoryError("nobody knows it.", code="cursor-lost")
        await watched.turn()
        assert directory.asked.count("full") == 2, "the first loss is made good at once"
        assert watched.survey.problems == {}
        for _ in range(60):
            await watched.turn()
        assert 3 <= directory.asked.count("full") <= 6
        assert watched.survey.problems == {"directory-changes": "cursor-lost"}
        assert len(directory.binds) == 1
        directory.changes_failure = None
        directory.put(scripted.fresh("PC7"))
        await watched.turn(3600)
        await watched.turn()
        assert watched.survey.problems == {}
        assert await watched.names() == ["PC7", "SRV1", "SRV2"]

    scripted.watching(work)


def test_a_directory_that_cannot_tell_what_changes_is_read_every_hour_and_that_is_said(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            directory = scripted.directory("SRV1")
            directory.has_cursor = False
            watched = scripted.watched(lab, tools, directory)
            await watched.turn()
            assert watched.survey.problems == {}
            directory.put(scripted.fresh("PC7"))
            await watched.turn(1800)
            assert directory.asked == ["full"]
            assert watched.survey.problems == {"directory-changes": "no-cursor"}
            await watched.turn(2400)
            assert directory.asked == ["full", "full"]
            assert await watched.names() == ["PC7", "SRV1"]
            directory.has_cursor = True
            await watched.turn(4200)
            await watched.turn()
            assert directory.asked[-1] == directory.cursor
            assert watched.survey.problems == {}

    asyncio.run(run())


@pytest.mark.parametrize(("complete", "hours"), [(True, 24), (False, 6)])
def test_a_full_reading_reconciles_on_its_own_clock(
    scripted: Any,
    *,
    complete: bool,
    hours: int,
) -> None:
    """Daily; more often for an account that does not see what was deleted."""

    async def work(watched: Any) -> None:
        directory = watched.directory
        directory.complete = complete
        await watched.turn()
        del directory.computers["SRV2"]  # nobody tells
        await watched.turn(hours * 3600 * 0.9)
        assert directory.asked.count("full") == 1
        await watched.turn(hours * 3600 * 0.2)
        assert directory.asked.count("full") == 2
        assert await watched.names() == ["SRV1"]
        await watched.turn()
        assert directory.asked.count("full") == 2
        assert len(directory.binds) == 1

    scripted.watching(work)


def test_what_a_controller_that_may_be_behind_has_told_is_reconciled_soon_also_after_a_restart(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 53: a cookie goes on elsewhere, but what it brings may be older than what is known."""

    async def run() -> None:
        directory = scripted.directory("SRV1", "SRV2")
        async with open_lab() as lab:
            await lab.give_credential()
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn()
                directory.at_another_controller = True
                directory.put(scripted.fresh("PC7"))
                await watched.turn()
                directory.at_another_controller = False
                del directory.computers["SRV2"]  # nobody tells
                await watched.turn(300)
                assert directory.asked == ["full", "c0", "c1"]
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn(1000)
                assert directory.asked.count("full") == 2
                assert await watched.names() == ["PC7", "SRV1"]
                await watched.turn(1000)
                assert directory.asked.count("full") == 2

    asyncio.run(run())


def test_who_has_gone_is_told_until_all_has_been_read_again(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        def gone() -> list[tuple[str, str]]:
            return [(entry.hostname, entry.reason) for entry in watched.survey.merge.skipped]

        watched.directory.delete("SRV2")
        for _ in range(2):
            await watched.turn()
            assert gone() == [("SRV2", "not-in-directory")]
        for _ in range(2):
            await watched.turn(25 * 3600)
            assert gone() == []

    scripted.watching(work)
