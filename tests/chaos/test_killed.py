"""Real processes, killed at any moment: what comes back finishes, and does nothing twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from runners.cli.demo_world import DemoWorld, WorldSpec, wait_for_phase
from tests.chaos.waiting import OFTEN_S

pytestmark = pytest.mark.slow

WORK = ("discovering", "awaiting_credentials", "enumerating", "deploying", "scanning")


async def assert_true_and_once(world: DemoWorld) -> None:
    assert await world.mistakes() == []
    machines = await world.ask_estate("machines")
    installs = {name: machine["scripts"].get("agent-install", 0) for name, machine in machines.items()}
    agents = {computer["name"] for computer in world.facts["computers"] if computer["truth"] == "agent"}
    assert {name for name, count in installs.items() if count == 1} == agents, installs
    assert all(count <= 1 for count in installs.values()), installs
    accounts = await world.ask_estate("accounts")
    assert [account["bad_password_count"] for account in accounts] == [0]
    assert {outcome for account in accounts for _, outcome in account["attempts"]} == {"ok"}
    assert len(await world.partner.appliances(world.site.site_id)) == 1


def test_daemon_that_is_killed_in_each_phase_comes_back_and_finishes_with_nothing_twice(tmp_path: Path) -> None:
    async def run() -> None:
        killed_in = []
        async with DemoWorld(tmp_path, WorldSpec(computers=20, delay_s=0.15, interval_s=OFTEN_S)) as world:
            await world.claim()
            for index, phase in enumerate(WORK):
                await world.start_appliance()
                killed_in.append(await wait_for_phase(world, *WORK[index:]))
                await world.kill_appliance()
                if phase == "awaiting_credentials":
                    await world.give_credential()
            await world.start_appliance()
            await wait_for_phase(world, "complete", longest_s=90)
            await assert_true_and_once(world)
        assert killed_in == list(WORK)

    asyncio.run(run())


def test_daemon_and_central_that_are_killed_at_random_finish_with_nothing_twice(tmp_path: Path) -> None:
    """Lesson 15: no report is lost, whichever side dies."""
    draw = random.Random(1)  # noqa: S311 (moments, not secrets)

    async def run() -> None:
        async with DemoWorld(tmp_path, WorldSpec(computers=16, delay_s=0.1, interval_s=OFTEN_S)) as world:
            await world.claim()
            await world.start_appliance()
            await wait_for_phase(world, "awaiting_credentials")
            await world.give_credential()
            for _ in range(7):
                await asyncio.sleep(draw.uniform(0.2, 1.2))
                await world.kill_appliance()
                if draw.random() < 0.5:
                    await world.start_central(await world.kill_central())
                await world.start_appliance()
            await wait_for_phase(world, "complete", longest_s=90)
            await assert_true_and_once(world)

    asyncio.run(run())


def test_claim_that_is_killed_half_way_is_finished_by_the_next_start_as_the_same_appliance(tmp_path: Path) -> None:
    """Lesson 1: a claim whose reply was lost burns no code."""

    async def run() -> None:
        async with DemoWorld(tmp_path, WorldSpec(computers=12, interval_s=OFTEN_S)) as world:
            code = await world.new_code()
            for wait_s in (0.3, 0.4, 0.5, 0.6, 0.8):
                await world.start_appliance(MSP_PROVISION_CODE=code.reveal(), MSP_CENTRAL=world.url)
                await asyncio.sleep(wait_s)
                await world.kill_appliance()
            await world.start_appliance(MSP_PROVISION_CODE=code.reveal(), MSP_CENTRAL=world.url)
            await wait_for_phase(world, "awaiting_credentials")
            assert len(await world.partner.appliances(world.site.site_id)) == 1
            used = [entry for entry in await world.partner.provisions() if entry.site_id == world.site.site_id]
            assert [(entry.status, entry.used) for entry in used] == [("claimed", 1)]

    asyncio.run(run())
