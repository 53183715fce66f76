"""Raising the numbers that appliances compare: generations of work, versions of credentials and targets."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, update

from central_app.database.connection import Transaction
from central_app.database.tables import appliances, credentials, sites
from msp_sdk.models.credential import DOMAIN_TYPES
from msp_sdk.models.generation import WORK


async def wish(tx: Transaction, site_id: str, work: Iterable[str], appliance_id: str | None = None) -> int:
    """Wish work of every appliance of the site (or of one) that is not revoked.

    Returns:
        Of how many appliances.
    """
    statement = update(appliances).where(appliances.c.site_id == site_id, appliances.c.state != "revoked")
    if appliance_id is not None:
        statement = statement.where(appliances.c.id == appliance_id)
    raised = {f"{name}_wished": appliances.c[f"{name}_wished"] + 1 for name in work}
    return await tx.execute(statement.values(raised))


async def wish_again(tx: Transaction, site_id: str, appliance_id: str, work: str) -> None:
    """Wish work of one appliance, unless it owes that anyway."""
    done, wished = appliances.c[f"{work}_done"], appliances.c[f"{work}_wished"]
    await tx.execute(
        update(appliances)
        .where(appliances.c.site_id == site_id, appliances.c.id == appliance_id, done >= wished)
        .values({f"{work}_wished": wished + 1})
    )


async def wish_where_owed(tx: Transaction, site_id: str, appliance_id: str) -> None:
    """A new appliance enumerates and scans at once where the site holds a credential for a domain."""
    held = await tx.fetch_one(
        select(credentials.c.id)
        .where(credentials.c.site_id == site_id, credentials.c.type.in_(sorted(DOMAIN_TYPES)))
        .limit(1)
    )
    if held is not None:
        await wish(tx, site_id, WORK, appliance_id)


async def raise_credentials_version(tx: Transaction, site_id: str) -> None:
    """Every appliance gets the credentials anew at its next check-in."""
    await tx.execute(
        update(sites).where(sites.c.site_id == site_id).values(credentials_version=sites.c.credentials_version + 1)
    )


async def raise_targets_version(tx: Transaction, site_id: str) -> None:
    """Every appliance gets the manual targets anew at its next check-in."""
    await tx.execute(
        update(sites).where(sites.c.site_id == site_id).values(targets_version=sites.c.targets_version + 1)
    )
