"""Several domains at one site: each is read from its own controllers, in turn; and what of a discovery is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve

from msp_sdk.errors import DirectoryError, LogonRejectedError
from msp_sdk.models.credential import NewDomainCredential
from msp_sdk.models.domain import DomainController, DomainDiscovery
from msp_sdk.secret import Secret
from runners.appliance.domain_watch import essence
from runners.appliance.kept_connection import KeptConnections

DOMAIN = "northvalley.test"
SISTER = "sister.test"


async def trust(watched: Any) -> None:
    """Discovery names a second domain, and somebody has given an account for it."""
    domains = watched.survey.domains
    (first,) = domains.discovery.domains
    domains.discovery = evolve(domains.discovery, domains=(first, evolve(first, name=SISTER, netbios_name="SISTER")))
    watched.tools.state.save("discovery", domains.discovery)
    await watched.lab.partner.create_domain_credential(
        watched.lab.site_id,
        NewDomainCredential(
            domain_name=SISTER,
            username="svc@sister.test",
            password=Secret("of-the-sister"),
            credential_type="service_account",
        ),
    )


def with_two(open_lab: Callable[..., Any], scripted: Any, work: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        first, second = scripted.directory("SRV1"), scripted.directory()
        second.put(scripted.computer("SIS1", domain_name=SISTER))
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            watched = scripted.watched(lab, tools, first)
            directories = {DOMAIN: first, SISTER: second}
            tools.directory = KeptConnections(lambda domain, account: directories[domain.name].reader(domain, account))
            watched.survey = type(watched.survey)(tools)
            await watched.turn()
            await trust(watched)
            await work(watched, first, second)

    asyncio.run(run())


def results(watched: Any) -> list[tuple[str, str]]:
    found = [report["results"] for report in watched.reports() if report["results"]]
    return [(entry["kind"], entry["domain_name"]) for entry in found]


def test_each_domain_is_read_from_its_own_controllers_with_a_report_of_its_own_and_followed(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        await watched.turn()
        assert (first.asked, second.asked) == (["full", "full"], ["full"]), "a new credential wishes a reading"
        assert (first.binds[-1], second.binds) == (watched.lab.estate.credential.upn, ["svc@sister.test"])
        assert results(watched) == [("full", DOMAIN), ("full", SISTER)]
        assert watched.tools.completed.completed["enumeration"] == 2
        assert await watched.names() == ["SIS1", "SRV1"]
        assert {target.hostname for target in watched.survey.merge.targets} == {"SIS1", "SRV1"}

        second.put(scripted.computer("SIS2", domain_name=SISTER))
        await watched.turn()
        assert results(watched) == [("changes", SISTER)]
        assert await watched.names() == ["SIS1", "SIS2", "SRV1"]
        assert {target.hostname for target in watched.survey.merge.targets} == {"SIS1", "SIS2", "SRV1"}
        assert (len(first.binds), len(second.binds)) == (1, 1)

        # Over a restart each goes on from where it was.
        watched.survey = type(watched.survey)(watched.tools)
        await watched.turn()
        assert (first.asked[-1], second.asked[-1]) == ("c0", "c2")

    with_two(open_lab, scripted, work)


def test_a_domain_that_cannot_be_read_holds_up_no_other_one_and_says_why(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        second.logon_failure = LogonRejectedError("the password is wrong.", code="wrong-password")
        await watched.turn()
        (failed,) = [report["failed"] for report in watched.reports() if report["failed"]]
        assert (failed["domain_name"], failed["code"]) == (SISTER, "wrong-password")
        assert [(entry["controller"], entry["code"]) for entry in failed["failures"]] == [("dc1", "wrong-password")]
        assert watched.survey.problems == {f"enumeration:{SISTER}": "wrong-password"}
        assert watched.tools.completed.completed["enumeration"] == 2, "it ended, one way or the other"
        assert await watched.names() == ["SRV1"]
        # A restart asks nobody again.
        watched.survey = type(watched.survey)(watched.tools)
        await watched.turn()
        assert (len(second.binds), results(watched)) == (1, [])

    with_two(open_lab, scripted, work)


def test_a_domain_whose_controllers_are_silent_is_tried_again_while_the_other_one_goes_on(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 24."""

    async def work(watched: Any, first: Any, second: Any) -> None:
        second.failure = DirectoryError("no answer.", code="unreachable-controller", retryable=True)
        await watched.turn()
        assert watched.tools.completed.completed["enumeration"] == 1
        assert await watched.names() == ["SRV1"]
        first.put(scripted.computer("SRV2"))
        second.failure = None
        await watched.turn(400)
        assert watched.tools.completed.completed["enumeration"] == 2
        assert first.asked.count("full") == 2, "what was read for this wish is not read for it again"
        assert await watched.names() == ["SIS1", "SRV1", "SRV2"]

    with_two(open_lab, scripted, work)


def test_a_withdrawn_credential_ends_the_connection_to_its_own_domain_alone(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 13."""

    async def work(watched: Any, first: Any, second: Any) -> None:
        await watched.turn()
        stored = await watched.lab.partner.credentials(watched.lab.site_id)
        (gone,) = [entry for entry in stored if entry.domain_name == SISTER]
        await watched.lab.partner.delete_credential(watched.lab.site_id, gone.id)
        await watched.lab.beat(watched.tools)
        await watched.survey.directory.let_go()
        assert (first.open_count, second.open_count) == (1, 0)

    with_two(open_lab, scripted, work)


def test_a_domain_that_is_silent_while_another_one_is_found_stays(open_lab: Callable[..., Any], scripted: Any) -> None:
    """Lesson 19."""

    async def work(watched: Any, _first: Any, _second: Any) -> None:
        await watched.turn()
        await watched.turn(25 * 3600)  # DNS names the first domain alone
        assert [domain.name for domain in watched.survey.domains.found] == [DOMAIN, SISTER]
        assert watched.survey.problems["discovery"] == "unreachable-controller"

    with_two(open_lab, scripted, work)


def test_what_flaps_makes_no_report_and_is_told_with_the_next_true_change(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        found: DomainDiscovery = watched.survey.domains.discovery
        (domain,) = found.domains

        def with_controllers(change: Callable[[DomainController], DomainController]) -> DomainDiscovery:
            return evolve(found, domains=(evolve(domain, controllers=tuple(map(change, domain.controllers))),))

        assert essence(with_controllers(lambda entry: evolve(entry, doors=(389,)))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, clock_skew_s=3.0))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, supported_controls=("1.2",)))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, is_read_only=True))) != essence(found)
        assert essence(evolve(found, domains=())) != essence(found)

    scripted.watching(work)
