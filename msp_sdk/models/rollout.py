"""Rollouts: one deployment to many; plans, actions and outcomes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from attrs import frozen

from msp_sdk.models.computer import ComputerRole
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.target import Target

RolloutState = Literal["active", "paused", "cancelled", "complete"]
RolloutAction = Literal["install", "remove"]
ActionName = Literal["install", "upgrade", "reconfigure", "repair", "remove", "nothing", "skip"]
OutcomeState = Literal["done", "failed", "skipped", "waiting"]

DEFAULT_ROLES: tuple[ComputerRole, ...] = ("server", "workstation")


@frozen
class RolloutScope:
    """Which targets a rollout covers. ``include`` names hosts beyond the roles; ``exclude`` always wins."""

    roles: tuple[ComputerRole, ...] = DEFAULT_ROLES
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def why_out_of_scope(scope: RolloutScope, target: Target) -> str | None:
    """None when the rollout covers the target, else a reason code. ``exclude`` beats ``include`` beats the roles."""
    names = {name.casefold() for name in (target.hostname, target.fqdn, target.object_guid) if name}
    if names & {name.casefold() for name in scope.exclude}:
        return "excluded"
    if target.role in scope.roles or names & {name.casefold() for name in scope.include}:
        return None
    return "domain-controller" if target.role == "domain_controller" else "role-not-in-scope"


@frozen
class Wave:
    """A batch: up to ``percent`` of the targets, one after the other."""

    percent: int = 100


@frozen
class Window:
    """When a rollout may work, in the site's time zone, as ``HH:MM``; the end may be on the next day."""

    start: str
    end: str


@frozen
class NewRollout:
    """A rollout as the partner asks for it."""

    package_sha256: str
    action: RolloutAction = "install"
    scope: RolloutScope = RolloutScope()
    waves: tuple[Wave, ...] = (Wave(),)
    window: Window | None = None


@frozen
class Rollout:
    """A rollout; the same shape at the partner and in the check-in's reply. ``retry`` raises the generation."""

    id: str
    generation: int
    state: RolloutState
    action: RolloutAction
    package: AgentPackage
    scope: RolloutScope = RolloutScope()
    waves: tuple[Wave, ...] = (Wave(),)
    window: Window | None = None
    created_at: datetime | None = None


@frozen
class AgentState:
    """What was found on a host. All None or False when the agent is not there."""

    installed: bool = False
    version: str | None = None
    file_sha256: str | None = None
    config_sha256: str | None = None
    service_state: str | None = None


@frozen
class PlannedAction:
    """What a plan means to do to one host, and why (``reason`` is a reason code)."""

    target: Target
    action: ActionName
    reason: str
    detail: str = ""
    observed: AgentState | None = None


@frozen
class RolloutPlan:
    """Per host an action and its reason. It holds no secret."""

    package: AgentPackage
    actions: tuple[PlannedAction, ...]

    @property
    def pending(self) -> tuple[PlannedAction, ...]:
        """The actions that change something."""
        return tuple(entry for entry in self.actions if entry.action not in ("nothing", "skip"))


@frozen
class OutcomeError:
    """Why a host has no agent. ``code`` is a reason."""

    code: str
    detail: str
    remedy: str = ""


@frozen
class Outcome:
    """What happened on one host.

    Attributes:
        state: ``waiting`` means that it will be tried again when the host comes back.
        method: How the file came to the host, such as ``push``; ``none`` when nothing was delivered.
        step: The step at which it failed: ``connect``, ``plan``, ``deliver``, ``install``, ``verify``.
    """

    hostname: str
    success: bool
    state: OutcomeState
    action: ActionName
    method: str = "none"
    object_guid: str | None = None
    agent_version: str | None = None
    step: str | None = None
    error: OutcomeError | None = None
    attempts: int = 1
    deployed_at: datetime | None = None


@frozen
class DeploymentReport:
    """``POST /api/appliances/agent-deployments``."""

    report_id: str
    deployments: tuple[Outcome, ...]
    rollout_id: str | None = None
    generation: int | None = None
