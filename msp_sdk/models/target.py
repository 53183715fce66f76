"""Targets: machines that we may manage, where each fact about them comes from, and what is left out and why."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from msp_sdk.models.computer import ComputerRole


@frozen
class ManualTarget:
    """A target that a person set. ``hostname`` is where to connect; ``excluded`` is absolute."""

    hostname: str
    port: int | None = None
    use_ssl: bool | None = None
    role: ComputerRole | None = None
    credential_id: str | None = None
    excluded: bool = False


@frozen
class Target:
    """A machine that we may manage. It carries a ``credential_id``, never a secret.

    Attributes:
        hostname: The short name, or what a person wrote.
        fqdn: The name for authentication and certificates, where the directory knows it.
        ip_addresses: Where to connect, in order; empty means: resolve the name.
        port: A port that a person set; None means 5986, then 5985.
        use_ssl: True means that only HTTPS is allowed.
        doors: Ports that stood open when it was probed, ascending.
        reachable: None when it was not probed.
        provenance: Which source each field comes from: ``manual``, ``directory``, ``credential`` or ``probe``.
    """

    hostname: str
    role: ComputerRole
    fqdn: str | None = None
    domain_name: str | None = None
    object_guid: str | None = None
    sid: str | None = None
    ip_addresses: tuple[str, ...] = ()
    port: int | None = None
    use_ssl: bool = False
    os_name: str | None = None
    credential_id: str | None = None
    doors: tuple[int, ...] = ()
    reachable: bool | None = None
    unreachable_reason: str | None = None
    provenance: Mapping[str, str] = field(factory=dict)

    @property
    def key(self) -> str:
        """What names this target in reports and locks: the objectGUID, else the folded name."""
        return self.object_guid or (self.fqdn or self.hostname).casefold()


@frozen
class SkippedTarget:
    """A machine that is not a target, and why (``reason`` is a reason code)."""

    hostname: str
    reason: str
    object_guid: str | None = None
    role: ComputerRole = "other"
    detail: str = ""


@frozen
class MergeResult:
    """The merged list: targets by name, and what was left out."""

    targets: tuple[Target, ...]
    skipped: tuple[SkippedTarget, ...] = ()


@frozen
class TargetsReport:
    """``POST /api/appliances/targets``: the merged list; replaces the last one of this appliance."""

    report_id: str
    enumeration_generation: int
    targets: tuple[Target, ...]
    skipped: tuple[SkippedTarget, ...] = ()
