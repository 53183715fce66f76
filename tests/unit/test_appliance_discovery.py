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
from msp_sdk.errors import MspError
from msp_sdk.testing.dns import DnsServer, DnsZone
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools


def binds(lab: Any) -> list[str]:
    return [outcome for where, outcome in lab.estate.credential.attempts]


async def look(survey: Survey) -> None:
    await survey.domains.discover()
    await survey.directory.enumerate()
    await survey.merge_targets()


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
                assert survey.domains.discovery is found
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
    """DNS names a controller at which nothing listens, as after a power cut."""
    zone = DnsZone(lab.estate.spec.domain)
    zone.add_controller("dc1", "127.0.99.9", port=9)
    alive = tools.discoverer
    async with DnsServer(zone) as dns:
        options = DiscoveryOptions(resolvers=(dns.server,), search=lab.settings.search)
        tools.discoverer = DomainDiscoverer(options=options)
        yield
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
            lab.estate.dns.faults.fail = True
            await lab.give_credential()
            survey = Survey(tools)
            await lab.beat(tools)
            await look(survey)
            assert survey.domains.discovery is None
            assert "discovery" in survey.problems
            assert tools.completed.completed.get("enumeration", 0) == 0
            assert tools.checkin.waiting_count == 0

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
