"""Check-in: what an appliance says every minute and what it is told.

``None`` for a list means unchanged; an empty list means none: forget what you had.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen

from msp_sdk.models.credential import CredentialState, CredentialType, SealedSecret, TrustedCertificate
from msp_sdk.models.rollout import Rollout
from msp_sdk.models.runbook import RunbookRun
from msp_sdk.models.scope import SiteScope
from msp_sdk.models.target import ManualTarget
from msp_sdk.secret import Secret


@frozen
class CheckinRequest:
    """How an appliance is. ``site_id`` never decides anything: the key does."""

    site_id: str
    hostname: str
    mac_address: str
    ip_addresses: tuple[str, ...]
    uptime_seconds: float
    agent_version: str
    nixos_version: str | None = None
    all_mac_addresses: tuple[str, ...] | None = None
    subnets: tuple[str, ...] | None = None
    credentials_version: int | None = None
    targets_version: int | None = None
    completed: Mapping[str, int] | None = None
    credential_states: tuple[CredentialState, ...] | None = None
    health: Mapping[str, object] | None = None


@frozen
class WindowsTarget:
    """A host's credential. ``id`` and ``version`` are the credential's, ``role`` its type."""

    hostname: str
    username: str
    use_ssl: bool
    role: CredentialType
    id: str
    version: int
    port: int | None = None
    password: Secret | None = None
    sealed_password: SealedSecret | None = None


@frozen
class SiteCredential:
    """A local administrator of every host of the site."""

    id: str
    version: int
    username: str
    kind: CredentialType
    sealed_password: SealedSecret | None = None
    password: Secret | None = None
    trusted_certificates: tuple[TrustedCertificate, ...] = ()


@frozen
class DomainCredential:
    """A credential for a domain; never a target with the domain's name as its host."""

    id: str
    version: int
    domain_name: str
    username: str
    kind: CredentialType
    netbios_name: str | None = None
    sealed_password: SealedSecret | None = None
    password: Secret | None = None
    trusted_certificates: tuple[TrustedCertificate, ...] = ()


@frozen
class SitePolicy:
    """What the site allows."""

    allow_ntlm: bool = False
    allow_domain_admin_on_hosts: bool = False
    trusted_cas: tuple[str, ...] = ()


@frozen
class SiteAppliance:
    """A sibling at the same site."""

    id: str
    subnets: tuple[str, ...] = ()
    ad_site: str | None = None


@frozen
class CheckinReply:
    """What Central tells an appliance."""

    status: Literal["ok"]
    appliance_id: str
    server_time: datetime
    windows_targets: tuple[WindowsTarget, ...] | None = None
    enabled_runbooks: tuple[str, ...] = ()
    domain_credentials: tuple[DomainCredential, ...] | None = None
    site_credentials: tuple[SiteCredential, ...] | None = None
    credentials_version: int = 0
    site_policy: SitePolicy = SitePolicy()
    manual_targets: tuple[ManualTarget, ...] | None = None
    targets_version: int = 0
    trigger_enumeration: bool = False
    enumeration_generation: int = 0
    trigger_immediate_scan: bool = False
    scan_generation: int = 0
    rollouts: tuple[Rollout, ...] = ()
    runbook_runs: tuple[RunbookRun, ...] = ()
    site_appliances: tuple[SiteAppliance, ...] = ()
    site_scope: SiteScope = field(factory=SiteScope)
    awaiting: tuple[str, ...] = ()
    next_checkin_seconds: float = 60.0

    @property
    def wished(self) -> Mapping[str, int]:
        """The generations that Central wishes."""
        return {"enumeration": self.enumeration_generation, "scan": self.scan_generation}


@frozen
class RefusedEntry:
    """An entry of a report that Central cannot hold. ``path`` says where it stands, ``message`` why; never a value."""

    path: str
    message: str


@frozen
class ReportReply:
    """Central has taken a report.

    Attributes:
        repeated: It had it already.
        refused_count: How many entries of it could not be held; the others are.
        refused: The first of these.
    """

    status: Literal["ok"]
    repeated: bool = False
    refused_count: int = 0
    refused: tuple[RefusedEntry, ...] = ()
