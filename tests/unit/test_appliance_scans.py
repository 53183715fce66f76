"""When hosts are scanned: on a wish, and once by itself; and when hosts of a rollout are due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.rollout import Outcome, OutcomeError
from msp_sdk.models.target import ManualTarget, Target
from runners.appliance.cycle import Cycle
from runners.appliance.due import circumstances, is_due, seconds_until_due
from runners.appliance.state import HostRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TARGET = Target("SRV1", "server", fqdn="srv1.corp.example", ip_addresses=("10.0.0.1",))


def scans(lab: Any) -> int:
    return sum(
        count
        for facts in lab.estate.machine_facts().values()
        for script, count in facts["scripts"].items()
        if script.startswith("scan-")
    )


def test_wished_scan_is_made_once_and_reported_with_its_generation(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=12) as lab:
            await lab.give_credential()
            async with lab.tools() as tools:
                cycle = Cycle(tools)
                await lab.beat(tools)
                await cycle.run()
                await lab.beat(tools)
                made = scans(lab)
                assert made
                assert tools.completed.completed["scan"] == 1
                await cycle.run()
                assert scans(lab) == made
                await lab.partner.wish_scan(lab.site_id)
                await lab.beat(tools)
                await cycle.run()
                assert scans(lab) == 2 * made
            async with lab.tools() as tools:  # a restart
                cycle = Cycle(tools)
                await lab.beat(tools)
                await cycle.run()
                assert scans(lab) == 2 * made

    asyncio.run(run())


def test_scan_waits_for_an_enumeration_that_is_owed(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=12) as lab, lab.tools() as tools:
            await lab.give_credential()
            for server in lab.estate.directories:
                server.faults.drop_after_entries = 3
            cycle = Cycle(tools)
            await lab.beat(tools)
            await cycle.run()
            assert "scan" not in tools.completed.completed
            for server in lab.estate.directories:
                server.faults.drop_after_entries = None
            lab.time.at_s += 10
            await cycle.run()
            assert tools.completed.completed["scan"] == 1
            assert scans(lab)

    asyncio.run(run())


def test_target_that_appears_without_a_wish_has_its_first_scan_and_the_others_no_second(
    open_lab: Callable[..., Any],
) -> None:
    """A site is complete when each reachable target was scanned; nobody wishes a scan for a host that was added."""

    async def run() -> None:
        async with open_lab(computers=12) as lab, lab.tools() as tools:
            await lab.give_credential()
            address = next(entry for entry in lab.estate.plan if entry.truth == "agent")

            await lab.partner.set_manual_targets(lab.site_id, (ManualTarget(address.name, excluded=True),))
            cycle = Cycle(tools)
            await lab.beat(tools)
            await cycle.run()
            made = scans(lab)
            await lab.partner.set_manual_targets(lab.site_id, ())
            await lab.beat(tools)
            await cycle.run()
            own = sum(
                count
                for script, count in lab.estate.machine_facts()[address.name]["scripts"].items()
                if script.startswith("scan-")
            )
            assert own
            assert scans(lab) == made + own
            await lab.beat(tools)
            assert tools.checkin.waiting_count == 0

    asyncio.run(run())


def record(state: Any, code: str | None = None, *, where: str = "x", at: datetime = NOW) -> HostRecord:
    error = OutcomeError(code, "detail") if code else None
    return HostRecord(Outcome("SRV1", state == "done", state, "install", error=error), at, where)


@pytest.mark.parametrize(
    ("known", "after_s", "expected"),
    [
        (None, 0, True),
        (record("done"), 10**9, False),
        (record("done", where="another"), 0, False),
        (record("failed", "install-failed"), 10**9, False),
        (record("failed", "install-failed", where="another"), 0, True),
        (record("skipped", "needs-local-administrator"), 10**9, False),
        (record("skipped", "role-not-in-scope"), 0, True),
        (record("waiting", "no-answer"), 299, False),
        (record("waiting", "no-answer"), 301, True),
        (record("waiting", "credential-unproven"), 19, False),
        (record("waiting", "credential-unproven"), 21, True),
        (record("waiting", "connection-lost"), 301, True),
        (record("waiting", "deadline-exceeded"), 301, True),
        # The clock was set back: it must not wait for years.
        (record("waiting", "no-answer", at=NOW + timedelta(days=400)), 0, True),
    ],
)
def test_host_is_due_when_something_has_changed_or_its_wait_is_over(
    known: HostRecord | None, after_s: float, *, expected: bool
) -> None:
    now = NOW + timedelta(seconds=after_s)
    assert is_due(known, "x", now) is expected
    if known is not None and known.circumstances == "x" and known.outcome.state == "waiting":
        assert (seconds_until_due(known, now) <= 0) is expected


@pytest.mark.parametrize(
    "change",
    [
        {"ledger_key": "c1:2"},
        {"policy": SitePolicy(allow_ntlm=True)},
        {"policy": SitePolicy(trusted_cas=("pem",))},
        {"target": Target("SRV1", "server", fqdn="srv1.corp.example", ip_addresses=("10.0.0.2",))},
    ],
    ids=["version", "ntlm", "ca", "address"],
)
def test_what_decides_over_a_host_is_in_its_circumstances(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"target": TARGET, "ledger_key": "c1:1", "policy": SitePolicy()}
    assert circumstances(**given) != circumstances(**{**given, **change})
    assert circumstances(**given) == circumstances(**given)
