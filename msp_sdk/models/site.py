"""Sites: one customer location, its settings, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen

from msp_sdk.models.computer import ComputerRole
from msp_sdk.models.scope import SiteScope

Phase = Literal["discovering", "awaiting_credentials", "enumerating", "deploying", "scanning", "complete"]

PROGRESS: dict[str, int] = {
    "discovering": 10,
    "awaiting_credentials": 20,
    "enumerating": 40,
    "deploying": 60,
    "scanning": 80,
    "complete": 100,
}


@frozen
class AutoRollout:
    """The package that every target of these roles gets by itself. Controllers never."""

    package: str
    roles: tuple[ComputerRole, ...] = ("server", "workstation")


@frozen
class NewSite:
    """A site as the partner makes it."""

    name: str
    time_zone: str = "UTC"
    checkin_interval_seconds: float = 60.0
    scope: SiteScope = field(factory=SiteScope)
    auto_rollout: AutoRollout | None = None
    allow_plaintext_credentials: bool = False
    allow_ntlm: bool = False
    allow_domain_admin_on_hosts: bool = False
    trusted_cas: tuple[str, ...] = ()


@frozen
class Site:
    """A site as the partner sees it. ``trusted_cas`` are PEM texts."""

    site_id: str
    name: str
    created_at: datetime
    time_zone: str = "UTC"
    checkin_interval_seconds: float = 60.0
    scope: SiteScope = field(factory=SiteScope)
    auto_rollout: AutoRollout | None = None
    allow_plaintext_credentials: bool = False
    allow_ntlm: bool = False
    allow_domain_admin_on_hosts: bool = False
    trusted_cas: tuple[str, ...] = ()
    enabled_runbooks: tuple[str, ...] = ()


@frozen
class StatusDetails:
    """The figures behind a phase.

    Attributes:
        skipped: How many computers are no target, by reason code.
        awaiting: Whom or what the site waits for.
    """

    domain_discovered: str | None = None
    directory: Literal["found", "none", "unknown"] = "unknown"
    servers_found: int = 0
    workstations_found: int = 0
    agents_deployed: int = 0
    agents_failed: int = 0
    first_scan_complete: bool = False
    skipped: Mapping[str, int] = field(factory=dict)
    awaiting: tuple[str, ...] = ()


@frozen
class DeploymentStatus:
    """How far a site has come: the first phase whose condition is unmet; computed, never stored."""

    phase: Phase
    progress: int
    details: StatusDetails = field(factory=StatusDetails)
