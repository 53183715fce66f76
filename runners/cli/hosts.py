"""Every computer of a site in one list: its agent, or the true reason why it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from msp_sdk.models.computer import Computer
    from msp_sdk.models.rollout import Outcome
    from msp_sdk.models.target import SkippedTarget, Target
    from msp_sdk.partner import PartnerClient


@frozen
class HostLine:
    """A host as the list shows it. ``state``: ``agent``, ``failed``, ``skipped``, ``waiting`` or ``pending``."""

    hostname: str
    role: str
    state: str
    reason: str | None = None
    detail: str | None = None
    agent_version: str | None = None
    object_guid: str | None = None


def list_hosts(
    computers: tuple[Computer, ...],
    targets: tuple[Target, ...],
    skipped: tuple[SkippedTarget, ...],
    outcomes: tuple[Outcome, ...],
) -> tuple[HostLine, ...]:
    """Put the reports together; nothing that any of them names is left out. Sorted by name."""
    by_key: dict[str, HostLine] = {}
    for computer in computers:
        by_key[computer.object_guid] = HostLine(
            computer.hostname,
            computer.role,
            "skipped" if computer.skipped_reason else "pending",
            computer.skipped_reason or computer.unreachable_reason,
            object_guid=computer.object_guid,
        )
    for target in targets:
        by_key.setdefault(target.key, HostLine(target.hostname, target.role, "pending", target.unreachable_reason))
    for entry in skipped:
        by_key[entry.object_guid or entry.hostname.casefold()] = HostLine(
            entry.hostname, entry.role, "skipped", entry.reason, entry.detail or None, object_guid=entry.object_guid
        )
    for outcome in outcomes:
        key = outcome.object_guid or outcome.hostname.casefold()
        before = by_key.get(key)
        by_key[key] = HostLine(
            outcome.hostname,
            before.role if before else "other",
            "agent" if outcome.success else outcome.state,
            outcome.error.code if outcome.error else None,
            outcome.error.detail if outcome.error else None,
            outcome.agent_version,
            outcome.object_guid,
        )
    return tuple(sorted(by_key.values(), key=lambda line: line.hostname.casefold()))


async def read_hosts(partner: PartnerClient, site_id: str) -> tuple[HostLine, ...]:
    """Ask Central for all that it knows of the site's hosts.

    Raises:
        MspError: As the client says.
    """
    reports = await partner.targets(site_id)
    return list_hosts(
        await partner.computers(site_id),
        tuple(target for report in reports for target in report.targets),
        tuple(entry for report in reports for entry in report.skipped),
        await partner.deployments(site_id),
    )
