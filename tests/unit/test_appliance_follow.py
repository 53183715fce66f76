"""The directory followed by its changes: one connection, nothing lost, nothing said twice; and when it does not work.

A scripted directory stands where the reader stands; Central, the check-ins and the estate's DNS are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.errors import DirectoryError, LogonNotAllowedError, LogonRejectedError, MspError
from msp_sdk.network.resolver import render_server
from msp_sdk.testing.dns import DnsServer, DnsZone
from runners.appliance.cycle import Cycle
from runners.appliance.daemon import Daemon
from runners.appliance.kept_connection import KeptConnections
from tests.unit.appliance_lab import until

DOMAIN = "northvalley.test"


def test_changes_are_asked_once_after_each_check_in_over_one_connection(scripted: Any) -> None:
    """Lesson: a logon a minute fills the customer's SIEM."""

    async def work(watched: Any) -> None:
        for _ in range(20):
            await watched.turn()
            await watched.survey.directory.follow()  # a pass without a check-in
        assert watched.directory.asked == ["full", *["c0"] * 20]
        assert len(watched.directory.binds) == 1
        assert watched.reports() == [], "an unchanged directory is told to nobody"
        assert watched.tools.checkin.waiting_count == 0

    scripted.watching(work)


def test_a_computer_that_joins_is_listed_as_new_and_becomes_a_target_with_its_name(
    scripted: Any,
) -> None:
    async def work(watched: Any) -> None:
        watched.directory.put(scripted.fresh("PC7"))
        await watched.turn()
        (report,) = watched.reports()
        results = report["results"]
        assert (results["kind"], results["base_cursor"], results["cursor"]) == ("changes", "c0", "c1")
        assert [entry["hostname"] for entry in results["others"]] == ["PC7"]
        assert results["servers"] == [], "only what changed"
        assert await watched.names() == ["PC7", "SRV1", "SRV2"]
        assert watched.survey.merge is not None
        assert {entry.hostname: entry.reason for entry in watched.survey.merge.skipped} == {"PC7": "new"}
        watched.directory.put(scripted.computer("PC7", "workstation", fqdn=f"pc7.{DOMAIN}"))
        await watched.turn()
        assert "PC7" in {entry.hostname for entry in watched.survey.merge.targets}
        await watched.tools.checkin.flush()
        status = await watched.lab.partner.status(watched.lab.site_id)
        assert (status.details.servers_found, status.details.workstations_found) == (2, 1)

    scripted.watching(work)


def test_a_computer_that_was_deleted_is_gone_at_central_and_from_the_targets(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        watched.directory.delete("SRV2")
        await watched.turn()
        assert await watched.names() == ["SRV1"]
        assert watched.survey.merge is not None
        assert [entry.hostname for entry in watched.survey.merge.targets] == ["SRV1"]
        assert [entry.reason for entry in watched.survey.merge.skipped] == ["not-in-directory"]

    scripted.watching(work)


def test_a_change_that_is_none_for_us_moves_the_cursor_and_says_nothing(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        watched.directory.touch("SRV1")
        watched.directory.log.append(("guid-of-nobody", None))
        for _ in range(2):
            await watched.turn()
        assert watched.directory.asked == ["full", "c0", "c2"]
        assert watched.reports() == []
        watched.directory.put(scripted.fresh("PC7"))
        await watched.turn()
        # What Central goes on from is what it was last told, not what was asked since.
        assert watched.reports()[0]["results"]["base_cursor"] == "c0"
        await watched.tools.checkin.flush()
        await watched.turn()
        assert watched.directory.asked.count("full") == 1, "Central saw a gap where there is none"

    scripted.watching(work)


def test_a_restart_goes_on_from_the_last_change(open_lab: Callable[..., Any], scripted: Any) -> None:
    async def run() -> None:
        directory = scripted.directory("SRV1", "SRV2")
        async with open_lab() as lab:
            await lab.give_credential()
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn()
                directory.put(scripted.fresh("PC7"))
                await watched.turn()
                directory.delete("SRV1")
            assert directory.open_count == 0, "the end of the daemon ends its connection"
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn()
                assert directory.asked == ["full", "c0", "c1"]
                assert await watched.names() == ["PC7", "SRV2"]
                assert len(directory.binds) == 2

    asyncio.run(run())


def test_a_crash_between_changes_and_their_record_ends_in_a_full_reading_and_loses_nothing(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 15."""

    async def run() -> None:
        directory = scripted.directory("SRV1", "SRV2")
        async with open_lab() as lab:
            await lab.give_credential()
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn()
                directory.put(scripted.fresh("PC7"))
                await watched.turn()
                await tools.checkin.flush()
            (lab.settings.state_folder / f"changes-{DOMAIN}.json").unlink()
            async with lab.tools() as tools:
                watched = scripted.watched(lab, tools, directory)
                await watched.turn()
                assert await watched.names() == ["PC7", "SRV1", "SRV2"]
                await watched.turn()
                assert directory.asked == ["full", "c0", "c0", "full"]
                await watched.tools.checkin.flush()
                await watched.turn()
                assert directory.asked[-1] == "c1", "and that is the end of it"

    asyncio.run(run())


def test_a_cursor_that_was_lost_leads_to_a_full_reading_over_the_same_connection(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        directory = watched.directory
        directory.put(scripted.fresh("PC7"))
        directory.changes_failure = DirectoryError("nobody knows c0.", code="cursor-lost")
        await watched.turn()
        directory.changes_failure = None
        assert directory.asked == ["full", "c0", "full"]
        assert len(directory.binds) == 1
        (report,) = watched.reports()
        assert (report["results"]["kind"], report["results"]["cursor"]) == ("full", "c1")
        await watched.turn()
        assert directory.asked[-1] == "c1"
        assert await watched.names() == ["PC7", "SRV1", "SRV2"]

    scripted.watching(work)


def test_a_step_that_works_with_what_was_withdrawn_is_broken_off(scripted: Any) -> None:
    """Lesson 13: a big site is read and knocked at for minutes."""

    async def work(watched: Any) -> None:
        lab, directory = watched.lab, watched.directory
        directory.pause = asyncio.Event()
        await lab.partner.wish_enumeration(lab.site_id)
        reading = asyncio.create_task(watched.turn())
        await until(lambda: directory.asked[-1] == "full" and len(directory.asked) > 1)
        (stored,) = await lab.partner.credentials(lab.site_id)
        await lab.partner.delete_credential(lab.site_id, stored.id)
        await lab.beat(watched.tools)
        await watched.survey.directory.let_go()
        assert directory.open_count == 0
        await reading
        assert watched.survey.kept.generation == 1, "the last good result stays"
        assert watched.survey.problems == {}

    scripted.watching(work)


def test_a_step_that_is_cancelled_with_the_daemon_is_not_taken_for_withdrawn(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        watched.directory.pause = asyncio.Event()
        await watched.lab.partner.wish_enumeration(watched.lab.site_id)
        reading = asyncio.create_task(watched.turn())
        await until(lambda: len(watched.directory.asked) > 1)
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()

    scripted.watching(work)


def test_a_failure_backs_off_and_keeps_the_last_good_result(scripted: Any) -> None:
    """Lesson 24."""

    async def work(watched: Any) -> None:
        directory, survey = watched.directory, watched.survey
        directory.failure = DirectoryError("no answer.", code="unreachable-controller", retryable=True)
        for _ in range(8):
            await watched.turn(1)
        assert 2 <= directory.asked.count("c0") <= 4, directory.asked
        assert survey.problems["directory-changes"] == "unreachable-controller"
        assert survey.kept is not None
        assert len(survey.kept.enumeration.computers) == 2
        assert directory.open_count == 0
        assert watched.reports() == []
        directory.failure = None
        directory.put(scripted.fresh("PC7"))
        await watched.turn(400)
        assert "directory-changes" not in survey.problems
        assert await watched.names() == ["PC7", "SRV1", "SRV2"]
        assert await watched.names()

    scripted.watching(work)


def test_an_account_that_is_kept_out_is_asked_for_again_by_itself(scripted: Any) -> None:
    """The ledger says how often; enabling the account needs nobody at Central."""

    async def work(watched: Any) -> None:
        directory, survey = watched.directory, watched.survey
        await watched.tools.directory.close()
        directory.logon_failure = LogonRejectedError("disabled.", code="account-disabled", retryable=True)
        await watched.turn(25 * 3600)
        assert survey.problems["enumeration"] == "account-disabled"
        directory.logon_failure = LogonNotAllowedError("not yet.", code="account-disabled", retryable=True)
        await watched.turn(3600)
        directory.logon_failure = None
        await watched.turn(3600)
        assert "enumeration" not in survey.problems

    scripted.watching(work)


@pytest.mark.parametrize("kind", [LogonRejectedError, LogonNotAllowedError])
def test_a_refusal_ends_it_until_another_credential_comes(scripted: Any, kind: type[MspError]) -> None:
    """Lesson 32."""

    async def work(watched: Any) -> None:
        directory, survey = watched.directory, watched.survey
        await watched.tools.directory.close()  # the controller did
        directory.logon_failure = kind("the password is wrong.", code="wrong-password")
        for _ in range(5):
            await watched.turn(25 * 3600)
        assert len(directory.binds) == 2
        assert survey.kept is not None
        assert len(survey.kept.enumeration.computers) == 2
        reports = [report["failed"]["code"] for report in watched.reports() if report["failed"]]
        assert len(reports) <= 1
        directory.logon_failure = None
        (stored,) = await watched.lab.partner.credentials(watched.lab.site_id)
        await watched.lab.partner.retry_credential(watched.lab.site_id, stored.id)
        await watched.turn()
        assert directory.asked[-1] == "full", "a retry wishes an enumeration"
        await watched.turn()
        assert directory.asked[-1] == directory.cursor

    scripted.watching(work)


def test_withdrawn_credentials_end_the_connection_at_the_very_check_in(scripted: Any) -> None:
    """Lesson 13; no pass is waited for."""

    async def work(watched: Any) -> None:
        lab, directory = watched.lab, watched.directory
        assert directory.open_count == 1
        (stored,) = await lab.partner.credentials(lab.site_id)
        await lab.partner.delete_credential(lab.site_id, stored.id)
        await lab.beat(watched.tools)
        await watched.survey.directory.let_go()
        assert directory.open_count == 0
        for _ in range(3):
            await watched.turn()
        assert len(directory.binds) == 1

    scripted.watching(work)


@pytest.mark.parametrize("what", ["credential", "policy", "domain", "key"])
def test_a_connection_ends_with_whatever_it_rests_on(scripted: Any, what: str) -> None:
    async def work(watched: Any) -> None:
        tools, survey = watched.tools, watched.survey
        holdings = tools.checkin.holdings
        match what:
            case "credential":
                changed = tuple(evolve(entry, version=entry.version + 1) for entry in holdings.credentials or ())
                tools.checkin.holdings = evolve(holdings, credentials=changed)
            case "policy":
                tools.checkin.holdings = evolve(holdings, policy=evolve(holdings.policy, allow_ntlm=False))
            case "domain":
                assert survey.domains.discovery is not None
                moved = evolve(survey.domains.discovery.domains[0], name="other.test")
                survey.domains.discovery = evolve(survey.domains.discovery, domains=(moved,))
            case _:
                tools.checkin.forget()
        await survey.directory.let_go()
        assert watched.directory.open_count == 0

    scripted.watching(work)


def test_a_new_opener_of_the_same_credential_leaves_the_connection_as_it_is(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        tools = watched.tools
        tools.checkin.holdings = evolve(tools.checkin.holdings, credentials_version=None)
        await watched.turn()
        assert len(watched.directory.binds) == 1
        assert watched.directory.open_count == 1

    scripted.watching(work)


def test_names_that_dns_cannot_be_asked_for_hold_up_no_change(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        watched.lab.estate.dns.faults.fail = True
        watched.directory.put(scripted.computer("SRV3", fqdn=f"srv3.{DOMAIN}"))
        await watched.turn()
        assert await watched.names() == ["SRV1", "SRV2", "SRV3"]

    scripted.watching(work)


def test_a_newcomer_whose_address_dns_learns_later_is_looked_up_again(scripted: Any) -> None:
    zone = DnsZone(DOMAIN)

    async def served(watched: Any) -> None:
        async with DnsServer(zone) as dns:
            await work(watched, dns)

    async def work(watched: Any, dns: DnsServer) -> None:
        lab, survey = watched.lab, watched.survey
        assert survey.domains.discovery is not None
        (domain,) = survey.domains.discovery.domains
        moved = evolve(domain, dns_servers=(render_server(dns.server),))
        survey.domains.discovery = evolve(survey.domains.discovery, domains=(moved,))
        watched.directory.put(scripted.computer("SRV3", fqdn=f"srv3.{DOMAIN}"))
        await watched.turn()

        def reach() -> tuple[bool | None, tuple[str, ...]]:
            assert survey.merge is not None
            (target,) = (entry for entry in survey.merge.targets if entry.hostname == "SRV3")
            return target.reachable, target.ip_addresses

        assert reach() == (False, ())
        address = next(entry.address for entry in lab.estate.plan if entry.door == "https")
        zone.add_address("srv3", address)
        await watched.turn(31)
        assert reach() == (True, (address,))

    scripted.watching(served)


def test_the_daemon_follows_after_each_check_in_and_lets_go_when_it_is_told_to(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def run() -> None:
        async with open_lab(checkin_interval_seconds=0.2) as lab, lab.tools() as tools:
            await lab.give_credential()
            directory = scripted.directory("SRV1")
            tools.directory = KeptConnections(directory.reader, tools.ledger.refuse)
            work = asyncio.create_task(Daemon(tools, 0.2).run())
            try:
                await until(lambda: "c0" in directory.asked)
                directory.put(scripted.fresh("PC7"))
                await until(lambda: "c1" in directory.asked)
                listed: set[str] = set()
                async with asyncio.timeout(15):
                    while "PC7" not in listed:
                        listed = {entry.hostname for entry in await lab.partner.computers(lab.site_id)}
                (box,) = await lab.partner.appliances(lab.site_id)
                skipped = {"controller": "dc1", "door": "kerberos", "code": "no-kerberos"}
                assert (box.health or {})["directory"] == {"source": "dc1 ldaps", "skipped_doors": [skipped]}
                (stored,) = await lab.partner.credentials(lab.site_id)
                await lab.partner.delete_credential(lab.site_id, stored.id)
                await until(lambda: directory.open_count == 0)
            finally:
                work.cancel()
                await asyncio.wait({work})
            assert len(directory.binds) == 1

    asyncio.run(run())


def test_a_directory_step_that_fails_unforeseen_leaves_the_others_at_work(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            directory = scripted.directory("SRV1")
            tools.directory = KeptConnections(directory.reader, tools.ledger.refuse)
            cycle = Cycle(tools)
            await lab.beat(tools)
            await cycle.run()
            directory.log.append(("nonsense", "nonsense"))  # type: ignore[arg-type]
            await lab.beat(tools)
            await cycle.run()
            assert cycle.problems["follow"] == "internal"
            assert await lab.partner.targets(lab.site_id) or tools.checkin.waiting_count

    asyncio.run(run())
