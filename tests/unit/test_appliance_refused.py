"""What becomes of reports that Central refuses for good, as the daemon goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from attrs import evolve

from msp_sdk.models.rollout import DeploymentReport, Outcome
from msp_sdk.models.target import MergeResult
from runners.appliance.fleet import Fleet
from runners.appliance.scans import Scans

DOMAIN = "northvalley.test"


def test_a_reading_that_central_refuses_for_good_is_told_at_the_next_check_in_and_made_again(scripted: Any) -> None:
    """A report that lies in a folder of refused ones is no answer to a wish."""

    async def work(watched: Any) -> None:
        directory = watched.directory
        good = dict(directory.computers)
        directory.computers = {name: evolve(entry, os_name="Windows\0") for name, entry in good.items()}

        async def health() -> Any:
            (appliance,) = await watched.lab.partner.appliances(watched.lab.site_id)
            return appliance.health

        await watched.turn(25 * 3600)
        await watched.turn()
        await watched.turn()
        assert (await health())["problems"] == {"outbox": "report-refused"}
        assert (await health())["reports_refused"][f"enumeration:{DOMAIN}"] == "report-refused"
        assert await watched.names() == ["SRV1", "SRV2"], "the last good list stays"
        full_count = directory.asked.count("full")
        directory.computers = good
        await watched.turn()
        assert directory.asked.count("full") == full_count, "not at each check-in"
        await watched.turn(3600)
        assert directory.asked.count("full") == full_count + 1
        await watched.turn()
        await watched.turn()
        assert await health() == {}

    scripted.watching(work)


def test_changes_after_a_refused_reading_wish_no_reading_each_and_a_person_may_wish_one(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        lab, directory, site_id = watched.lab, watched.directory, watched.lab.site_id
        good = dict(directory.computers)
        directory.computers = {name: evolve(entry, os_name="Windows\0") for name, entry in good.items()}
        # What Central holds is now older than what was read last.
        directory.log.append(("guid-of-nobody", None))
        await lab.partner.wish_enumeration(site_id)
        await watched.turn()
        await watched.turn()
        assert watched.tools.checkin.refused[f"enumeration:{DOMAIN}"] == "report-refused"
        read_count = directory.asked.count("full")
        for number in range(10):
            directory.put(scripted.computer(f"NEW{number}"))
            del directory.computers[f"NEW{number}"]
            await watched.turn()
        assert len(await watched.names()) == 12, "changes are taken all the same"
        assert directory.asked.count("full") == read_count
        await lab.partner.wish_enumeration(site_id)
        await watched.turn()
        assert directory.asked.count("full") == read_count + 1

    scripted.watching(work)


def test_what_central_refused_of_a_rollout_is_told_until_a_day_after_its_end(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=None) as lab, lab.tools() as tools:
            outcome = Outcome(hostname="SRV1", success=True, state="done", action="install")
            await tools.report(DeploymentReport("p1", (outcome,), "none-such", 1))
            await lab.beat(tools)
            refused = {"deployment:none-such": "report-refused"}
            fleet = Fleet(tools)
            for _ in range(2):
                await fleet.roll_out(MergeResult(()))
                assert tools.checkin.refused == refused
                lab.time.at_s += 13 * 3600
            await fleet.roll_out(MergeResult(()))
            assert tools.checkin.refused == {}

    asyncio.run(run())


def test_scans_that_central_refused_are_told_until_all_is_scanned_anew(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        tools = watched.tools
        scans = Scans(tools)
        await scans.scan(watched.survey.merge)
        (folder := watched.lab.settings.outbox_folder / "refused").mkdir(exist_ok=True)
        (folder / "standing.json").write_text('{"scan": "report-refused"}')
        async with watched.lab.tools() as again:
            await watched.lab.beat(again)
            scans = Scans(again)
            await scans.scan(watched.survey.merge)
            assert again.checkin.refused == {"scan": "report-refused"}
            await watched.lab.partner.wish_scan(watched.lab.site_id)
            await watched.lab.beat(again)
            await scans.scan(watched.survey.merge)
            assert again.checkin.refused == {}

    scripted.watching(work)
