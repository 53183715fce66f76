"""The phase of a site: a rule on plain facts."""

from __future__ import annotations

from attrs import evolve

from central_app.rollouts.coverage import HostIndex, HostNames, covers
from central_app.rollouts.phase import (
    CredentialFact,
    DomainFact,
    OutcomeFact,
    RolloutFact,
    SiteFacts,
    TargetFact,
    deployment_status,
)
from msp_sdk.models.rollout import OutcomeState, RolloutScope
from msp_sdk.models.site import DeploymentStatus

SRV1 = HostNames("SRV1", "srv1.corp.example", "11111111-aaaa")
PC1 = HostNames("PC1", "pc1.corp.example", "22222222-bbbb")
HELD = CredentialFact("cred-1", "svc@corp.example")
CORP = DomainFact("corp.example", HELD, fully_enumerated=True)
TARGETS = (TargetFact(SRV1, "server", reachable=True), TargetFact(PC1, "workstation", reachable=False))


def outcome(names: HostNames, state: OutcomeState = "done", generation: int = 1) -> OutcomeFact:
    return OutcomeFact(names, state, has_agent=state == "done", generation=generation)


def rollout(*outcomes: OutcomeFact, generation: int = 1, **changes: object) -> RolloutFact:
    return evolve(RolloutFact("r1", "active", generation, RolloutScope(), tuple(outcomes)), **changes)


READY = SiteFacts(
    approved_appliances_count=1,
    directory="found",
    domains=(CORP,),
    auto_rollout_enabled=True,
    targets_current=True,
    targets=TARGETS,
    rollouts=(rollout(outcome(SRV1), outcome(PC1, "skipped")),),
    scanned=(SRV1,),
    last_outcomes=(outcome(SRV1), outcome(PC1, "skipped")),
    servers_found=1,
    workstations_found=1,
)


def status(facts: SiteFacts = READY, **changes: object) -> DeploymentStatus:
    return deployment_status(evolve(facts, **changes))


def test_dns_that_gave_no_usable_answer_is_what_a_site_waits_for() -> None:
    # Lesson 59.
    asked = status(SiteFacts(approved_appliances_count=1, dns_failed=True))
    assert (asked.phase, asked.details.awaiting) == ("discovering", ("discovery:dns-failed",))


def test_a_site_with_targets_walks_on_while_nobody_can_tell_whether_there_is_a_directory() -> None:
    # Lesson 59.
    unknown = evolve(READY, directory="unknown", domains=(), dns_failed=True, found_nothing=True)
    awaited = "discovery:dns-failed"
    done = status(unknown)
    assert (done.phase, done.details.awaiting, done.details.directory) == ("complete", (awaited,), "unknown")
    assert status(unknown, scanned=()).details.awaiting == ("scan:1", awaited)
    for hollow in ({"targets": ()}, {"targets_current": False}, {"found_nothing": False}):
        assert status(unknown, **hollow).phase == "discovering"


def test_a_domain_that_the_scope_leaves_out_holds_up_no_other_one() -> None:
    root = DomainFact("corp.example", HELD, last_failure_code="domain-out-of-scope")
    child = evolve(CORP, name="child.corp.example")
    found = status(domains=(root, child))
    assert (found.phase, found.details.domain_discovered) == ("complete", "child.corp.example")
    assert status(domains=(root,)).details.awaiting == ("enumeration:domain-out-of-scope",)


def test_a_site_where_everything_is_done_is_complete() -> None:
    found = status()
    assert (found.phase, found.progress, found.details.awaiting) == ("complete", 100, ())
    assert (found.details.agents_deployed, found.details.agents_failed) == (1, 0)
    assert found.details.first_scan_complete


def test_a_new_site_waits_for_an_appliance() -> None:
    found = deployment_status(SiteFacts())
    assert (found.phase, found.progress, found.details.awaiting) == ("discovering", 10, ("appliance",))


def test_an_appliance_that_is_not_approved_is_what_the_site_waits_for() -> None:
    assert deployment_status(SiteFacts(waiting_appliances_count=1)).details.awaiting == ("approval",)


def test_a_second_appliance_awaiting_approval_is_named_and_holds_nothing_up() -> None:
    found = status(waiting_appliances_count=1)
    assert (found.phase, found.details.awaiting) == ("complete", ("approval",))


def test_a_believed_domain_without_a_credential_awaits_it() -> None:
    found = status(domains=(DomainFact("corp.example"),))
    assert (found.phase, found.progress) == ("awaiting_credentials", 20)
    assert found.details.awaiting == ("domain_credential:corp.example",)
    assert found.details.domain_discovered == "corp.example"


def test_a_refused_credential_is_awaited_by_name_and_reason_whatever_was_done_before() -> None:
    found = status(domains=(evolve(CORP, credential=evolve(HELD, refused_code="wrong-password")),))
    assert found.phase == "awaiting_credentials"
    assert found.details.awaiting == ("domain_credential:cred-1:wrong-password",)


def test_a_domain_with_a_usable_credential_is_worked_before_a_surer_one_without() -> None:
    found = status(domains=(DomainFact("branch.example"), CORP))
    assert (found.phase, found.details.domain_discovered) == ("complete", "corp.example")


def test_until_one_full_enumeration_the_site_is_enumerating_and_says_why_the_last_one_failed() -> None:
    domain = evolve(CORP, fully_enumerated=False)
    assert status(domains=(domain,)).details.awaiting == ("enumeration",)
    failed = status(domains=(evolve(domain, last_failure_code="unreachable-controller"),))
    assert (failed.phase, failed.progress) == ("enumerating", 40)
    assert failed.details.awaiting == ("enumeration:unreachable-controller",)


def test_a_failure_after_a_full_enumeration_does_not_send_the_site_back() -> None:
    """Lesson 24: the last good result stays."""
    assert status(domains=(evolve(CORP, last_failure_code="unreachable-controller"),)).phase == "complete"


def test_an_auto_rollout_is_unmet_until_the_targets_of_the_last_enumeration_are_there() -> None:
    found = status(targets_current=False, rollouts=())
    assert (found.phase, found.progress, found.details.awaiting) == ("deploying", 60, ("targets",))


def test_an_active_rollout_is_unmet_until_the_targets_of_the_last_enumeration_are_there() -> None:
    found = status(auto_rollout_enabled=False, targets_current=False)
    assert (found.phase, found.details.awaiting) == ("deploying", ("targets",))


def test_an_auto_rollout_without_its_package_awaits_the_package() -> None:
    assert status(auto_rollout_ready=False).details.awaiting == ("package",)


def test_every_covered_target_needs_an_outcome() -> None:
    found = status(rollouts=(rollout(outcome(SRV1)),))
    assert (found.phase, found.details.awaiting) == ("deploying", ("outcomes:1",))


def test_every_kind_of_outcome_settles_its_host_also_one_that_waits() -> None:
    for state in ("done", "failed", "skipped", "waiting"):
        assert status(rollouts=(rollout(outcome(SRV1), outcome(PC1, state)),)).phase == "complete", state


def test_a_retry_makes_failed_hosts_due_again_and_no_others() -> None:
    settled = (outcome(SRV1, "failed", 1), outcome(PC1, "skipped", 1))
    found = status(rollouts=(rollout(*settled, generation=2),))
    assert (found.phase, found.details.awaiting) == ("deploying", ("outcomes:1",))
    again = (outcome(SRV1, "failed", 2), outcome(PC1, "skipped", 1))
    assert status(rollouts=(rollout(*again, generation=2),)).phase == "complete"


def test_targets_outside_the_scope_hold_nothing_up() -> None:
    servers_only = RolloutScope(roles=("server",))
    assert status(rollouts=(rollout(outcome(SRV1), scope=servers_only),)).phase == "complete"


def test_a_cancelled_rollout_holds_nothing_up_and_a_paused_one_says_that_it_is_paused() -> None:
    assert status(rollouts=(rollout(state="cancelled"),)).phase == "complete"
    assert status(rollouts=(rollout(state="paused"),)).details.awaiting == ("rollout-paused:2",)


def test_only_reachable_targets_need_a_first_scan() -> None:
    found = status(scanned=())
    assert (found.phase, found.progress, found.details.awaiting) == ("scanning", 80, ("scan:1",))
    assert not found.details.first_scan_complete
    off = tuple(evolve(target, reachable=False) for target in TARGETS)
    assert status(scanned=(), targets=off).phase == "complete"


def test_a_site_without_a_directory_walks_the_last_two_phases_alone() -> None:
    """Lesson 59: no directory is a result; the walk goes on."""
    manual = SiteFacts(approved_appliances_count=1, directory="none")
    assert deployment_status(manual).phase == "scanning"
    workgroup = (TargetFact(HostNames("scanner-pc"), "workstation", reachable=True),)
    with_targets = evolve(manual, targets_current=True, targets=workgroup)
    assert deployment_status(with_targets).details.awaiting == ("scan:1",)
    assert deployment_status(evolve(with_targets, rollouts=(rollout(),))).phase == "deploying"
    done = evolve(with_targets, scanned=(HostNames("SCANNER-PC"),))
    assert deployment_status(done).phase == "complete"


def test_a_removed_agent_is_not_counted_as_deployed() -> None:
    gone = OutcomeFact(SRV1, "done", has_agent=False, generation=1)
    assert status(last_outcomes=(gone, outcome(PC1))).details.agents_deployed == 1


def test_one_host_is_one_host_whatever_it_is_called() -> None:
    """Lesson 30."""
    index = HostIndex.make([(HostNames("srv1"), "by name"), (HostNames("PC1", None, "22222222-BBBB"), "by guid")])
    assert index.find(SRV1) == "by name"
    assert index.find(PC1) == "by guid"
    assert index.find(HostNames("pc1")) == "by guid"


def test_two_hosts_of_one_name_are_two_hosts() -> None:
    index = HostIndex.make([(HostNames("SRV1", None, "99999999-ffff"), "the other")])
    assert index.find(SRV1) is None


def test_an_exclusion_always_wins_and_an_inclusion_goes_beyond_the_roles() -> None:
    """Lesson 31."""
    controller = HostNames("DC1", "dc1.corp.example", "33333333-cccc")
    assert not covers(RolloutScope(), controller, "domain_controller")
    assert covers(RolloutScope(include=("DC1.corp.example",)), controller, "domain_controller")
    assert not covers(RolloutScope(include=("dc1",), exclude=("dc1",)), controller, "domain_controller")
    assert not covers(RolloutScope(exclude=("11111111-AAAA",)), SRV1, "server")
