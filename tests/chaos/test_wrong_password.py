"""A wrong password costs one strike in a whole run, and a retry exactly one more (lesson 32)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from msp_sdk.models.credential import NewCredential
from msp_sdk.secret import Secret
from runners.cli.demo_world import DemoWorld, WorldSpec, wait_for_phase
from tests.chaos.waiting import LONGER_THAN_A_BACK_OFF_S, OFTEN_S, wait_for_check_ins

pytestmark = pytest.mark.slow


async def logons(world: DemoWorld) -> tuple[int, list[str]]:
    (account,) = await world.ask_estate("accounts")
    return account["bad_password_count"], [outcome for _, outcome in account["attempts"]]


async def wait_for_refusal(world: DemoWorld, version: int) -> None:
    async with asyncio.timeout(30):
        while True:
            (stored,) = await world.partner.credentials(world.site.site_id)
            if stored.version == version and stored.state == "refused":
                assert stored.state_code == "wrong-password"
                return
            await asyncio.sleep(0.05)


def test_wrong_password_is_tried_once_retried_once_and_then_corrected(tmp_path: Path) -> None:
    async def run() -> None:
        async with DemoWorld(tmp_path, WorldSpec(computers=12, interval_s=OFTEN_S)) as world:
            await world.claim()
            await world.start_appliance()
            await wait_for_phase(world, "awaiting_credentials")
            stored = await world.give_credential(wrong=True)
            await wait_for_refusal(world, stored.version)
            await asyncio.sleep(LONGER_THAN_A_BACK_OFF_S)
            assert await logons(world) == (1, ["52e"])

            # The partner is told, and so is whoever looks at the site.
            status = await world.partner.status(world.site.site_id)
            assert status.phase == "awaiting_credentials"
            assert status.details.awaiting == (f"domain_credential:{stored.id}:wrong-password",)

            # A restart forgets nothing.
            await world.kill_appliance()
            await world.start_appliance()
            await wait_for_check_ins(world, 4)
            assert await logons(world) == (1, ["52e"])

            retried = await world.partner.retry_credential(world.site.site_id, stored.id)
            await wait_for_refusal(world, retried.version)
            await wait_for_check_ins(world, 4)
            assert await logons(world) == (2, ["52e", "52e"])

            await world.partner.rotate_credential(
                world.site.site_id,
                stored.id,
                NewCredential(
                    type="service_account",
                    username=world.facts["username"],
                    password=Secret(world.facts["password"]),
                    domain_name=world.facts["domain"],
                    trusted_certificates=retried.trusted_certificates,
                ),
            )
            await wait_for_phase(world, "complete")
            count, outcomes = await logons(world)
            assert count == 0
            assert outcomes[:2] == ["52e", "52e"]
            assert set(outcomes[2:]) == {"ok"}
            assert await world.mistakes() == []

    asyncio.run(run())


def test_account_that_is_disabled_is_named_as_such_and_not_tried_at_each_check_in(tmp_path: Path) -> None:
    """Lesson 28: what is refused for another reason than the password says so, and heals once it is mended."""

    async def run() -> None:
        async with DemoWorld(tmp_path, WorldSpec(computers=12, interval_s=OFTEN_S)) as world:
            await world.claim()
            await world.start_appliance()
            await wait_for_phase(world, "awaiting_credentials")
            await world.ask_estate("disable-account")
            stored = await world.give_credential()
            async with asyncio.timeout(30):
                while True:
                    (told,) = await world.partner.credentials(world.site.site_id)
                    if told.state_code:
                        break
                    await asyncio.sleep(0.05)
            assert (told.state, told.state_code) == ("unproven", "account-disabled")
            await wait_for_check_ins(world, 4)
            assert await logons(world) == (0, ["533"])
            assert stored.id == told.id

    asyncio.run(run())
