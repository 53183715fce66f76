"""Packages and rollouts in the database."""

from __future__ import annotations

from sqlalchemy import Select, and_, select

from central_app.database.connection import Reader, Row
from central_app.database.tables import packages, rollouts
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.rollout import Rollout
from msp_sdk.wire.converter import structure


def package_of(row: Row) -> AgentPackage:
    """A package from its row."""
    data = {name: row[name] for name in ("name", "version", "sha256", "size_bytes", "manifest", "uploaded")}
    package = structure(data, AgentPackage)
    return AgentPackage(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        size_bytes=package.size_bytes,
        manifest=package.manifest,
        uploaded=package.uploaded,
        created_at=row["created_at"],
    )


def rollout_of(row: Row) -> Rollout:
    """A rollout from a row of :func:`rollouts_with_packages`."""
    data = {
        "id": row["id"],
        "generation": row["generation"],
        "state": row["state"],
        "action": row["action"],
        "scope": row["scope"],
        "waves": row["waves"],
        "window": row["time_window"],
        "package": {
            "name": row["package_name"],
            "version": row["package_version"],
            "sha256": row["package_sha256"],
            "size_bytes": row["package_size_bytes"],
            "manifest": row["package_manifest"],
            "uploaded": row["package_uploaded"],
        },
    }
    rollout = structure(data, Rollout)
    return Rollout(
        id=rollout.id,
        generation=rollout.generation,
        state=rollout.state,
        action=rollout.action,
        package=rollout.package,
        scope=rollout.scope,
        waves=rollout.waves,
        window=rollout.window,
        created_at=row["created_at"],
    )


def rollouts_with_packages(site_id: str) -> Select[tuple[object, ...]]:
    """The rollouts of a site, oldest first, each with its package; for :func:`rollout_of`."""
    return (
        select(
            rollouts,
            packages.c.name.label("package_name"),
            packages.c.version.label("package_version"),
            packages.c.size_bytes.label("package_size_bytes"),
            packages.c.manifest.label("package_manifest"),
            packages.c.uploaded.label("package_uploaded"),
        )
        .select_from(
            rollouts.join(
                packages,
                and_(
                    packages.c.partner_id == rollouts.c.partner_id,
                    packages.c.sha256 == rollouts.c.package_sha256,
                ),
            )
        )
        .where(rollouts.c.site_id == site_id)
        .order_by(rollouts.c.created_at, rollouts.c.id)
    )


async def site_rollouts(reader: Reader, site_id: str, *, active_only: bool = False) -> list[Rollout]:
    """The rollouts of a site, oldest first. The check-in sends the active ones.

    A paused one is sent too where all are asked for; an appliance obeys its state.
    """
    statement = rollouts_with_packages(site_id)
    if active_only:
        statement = statement.where(rollouts.c.state == "active")
    return [rollout_of(row) for row in await reader.fetch_all(statement)]
