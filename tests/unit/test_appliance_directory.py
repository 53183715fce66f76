"""The real daemon's parts over the real wire: a stand-in directory that changes while it is followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from attrs import evolve

from msp_sdk.testing.directory_data import make_computer_entry
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost
from runners.appliance.daemon import Daemon
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools
from tests.unit.appliance_lab import turn

LATE = "LATE-01"


def binds(lab: Any) -> int:
    return len(lab.estate.credential.attempts)


def everywhere(lab: Any, write: Callable[[Any], None]) -> None:
    """Write at one controller; the others have it at once."""
    write(lab.estate.directories[0].spec)


def entry(lab: Any, os_name: str | None, **more: Any) -> Any:
    return make_computer_entry(LATE, os_name, domain=lab.estate.spec.domain, ou="OU=Servers", **more)


async def listed(lab: Any) -> dict[str, str | None]:
    """Every computer that Central lists, and why it is no target."""
    return {entry.hostname.upper(): entry.skipped_reason for entry in await lab.partner.computers(lab.site_id)}


async def until(lab: Any, condition: Callable[[dict[str, str | None]], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition(await listed(lab)):
                return
            await asyncio.sleep(0.1)


def following(open_lab: Callable[..., Any], work: Callable[[Any, Tools, Survey], Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await turn(lab, tools, survey)
            assert survey.kept is not None
            assert survey.kept.enumeration.cursor is not None
            assert len(await listed(lab)) == 12
            await work(lab, tools, survey)

    asyncio.run(run())


def test_a_computer_that_joins_is_listed_as_new_within_one_check_in_and_becomes_a_target(
    open_lab: Callable[..., Any],
) -> None:
    async def work(lab: Any, tools: Tools, survey: Survey) -> None:
        bound = binds(lab)
        everywhere(lab, lambda spec: spec.put(entry(lab, None)))
        await turn(lab, tools, survey)
        assert (await listed(lab))[LATE] == "new"
        everywhere(lab, lambda spec: spec.put(entry(lab, "Windows Server 2022 Standard")))
        await turn(lab, tools, survey)
        assert (await listed(lab))[LATE] is None
        assert survey.merge is not None
        assert LATE in {target.hostname.upper() for target in survey.merge.targets}
        for _ in range(10):
            await turn(lab, tools, survey)
        assert binds(lab) == bound, "a logon a minute would fill the customer's log"

    following(open_lab, work)


def test_a_deleted_computer_is_gone_at_once_for_an_account_that_sees_it_and_at_the_reconcile_for_any_other(
    open_lab: Callable[..., Any],
) -> None:
    async def work(lab: Any, tools: Tools, survey: Survey) -> None:
        names = [plan.name for plan in lab.estate.plan if plan.role == "workstation"][:2]
        dns = {
            name: next(e.dn for e in lab.estate.directories[0].spec.entries if f"CN={name}," in e.dn) for name in names
        }
        everywhere(lab, lambda spec: spec.delete(dns[names[0]]))
        await turn(lab, tools, survey)
        assert names[0] in await listed(lab), "who sees no tombstones claims no deletion"
        await turn(lab, tools, survey, 7 * 3600)
        assert names[0] not in await listed(lab)
        everywhere(lab, lambda spec: spec.rights.reads_deleted.add(lab.estate.credential.username.lower()))
        await turn(lab, tools, survey)
        everywhere(lab, lambda spec: spec.delete(dns[names[1]]))
        await turn(lab, tools, survey)
        assert names[1] not in await listed(lab)

    following(open_lab, work)


def test_a_controller_that_is_lost_leaves_the_changes_to_another_one(open_lab: Callable[..., Any]) -> None:
    """Lesson 23."""

    async def work(lab: Any, tools: Tools, survey: Survey) -> None:
        reader = tools.directory.reader(lab.estate.spec.domain)
        assert reader is not None
        read_at = (reader.source or "").partition(".")[0]
        for server in lab.estate.directories:
            if server.spec.hostname == read_at:
                server.faults.drop_after_entries = 0
                server.faults.nonsense = True
        everywhere(lab, lambda spec: spec.put(entry(lab, None)))
        for _ in range(4):
            await turn(lab, tools, survey, 400)
        assert (await listed(lab)).get(LATE) == "new"

    following(open_lab, work)


def test_a_site_of_some_units_is_read_anew_when_they_are_named(open_lab: Callable[..., Any]) -> None:
    """Lesson 60."""

    async def work(lab: Any, tools: Tools, survey: Survey) -> None:
        holdings = tools.checkin.holdings
        tools.checkin.holdings = evolve(holdings, scope=evolve(holdings.scope, ous=("Servers",)))
        await survey.directory.enumerate()
        await tools.checkin.flush()
        assert survey.kept is not None
        assert {computer.ou_path for computer in survey.kept.enumeration.computers} == {"Servers"}
        # Central marks as vanished only what lies in the scope of the report.
        assert len(await listed(lab)) == 12

    following(open_lab, work)


def test_the_daemon_itself_lists_who_joins(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(checkin_interval_seconds=0.3) as lab, lab.tools() as tools:
            await lab.give_credential()
            work = asyncio.create_task(Daemon(tools, 0.3).run())
            try:
                await until(lab, lambda known: len(known) == 12)
                everywhere(lab, lambda spec: spec.put(entry(lab, None)))
                await until(lab, lambda known: known.get(LATE) == "new")
            finally:
                work.cancel()
                await asyncio.wait({work})

    asyncio.run(run())


def test_where_ldap_is_closed_a_controller_reads_its_directory_for_its_administrator(
    open_lab: Callable[..., Any],
) -> None:
    """Lesson 23; no change can be asked for there, and the next full reading is by LDAP again."""

    async def run() -> None:
        async with open_lab() as lab, contextlib.AsyncExitStack() as stack, lab.tools() as tools:
            survey = Survey(tools)
            await lab.give_credential(credential_type="domain_admin")
            await turn(lab, tools, survey)
            assert survey.kept is not None
            assert survey.kept.enumeration.cursor is not None
            first = lab.estate.directories[0]
            for server in lab.estate.directories:
                await server.__aexit__(None, None, None)
            controller = Machine("DC1", domain="NORTHVALLEY", dns_domain=lab.estate.spec.domain, is_controller=True)
            controller.notes["directory"] = list(first.spec.entries)
            certificate = lab.estate.ca.issue([f"dc1.{lab.estate.spec.domain}"])
            address = first.address
            host = WsmanHost(
                controller,
                lab.estate.accounts,
                address=address,
                http_port=5985,
                https_port=5986,
                certificate=certificate,
            )
            await stack.enter_async_context(host)
            await turn(lab, tools, survey, 30 * 3600)
            assert survey.kept.enumeration.source == f"dc1.{lab.estate.spec.domain} winrm", survey.problems
            assert len(survey.kept.enumeration.computers) == 12
            assert survey.kept.enumeration.cursor is None
            assert lab.estate.credential.bad_password_count == 0
            assert controller.violations == []

    asyncio.run(run())
