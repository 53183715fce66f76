"""Sites: made, changed, off-boarded."""

from __future__ import annotations

import ipaddress
import zoneinfo
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography import x509
from sqlalchemy import delete, insert, select, update

import central_app.database.upload_tables  # noqa: F401 (its tables are a site's too, and erased with it)
from central_app.audit.service import record_by
from central_app.auth import Caller, new_id
from central_app.bodies import check_text
from central_app.database.connection import Row, Transaction
from central_app.database.tables import (
    appliance_keys,
    appliances,
    credential_leases,
    credentials,
    metadata,
    provision_codes,
    rollouts,
    sealed_credentials,
    sites,
)
from central_app.events import emit
from central_app.problems import invalid, not_found
from central_app.rollouts.service import ensure_auto_rollout
from central_app.state import Central
from central_app.wishes import raise_credentials_version
from msp_sdk.models.scope import SiteScope
from msp_sdk.models.site import NewSite, Site
from msp_sdk.wire.converter import structure, unstructure

SHORTEST_INTERVAL_S = 0.2
LONGEST_INTERVAL_S = 3600.0
MOST_ENTRIES = 1000
LONGEST_NAME = 200
# A directory writes a computer's last logon up to 14 days late: below that every computer would be stale.
FEWEST_STALE_DAYS = 15
MOST_STALE_DAYS = 3650
_SCOPE_LISTS = (
    "ad_sites",
    "subnets",
    "ous",
    "excluded_ous",
    "names",
    "excluded_names",
    "groups",
    "vendor_names",
    "vendor_ous",
)

# What a PATCH may name.
_FIELDS = (
    "name",
    "time_zone",
    "checkin_interval_seconds",
    "scope",
    "auto_rollout",
    "allow_plaintext_credentials",
    "allow_ntlm",
    "allow_domain_admin_on_hosts",
    "trusted_cas",
)
# What of it changes how credentials are delivered or used.
_POLICY = frozenset({"allow_plaintext_credentials", "allow_ntlm", "allow_domain_admin_on_hosts", "trusted_cas"})


def check_site(site: NewSite) -> None:
    """Check what the model cannot say.

    Raises:
        ProblemError: ``invalid``, with the path.
    """
    check_text("name", site.name, LONGEST_NAME)
    # Asked of the list, not of the file system: a name like ../../etc/passwd is no question for a path.
    if site.time_zone not in zoneinfo.available_timezones():
        raise invalid("time_zone", "is no time zone such as Europe/Vienna")
    if not SHORTEST_INTERVAL_S <= site.checkin_interval_seconds <= LONGEST_INTERVAL_S:
        raise invalid("checkin_interval_seconds", f"is {SHORTEST_INTERVAL_S} to {LONGEST_INTERVAL_S:.0f}")
    _check_scope(site.scope)
    if site.auto_rollout is not None:
        check_text("auto_rollout.package", site.auto_rollout.package, LONGEST_NAME)
        if "domain_controller" in site.auto_rollout.roles:
            raise invalid("auto_rollout.roles", "never holds domain controllers")
    for number, pem in enumerate(site.trusted_cas):
        check_pem(f"trusted_cas[{number}]", pem)


def _check_scope(scope: SiteScope) -> None:
    for name in _SCOPE_LISTS:
        entries = getattr(scope, name)
        if len(entries) > MOST_ENTRIES:
            raise invalid(f"scope.{name}", f"holds at most {MOST_ENTRIES}")
        for number, entry in enumerate(entries):
            check_text(f"scope.{name}[{number}]", entry, 1024)
    for number, subnet in enumerate(scope.subnets):
        try:
            ipaddress.ip_network(subnet, strict=False)
        except ValueError:
            raise invalid(f"scope.subnets[{number}]", "is no network such as 10.0.0.0/24") from None
    days = scope.stale_after_days
    if days is not None and not FEWEST_STALE_DAYS <= days <= MOST_STALE_DAYS:
        raise invalid("scope.stale_after_days", f"is {FEWEST_STALE_DAYS} to {MOST_STALE_DAYS}")


def check_pem(path: str, pem: str) -> None:
    """A certificate as PEM text.

    Raises:
        ProblemError: ``invalid``.
    """
    try:
        x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise invalid(path, "is no certificate in PEM") from None


def site_of(row: Row) -> Site:
    """A row as the partner sees it."""
    names = ("site_id", "created_at", "enabled_runbooks", *_FIELDS)
    data = {name: row[name] for name in names}
    return structure({**data, "created_at": row["created_at"].isoformat()}, Site)


async def insert_site(tx: Transaction, caller: Caller, site: NewSite, now: datetime) -> Site:
    """Make a site in the caller's transaction; names need not be unique."""
    values = {
        **unstructure(site),
        "site_id": new_id("site"),
        "partner_id": caller.partner_id,
        "enabled_runbooks": [],
        "created_at": now,
    }
    await tx.execute(insert(sites).values(**values))
    await record_by(tx, caller, "site-created", now, values["site_id"], {"name": site.name})
    await emit(tx, values["site_id"], "site-created", {})
    if site.auto_rollout is not None:
        await ensure_auto_rollout(tx, values["site_id"], now)
    return site_of(values)


async def change_site(central: Central, caller: Caller, row: Row, changes: Mapping[str, Any]) -> Site:
    """Change what ``changes`` names; everything else stays.

    Raises:
        WireError, ProblemError: What comes out of it is no valid site.
    """
    now = central.now()
    site_id = row["site_id"]
    named = {name: changes[name] for name in _FIELDS if name in changes}
    async with central.db.transaction() as tx:
        current = await tx.fetch_one(select(sites).where(sites.c.site_id == site_id))
        if current is None:
            raise not_found()
        known = {name: current[name] for name in _FIELDS}
        wanted = structure({**known, **named}, NewSite)
        check_site(wanted)
        values = unstructure(wanted)
        # Through the model, too: what was stored before a field came to be has not been changed by that.
        before = unstructure(structure(known, NewSite))
        changed = sorted(name for name in _FIELDS if values[name] != before[name])
        if changed:
            await tx.execute(update(sites).where(sites.c.site_id == site_id).values(**values))
            if _POLICY.intersection(changed):
                await raise_credentials_version(tx, site_id)
            if "auto_rollout" in changed:
                await ensure_auto_rollout(tx, site_id, now)
            await record_by(tx, caller, "site-changed", now, site_id, {"fields": changed})
            await emit(tx, site_id, "site-changed", {"fields": changed})
        return site_of({**current, **values})


async def off_board(central: Central, caller: Caller, site_id: str, *, erase: bool) -> None:
    """End a site: its keys, secrets and codes at once; its history stays unless it is to be erased."""
    now = central.now()
    async with central.db.transaction() as tx:
        ended = (
            sites,
            appliances,
            appliance_keys,
            credentials,
            sealed_credentials,
            credential_leases,
            provision_codes,
            rollouts,
        )
        for table in metadata.sorted_tables if erase else ended:
            if "site_id" in table.c:
                await tx.execute(delete(table).where(table.c.site_id == site_id))
        # With the partner's own chain, so that it outlives the site's.
        action = "site-erased" if erase else "site-off-boarded"
        await record_by(tx, caller, action, now, None, {"site_id": site_id})
