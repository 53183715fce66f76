"""What the site's page says of computers and appliances: pure rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from attrs import evolve

from central_app.dashboard.appliance_view import make_appliance
from central_app.dashboard.view import SiteHosts, add_directory, make_lines
from central_app.rollouts.coverage import HostNames
from msp_sdk.models.appliance import Appliance
from msp_sdk.models.computer import Computer
from msp_sdk.models.target import SkippedTarget, Target

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PC1 = Computer("guid-1", "PC1$", "PC1", "workstation", is_server=False, is_workstation=True, is_domain_controller=False)


def test_a_computer_is_counted_by_its_names_and_described_when_it_is_shown() -> None:
    names = [(HostNames("PC1", None, "guid-1"), "workstation"), (HostNames("SRV1", None, "guid-2"), "server")]
    known = SiteHosts(computers=names, targets=[Target(hostname="SRV1", role="server", object_guid="GUID-2")])
    pc, server = make_lines(known)
    assert [(pc.name, pc.kind), (server.name, server.kind)] == [("PC1", "skipped"), ("SRV1", "pending")]
    said = evolve(
        PC1,
        os_name="Windows 10",
        ou_path="A/B",
        laps="legacy",
        last_logon_at=NOW - timedelta(days=3),
        managed_by="CN=X",
    )
    line = add_directory(pc, evolve(said, skipped_reason="stale"), NOW)
    assert (line.os, line.ou, line.laps, line.managed_by) == ("Windows 10", "A/B", "legacy LAPS", "CN=X")
    assert line.last_logon_ago == "3 days ago"
    assert "No sign of life" in line.reason
    assert add_directory(server, None, NOW) == server


def test_a_reason_that_was_found_later_stays_before_the_directorys() -> None:
    names = [(HostNames("PC1", None, "guid-1"), "workstation")]
    (line,) = make_lines(SiteHosts(names, skipped=[SkippedTarget("PC1", "vendor-managed", object_guid="guid-1")]))
    assert "vendor" in add_directory(line, evolve(PC1, skipped_reason="stale"), NOW).reason


def test_what_an_appliance_says_does_not_work_is_said_in_words() -> None:
    problems = {"outbox": "report-refused", "moon": "phase-of-tomorrow"}
    box = Appliance("a", "s", "active", "m", "box", NOW, last_seen_at=NOW, health={"problems": problems})
    first, second = make_appliance(box, NOW, timedelta(seconds=60)).problems
    assert first.title == "outbox: Central refused a report of this appliance for good."
    assert first.meaning
    assert (second.title, second.meaning) == ("moon: phase-of-tomorrow", "")
    strange = evolve(box, health={"problems": ["x"]})
    assert make_appliance(strange, NOW, timedelta(seconds=60)).problems == ()
