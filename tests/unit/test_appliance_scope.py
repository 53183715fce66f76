"""What belongs to the site: its networks, containers and names, as the daemon keeps to them (lesson 60)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.enumeration import AdSubnet
from msp_sdk.models.scope import SiteScope
from msp_sdk.models.target import ManualTarget
from msp_sdk.network.resolver import render_server
from msp_sdk.testing.directory_data import make_entry
from msp_sdk.testing.dns import DnsServer, DnsZone
from runners.appliance.survey import Survey
from tests.unit.appliance_lab import turn

DOMAIN = "northvalley.test"


def skipped(survey: Survey) -> dict[str, str]:
    assert survey.merge is not None
    return {entry.hostname: entry.reason for entry in survey.merge.skipped}


def targets(survey: Survey) -> set[str]:
    assert survey.merge is not None
    return {entry.hostname for entry in survey.merge.targets}


@pytest.mark.parametrize(
    "scope", [SiteScope(subnets=("10.0.0.0/8",)), SiteScope(ad_sites=("default-first-site-name",))]
)
def test_a_computer_of_another_network_is_listed_and_neither_probed_nor_a_target_unless_a_person_names_it(
    open_lab: Callable[..., Any], scope: SiteScope
) -> None:
    async def run() -> None:
        async with open_lab(scope=scope) as lab, lab.tools() as tools:
            for server in lab.estate.directories:
                server.spec.subnets["127.0.0.0/8"] = "Elsewhere"
            server = next(plan.name for plan in lab.estate.plan if plan.door == "https")
            await lab.partner.set_manual_targets(lab.site_id, (ManualTarget(server),))
            await lab.give_credential()
            survey = Survey(tools)
            await turn(lab, tools, survey)
            listed = {entry.hostname.upper(): entry for entry in await lab.partner.computers(lab.site_id)}
            assert len(listed) == 12
            elsewhere = {name for name, entry in listed.items() if entry.skipped_reason == "out-of-scope"}
            assert len(elsewhere) >= 6
            assert all(listed[name].reachable is None and not listed[name].doors for name in elsewhere)
            assert {listed[name].ad_site for name in elsewhere} == {"Elsewhere" if scope.ad_sites else None}
            assert {name.upper() for name in targets(survey)} == {server.upper()}, "a person's word wins"
            assert survey.merge is not None
            assert survey.merge.targets[0].reachable is True

    asyncio.run(run())


def test_a_container_that_does_not_exist_is_said_answers_the_wish_and_empties_nothing(
    open_lab: Callable[..., Any],
) -> None:
    """Lesson 24."""

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await turn(lab, tools, survey)
            there = targets(survey)
            await lab.partner.change_site(lab.site_id, scope=SiteScope(ous=("Severs",)))
            await lab.partner.wish_enumeration(lab.site_id)
            await turn(lab, tools, survey)
            assert survey.problems["enumeration"] == "scope-not-found"
            assert tools.completed.completed["enumeration"] == 2, "it ended, and why is reported"
            assert len(await lab.partner.computers(lab.site_id)) == 12
            assert "not-in-directory" not in skipped(survey).values()
            await lab.partner.change_site(lab.site_id, scope=SiteScope())
            await turn(lab, tools, survey)
            assert "enumeration" not in survey.problems
            assert targets(survey) == there

    asyncio.run(run())


def test_a_container_of_the_scope_that_is_renamed_is_said_and_empties_nothing(open_lab: Callable[..., Any]) -> None:
    """Lesson 24, for changes too."""
    base = "DC=northvalley,DC=test"

    async def run() -> None:
        async with open_lab(scope=SiteScope(ous=("Servers",))) as lab, lab.tools() as tools:
            spec = lab.estate.directories[0].spec
            unit = {"objectClass": ("top", "organizationalUnit"), "name": "Servers"}
            spec.put(make_entry(f"OU=Servers,{base}", unit))
            await lab.give_credential()
            survey = Survey(tools)
            await turn(lab, tools, survey)
            before, there = await lab.partner.computers(lab.site_id), targets(survey)
            assert there
            spec.move(f"OU=Servers,{base}", base, name="Racks")
            await turn(lab, tools, survey)
            await turn(lab, tools, survey)
            assert (await lab.partner.computers(lab.site_id), targets(survey)) == (before, there)
            assert survey.problems["directory-changes"] == "scope-not-found"
            await lab.partner.change_site(lab.site_id, scope=SiteScope(ous=("Racks",)))
            await turn(lab, tools, survey)
            assert (survey.problems, targets(survey)) == ({}, there)

    asyncio.run(run())


def test_a_scope_that_is_narrowed_holds_at_once_and_central_lists_what_belongs_to_it_alone(
    open_lab: Callable[..., Any],
) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            survey = Survey(tools)
            await turn(lab, tools, survey)
            assert survey.kept is not None
            known = survey.kept.enumeration.computers
            inside = {entry.hostname for entry in known if entry.ou_path == "Servers"}
            await lab.partner.change_site(lab.site_id, scope=SiteScope(ous=("Servers",)))
            lab.time.at_s += 60
            await lab.beat(tools)
            await survey.merge_targets()  # before the directory was read again
            assert targets(survey) <= inside
            await turn(lab, tools, survey)
            left_out = {entry.hostname for entry in known} - inside
            assert {skipped(survey)[name] for name in left_out} == {"out-of-scope"}
            await turn(lab, tools, survey, 26 * 3600)
            assert {skipped(survey)[name] for name in left_out} == {"out-of-scope"}, "also after the next full reading"
            assert {entry.hostname for entry in await lab.partner.computers(lab.site_id)} == inside

    asyncio.run(run())


def scoped(
    open_lab: Callable[..., Any], scripted: Any, work: Callable[[Any, DnsServer, DnsZone], Awaitable[None]]
) -> None:
    """A scripted directory, and DNS that the test changes."""
    zone = DnsZone(DOMAIN)

    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools, DnsServer(zone) as dns:
            await lab.give_credential()
            directory = scripted.directory("SRV2")
            watched = scripted.watched(lab, tools, directory)
            directory.put(scripted.computer("SRV1", fqdn=f"srv1.{DOMAIN}"))
            await lab.beat(tools)
            await watched.survey.domains.discover()
            (domain,) = watched.survey.domains.discovery.domains
            moved = evolve(domain, dns_servers=(render_server(dns.server),))
            watched.survey.domains.discovery = evolve(watched.survey.domains.discovery, domains=(moved,))
            await work(watched, dns, zone)

    asyncio.run(run())


def way_to(watched: Any, name: str) -> tuple[bool | None, tuple[str, ...]]:
    (target,) = (entry for entry in watched.survey.merge.targets if entry.hostname == name)
    return target.reachable, target.ip_addresses


def test_a_reading_is_kept_though_dns_cannot_be_asked(open_lab: Callable[..., Any], scripted: Any) -> None:
    async def work(watched: Any, dns: DnsServer, _zone: DnsZone) -> None:
        dns.faults.fail = True
        await watched.turn()
        assert await watched.names() == ["SRV1", "SRV2"]
        assert watched.tools.completed.completed["enumeration"] == 1
        assert "enumeration" not in watched.survey.problems
        assert "addresses" in watched.survey.problems

    scoped(open_lab, scripted, work)


def test_a_look_up_that_fails_takes_no_known_address_away_and_one_that_finds_none_does(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, dns: DnsServer, zone: DnsZone) -> None:
        address = next(plan.address for plan in watched.lab.estate.plan if plan.door == "https")
        zone.add_address("srv1", address)
        await watched.turn()
        assert way_to(watched, "SRV1") == (True, (address,))
        dns.faults.fail = True
        watched.directory.put(scripted.computer("SRV1", fqdn=f"srv1.{DOMAIN}", os_name="Windows Server 2025"))
        await watched.turn()
        assert way_to(watched, "SRV1") == (True, (address,))
        await watched.lab.partner.wish_enumeration(watched.lab.site_id)
        await watched.turn()
        assert watched.directory.asked.count("full") == 2
        assert way_to(watched, "SRV1") == (True, (address,))
        dns.faults.fail = False
        zone.remove("srv1")
        watched.directory.put(scripted.computer("SRV1", fqdn=f"srv1.{DOMAIN}"))
        await watched.turn()
        assert way_to(watched, "SRV1") == (False, ())

    scoped(open_lab, scripted, work)


def test_a_newcomer_that_turns_up_in_another_network_is_left_out_unknocked(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, _dns: DnsServer, zone: DnsZone) -> None:
        await watched.lab.partner.change_site(watched.lab.site_id, scope=SiteScope(subnets=("10.0.0.0/8",)))
        await watched.turn()
        watched.directory.put(scripted.computer("SRV3", fqdn=f"srv3.{DOMAIN}"))
        await watched.turn()
        assert way_to(watched, "SRV3") == (False, ()), "of no address nobody knows"
        zone.add_address("srv3", next(plan.address for plan in watched.lab.estate.plan if plan.door == "https"))
        await watched.turn(31)
        assert skipped(watched.survey)["SRV3"] == "out-of-scope"
        watched.directory.put(scripted.fresh("PC7"))
        await watched.turn(1)
        assert skipped(watched.survey)["SRV3"] == "out-of-scope"

    scoped(open_lab, scripted, work)


@pytest.mark.parametrize("how", ["scope", "reading"])
def test_who_was_elsewhere_is_a_target_again_when_the_scope_or_a_reading_says_so(
    open_lab: Callable[..., Any], scripted: Any, how: str
) -> None:
    async def work(watched: Any, _dns: DnsServer, zone: DnsZone) -> None:
        lab, home = watched.lab, next(plan.address for plan in watched.lab.estate.plan if plan.door == "https")
        await lab.partner.change_site(lab.site_id, scope=SiteScope(subnets=(f"{home}/32",)))
        await watched.turn()
        watched.directory.put(scripted.computer("SRV3", fqdn=f"srv3.{DOMAIN}"))
        await watched.turn()
        zone.add_address("srv3", "127.99.9.9")
        await watched.turn(31)
        assert skipped(watched.survey)["SRV3"] == "out-of-scope"
        zone.remove("srv3")
        zone.add_address("srv3", home)
        if how == "scope":
            await lab.partner.change_site(lab.site_id, scope=SiteScope())
        else:
            await lab.partner.wish_enumeration(lab.site_id)
        await watched.turn()
        assert way_to(watched, "SRV3") == (True, (home,))

    scoped(open_lab, scripted, work)


def test_an_unchanged_computer_elsewhere_is_no_news(open_lab: Callable[..., Any], scripted: Any) -> None:
    async def work(watched: Any, _dns: DnsServer, zone: DnsZone) -> None:
        watched.directory.ad_subnets = (AdSubnet("127.0.0.0/8", "Elsewhere"),)
        zone.add_address("srv1", "127.0.0.9")
        await watched.lab.partner.change_site(watched.lab.site_id, scope=SiteScope(ad_sites=("Oslo",)))
        await watched.turn()
        assert skipped(watched.survey)["SRV1"] == "out-of-scope"
        await watched.tools.checkin.flush()
        watched.directory.touch("SRV1")
        await watched.turn()
        assert watched.reports() == []

    scoped(open_lab, scripted, work)
