"""Sites: one customer location, its settings, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen

from msp_sdk.models.computer import ComputerRole

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
class SiteScope:
    """Which computers belong to this site, and how they are judged; empty means all of them, by the rules as they are.

    What is given of several kinds must all hold. A person's word is above it: a manual target is never out of scope.

    Attributes:
        ad_sites: Active Directory's own sites. A computer belongs to one by its address.
        subnets: Networks such as ``10.0.0.0/24``. A computer whose address nobody knows is not judged by them.
        ous: Containers, as in :class:`~msp_sdk.models.scope.EnumerationScope`: a path is of every domain, a
            distinguished name of its own one alone. A domain of which none is named is left out.
        excluded_ous: Containers that are left out, also where ``ous`` names one above them.
        names: Patterns of the short name with ``*``, ``?`` and ``[…]``, any case.
        excluded_names: Patterns of names that are left out.
        roles: Roles.
        groups: Groups, by name or distinguished name; members of their members count.
        stale_after_days: Without a sign of life for longer than this a computer is stale; None means 90.
        vendor_names: Patterns of names of machines that their vendor manages, beside those that are known.
        vendor_ous: Containers of such machines.
    """

    ad_sites: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    ous: tuple[str, ...] = ()
    excluded_ous: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    excluded_names: tuple[str, ...] = ()
    roles: tuple[ComputerRole, ...] = ()
    groups: tuple[str, ...] = ()
    stale_after_days: int | None = None
    vendor_names: tuple[str, ...] = ()
    vendor_ous: tuple[str, ...] = ()


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
    scope: SiteScope = SiteScope()
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
    scope: SiteScope = SiteScope()
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
