"""What the appliance finds: the domain, its computers, the targets; beside a real Central and a stand-in estate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import NewCredential
from msp_sdk.models.domain import Domain, DomainDiscovery
from msp_sdk.models.target import ManualTarget
from msp_sdk.secret import Secret
from msp_sdk.testing.dns import DnsServer, DnsZone
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools
from tests.unit.appliance_lab import binds, look


def waiting_reports(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((folder / "outbox").glob(f"*-{kind}.json"))]


def test_domain_is_found_read_merged_and_reported(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            await lab.beat(tools)
            assert (await lab.partner.status(lab.site_id)).phase == "awaiting_credentials"
            await lab.give_credential()
            await lab.beat(tools)
            await look(survey)
            await lab.beat(tools)
            names = {entry.hostname.casefold() for entry in await lab.partner.computers(lab.site_id)}
            assert names == {entry.name.casefold() for entry in lab.estate.plan}
            (targets,) = await lab.partner.targets(lab.site_id)
            assert {entry.reason for entry in targets.skipped} >= {"disabled-account", "stale", "new", "not-windows"}
            assert survey.domain is not None
            assert survey.domain.netbios_name == "NORTHVALLEY"

    asyncio.run(run())


def test_unchanged_world_is_asked_nothing_and_told_nothing(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            await lab.beat(tools)
            asked, bound, merge = len(lab.estate.dns.queries), len(binds(lab)), survey.merge
            for _ in range(20):
                lab.time.at_s += 5
                await look(survey)
            assert len(lab.estate.dns.queries) == asked
            assert len(binds(lab)) == bound
            assert tools.checkin.waiting_count == 0
            assert survey.merge is merge, "nothing is even computed anew"

    asyncio.run(run())


def test_wrong_password_costs_one_bind_and_retry_exactly_one_more(open_lab: Callable[..., Any]) -> None:
    """Lesson 32."""

    async def run() -> None:
        async with open_lab() as lab:
            credential = await lab.give_credential("wrong")
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                for _ in range(5):
                    await look(survey)
                    await lab.beat(tools)
                    lab.time.at_s += 400
                assert lab.estate.credential.bad_password_count == 1
            await lab.partner.retry_credential(lab.site_id, credential.id)
            async with lab.tools() as tools:  # also over a restart
                survey = Survey(tools)
                for _ in range(5):
                    await lab.beat(tools)
                    await look(survey)
                    lab.time.at_s += 400
                assert lab.estate.credential.bad_password_count == 2
                await lab.beat(tools)
            (stored,) = await lab.partner.credentials(lab.site_id)
            assert (stored.state, stored.state_code) == ("refused", "wrong-password")

    asyncio.run(run())


def test_directory_that_fails_stays_owed_with_back_off_and_reports_no_zero(open_lab: Callable[..., Any]) -> None:
    """Lessons 19 and 24."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            for server in lab.estate.directories:
                server.faults.drop_after_entries = 5
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert "enumeration" in survey.problems
            assert tools.completed.completed.get("enumeration", 0) == 0
            attempts = len(binds(lab))
            await survey.directory.enumerate()
            assert len(binds(lab)) == attempts, "it was tried again without waiting"
            (report,) = waiting_reports(lab.settings.config.parent, "EnumerationReport")
            assert report["failed"]["code"] in ("partial-result", "unreachable-controller")
            assert report["failed"]["generation"] is None
            assert report["results"] is None
            assert survey.merge is None
            for server in lab.estate.directories:
                server.faults.drop_after_entries = None
            lab.time.at_s += 3
            await look(survey)
            assert tools.completed.completed["enumeration"] == 1
            assert survey.kept is not None
            assert len(survey.kept.enumeration.computers) == 12

    asyncio.run(run())


def test_new_wish_does_not_wait_for_the_back_off_of_the_old_one(open_lab: Callable[..., Any]) -> None:
    """Lesson 45."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            for server in lab.estate.directories:
                server.faults.nonsense = True
            survey = Survey(tools)
            await lab.beat(tools)
            survey.domains.discovery = None
            for server in lab.estate.directories:
                server.faults.nonsense = False
            await survey.domains.discover()
            for server in lab.estate.directories:
                server.faults.nonsense = True
            for _ in range(3):
                await survey.directory.enumerate()
                lab.time.at_s += 100
            for server in lab.estate.directories:
                server.faults.nonsense = False
            lab.time.at_s -= 99
            await survey.directory.enumerate()
            assert tools.completed.completed.get("enumeration", 0) == 0, "the back-off is still on"
            await lab.partner.wish_enumeration(lab.site_id)
            await lab.beat(tools)
            await survey.directory.enumerate()
            assert tools.completed.completed["enumeration"] == 2

    asyncio.run(run())


def test_withdrawn_credentials_leave_the_targets_without_any(open_lab: Callable[..., Any]) -> None:
    """Lesson 13."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            credential = await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert survey.merge is not None
            assert any(target.credential_id for target in survey.merge.targets)
            await lab.partner.delete_credential(lab.site_id, credential.id)
            await lab.beat(tools)
            await look(survey)
            assert survey.merge is not None
            assert survey.merge.targets
            assert not any(target.credential_id for target in survey.merge.targets)

    asyncio.run(run())


def test_second_account_is_tried_when_the_first_is_refused_and_each_only_once(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential("wrong")
            await lab.partner.create_credential(
                lab.site_id,
                NewCredential(
                    "domain_admin",
                    lab.estate.credential.upn,
                    Secret(lab.estate.credential.password),
                    domain_name=lab.estate.spec.domain,
                    trusted_certificates=(await lab.partner.credentials(lab.site_id))[0].trusted_certificates,
                ),
            )
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert binds(lab)[:2] == ["52e", "ok"]
            assert survey.kept is not None
            assert "enumeration" not in survey.problems

    asyncio.run(run())


@pytest.mark.parametrize(("spelling", "netbios_name"), [("{}", None), ("NORTHVALLEY\\{}", "NVALLEY")])
def test_an_account_that_is_stored_twice_with_a_wrong_password_costs_one_strike(
    open_lab: Callable[..., Any], spelling: str, netbios_name: str | None
) -> None:
    """Lesson 32: whatever its spelling, also where somebody mistyped the domain's short name."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential("wrong")
            account = lab.estate.credential
            await lab.partner.create_credential(
                lab.site_id,
                NewCredential(
                    "domain_admin",
                    spelling.format(account.upn.partition("@")[0].upper()),
                    Secret("wrong"),
                    domain_name=lab.estate.spec.domain,
                    netbios_name=netbios_name,
                    trusted_certificates=(await lab.partner.credentials(lab.site_id))[0].trusted_certificates,
                ),
            )
            survey = Survey(tools)
            for _ in range(4):
                await lab.beat(tools)
                held = tools.checkin.holdings.credentials or ()
                await look(survey)
                # No host is to see the second one either, whatever Central has said by then.
                assert {tools.ledger.state(entry).state for entry in held} <= {"refused"}
                lab.time.at_s += 7200
            assert binds(lab) == ["52e"]
            assert [(row.state, row.state_code) for row in await lab.partner.credentials(lab.site_id)] == [
                ("refused", "wrong-password")
            ] * 2

    asyncio.run(run())


def test_manual_host_out_of_reach_is_knocked_at_again_and_keeps_its_address(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=None) as lab, lab.tools() as tools:
            survey = await _manual(lab, tools, ManualTarget("127.0.99.1", port=59861))
            assert [target.reachable for target in survey.merge.targets] == [False]
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.99.1", 59861)
            try:
                await survey.merge_targets()
                assert [target.reachable for target in survey.merge.targets] == [False]
                lab.time.at_s += 301
                await survey.merge_targets()
                assert [target.reachable for target in survey.merge.targets] == [True]
            finally:
                server.close()
                await server.wait_closed()
            assert len(waiting_reports(lab.settings.config.parent, "TargetsReport")) == 2

    asyncio.run(run())


async def _manual(lab: Any, tools: Tools, *targets: ManualTarget) -> Any:
    await lab.partner.set_manual_targets(lab.site_id, targets)
    survey = Survey(tools)
    survey.domains.discovery = DomainDiscovery(())
    await lab.beat(tools)
    await survey.merge_targets()
    return survey


def test_resolved_address_of_a_manual_host_stays_from_merge_to_merge(open_lab: Callable[..., Any]) -> None:
    """Lesson 57: without it the connection would go by the system's resolver."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            name = next(entry.name for entry in lab.estate.plan if entry.door == "https")
            await lab.partner.set_manual_targets(
                lab.site_id, (ManualTarget(f"{name}.{lab.estate.spec.domain}"), ManualTarget("nobody.else.test"))
            )
            survey = Survey(tools)
            survey.domains.discovery = DomainDiscovery(())
            await lab.beat(tools)
            await survey.merge_targets()
            before = survey.merge
            await lab.partner.set_manual_targets(
                lab.site_id, (ManualTarget(f"{name}.{lab.estate.spec.domain}"), ManualTarget("no.body.test"))
            )
            await lab.beat(tools)
            await survey.merge_targets()
            first, second = (
                next(target for target in merge.targets if target.hostname.startswith(name))
                for merge in (before, survey.merge)
            )
            assert first == second
            assert first.ip_addresses
            assert first.reachable is True

    asyncio.run(run())


def test_crash_between_the_report_and_its_generation_repeats_and_never_skips(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab:
            await lab.give_credential()
            folder = lab.settings.state_folder
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                await look(survey)
            (folder / "completed.json").unlink()
            (folder / "reported-targets.json").unlink()
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                await look(survey)
                await lab.beat(tools)
                assert tools.completed.completed["enumeration"] == 1
            assert len(await lab.partner.computers(lab.site_id)) == 12

    asyncio.run(run())


def test_name_that_dns_gave_no_answer_about_is_not_said_to_have_no_address(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        zone = DnsZone("corp.test")
        zone.add_address("here", "127.0.99.2")
        async with open_lab(computers=None) as lab, lab.tools() as tools, DnsServer(zone, outside="refused") as dns:
            domain = Domain(
                "corp.test", (), datetime.now(UTC), dns_servers=(f"{dns.server[0]}:{dns.server[1]}",)
            )  # fmt: skip
            here, gone, unknown = (
                Computer(name, f"{name}$", name, "server", True, False, False, fqdn=fqdn)
                for name, fqdn in (("here", "here.corp.test"), ("gone", "gone.corp.test"), ("else", "srv.else.test"))
            )
            located = (await tools.locate(domain, [here, gone, unknown])).computers
            assert [(computer.reachable, computer.unreachable_reason) for computer in located] == [
                (False, "winrm-closed"),
                (False, "no-address"),
                (None, None),
            ]

    asyncio.run(run())
