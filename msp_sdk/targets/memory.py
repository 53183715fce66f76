"""What the last merge still tells: probe results, the directory while it was not read, and who has gone from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import evolve

from msp_sdk.models.computer import Computer
from msp_sdk.models.target import MergeResult, SkippedTarget, Target
from msp_sdk.targets.facts import PROBE_FIELDS
from msp_sdk.targets.identity import computer_key


def keep_probe(target: Target, before: Target | None) -> Target:
    """What the last probe found, where this reading was not probed."""
    if target.reachable is not None or before is None or before.reachable is None:
        return target
    provenance = dict(target.provenance)
    kept = {name: getattr(before, name) for name in PROBE_FIELDS}
    provenance.update({name: "probe" for name, value in kept.items() if value not in (None, ())})
    source = before.provenance.get("ip_addresses", "")
    if not target.ip_addresses and source in ("probe", "directory"):
        # The address that our resolver found: without it the connection would go by the system's resolver.
        kept["ip_addresses"] = before.ip_addresses
        provenance["ip_addresses"] = source
    return evolve(target, **kept, provenance=dict(sorted(provenance.items())))


def vanished(
    previous: MergeResult | None, computers: Mapping[str, Computer], left_out: Collection[str] = ()
) -> list[SkippedTarget]:
    """Computers that the directory had and has no more, or that the site's scope leaves out now."""
    if previous is None:
        return []
    guids = {computer.object_guid.casefold() for computer in computers.values()}
    had = [(target.hostname, target.object_guid, target.role) for target in previous.targets]
    had += [(entry.hostname, entry.object_guid, entry.role) for entry in previous.skipped]
    return [
        SkippedTarget(hostname, "out-of-scope" if guid in left_out else "not-in-directory", guid, role)
        for hostname, guid, role in had
        if guid and guid.casefold() not in guids
    ]


def of_other_domains(previous: MergeResult | None, domain_name: str) -> dict[str, Computer]:
    """The computers of the last result that belong to another domain than the one that was read now."""
    if previous is None:
        return {}
    targets = tuple(
        target
        for target in previous.targets
        if target.domain_name and target.domain_name.casefold() != domain_name.casefold()
    )
    return recall(MergeResult(targets))[0]


def recall(previous: MergeResult | None) -> tuple[dict[str, Computer], tuple[SkippedTarget, ...]]:
    """What the directory said, out of the last result; the directory itself was not read."""
    if previous is None:
        return {}, ()
    found: list[Computer] = []
    for target in previous.targets:
        if not target.object_guid:
            continue
        hostname = target.hostname
        if target.provenance.get("hostname") != "directory":
            hostname = target.fqdn.partition(".")[0] if target.fqdn else hostname
        found.append(_remembered(target, hostname))
    carried: list[SkippedTarget] = []
    for entry in previous.skipped:
        if entry.object_guid and entry.reason == "excluded":
            found.append(_bare(entry))
        elif entry.object_guid:
            carried.append(entry)
    return {computer_key(computer): computer for computer in found}, tuple(carried)


def _remembered(target: Target, hostname: str) -> Computer:
    return Computer(
        object_guid=target.object_guid or "",
        sam_account_name=f"{hostname}$",
        hostname=hostname,
        role=target.role,
        is_server=target.role in ("server", "domain_controller"),
        is_workstation=target.role == "workstation",
        is_domain_controller=target.role == "domain_controller",
        sid=target.sid,
        fqdn=target.fqdn,
        domain_name=target.domain_name,
        ip_addresses=target.ip_addresses,
        os_name=target.os_name,
        reachable=target.reachable,
        doors=target.doors,
        unreachable_reason=target.unreachable_reason,
    )


def _bare(entry: SkippedTarget) -> Computer:
    return Computer(
        object_guid=entry.object_guid or "",
        sam_account_name=f"{entry.hostname}$",
        hostname=entry.hostname,
        role=entry.role,
        is_server=entry.role in ("server", "domain_controller"),
        is_workstation=entry.role == "workstation",
        is_domain_controller=entry.role == "domain_controller",
    )
