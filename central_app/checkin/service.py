"""The check-in: the heartbeat first, durably; everything else is optional and never takes it down (lesson 14)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import select, update

from central_app.auth import Token
from central_app.checkin.store import CheckInResult, CheckInRow, CheckInStore
from central_app.credentials.delivery import Delivered, deliver, lease_waits, take_states
from central_app.database.connection import Row
from central_app.database.tables import appliances, discoveries, sites
from central_app.events import emit
from central_app.partners.sites import read_manual_targets
from central_app.problems import ProblemError
from central_app.rollouts.store import site_rollouts
from central_app.state import Central
from msp_sdk.models.checkin import CheckinReply, CheckinRequest, SiteAppliance, SitePolicy
from msp_sdk.models.generation import ENUMERATION, SCAN
from msp_sdk.models.rollout import Rollout
from msp_sdk.models.scope import SiteScope
from msp_sdk.models.target import ManualTarget
from msp_sdk.wire.converter import structure

log = logging.getLogger("central.checkin")

T = TypeVar("T")


class CheckInService:
    """Answers check-ins over a store."""

    def __init__(self, central: Central, store: CheckInStore) -> None:
        self._central = central
        self._store = store

    async def check_in(self, token: Token, request: CheckinRequest, unknown_count: int, address: str) -> CheckinReply:
        """Take a heartbeat and say what Central wishes.

        Raises:
            ProblemError: ``unauthenticated``.
        """
        now = self._central.now()
        row = CheckInRow(
            site_id=token.owner,
            key_hash=token.hash,
            now=now,
            hostname=request.hostname,
            ip_addresses=request.ip_addresses,
            uptime_seconds=request.uptime_seconds,
            agent_version=request.agent_version,
            nixos_version=request.nixos_version,
            all_mac_addresses=request.all_mac_addresses,
            subnets=request.subnets,
            completed=request.completed,
        )
        result = (await self._store.check_in([row]))[0]
        if result is None:
            raise ProblemError("unauthenticated")
        if request.site_id != token.owner:
            log.warning("an appliance of %s says that it belongs elsewhere; its key decides", token.owner)
        failed: list[str] = []
        await self._optional(failed, "notes", lambda: self._note(request, result, unknown_count, address), None)
        return await self._reply(request, result, address, failed)

    async def _optional(self, failed: list[str], part: str, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Do a part that may fail; the heartbeat is committed already. ``failed`` notes that it did."""
        try:
            return await work()
        except Exception:
            log.exception("the %s of a check-in failed", part)
            failed.append(part)
            return otherwise

    async def _note(self, request: CheckinRequest, result: CheckInResult, unknown_count: int, address: str) -> None:
        """Health, clock, unknown fields and credential states: what is good to know."""
        site_id, appliance_id = result.appliance["site_id"], result.appliance["id"]
        values: dict[str, object] = {}
        if request.health is not None and dict(request.health) != result.appliance["health"]:
            values["health"] = dict(request.health)
        skew = (request.health or {}).get("clock_skew_s")
        skew_s = float(skew) if isinstance(skew, int | float) and not isinstance(skew, bool) else None
        if skew_s != result.appliance["clock_skew_s"]:
            values["clock_skew_s"] = skew_s
        if unknown_count:
            values["unknown_fields_count"] = appliances.c.unknown_fields_count + unknown_count
        if not values and not request.credential_states and not result.came_back:
            return
        async with self._central.db.transaction() as tx:
            if values:
                await tx.execute(
                    update(appliances)
                    .where(appliances.c.site_id == site_id, appliances.c.id == appliance_id)
                    .values(**values)
                )
            if request.credential_states and result.appliance["state"] == "active":
                await take_states(self._central, tx, site_id, appliance_id, request.credential_states, address=address)
            if result.came_back:
                await emit(tx, site_id, "appliance-checked-in", {"appliance_id": appliance_id, "first": result.first})

    async def _reply(
        self, request: CheckinRequest, result: CheckInResult, address: str, failed: list[str]
    ) -> CheckinReply:
        appliance, site_id = result.appliance, result.appliance["site_id"]
        # Read again: what the appliance said about credentials may have raised the version.
        site = await self._optional(failed, "site", lambda: self._site(result), result.site)
        credentials_version, targets_version = site["credentials_version"], site["targets_version"]
        nothing: Delivered | None = None
        delivered = await self._optional(
            failed, "credentials", lambda: self._credentials(request, result, credentials_version, address), nothing
        )
        no_targets: tuple[ManualTarget, ...] | None = None
        targets = await self._optional(
            failed, "targets", lambda: self._targets(request, site_id, targets_version), no_targets
        )
        # Null means unchanged; what could not be read must be asked for again, so no version is claimed for it.
        if "credentials" in failed:
            credentials_version = request.credentials_version or 0
        if "targets" in failed:
            targets_version = request.targets_version or 0
        no_rollouts: list[Rollout] = []
        rollouts = no_rollouts
        if appliance["state"] == "active":
            rollouts = await self._optional(
                failed, "rollouts", lambda: site_rollouts(self._central.db, site_id, active_only=True), no_rollouts
            )
        no_siblings: tuple[SiteAppliance, ...] = ()
        siblings = await self._optional(
            failed, "siblings", lambda: self._siblings(site_id, appliance["id"]), no_siblings
        )
        return CheckinReply(
            status="ok",
            appliance_id=appliance["id"],
            server_time=self._central.now(),
            windows_targets=delivered.windows_targets if delivered else None,
            enabled_runbooks=tuple(site["enabled_runbooks"]),
            domain_credentials=delivered.domain_credentials if delivered else None,
            site_credentials=delivered.site_credentials if delivered else None,
            credentials_version=credentials_version,
            site_policy=SitePolicy(site["allow_ntlm"], site["allow_domain_admin_on_hosts"], tuple(site["trusted_cas"])),
            manual_targets=targets,
            targets_version=targets_version,
            trigger_enumeration=result.triggers[ENUMERATION],
            enumeration_generation=appliance["enumeration_wished"],
            trigger_immediate_scan=result.triggers[SCAN],
            scan_generation=appliance["scan_wished"],
            rollouts=tuple(rollouts),
            site_appliances=siblings,
            site_scope=structure(site["scope"], SiteScope),
            # A part that failed is empty, and is not to be taken for an answer (lesson 24).
            awaiting=(*self._awaiting(appliance, site, delivered), *(f"central:{part}" for part in failed)),
            next_checkin_seconds=site["checkin_interval_seconds"],
        )

    async def _site(self, result: CheckInResult) -> Row:
        site_id = result.appliance["site_id"]
        return await self._central.db.fetch_one(select(sites).where(sites.c.site_id == site_id)) or result.site

    @staticmethod
    def _awaiting(appliance: Row, site: Row, delivered: Delivered | None) -> tuple[str, ...]:
        """What this appliance waits for; said at every check-in, not only when credentials are sent."""
        if appliance["state"] == "awaiting_approval":
            return ("approval",)
        if appliance["sealing_key"] is None and not site["allow_plaintext_credentials"]:
            return ("sealing_key",)
        return delivered.awaiting if delivered else ()

    async def _credentials(
        self, request: CheckinRequest, result: CheckInResult, version: int, address: str
    ) -> Delivered | None:
        """None where the appliance has them already: unchanged. An empty list means none (lessons 12, 13)."""
        db, site_id, appliance_id = self._central.db, result.appliance["site_id"], result.appliance["id"]
        if request.credentials_version == version:
            interval_s = result.site["checkin_interval_seconds"]
            active = result.appliance["state"] == "active"
            if not active or not await lease_waits(db, site_id, appliance_id, self._central.now(), interval_s):
                return None
        async with db.transaction() as tx:
            return await deliver(self._central, tx, site_id, appliance_id, address, repeats=not result.came_back)

    async def _targets(self, request: CheckinRequest, site_id: str, version: int) -> tuple[ManualTarget, ...] | None:
        if request.targets_version == version:
            return None
        return await read_manual_targets(self._central.db, site_id)

    async def _siblings(self, site_id: str, appliance_id: str) -> tuple[SiteAppliance, ...]:
        rows = await self._central.db.fetch_all(
            select(appliances.c.id, appliances.c.subnets, discoveries.c.report)
            .select_from(appliances)
            .outerjoin(
                discoveries,
                (discoveries.c.site_id == appliances.c.site_id) & (discoveries.c.appliance_id == appliances.c.id),
            )
            .where(appliances.c.site_id == site_id, appliances.c.state == "active", appliances.c.id != appliance_id)
            .order_by(appliances.c.id)
        )
        return tuple(SiteAppliance(row["id"], tuple(row["subnets"]), _ad_site(row["report"])) for row in rows)


def _ad_site(report: object) -> str | None:
    """The AD site that an appliance's last discovery named."""
    found = report.get("discovered_domain") if isinstance(report, dict) else None
    name = found.get("ad_site") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None
