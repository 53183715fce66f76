"""Gather what decides a site's phase from the tables, and ask the rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select

from central_app.computers.store import role_counts
from central_app.computers.targets import list_rows, target_rows
from central_app.database.connection import Database, Reader, Row
from central_app.database.tables import (
    appliances,
    credentials,
    deployments,
    enumerations,
    scan_results,
    sites,
)
from central_app.domains.service import believed, list_discoveries
from central_app.events import newest_sequence
from central_app.rollouts.coverage import HostNames
from central_app.rollouts.phase import (
    CredentialFact,
    Directory,
    DomainFact,
    OutcomeFact,
    RolloutFact,
    SiteFacts,
    TargetFact,
    deployment_status,
)
from central_app.rollouts.service import wanted_package
from central_app.rollouts.store import site_rollouts
from msp_sdk.models.credential import DOMAIN_TYPES
from msp_sdk.models.domain import DiscoveredDomain, DiscoveryReport
from msp_sdk.models.rollout import Rollout
from msp_sdk.models.site import AutoRollout, DeploymentStatus
from msp_sdk.wire.converter import structure

# How often the facts are read anew when a report came in between.
GLANCES = 3


async def site_status(db: Database, site_id: str) -> DeploymentStatus:
    """How far a site has come, computed from its data as it was at one moment.

    Facts of two moments could make a site look complete that is not: a new list of targets beside the old hosts.
    Every report raises the site's event sequence in its own transaction, so an unchanged sequence is one moment.
    """
    for _ in range(GLANCES):
        before = await newest_sequence(db, site_id)
        facts = await load_facts(db, site_id)
        if await newest_sequence(db, site_id) == before:
            return deployment_status(facts)
    # Reports come faster than we read: hold the writer for once.
    async with db.transaction() as tx:
        return deployment_status(await load_facts(tx, site_id))


async def load_facts(reader: Reader, site_id: str) -> SiteFacts:
    """Everything that decides a site's phase.

    Args:
        reader: From where; a transaction sees one moment.
        site_id: Of which site.
    """
    boxes = await reader.fetch_all(select(appliances.c.id, appliances.c.state).where(appliances.c.site_id == site_id))
    working = frozenset(row["id"] for row in boxes if row["state"] == "active")
    reports = await list_discoveries(reader, site_id)
    runs = await reader.fetch_all(select(enumerations).where(enumerations.c.site_id == site_id))
    held = await reader.fetch_all(
        select(credentials).where(credentials.c.site_id == site_id, credentials.c.type.in_(sorted(DOMAIN_TYPES)))
    )
    roles = await role_counts(reader, site_id)
    auto, auto_ready = await _auto(reader, site_id)
    rows = await target_rows(reader, site_id)
    made, last = await _rollouts(reader, site_id)
    return SiteFacts(
        approved_appliances_count=len(working),
        waiting_appliances_count=sum(1 for row in boxes if row["state"] == "awaiting_approval"),
        directory=_directory(reports, runs),
        found_nothing=any(report.nothing_found is not None for report in reports),
        controllers_silent=_silent(reports),
        dns_failed=_dns_failed(reports),
        domains=_domains(reports, runs, held),
        auto_rollout_enabled=auto is not None,
        auto_rollout_ready=auto_ready,
        targets_current=await _targets_current(reader, site_id, runs, working),
        targets=_targets(rows),
        rollouts=made,
        last_outcomes=last,
        scanned=await _scanned(reader, site_id),
        servers_found=roles.get("server", 0) + roles.get("domain_controller", 0),
        workstations_found=roles.get("workstation", 0),
        skipped=_skipped(rows),
    )


async def _auto(reader: Reader, site_id: str) -> tuple[AutoRollout | None, bool]:
    site = await reader.fetch_one(select(sites.c.partner_id, sites.c.auto_rollout).where(sites.c.site_id == site_id))
    if site is None or site["auto_rollout"] is None:
        return None, True
    auto = structure(site["auto_rollout"], AutoRollout)
    return auto, await wanted_package(reader, site["partner_id"], auto) is not None


def _directory(reports: Iterable[DiscoveryReport], runs: Iterable[Row]) -> Directory:
    known = list(reports)
    if any(believed(report) for report in known) or any(row["full_at"] for row in runs):
        return "found"
    nothing = [report.nothing_found for report in known if report.nothing_found is not None]
    # One appliance that could ask DNS knows better than another one that could not.
    asked = any(not found.dns_failed for found in nothing)
    return "none" if asked and not _silent(known) else "unknown"


def _silent(reports: Iterable[DiscoveryReport]) -> bool:
    return any(report.nothing_found is not None and report.nothing_found.controllers_silent for report in reports)


def _dns_failed(reports: Iterable[DiscoveryReport]) -> bool:
    return any(report.nothing_found is not None and report.nothing_found.dns_failed for report in reports)


def _domains(reports: Iterable[DiscoveryReport], runs: Iterable[Row], held: Iterable[Row]) -> tuple[DomainFact, ...]:
    """The believed domains, most certain first. One that was enumerated is believed, whoever named it."""
    found: dict[str, DiscoveredDomain | None] = {}
    named = sorted((domain for report in reports for domain in believed(report)), key=lambda domain: -domain.confidence)
    for domain in named:
        found.setdefault(domain.domain_name.casefold(), domain)
    results = list(runs)
    for row in results:
        if row["full_at"] is not None:
            found.setdefault(row["domain_name"], None)
    failures = sorted((row for row in results if row["failed_at"]), key=lambda row: row["failed_at"])
    passwords = list(held)
    return tuple(
        DomainFact(
            name=domain.domain_name if domain else name,
            credential=_credential(name, domain, passwords),
            fully_enumerated=any(row["full_at"] and row["domain_name"] == name for row in results),
            last_failure_code=_last_code(failures, name, results),
        )
        for name, domain in found.items()
    )


def _last_code(failures: Iterable[Row], name: str, runs: Iterable[Row]) -> str | None:
    """Why a domain has not been read since it last was; a failure that names no domain is said of each."""
    read_at = max((row["full_at"] for row in runs if row["full_at"] and row["domain_name"] == name), default=None)
    codes = [
        str(row["failed"].get("code", ""))
        for row in failures
        if row["domain_name"] in ("", name) and (read_at is None or row["failed_at"] > read_at)
    ]
    return (codes[-1] if codes else "") or None


def _credential(name: str, domain: DiscoveredDomain | None, held: Iterable[Row]) -> CredentialFact | None:
    """The credential for a domain; one that works before one that was refused."""
    names = {name, (domain.netbios_name or name).casefold() if domain else name}
    mine = [row for row in held if (row["domain_name"] or "").casefold() in names]
    mine.sort(key=lambda row: (row["state"] == "refused", row["created_at"], row["id"]))
    if not mine:
        return None
    row = mine[0]
    refused = row["state"] == "refused"
    return CredentialFact(row["id"], row["username"], (row["state_code"] or "wrong-password") if refused else None)


async def _targets_current(reader: Reader, site_id: str, runs: Iterable[Row], working: frozenset[str]) -> bool:
    """Whether the lists of targets are of the last enumeration: each appliance's own, since generations are its own."""
    made = {row["appliance_id"]: int(row["enumeration_generation"]) for row in await list_rows(reader, site_id)}
    if not made:
        return False
    full = sorted(
        (row for row in runs if row["full_at"] and row["appliance_id"] in working), key=lambda row: row["full_at"]
    )
    if not full:
        return True
    last = full[-1]
    return made.get(last["appliance_id"], -1) >= int(last["full_generation"] or 0)


def _names(row: Mapping[str, Any]) -> HostNames:
    data = row["data"]
    return HostNames(row["hostname"], data.get("fqdn"), data.get("object_guid"))


def _targets(rows: Iterable[Row]) -> tuple[TargetFact, ...]:
    """Targets of all appliances; one that any of them reaches is reachable."""
    found: dict[str, TargetFact] = {}
    for row in rows:
        if row["skipped"]:
            continue
        fact = TargetFact(_names(row), row["role"], row["data"].get("reachable"))
        before = found.get(fact.names.key)
        if before is None or fact.reachable:
            found[fact.names.key] = fact
    return tuple(found.values())


def _skipped(rows: Iterable[Row]) -> Mapping[str, int]:
    """How many hosts are no target, by reason; one that another appliance takes is not among them."""
    listed = list(rows)
    taken = {_names(row).key for row in listed if not row["skipped"]}
    reasons = {key: str(row["reason"]) for row in listed if row["skipped"] and (key := _names(row).key) not in taken}
    return dict(sorted(Counter(reasons.values()).items()))


async def _rollouts(reader: Reader, site_id: str) -> tuple[tuple[RolloutFact, ...], tuple[OutcomeFact, ...]]:
    """The rollouts with their outcomes, and the last outcome of each host."""
    made: list[Rollout] = await site_rollouts(reader, site_id)
    rows = await reader.fetch_all(
        select(deployments).where(deployments.c.site_id == site_id).order_by(deployments.c.received_at)
    )
    outcomes: dict[str, list[OutcomeFact]] = {}
    last: dict[str, OutcomeFact] = {}
    for row in rows:
        fact = OutcomeFact(
            names=HostNames(row["hostname"], None, row["object_guid"]),
            state=row["state"],
            has_agent=bool(row["success"]) and row["state"] == "done" and row["outcome"]["action"] != "remove",
            generation=int(row["generation"] or 0),
        )
        outcomes.setdefault(row["rollout_id"], []).append(fact)
        last[row["host_key"]] = fact
    facts = tuple(
        RolloutFact(rollout.id, rollout.state, rollout.generation, rollout.scope, tuple(outcomes.get(rollout.id, ())))
        for rollout in made
    )
    return facts, tuple(last.values())


async def _scanned(reader: Reader, site_id: str) -> tuple[HostNames, ...]:
    rows = await reader.fetch_all(
        select(scan_results.c.hostname, scan_results.c.object_guid).where(scan_results.c.site_id == site_id).distinct()
    )
    return tuple(HostNames(row["hostname"], None, row["object_guid"]) for row in rows)
