"""Which domain the appliance stands in: found, kept, looked for again; beside a real Central and a stand-in estate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.discovery.sweep import Sweep
from msp_sdk.errors import MspError
from msp_sdk.models.domain import Domain, DomainController, DomainDiscovery, SweptHost
from msp_sdk.models.target import ManualTarget
from msp_sdk.testing.dns import DnsServer, DnsZone
from runners.appliance.domain_watch import missing_in
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools
from tests.unit.appliance_lab import binds, look
from tests.unit.discovery_lab import QUICK


def test_domain_that_appears_after_its_credential_is_read_then(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab:
            lab.estate.dns.faults.fail = True
            await lab.give_credential()
            settings = lab.settings
            lab.settings = evolve(settings, search=("router.test",), resolvers=(lab.estate.dns.server,))
            lab.estate.dns.faults.fail = False
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                await look(survey)
                assert survey.domain is None
                assert tools.completed.completed["enumeration"] == 1, "there was nothing to read, and that was said"
                await lab.beat(tools)
            lab.settings = settings  # the technician plugs it into the right network
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                await look(survey)
                assert survey.kept is not None
                assert len(survey.kept.enumeration.computers) == 12
                bound = len(binds(lab))
                lab.time.at_s += 4000
                await look(survey)
                assert len(binds(lab)) == bound, "once"

    asyncio.run(run())


def test_domain_that_falls_silent_keeps_its_last_good_discovery(open_lab: Callable[..., Any]) -> None:
    """Lesson 19; also over a restart, and it is reported once."""

    async def run() -> None:
        async with open_lab() as lab:
            async with lab.tools() as tools:
                survey = Survey(tools)
                await lab.beat(tools)
                await look(survey)
                assert tools.checkin.waiting_count == 1
                found = survey.domains.discovery
                async with asking_a_dead_zone(lab, tools):
                    lab.time.at_s += 25 * 3600
                    await survey.domains.discover()
                assert survey.domains.discovery == found
                assert survey.problems["discovery"] == "unreachable-controller"
                assert tools.checkin.waiting_count == 1
            async with lab.tools() as tools:
                survey = Survey(tools)
                async with asking_a_dead_zone(lab, tools):
                    await survey.domains.discover()
                assert survey.domain is not None
                assert survey.domain.name == lab.estate.spec.domain
                lab.time.at_s += 10
                await survey.domains.discover()
                assert "discovery" not in survey.problems

    asyncio.run(run())


@contextlib.asynccontextmanager
async def asking_a_dead_zone(lab: Any, tools: Tools) -> AsyncIterator[None]:
    """DNS names a controller at which nothing listens, as after a power cut; the domain's own DNS is off too."""
    zone = DnsZone(lab.estate.spec.domain)
    zone.add_controller("dc1", "127.0.99.9", port=9)
    alive = tools.discoverer
    async with DnsServer(zone) as dns:
        options = DiscoveryOptions(resolvers=(dns.server,), search=lab.settings.search)
        tools.discoverer = DomainDiscoverer(options=options)
        lab.estate.dns.faults.silent = True
        yield
    lab.estate.dns.faults.silent = False
    tools.discoverer = alive


def test_another_network_is_looked_at_anew_at_the_next_check_in(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            asked = len(lab.estate.dns.queries)
            marks = tools.network_marks()
            tools.network_marks = lambda: evolve(marks, subnets=("10.9.9.0/24",))
            await look(survey)
            assert len(lab.estate.dns.queries) == asked, "it is looked at once a check-in"
            await lab.beat(tools)
            await look(survey)
            assert len(lab.estate.dns.queries) > asked
            asked = len(lab.estate.dns.queries)
            await lab.beat(tools)
            await look(survey)
            assert len(lab.estate.dns.queries) == asked

    asyncio.run(run())


def test_a_directory_that_falls_silent_has_its_controllers_looked_up_anew(open_lab: Callable[..., Any]) -> None:
    """Lesson 19: not before tomorrow would be too late."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            await lab.give_credential()
            assert survey.domain is not None
            assert survey.domains.discovery is not None
            gone = tuple(evolve(controller, port=1) for controller in survey.domain.controllers)
            survey.domains.discovery = evolve(
                survey.domains.discovery, domains=(evolve(survey.domain, controllers=gone),)
            )
            lab.time.at_s += 100
            await lab.beat(tools)
            await look(survey)
            assert survey.problems["enumeration"] == "unreachable-controller"
            lab.time.at_s += 3
            await look(survey)
            assert survey.kept is not None
            assert len(survey.kept.enumeration.computers) == 12

    asyncio.run(run())


def test_network_that_cannot_be_asked_is_a_problem_and_no_result(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            lab.estate.dns.faults.silent = True
            await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert survey.domains.discovery is None
            assert "discovery" in survey.problems
            assert tools.completed.completed.get("enumeration", 0) == 0
            assert tools.checkin.waiting_count == 0

    asyncio.run(run())


def test_dns_that_answers_with_errors_is_told_as_not_known_while_named_hosts_are_worked_on(
    open_lab: Callable[..., Any],
) -> None:
    """Lesson 59; and a wish is answered when it has lasted."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            lab.estate.dns.faults.fail = True
            await lab.give_credential()
            await lab.partner.set_manual_targets(lab.site_id, (ManualTarget("127.0.0.1"),))
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            await lab.beat(tools)
            assert survey.problems["discovery"] == "dns-failed"
            assert tools.completed.completed.get("enumeration", 0) == 0
            assert survey.merge is not None
            assert [target.hostname for target in survey.merge.targets] == ["127.0.0.1"]
            status = await lab.partner.status(lab.site_id)
            assert status.details.directory == "unknown"
            assert "discovery:dns-failed" in status.details.awaiting
            assert status.phase not in ("discovering", "awaiting_credentials", "enumerating")
            for _ in range(2):
                lab.time.at_s += 20
                await look(survey)
            assert tools.completed.completed["enumeration"] == 1
            assert survey.problems["enumeration"] == "dns-failed"
            lab.estate.dns.faults.fail = False
            lab.time.at_s += 60
            await look(survey)
            assert survey.domain is not None
            assert survey.problems == {}
            assert survey.kept is not None

    asyncio.run(run())


def test_named_hosts_do_not_wait_for_ever_for_a_network_that_cannot_be_asked(open_lab: Callable[..., Any]) -> None:
    """Lesson 59."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            lab.estate.dns.faults.silent = True
            tools.discoverer = DomainDiscoverer(
                options=evolve(QUICK, resolvers=lab.settings.resolvers, search=lab.settings.search)
            )
            await lab.partner.set_manual_targets(lab.site_id, (ManualTarget("127.0.0.1"),))
            survey = Survey(tools)
            await lab.beat(tools)
            for _ in range(2):
                await look(survey)
                assert survey.merge is None
                lab.time.at_s += 10
            await look(survey)
            assert survey.merge is not None
            assert len(survey.merge.targets) == 1
            await lab.beat(tools)
            assert (await lab.partner.status(lab.site_id)).details.awaiting == ("discovery:dns-failed",)
            lab.estate.dns.faults.silent = False
            lab.time.at_s += 20
            await look(survey)
            assert survey.domain is not None, "it goes on being looked for"

    asyncio.run(run())


def test_a_domain_that_could_not_be_written_down_is_written_and_reported_in_the_next_pass(
    open_lab: Callable[..., Any],
) -> None:
    """Lesson 19: not only in a day."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            in_the_way = lab.settings.state_folder / "discovery.json"
            in_the_way.mkdir()
            with pytest.raises(MspError):
                await survey.domains.discover()
            assert survey.domain is not None
            assert tools.checkin.waiting_count == 0
            in_the_way.rmdir()
            await survey.domains.discover()
            assert in_the_way.is_file()
            assert tools.checkin.waiting_count == 1
            # And the report alone.
            outbox = lab.settings.outbox_folder
            outbox.rename(outbox.with_name("away"))
            outbox.write_text("no folder")
            with pytest.raises(MspError):
                await survey.domains.name(survey.domain, "RENAMED")
            outbox.unlink()
            outbox.with_name("away").rename(outbox)
            await survey.domains.discover()
            assert tools.checkin.waiting_count == 2

    asyncio.run(run())


def domain(name: str) -> Domain:
    return Domain(name, (DomainController(f"dc1.{name}"),), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("found", "denied", "held", "missing"),
    [
        pytest.param("a", "", "a", "b", id="a second domain that nobody reaches today stays"),
        pytest.param("ac", "", "", "b", id="a new domain beside a known one takes no place"),
        pytest.param("", "", "", "ab", id="a dark network is no other network"),
        pytest.param("c", "", "", "", id="in another network what was known is of the past"),
        pytest.param("c", "", "a", "a", id="what a credential was given for stays there too"),
        pytest.param("a", "b", "", "", id="what DNS denies is gone"),
        pytest.param("", "ab", "a", "a", id="a credential outweighs DNS"),
        pytest.param("ab", "", "", "", id="nothing is missing"),
    ],
)
def test_a_believed_domain_stays_until_something_speaks_against_it(
    found: str, denied: str, held: str, missing: str
) -> None:
    """Lesson 19."""
    known = [domain(name) for name in "ab"]
    discovery = DomainDiscovery(tuple(domain(name) for name in found), denied=tuple(denied))
    assert "".join(entry.name for entry in missing_in(discovery, known, set(held))) == missing


def test_a_domain_that_its_own_dns_denies_is_not_believed_again_after_a_restart(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert survey.domain is not None
            lab.estate.dns.zones = ()
            lab.time.at_s += 25 * 3600
            await survey.domains.discover()
            assert survey.domain is None
            assert tools.state.load_discovery() is None

    asyncio.run(run())


def test_the_subnets_are_looked_at_once_a_day_and_in_another_network_and_compared_with_the_directory(
    open_lab: Callable[..., Any],
) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            looks: list[float] = []

            async def sweep() -> Sweep:
                looks.append(lab.time.at_s)
                return Sweep((SweptHost("10.0.0.8", (5985,), "kiosk.lan"), SweptHost("10.0.0.9", (5985,), pc.lower())))

            tools.sweep = sweep
            pc = next(entry.name for entry in lab.estate.plan)
            survey = Survey(tools)

            async def told() -> dict[str, str]:
                await look(survey)
                await survey.subnets.sweep()
                await lab.beat(tools)
                (report,) = await lab.partner.domains(lab.site_id)
                return {host.address: host.reason for host in report.swept}

            await lab.beat(tools)
            assert await told() == {"10.0.0.8": "directory-unread", "10.0.0.9": "directory-unread"}
            await lab.give_credential()
            await lab.beat(tools)
            assert await told() == {"10.0.0.8": "not-in-a-directory"}
            lab.time.at_s += 3600
            await told()
            assert len(looks) == 1
            marks = tools.network_marks()
            tools.network_marks = lambda: evolve(marks, subnets_v6=("2001:db8::/64",))
            await lab.beat(tools)
            await told()
            assert len(looks) == 2, "another network"
            lab.time.at_s += 25 * 3600
            await told()
            assert len(looks) == 3

    asyncio.run(run())


def test_verifying_the_domain_again_keeps_the_name_that_only_a_logon_could_read(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            await lab.beat(tools)
            lab.time.at_s += 25 * 3600
            await survey.domains.discover()
            assert survey.domain is not None
            assert survey.domain.netbios_name == "NORTHVALLEY"
            assert tools.checkin.waiting_count == 0, "nothing has changed"

    asyncio.run(run())


def test_credential_is_never_proven_at_a_controller_of_another_domain(open_lab: Callable[..., Any]) -> None:
    """It would be refused there, and a refusal at a controller ends a version everywhere."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            (credential,) = tools.checkin.holdings.credentials or ()
            bound = len(binds(lab))
            with pytest.raises(MspError):
                await tools.prove(evolve(credential, domain_name="sister.test"))
            assert len(binds(lab)) == bound
            await tools.prove(evolve(credential, domain_name="NorthValley.test."))
            assert len(binds(lab)) == bound + 1

    asyncio.run(run())


def test_a_controller_whose_clock_is_far_off_is_a_problem_before_any_logon_fails(open_lab: Callable[..., Any]) -> None:
    """Lesson 28."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            survey = Survey(tools)
            await lab.beat(tools)
            for server in lab.estate.directories:
                server.spec.clock = lambda: datetime.now(UTC) + timedelta(minutes=10)
            await look(survey)
            assert survey.problems == {"directory-clock": "clock-skew"}
            for server in lab.estate.directories:
                server.spec.clock = lambda: datetime.now(UTC)
            lab.time.at_s += 25 * 3600
            await look(survey)
            assert survey.problems == {}

    asyncio.run(run())
