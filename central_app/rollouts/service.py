"""Rollouts: made by a person, or once per package by the site's ``auto_rollout``."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

from sqlalchemy import insert, select, update

from central_app.audit.service import record_by
from central_app.auth import Caller, new_id
from central_app.database.connection import Database, Reader, Row, Transaction
from central_app.database.tables import deployments, packages, rollouts, sites
from central_app.events import emit
from central_app.problems import ProblemError, not_found
from central_app.reports import Reporter, check_guid, check_text, take_report, upsert
from central_app.rollouts.coverage import host_key
from central_app.rollouts.hosts import settle_hosts
from central_app.rollouts.store import rollout_of, rollouts_with_packages
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.rollout import DeploymentReport, NewRollout, Outcome, Rollout, RolloutScope, Wave
from msp_sdk.models.site import AutoRollout
from msp_sdk.wire.converter import structure, unstructure

# What each call makes of each state; what is not here is a conflict.
TRANSITIONS: dict[str, dict[str, str]] = {
    "pause": {"active": "paused", "paused": "paused"},
    "resume": {"paused": "active", "active": "active"},
    "cancel": {"active": "cancelled", "paused": "cancelled", "cancelled": "cancelled"},
    "retry": {"active": "active", "paused": "paused", "complete": "active"},
}
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


def check_rollout(new: NewRollout) -> None:
    """Check what the model cannot say.

    Raises:
        WireError: The waves or the window make no sense. Not retryable.
    """
    if not new.waves or any(not 1 <= wave.percent <= 100 for wave in new.waves):  # noqa: PLR2004 (percent)
        raise WireError("each wave is 1 to 100 percent, and there is at least one.", path="waves")
    if not new.scope.roles and not new.scope.include:
        raise WireError("a rollout covers a role or a host.", path="scope")
    for name in ("start", "end"):
        if new.window is not None and not _CLOCK.fullmatch(getattr(new.window, name)):
            raise WireError("a time is HH:MM.", path=f"window.{name}")


async def create_rollout(db: Database, caller: Caller, site_id: str, new: NewRollout, now: datetime) -> Rollout:
    """Begin a rollout.

    Raises:
        WireError: It makes no sense, or there is no such package. Not retryable.
        ProblemError: ``conflict``: the package's file has not been uploaded.
    """
    check_rollout(new)
    async with db.transaction() as tx:
        package = await tx.fetch_one(
            select(packages).where(packages.c.partner_id == caller.partner_id, packages.c.sha256 == new.package_sha256)
        )
        if package is None:
            raise WireError("there is no package with this digest.", path="package_sha256")
        if not package["uploaded"]:
            raise ProblemError("conflict", "The package's file has not been uploaded.")
        rollout_id = await _insert(tx, caller.partner_id, site_id, new, now, automatic=False)
        await record_by(tx, caller, "rollout-created", now, site_id=site_id, detail={"id": rollout_id})
        await emit(tx, site_id, "rollout", {"id": rollout_id, "state": "active"})
        return await get_rollout(tx, site_id, rollout_id)


async def _insert(
    tx: Transaction, partner_id: str, site_id: str, new: NewRollout, now: datetime, *, automatic: bool
) -> str:
    rollout_id = new_id("rollout")
    await tx.execute(
        insert(rollouts).values(
            site_id=site_id,
            id=rollout_id,
            partner_id=partner_id,
            generation=1,
            state="active",
            action=new.action,
            package_sha256=new.package_sha256,
            scope=unstructure(new.scope),
            waves=unstructure(new.waves),
            time_window=unstructure(new.window),
            automatic=automatic,
            created_at=now,
            updated_at=now,
        )
    )
    return rollout_id


async def get_rollout(reader: Reader, site_id: str, rollout_id: str) -> Rollout:
    """One rollout.

    Raises:
        ProblemError: ``not-found``.
    """
    row = await reader.fetch_one(rollouts_with_packages(site_id).where(rollouts.c.id == rollout_id))
    if row is None:
        raise not_found()
    return rollout_of(row)


async def change_rollout(
    db: Database, caller: Caller, site_id: str, rollout_id: str, verb: str, now: datetime
) -> Rollout:
    """Pause, resume, cancel or retry. ``retry`` raises the generation, so that failed hosts are due again.

    Raises:
        ProblemError: ``not-found``; ``conflict``: its state does not allow this.
    """
    async with db.transaction() as tx:
        before = await get_rollout(tx, site_id, rollout_id)
        after = TRANSITIONS[verb].get(before.state)
        if after is None:
            raise ProblemError("conflict", f"A rollout that is {before.state} cannot be asked to {verb}.")
        generation = before.generation + (verb == "retry")
        if (after, generation) != (before.state, before.generation):
            await tx.execute(
                update(rollouts)
                .where(rollouts.c.site_id == site_id, rollouts.c.id == rollout_id)
                .values(state=after, generation=generation, updated_at=now)
            )
            await record_by(tx, caller, f"rollout-{verb}", now, site_id=site_id, detail={"id": rollout_id})
            await emit(tx, site_id, "rollout", {"id": rollout_id, "state": after, "generation": generation})
        return await get_rollout(tx, site_id, rollout_id)


async def wanted_package(reader: Reader, partner_id: str, auto: AutoRollout) -> Row | None:
    """The package an ``auto_rollout`` means: by digest, else the newest uploaded one of this name; or None."""
    mine = (packages.c.partner_id == partner_id) & packages.c.uploaded.is_(True)
    exact = await reader.fetch_one(select(packages).where(mine, packages.c.sha256 == auto.package))
    if exact is not None:
        return exact
    return await reader.fetch_one(
        select(packages)
        .where(mine, packages.c.name == auto.package)
        .order_by(packages.c.created_at.desc(), packages.c.sha256)
        .limit(1)
    )


async def ensure_auto_rollout(tx: Transaction, site_id: str, now: datetime) -> str | None:
    """Make the rollout that the site's ``auto_rollout`` wants, once per package. Controllers never.

    Call it in the transaction in which the site's settings, its targets or a package changed.

    Returns:
        The id of a rollout that was made now, else None.
    """
    site = await tx.fetch_one(select(sites.c.partner_id, sites.c.auto_rollout).where(sites.c.site_id == site_id))
    if site is None or site["auto_rollout"] is None:
        return None
    auto = structure(site["auto_rollout"], AutoRollout)
    package = await wanted_package(tx, site["partner_id"], auto)
    roles = tuple(role for role in auto.roles if role != "domain_controller")
    if package is None or not roles:
        return None
    mine = (rollouts.c.site_id == site_id) & rollouts.c.automatic.is_(True)
    if await tx.fetch_one(select(rollouts.c.id).where(mine, rollouts.c.package_sha256 == package["sha256"])):
        return None
    # Two versions at once would only replace each other.
    await tx.execute(
        update(rollouts)
        .where(mine, rollouts.c.state.in_(("active", "paused")))
        .values(state="cancelled", updated_at=now)
    )
    new = NewRollout(package_sha256=package["sha256"], scope=RolloutScope(roles=roles), waves=(Wave(),))
    rollout_id = await _insert(tx, site["partner_id"], site_id, new, now, automatic=True)
    await emit(tx, site_id, "rollout", {"id": rollout_id, "state": "active", "automatic": True})
    return rollout_id


async def take_deployments(db: Database, reporter: Reporter, report: DeploymentReport, now: datetime) -> ReportReply:
    """Keep outcomes, one a host and rollout; a later one replaces it.

    Raises:
        WireError: A name cannot be one, or the rollout is not of this site. Not retryable.
    """
    for number, outcome in enumerate(report.deployments):
        check_text(outcome.hostname, f"deployments[{number}].hostname")
        check_guid(outcome.object_guid, f"deployments[{number}].object_guid")

    async def apply(tx: Transaction) -> None:
        generation: int | None = None
        if report.rollout_id is not None:
            row = await tx.fetch_one(
                select(rollouts.c.generation).where(
                    rollouts.c.site_id == reporter.site_id, rollouts.c.id == report.rollout_id
                )
            )
            if row is None:
                raise WireError("this site has no such rollout.", path="rollout_id")
            # An appliance cannot be ahead of us; one that does not say is where we are.
            wished = int(row["generation"])
            generation = wished if report.generation is None else min(report.generation, wished)
        settled = await settle_hosts(tx, deployments, "outcome", reporter.site_id, report.deployments)
        rows = [_deployment_row(reporter, report.rollout_id or "", outcome, generation, now) for outcome in settled]
        await tx.execute_many(upsert(deployments, ("site_id", "rollout_id", "host_key")), rows)
        await emit(
            tx,
            reporter.site_id,
            "deployments",
            {"rollout_id": report.rollout_id, "hosts": len(report.deployments)},
        )

    return await take_report(db, reporter, report.report_id, "agent-deployments", now, apply)


def _deployment_row(
    reporter: Reporter, rollout_id: str, outcome: Outcome, generation: int | None, now: datetime
) -> dict[str, object]:
    return {
        "site_id": reporter.site_id,
        "rollout_id": rollout_id,
        "host_key": host_key(outcome.hostname, outcome.object_guid),
        "appliance_id": reporter.appliance_id,
        "hostname": outcome.hostname,
        "object_guid": outcome.object_guid,
        "generation": generation,
        "state": outcome.state,
        "success": outcome.success,
        "outcome": unstructure(outcome),
        "received_at": now,
    }


async def list_outcomes(reader: Reader, site_id: str) -> list[Outcome]:
    """The last outcome of each host, by host name; empty when nothing was deployed."""
    rows = await reader.fetch_all(
        select(deployments).where(deployments.c.site_id == site_id).order_by(deployments.c.received_at)
    )
    last = {row["host_key"]: row["outcome"] for row in rows}
    outcomes = await asyncio.to_thread(lambda: [structure(outcome, Outcome) for outcome in last.values()])
    return sorted(outcomes, key=lambda outcome: outcome.hostname.casefold())
