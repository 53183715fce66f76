"""Credentials on their way to an appliance: sealed to its key, and unproven ones leased to one appliance alone.

Accounts lock: an unproven version is tried by one appliance, the others get it once it is proven, and a refused one
goes to nobody. An appliance that registered a sealing key never gets a password in the clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import delete, insert, select, update

from central_app.audit.service import record
from central_app.credentials.envelopes import open_secret
from central_app.credentials.service import certificates_of
from central_app.credentials.twins import open_twins
from central_app.database.connection import Reader, Row, Transaction
from central_app.database.tables import (
    appliances,
    credential_leases,
    credential_states,
    credentials,
    sealed_credentials,
    sites,
)
from central_app.events import emit
from central_app.state import Central
from central_app.wishes import raise_credentials_version
from msp_sdk.models.checkin import DomainCredential, SiteCredential, WindowsTarget
from msp_sdk.models.credential import DOMAIN_TYPES, CredentialState, SealedSecret
from msp_sdk.secret import Secret
from msp_sdk.security.sealing import SUITE, VERSION, SealContext, key_id, seal

# An appliance that is silent for so many intervals loses its leases; at least so long.
LEASE_INTERVALS = 10
LEASE_LEAST = timedelta(minutes=2)
MOST_STATES = 500


@frozen
class Delivered:
    """What an appliance gets. ``awaiting`` says what it or the partner has to wait for."""

    windows_targets: tuple[WindowsTarget, ...] = ()
    domain_credentials: tuple[DomainCredential, ...] = ()
    site_credentials: tuple[SiteCredential, ...] = ()
    awaiting: tuple[str, ...] = ()


def lease_patience(interval_s: float) -> timedelta:
    """How long an appliance may be silent before its leases pass on."""
    return max(LEASE_LEAST, LEASE_INTERVALS * timedelta(seconds=interval_s))


def next_state(known: str, said: str) -> str | None:
    """The state of a credential's version after an appliance said something; None when it does not change.

    Refused is final for a version: only a new version (rotated, retried) is tried again.
    """
    if (known, said) in (("unproven", "proven"), ("unproven", "refused"), ("proven", "refused")):
        return said
    return None


async def take_states(
    central: Central,
    tx: Transaction,
    site_id: str,
    appliance_id: str,
    states: Iterable[CredentialState],
    *,
    address: str,
) -> None:
    """Take what an appliance found out about credentials of its site; ``address`` is where from it said so."""
    now = central.now()
    for said in list(states)[:MOST_STATES]:
        row = await tx.fetch_one(
            select(credentials).where(credentials.c.site_id == site_id, credentials.c.id == said.id)
        )
        if row is None or row["version"] != said.version:
            continue
        lease = await _lease_of(tx, site_id, said.id)
        if row["state"] == "unproven" and (lease is None or lease["appliance_id"] != appliance_id):
            # It was not given this version to try.
            continue
        if await _note_state(tx, site_id, appliance_id, said):
            await _change_state(tx, row, said, now)
            if said.state == "refused":
                for twin in await open_twins(central, tx, row, f"appliance {appliance_id}", address):
                    # It is the same logon, and has been refused (lesson 32).
                    await _change_state(tx, twin, evolve(said, id=twin["id"], version=twin["version"]), now)


async def _note_state(tx: Transaction, site_id: str, appliance_id: str, said: CredentialState) -> bool:
    mine = (
        (credential_states.c.site_id == site_id)
        & (credential_states.c.credential_id == said.id)
        & (credential_states.c.appliance_id == appliance_id)
    )
    values = {"version": said.version, "state": said.state, "code": (said.code or "")[:80] or None, "at": said.at}
    before = await tx.fetch_one(select(credential_states).where(mine))
    if before is None:
        await tx.execute(
            insert(credential_states).values(
                site_id=site_id, credential_id=said.id, appliance_id=appliance_id, **values
            )
        )
        return True
    if (before["version"], before["state"], before["code"]) == (said.version, said.state, values["code"]):
        return False
    await tx.execute(update(credential_states).where(mine).values(**values))
    return True


async def _change_state(tx: Transaction, row: Row, said: CredentialState, now: datetime) -> None:
    state = next_state(row["state"], said.state)
    code = (said.code or "")[:80] or None
    if state is None and not (row["state_code"] != code and _tells_more(row["state"], said)):
        return
    site_id = row["site_id"]
    await tx.execute(
        update(credentials)
        .where(credentials.c.site_id == site_id, credentials.c.id == row["id"])
        .values(state=state or row["state"], state_code=code, state_at=now)
    )
    if state is None:
        return
    # The others may have it now, or nobody any more.
    await raise_credentials_version(tx, site_id)
    detail = {"credential_id": row["id"], "version": row["version"], "code": code or ""}
    await emit(tx, site_id, f"credential-{state}", detail)


def _tells_more(known: str, said: CredentialState) -> bool:
    """Whether an appliance says what keeps an account out although its password is right, or that nothing does."""
    return known != "refused" and (said.state == known or (said.state == "unproven" and said.code is not None))


async def _lease_of(reader: Reader, site_id: str, credential_id: str) -> Row | None:
    return await reader.fetch_one(
        select(credential_leases, appliances.c.last_seen_at, appliances.c.state.label("appliance_state"))
        .outerjoin(
            appliances,
            (appliances.c.site_id == credential_leases.c.site_id)
            & (appliances.c.id == credential_leases.c.appliance_id),
        )
        .where(credential_leases.c.site_id == site_id, credential_leases.c.credential_id == credential_id)
    )


def lease_is_free(lease: Mapping[str, Any] | None, version: int, now: datetime, interval_s: float) -> bool:
    """Whether an unproven version may be leased anew: nobody tries it, or who did has gone silent."""
    if lease is None or lease["version"] != version or lease["appliance_state"] != "active":
        return True
    seen_at = max(lease["leased_at"], lease["last_seen_at"] or lease["leased_at"])
    return bool(now - seen_at > lease_patience(interval_s))


async def lease_waits(reader: Reader, site_id: str, appliance_id: str, now: datetime, interval_s: float) -> bool:
    """Whether an unproven version could pass to this appliance, since its holder has gone silent."""
    rows = await reader.fetch_all(
        select(credentials.c.version, credentials.c.id)
        .select_from(credentials)
        .join(
            credential_leases,
            (credential_leases.c.site_id == credentials.c.site_id)
            & (credential_leases.c.credential_id == credentials.c.id),
        )
        .where(
            credentials.c.site_id == site_id,
            credentials.c.state == "unproven",
            credential_leases.c.appliance_id != appliance_id,
        )
    )
    for row in rows:
        if lease_is_free(await _lease_of(reader, site_id, row["id"]), row["version"], now, interval_s):
            return True
    return False


async def _may_have(tx: Transaction, row: Row, appliance_id: str, now: datetime, interval_s: float) -> bool:
    """Whether this appliance gets this version; takes the lease of an unproven one where it is free."""
    if row["state"] == "proven":
        return True
    if row["state"] == "refused":
        return False
    lease = await _lease_of(tx, row["site_id"], row["id"])
    if lease is not None and lease["appliance_id"] == appliance_id and lease["version"] == row["version"]:
        return True
    if not lease_is_free(lease, row["version"], now, interval_s):
        return False
    if lease is not None and lease["version"] == row["version"]:
        # Who held it may only have been out of reach, with the password in memory: it is told to forget it, or the
        # two would try it both (lesson 32).
        await raise_credentials_version(tx, row["site_id"])
    mine = (credential_leases.c.site_id == row["site_id"]) & (credential_leases.c.credential_id == row["id"])
    await tx.execute(delete(credential_leases).where(mine))
    await tx.execute(
        insert(credential_leases).values(
            site_id=row["site_id"],
            credential_id=row["id"],
            version=row["version"],
            appliance_id=appliance_id,
            leased_at=now,
        )
    )
    return True


async def deliver(
    central: Central, tx: Transaction, site_id: str, appliance_id: str, address: str, *, repeats: bool = False
) -> Delivered:
    """What this appliance gets now; every credential that goes out is in the audit.

    Args:
        central: The vault is its.
        tx: Leases, envelopes and audit are written in it.
        site_id: The appliance's.
        appliance_id: To whom.
        address: Where from it asks.
        repeats: The appliance asks at each check-in, since it sends no version. The same versions to the same address
            are then in the audit once.
    """
    now = central.now()
    site = await tx.fetch_one(select(sites).where(sites.c.site_id == site_id))
    appliance = await tx.fetch_one(
        select(appliances).where(appliances.c.site_id == site_id, appliances.c.id == appliance_id)
    )
    if site is None or appliance is None or appliance["state"] != "active":
        return Delivered(awaiting=("approval",))
    if appliance["sealing_key"] is None and not site["allow_plaintext_credentials"]:
        return Delivered(awaiting=("sealing_key",))
    rows = await tx.fetch_all(
        select(credentials).where(credentials.c.site_id == site_id).order_by(credentials.c.created_at, credentials.c.id)
    )
    given: list[tuple[Row, SealedSecret | None, Secret | None]] = []
    waits = False
    for row in rows:
        if await _may_have(tx, row, appliance_id, now, site["checkin_interval_seconds"]):
            sealed, plain = await _close(central, tx, row, appliance)
            given.append((row, sealed, plain))
        else:
            waits = waits or row["state"] == "unproven"
    said = {"credentials": {row["id"]: row["version"] for row, _, _ in given}, "address": address}
    if given and not (repeats and appliance["delivered"] == said):
        await record(
            tx,
            partner_id=site["partner_id"],
            actor=f"appliance {appliance_id}",
            action="credentials-delivered",
            now=now,
            site_id=site_id,
            address=address,
            detail={"credentials": said["credentials"]},
        )
        await tx.execute(
            update(appliances)
            .where(appliances.c.site_id == site_id, appliances.c.id == appliance_id)
            .values(delivered=said)
        )
    return _sort(given, ("waiting-for-lease",) if waits else ())


def _sort(given: list[tuple[Row, SealedSecret | None, Secret | None]], awaiting: tuple[str, ...]) -> Delivered:
    hosts, domains, whole_site = [], [], []
    for row, sealed, plain in given:
        if row["type"] in DOMAIN_TYPES:
            domains.append(
                DomainCredential(
                    id=row["id"],
                    version=row["version"],
                    domain_name=row["domain_name"],
                    username=row["username"],
                    kind=row["type"],
                    netbios_name=row["netbios_name"],
                    sealed_password=sealed,
                    password=plain,
                    trusted_certificates=certificates_of(row),
                )
            )
        elif row["host"] is None:
            whole_site.append(
                SiteCredential(
                    id=row["id"],
                    version=row["version"],
                    username=row["username"],
                    kind=row["type"],
                    sealed_password=sealed,
                    password=plain,
                    trusted_certificates=certificates_of(row),
                )
            )
        else:
            hosts.append(
                WindowsTarget(
                    hostname=row["host"],
                    username=row["username"],
                    use_ssl=row["use_ssl"],
                    role=row["type"],
                    id=row["id"],
                    version=row["version"],
                    port=row["port"],
                    password=plain,
                    sealed_password=sealed,
                )
            )
    return Delivered(tuple(hosts), tuple(domains), tuple(whole_site), awaiting)


async def _close(
    central: Central, tx: Transaction, row: Row, appliance: Row
) -> tuple[SealedSecret | None, Secret | None]:
    """The secret as it travels: sealed once per version and device key and kept; in clear only without a key."""
    if appliance["sealing_key"] is None:
        return None, open_secret(central, row)
    recipient = key_id(appliance["sealing_key"])
    place = {
        "site_id": row["site_id"],
        "credential_id": row["id"],
        "version": row["version"],
        "appliance_id": appliance["id"],
        "key_id": recipient,
    }
    kept = await tx.fetch_one(
        select(sealed_credentials.c.blob).where(*(sealed_credentials.c[name] == value for name, value in place.items()))
    )
    if kept is not None:
        return SealedSecret(VERSION, SUITE, recipient, row["id"], row["version"], kept["blob"]), None
    context = SealContext(
        partner_id=appliance["partner_id"],
        site_id=row["site_id"],
        appliance_id=appliance["id"],
        credential_id=row["id"],
        version=row["version"],
        type=row["type"],
        username=row["username"],
        place=row["host"] or row["domain_name"] or "",
    )
    sealed = seal(open_secret(central, row), appliance["sealing_key"], context)
    await tx.execute(insert(sealed_credentials).values(**place, blob=sealed.blob))
    return sealed, None
