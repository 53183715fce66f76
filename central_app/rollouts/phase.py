"""How far a site has come: the first condition that is unmet. A pure rule on plain facts; nothing is stored.

The ladder: a domain is believed; its credential is held and not refused; one full enumeration; a final outcome for
each target of the site's rollouts; a first scan of each reachable target. A site without a directory walks the last
two alone; so does one of which nobody can tell, while what discovery waits for stays said. Hosts that are off have an
outcome with a reason and hold nothing up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from central_app.rollouts.coverage import HostIndex, HostNames, covers
from msp_sdk.models.rollout import OutcomeState, RolloutScope, RolloutState
from msp_sdk.models.scope import DOMAIN_OUT_OF_SCOPE
from msp_sdk.models.site import PROGRESS, DeploymentStatus, Phase, StatusDetails

Directory = Literal["found", "none", "unknown"]


@frozen
class CredentialFact:
    """The credential that opens a domain. ``refused_code`` is the reason of its refusal, or None."""

    id: str
    username: str
    refused_code: str | None = None


@frozen
class DomainFact:
    """A believed domain and the credential held for it, if any."""

    name: str
    credential: CredentialFact | None = None
    fully_enumerated: bool = False
    last_failure_code: str | None = None


@frozen
class TargetFact:
    """A target of the last lists of the site's appliances. ``reachable`` is None when it was not probed."""

    names: HostNames
    role: str
    reachable: bool | None = None


@frozen
class OutcomeFact:
    """What happened on one host in one rollout.

    Attributes:
        has_agent: The agent runs there now (false after a removal).
        generation: Of the rollout when it happened.
    """

    names: HostNames
    state: OutcomeState
    has_agent: bool
    generation: int


@frozen
class RolloutFact:
    """A rollout with its outcomes."""

    id: str
    state: RolloutState
    generation: int
    scope: RolloutScope
    outcomes: tuple[OutcomeFact, ...] = ()


@frozen
class SiteFacts:
    """Everything that decides a phase.

    Attributes:
        approved_appliances_count: Appliances that work here. ``waiting_appliances_count`` wait for approval.
        found_nothing: An appliance has looked and found no domain, for whatever reason.
        controllers_silent: DNS names controllers, and none of them proved itself.
        dns_failed: DNS gave an appliance no usable answer.
        domains: Believed domains, most certain first; may be empty.
        auto_rollout_enabled: The site wants a package on every target; ``auto_rollout_ready`` when its rollout stands.
        targets_current: There is a list of targets of the last enumeration's generation (without a directory: any).
        scanned: Hosts with a scan result of any status.
        last_outcomes: The last outcome of each host, of whatever rollout or of none; what is counted.
    """

    approved_appliances_count: int = 0
    waiting_appliances_count: int = 0
    directory: Directory = "unknown"
    found_nothing: bool = False
    controllers_silent: bool = False
    dns_failed: bool = False
    domains: tuple[DomainFact, ...] = ()
    auto_rollout_enabled: bool = False
    auto_rollout_ready: bool = True
    targets_current: bool = False
    targets: tuple[TargetFact, ...] = ()
    rollouts: tuple[RolloutFact, ...] = ()
    scanned: tuple[HostNames, ...] = ()
    last_outcomes: tuple[OutcomeFact, ...] = ()
    servers_found: int = 0
    workstations_found: int = 0
    skipped: Mapping[str, int] = field(factory=dict)


def is_final(outcome: OutcomeFact, rollout_generation: int) -> bool:
    """Whether an outcome settles its host. A failure of before a ``retry`` does not: the host is due again."""
    return outcome.state != "failed" or outcome.generation >= rollout_generation


def main_domain(domains: tuple[DomainFact, ...]) -> DomainFact | None:
    """The domain that the site is worked through: one with a usable credential, else with any, else the surest.

    One that the site's scope leaves out is passed over while there is another.
    """
    mine = [domain for domain in domains if domain.last_failure_code != DOMAIN_OUT_OF_SCOPE] or domains
    usable = [domain for domain in mine if domain.credential and domain.credential.refused_code is None]
    held = [domain for domain in mine if domain.credential]
    return next(iter((*usable, *held, *mine)), None)


def unmet_targets(facts: SiteFacts) -> tuple[TargetFact, ...]:
    """Targets of the site's rollouts without a final outcome; each once."""
    unmet: dict[str, TargetFact] = {}
    for rollout in facts.rollouts:
        if rollout.state == "cancelled":
            continue
        outcomes = HostIndex.make((outcome.names, outcome) for outcome in rollout.outcomes)
        for target in facts.targets:
            if not covers(rollout.scope, target.names, target.role):
                continue
            outcome = outcomes.find(target.names)
            if outcome is None or not is_final(outcome, rollout.generation):
                unmet[target.names.key] = target
    return tuple(unmet.values())


def unscanned_targets(facts: SiteFacts) -> tuple[TargetFact, ...]:
    """Reachable targets without any scan result."""
    scanned = HostIndex.make((names, True) for names in facts.scanned)
    return tuple(target for target in facts.targets if target.reachable and not scanned.find(target.names))


def _discovering(facts: SiteFacts) -> list[str]:
    if facts.approved_appliances_count == 0:
        return ["approval"] if facts.waiting_appliances_count else ["appliance"]
    if facts.controllers_silent:
        return ["discovery:unreachable-controller"]
    return ["discovery:dns-failed" if facts.dns_failed else "discovery"]


def _credentials(domain: DomainFact) -> list[str]:
    if domain.credential is None:
        return [f"domain_credential:{domain.name}"]
    if domain.credential.refused_code is not None:
        return [f"domain_credential:{domain.credential.id}:{domain.credential.refused_code}"]
    return []


def _enumerating(domain: DomainFact) -> list[str]:
    if domain.fully_enumerated:
        return []
    return [f"enumeration:{domain.last_failure_code}" if domain.last_failure_code else "enumeration"]


def _deploying(facts: SiteFacts) -> list[str]:
    wants_targets = facts.auto_rollout_enabled or any(rollout.state == "active" for rollout in facts.rollouts)
    if facts.auto_rollout_enabled and not facts.auto_rollout_ready:
        return ["package"]
    if wants_targets and not facts.targets_current:
        return ["targets"]
    unmet = unmet_targets(facts)
    if not unmet:
        return []
    paused = all(rollout.state == "paused" for rollout in facts.rollouts if rollout.state != "cancelled")
    return [f"{'rollout-paused' if paused else 'outcomes'}:{len(unmet)}"]


def _scanning(facts: SiteFacts) -> list[str]:
    if not facts.targets_current:
        return ["targets"]
    unscanned = unscanned_targets(facts)
    return [f"scan:{len(unscanned)}"] if unscanned else []


def _walks_alone(facts: SiteFacts) -> bool:
    """There are targets to work on, although nobody can tell whether there is a directory (lesson 59)."""
    return facts.found_nothing and facts.targets_current and bool(facts.targets)


def _before_hosts(facts: SiteFacts) -> tuple[Phase, list[str]] | None:
    """What is unmet before anything is done at hosts; None when nothing is."""
    domain = main_domain(facts.domains)
    if facts.directory == "none":
        return None
    if domain is None:
        return None if _walks_alone(facts) else ("discovering", _discovering(facts))
    if awaiting := _credentials(domain):
        return "awaiting_credentials", awaiting
    if awaiting := _enumerating(domain):
        return "enumerating", awaiting
    return None


def _at_hosts(facts: SiteFacts) -> tuple[Phase, list[str]]:
    if awaiting := _deploying(facts):
        return "deploying", awaiting
    if awaiting := _scanning(facts):
        return "scanning", awaiting
    return "complete", []


def _walk(facts: SiteFacts) -> tuple[Phase, list[str]]:
    unmet = _before_hosts(facts)
    if unmet is not None:
        return unmet
    phase, awaiting = _at_hosts(facts)
    return phase, awaiting + (_discovering(facts) if facts.directory == "unknown" else [])


def count_agents(facts: SiteFacts) -> tuple[int, int]:
    """Hosts whose last outcome is an agent, and hosts whose last outcome is a failure."""
    deployed = sum(1 for outcome in facts.last_outcomes if outcome.has_agent)
    return deployed, sum(1 for outcome in facts.last_outcomes if outcome.state == "failed")


def deployment_status(facts: SiteFacts) -> DeploymentStatus:
    """The phase of a site, its progress and the figures behind it.

    Args:
        facts: What Central's tables say now. Rollouts in the order in which they were made.

    Returns:
        ``details.awaiting`` names whom or what the first unmet condition waits for, as slugs with details after
        colons, such as ``domain_credential:<id>:wrong-password``; empty when complete.
    """
    phase, awaiting = _walk(facts)
    if facts.waiting_appliances_count and "approval" not in awaiting:
        awaiting.append("approval")
    if facts.approved_appliances_count == facts.waiting_appliances_count == 0 and "appliance" not in awaiting:
        # It was revoked: whatever else is awaited comes from nobody until there is a new one.
        awaiting.insert(0, "appliance")
    domain = main_domain(facts.domains)
    deployed, failed = count_agents(facts)
    return DeploymentStatus(
        phase=phase,
        progress=PROGRESS[phase],
        details=StatusDetails(
            domain_discovered=domain.name if domain else None,
            directory=facts.directory,
            servers_found=facts.servers_found,
            workstations_found=facts.workstations_found,
            agents_deployed=deployed,
            agents_failed=failed,
            skipped=facts.skipped,
            first_scan_complete=facts.targets_current and bool(facts.scanned) and not unscanned_targets(facts),
            awaiting=tuple(awaiting),
        ),
    )
