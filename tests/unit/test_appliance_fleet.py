"""What rollouts do to hosts: who is due when, what ends a rollout, what is remembered; beside real peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.models.rollout import RolloutScope, Wave, Window
from msp_sdk.models.target import MergeResult
from msp_sdk.testing.estate import HTTPS_PORT
from runners.appliance.due import WAITING_AGAIN_S
from runners.appliance.fleet import Fleet
from runners.appliance.survey import Survey


@asynccontextmanager
async def enumerated(lab: Any) -> AsyncIterator[tuple[Any, MergeResult]]:
    """The appliance with its targets, the credential proven."""
    async with lab.tools() as tools:
        survey = Survey(tools)
        await lab.beat(tools)
        await survey.domains.discover()
        await survey.directory.enumerate()
        await survey.merge_targets()
        await lab.beat(tools)
        assert survey.merge is not None
        yield tools, survey.merge


def installs(lab: Any) -> dict[str, int]:
    counts = {name: facts["scripts"].get("agent-install", 0) for name, facts in lab.estate.machine_facts().items()}
    return {name: count for name, count in counts.items() if count}


def logons(lab: Any) -> int:
    return len(lab.estate.credential.attempts)


async def outcomes(lab: Any, tools: Any) -> dict[str, Any]:
    await lab.beat(tools)
    return {outcome.hostname.upper(): outcome for outcome in await lab.partner.deployments(lab.site_id)}


def test_each_target_has_one_outcome_and_a_second_pass_touches_nothing(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                told = await outcomes(lab, tools)
                assert {target.hostname.upper() for target in merge.targets} == set(told)
                truth = {entry.name.upper(): entry.truth for entry in lab.estate.plan}
                assert {name for name, outcome in told.items() if outcome.state == "done"} == {
                    name for name, answer in truth.items() if answer == "agent"
                }
                assert all(count == 1 for count in installs(lab).values())
                seen = logons(lab)
                for _ in range(5):
                    await fleet.roll_out(merge)
                await Fleet(tools).roll_out(merge)  # a restart
                assert logons(lab) == seen
                assert tools.checkin.waiting_count == 0

    asyncio.run(run())


def test_host_that_was_asleep_is_knocked_at_again_and_gets_its_agent(open_lab: Callable[..., Any]) -> None:
    """What the last enumeration found is hours old: it must not speak for a host that has woken up."""

    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                asleep = next(target for target in merge.targets if target.reachable)
                merged = _with(merge, asleep.key, reachable=False, unreachable_reason="winrm-closed", doors=())
                host = lab.estate.hosts[asleep.hostname.upper()]
                await host.__aexit__(None, None, None)
                fleet = Fleet(tools)
                await fleet.roll_out(merged)
                told = await outcomes(lab, tools)
                assert told[asleep.hostname.upper()].state == "waiting"
                before = logons(lab)
                lab.time.at_s += WAITING_AGAIN_S + 1
                await fleet.roll_out(merged)
                assert logons(lab) == before, "hosts that still wait cost no logon"
                assert tools.checkin.waiting_count == 0, "and are no news"
                async with host:
                    lab.time.at_s += WAITING_AGAIN_S + 1
                    await fleet.roll_out(merged)
                    told = await outcomes(lab, tools)
                    assert told[asleep.hostname.upper()].state == "done"
                    assert told[asleep.hostname.upper()].attempts == 2

    asyncio.run(run())


def _with(merge: MergeResult, key: str, **changes: Any) -> MergeResult:
    return evolve(
        merge, targets=tuple(evolve(entry, **changes) if entry.key == key else entry for entry in merge.targets)
    )


@pytest.mark.parametrize("what", ["pause", "cancel"])
def test_paused_or_cancelled_rollout_begins_no_further_host(open_lab: Callable[..., Any], what: str) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            rollout = await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                many = tuple(
                    evolve(merge.targets[0], hostname=f"gone-{number}", object_guid=f"g{number}", fqdn=None,
                           ip_addresses=(), reachable=None)
                    for number in range(1000)
                )  # fmt: skip
                fleet = Fleet(tools)
                work = asyncio.create_task(fleet.roll_out(MergeResult(many)))
                await asyncio.sleep(0.05)
                await (lab.partner.pause_rollout if what == "pause" else lab.partner.cancel_rollout)(
                    lab.site_id, rollout.id
                )
                await lab.beat(tools)
                await work
                record = tools.state.load_rollout(rollout.id, 1)
                begun = len(record.hosts)
                assert begun < 1000
                if what == "pause":
                    await lab.partner.resume_rollout(lab.site_id, rollout.id)
                    await lab.beat(tools)
                    await fleet.roll_out(MergeResult(many))
                    assert len(tools.state.load_rollout(rollout.id, 1).hosts) == 1000

    asyncio.run(run())


def test_credential_that_is_withdrawn_meanwhile_sends_no_further_password(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            credential = await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                await lab.partner.delete_credential(lab.site_id, credential.id)
                await lab.beat(tools)
                before = logons(lab)
                await Fleet(tools).roll_out(merge)
                assert logons(lab) == before
                told = await outcomes(lab, tools)
                assert {outcome.error.code for outcome in told.values() if outcome.error} >= {"no-credential"}

    asyncio.run(run())


def test_hosts_refused_for_their_credential_are_due_again_with_the_next_version(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                lab.estate.credential.administers = frozenset()
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                assert installs(lab) == {}
                lab.time.at_s += 100_000
                before = logons(lab)
                await fleet.roll_out(merge)
                assert logons(lab) == before, "a refused host is not tried again by time alone"
                lab.estate.credential.administers = frozenset({"*"})
                (stored,) = await lab.partner.credentials(lab.site_id)
                await lab.partner.retry_credential(lab.site_id, stored.id)
                await lab.beat(tools)
                survey = Survey(tools)
                await survey.domains.discover()
                await survey.directory.enumerate()  # proves the new version
                await fleet.roll_out(merge)
                assert installs(lab)

    asyncio.run(run())


def test_hosts_that_wait_for_their_credentials_proof_come_again_soon(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                (stored,) = await lab.partner.credentials(lab.site_id)
                await lab.partner.retry_credential(lab.site_id, stored.id)
                await lab.beat(tools)
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                told = await outcomes(lab, tools)
                waiting = [outcome for outcome in told.values() if outcome.state == "waiting" and outcome.error]
                assert "credential-unproven" in {outcome.error.code for outcome in waiting}
                survey = Survey(tools)
                await survey.domains.discover()
                await survey.directory.enumerate()
                lab.time.at_s += 21
                await fleet.roll_out(merge)
                assert installs(lab)

    asyncio.run(run())


def test_host_that_comes_into_scope_is_due(open_lab: Callable[..., Any]) -> None:
    """Its role became known, or a person set it: that it was left out once must not stick."""

    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out(scope=RolloutScope(roles=("server",)))
            async with enumerated(lab) as (tools, merge):
                there = next(t for t in merge.targets if t.role == "server" and HTTPS_PORT in t.doors)
                fleet = Fleet(tools)
                await fleet.roll_out(_with(merge, there.key, role="workstation"))
                assert there.hostname.upper() not in installs(lab)
                await fleet.roll_out(merge)
                assert installs(lab)[there.hostname.upper()] == 1

    asyncio.run(run())


def test_policy_that_changes_makes_refused_hosts_due(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16, trusted_cas=()) as lab:
            await lab.give_credential()
            await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                told = await outcomes(lab, tools)
                untrusted = {
                    name for name, o in told.items() if o.error and o.error.code == "certificate-untrusted"
                }  # fmt: skip
                assert untrusted
                await lab.partner.change_site(lab.site_id, trusted_cas=[lab.estate.ca.pem.decode()])
                await lab.beat(tools)
                await fleet.roll_out(merge)
                assert untrusted & set(installs(lab))

    asyncio.run(run())


def test_retried_rollout_works_again_on_what_is_not_done_and_on_nothing_else(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            rollout = await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                done = installs(lab)
                lab.estate.credential.administers = frozenset({"*"})
                before = logons(lab)
                await lab.partner.retry_rollout(lab.site_id, rollout.id)
                await lab.beat(tools)
                await fleet.roll_out(merge)
                assert {name: installs(lab)[name] for name in done} == done
                assert logons(lab) - before <= 2 * len(merge.targets)

    asyncio.run(run())


@pytest.mark.parametrize(
    "wish", [{"waves": (Wave(10), Wave(100))}, {"window": Window("22:00", "05:00")}], ids=["waves", "window"]
)
def test_rollout_that_asks_for_what_we_cannot_do_is_not_begun_and_that_is_said(
    open_lab: Callable[..., Any], wish: dict[str, Any]
) -> None:
    """To work outside of a window is worse than not to work."""

    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            await lab.roll_out(**wish)
            async with enumerated(lab) as (tools, merge):
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                assert fleet.problems == {"rollout": "unsupported-rollout"}
                assert installs(lab) == {}

    asyncio.run(run())


def test_package_that_is_not_to_be_had_leaves_every_host_owed(open_lab: Callable[..., Any]) -> None:
    async def run() -> None:
        async with open_lab(computers=16) as lab:
            await lab.give_credential()
            rollout = await lab.roll_out()
            async with enumerated(lab) as (tools, merge):
                rollouts = tools.checkin.holdings.rollouts
                missing = evolve(rollouts[0], package=evolve(rollouts[0].package, sha256="0" * 64))
                tools.checkin.holdings = evolve(tools.checkin.holdings, rollouts=(missing,))
                fleet = Fleet(tools)
                await fleet.roll_out(merge)
                assert "package" in fleet.problems
                assert not any(
                    record.outcome.step != "plan" for record in tools.state.load_rollout(rollout.id, 1).hosts.values()
                )
                tools.checkin.holdings = evolve(tools.checkin.holdings, rollouts=rollouts)
                await fleet.roll_out(merge)
                assert installs(lab), "another package does not wait for the one that is missing"

    asyncio.run(run())
