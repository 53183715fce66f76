"""The claim: atomic and idempotent by device. One transaction decides everything, so of two who race exactly one wins.

A device that registered keys is matched by its signing key alone, one that sent none by its MAC; host name and IP
never identify (lesson 6). Nothing is minted without a code (lesson 8).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import frozen
from sqlalchemy import delete, insert, select, update

from central_app.audit.service import record
from central_app.auth import APPLIANCE_PREFIX, hash_of, new_token
from central_app.bodies import check_text
from central_app.database.connection import Row, Transaction
from central_app.database.tables import (
    appliance_keys,
    appliances,
    credential_leases,
    credentials,
    ended_devices,
    partners,
    provision_codes,
    sealed_credentials,
    sites,
)
from central_app.events import emit
from central_app.problems import ProblemError
from central_app.provisioning.service import code_hash, status_of
from central_app.reports import upsert
from central_app.state import Central
from central_app.wishes import raise_credentials_version, wish_where_owed
from msp_sdk.models.appliance import canonical_mac, identifying_mac, make_appliance_id
from msp_sdk.models.partner import Partner
from msp_sdk.models.provision import ClaimReply, ClaimRequest, DeviceKeys, parse_code
from msp_sdk.secret import Secret
from msp_sdk.security.sealing import api_key_context, seal
from msp_sdk.security.signatures import RAW_KEY_BYTES, claim_message, verify_signature

MOST_KEYS = 5
MOST_MACS = 256
LONGEST_TEXT = 255


@frozen
class Claim:
    """A claim, read and checked: who the device is."""

    code: Secret
    mac: str
    macs: tuple[str, ...]
    keys: DeviceKeys | None
    hostname: str | None
    hardware_id: str | None


def read_claim(request: ClaimRequest) -> Claim:
    """Check a claim's fields and its proof.

    Raises:
        ProblemError: ``invalid`` or ``bad-proof``.
        WireError: A MAC or the code is malformed.
    """
    check_text("hostname", request.hostname, LONGEST_TEXT)
    check_text("hardware_id", request.hardware_id, 200)
    if len(request.all_mac_addresses) > MOST_MACS:
        raise ProblemError("invalid", errors=(("all_mac_addresses", f"holds at most {MOST_MACS}"),))
    code = parse_code(request.provision_code.reveal())
    keys = request.device_keys
    if keys is not None:
        if len(keys.signing) != RAW_KEY_BYTES or len(keys.sealing) != RAW_KEY_BYTES:
            raise ProblemError("invalid", errors=(("device_keys", "are 32 bytes each"),))
        message = claim_message(code, request.mac_address, keys.sealing)
        if request.proof is None or not verify_signature(keys.signing, request.proof, message):
            raise ProblemError("bad-proof", errors=(("proof", "does not fit the device keys"),))
    macs = (request.mac_address, *request.all_mac_addresses)
    # The lowest universal one of all: a box with a new network card first is the same box (lesson 6).
    mac = identifying_mac(macs, keys.signing if keys else None)
    canonical = tuple(sorted({canonical_mac(entry) for entry in macs}))
    return Claim(code, mac, canonical, keys, request.hostname, request.hardware_id)


async def claim(central: Central, request: ClaimRequest, address: str) -> ClaimReply:
    """Claim a code.

    Raises:
        ProblemError: As the contract says for each way it can fail.
        WireError: The request is malformed.
    """
    device = read_claim(request)
    central.claims_by_code.take(code_hash(central, device.code).hex())
    now = central.now()
    async with central.db.transaction() as tx:
        code = await tx.fetch_one(
            select(provision_codes).where(provision_codes.c.code_hash == code_hash(central, device.code))
        )
        if code is None:
            raise ProblemError("provision-code-unknown")
        known = await _find_device(tx, code["site_id"], device)
        await _refuse_ended(tx, code["site_id"], device)
        _check_code(code, known, now)
        if known is not None:
            appliance_id, minted_before = await _repeat(tx, code, known, device, now)
        else:
            appliance_id, minted_before = await _join(tx, code, device, now), False
        key = new_token(APPLIANCE_PREFIX, code["site_id"])
        await _keep_key(central, tx, code["site_id"], appliance_id, key, now)
        await record(
            tx,
            partner_id=code["partner_id"],
            actor=f"appliance {appliance_id}",
            action="provision-claimed" if known is None else "claim-repeated",
            now=now,
            site_id=code["site_id"],
            address=address,
            detail={"provision_id": code["id"], "with_keys": device.keys is not None},
        )
        return await _reply(central, tx, code, appliance_id, key, device if minted_before else None)


async def _find_device(tx: Transaction, site_id: str, device: Claim) -> Row | None:
    """The appliance of this site that is this very device."""
    statement = select(appliances).where(appliances.c.site_id == site_id)
    if device.keys is not None:
        return await tx.fetch_one(statement.where(appliances.c.signing_key == device.keys.signing))
    return await tx.fetch_one(statement.where(appliances.c.mac_address == device.mac))


def _device_name(signing_key: bytes | None, mac: str) -> str:
    """What a device is known by when its place is no longer its own."""
    return f"mac {mac}" if signing_key is None else f"key {signing_key.hex()}"


async def _refuse_ended(tx: Transaction, site_id: str, device: Claim) -> None:
    """A revoked device stays out, also when another one has its place.

    Raises:
        ProblemError: ``appliance-revoked``.
    """
    name = _device_name(device.keys.signing if device.keys else None, device.mac)
    if await tx.fetch_one(
        select(ended_devices.c.device).where(ended_devices.c.site_id == site_id, ended_devices.c.device == name)
    ):
        raise ProblemError("appliance-revoked")


def _check_code(code: Row, known: Row | None, now: datetime) -> None:
    """Whether the code lets this device in, whatever else is so.

    Raises:
        ProblemError: It does not.
    """
    if known is not None and known["state"] == "revoked":
        raise ProblemError("appliance-revoked")
    if code["status"] == "revoked":
        raise ProblemError("provision-code-revoked")
    if code["expires_at"] <= now:
        raise ProblemError("provision-code-expired")
    mine = known is not None and known["provision_id"] == code["id"]
    if not mine and status_of(code, now) != "pending":
        raise ProblemError("provision-code-claimed")


async def _repeat(tx: Transaction, code: Row, known: Row, device: Claim, now: datetime) -> tuple[str, bool]:
    """The same device again: the same place. Returns its id, and whether a key of it was used already.

    Raises:
        ProblemError: ``device-keys-required``: a keyless repeat by one that has keys, or is active already.
    """
    used = bool(known["key_used"])
    if device.keys is None and (used or known["signing_key"] is not None):
        raise ProblemError("device-keys-required")
    values: dict[str, Any] = {"provision_id": code["id"]}
    mine = (appliances.c.site_id == known["site_id"]) & (appliances.c.id == known["id"])
    if device.keys is not None and known["sealing_key"] != device.keys.sealing:
        values["sealing_key"] = device.keys.sealing
        await _forget_envelopes(tx, known["site_id"], known["id"])
    await tx.execute(update(appliances).where(mine).values(**values))
    if known["provision_id"] != code["id"]:
        await _take_use(tx, code)
        await emit(tx, known["site_id"], "appliance-claimed", {"appliance_id": known["id"], "at": now.isoformat()})
    return known["id"], used


async def _forget_envelopes(tx: Transaction, site_id: str, appliance_id: str) -> None:
    await tx.execute(
        delete(sealed_credentials).where(
            sealed_credentials.c.site_id == site_id, sealed_credentials.c.appliance_id == appliance_id
        )
    )
    await raise_credentials_version(tx, site_id)


async def _join(tx: Transaction, code: Row, device: Claim, now: datetime) -> str:
    """A device that is new here: a new place, or that of the appliance which it replaces.

    Raises:
        ProblemError: ``appliance-exists``: another device has this MAC here.
    """
    site_id = code["site_id"]
    held = await tx.fetch_one(select(credentials.c.id).where(credentials.c.site_id == site_id).limit(1))
    state = "awaiting_approval" if held is not None and not code["auto_approve"] else "active"
    place = await _place_of(tx, site_id, device)
    appliance_id = place or make_appliance_id(site_id, device.mac)
    values = {
        "state": state,
        "mac_address": device.mac,
        "signing_key": device.keys.signing if device.keys else None,
        "sealing_key": device.keys.sealing if device.keys else None,
        "provision_id": code["id"],
        "hardware_id": device.hardware_id,
        "hostname": device.hostname,
        "all_mac_addresses": list(device.macs),
        "key_used": False,
        "replace_wished_at": None,
        "delivered": None,
    }
    if place is None:
        await tx.execute(
            insert(appliances).values(
                site_id=site_id,
                id=appliance_id,
                partner_id=code["partner_id"],
                created_at=now,
                ip_addresses=[],
                subnets=[],
                **values,
            )
        )
    else:
        await _clear_place(tx, site_id, place, values, now)
    await _take_use(tx, code)
    if state == "active":
        await wish_where_owed(tx, site_id, appliance_id)
    detail = {"appliance_id": appliance_id, "state": state, "replaced": place is not None}
    await emit(tx, site_id, "appliance-claimed", detail)
    return appliance_id


async def _place_of(tx: Transaction, site_id: str, device: Claim) -> str | None:
    """The appliance whose place this new device takes, since a partner said so; None for a place of its own."""
    twin = await tx.fetch_one(
        select(appliances).where(
            appliances.c.site_id == site_id,
            (appliances.c.mac_address == device.mac) | (appliances.c.id == make_appliance_id(site_id, device.mac)),
        )
    )
    if twin is not None:
        if twin["replace_wished_at"] is None:
            raise ProblemError("appliance-exists")
        return str(twin["id"])
    waiting = await tx.fetch_one(
        select(appliances.c.id)
        .where(appliances.c.site_id == site_id, appliances.c.replace_wished_at.is_not(None))
        .order_by(appliances.c.replace_wished_at)
        .limit(1)
    )
    return None if waiting is None else str(waiting["id"])


async def _clear_place(tx: Transaction, site_id: str, appliance_id: str, values: dict[str, Any], now: datetime) -> None:
    """The old hardware's keys, envelopes and leases end; the id and the history stay."""
    mine = (appliances.c.site_id == site_id) & (appliances.c.id == appliance_id)
    old = await tx.fetch_one(select(appliances).where(mine))
    if old is not None and old["state"] == "revoked":
        ended = {
            "site_id": site_id,
            "device": _device_name(old["signing_key"], old["mac_address"]),
            "appliance_id": appliance_id,
            "ended_at": now,
        }
        await tx.execute(upsert(ended_devices, ("site_id", "device")).values(**ended))
    for table in (appliance_keys, credential_leases):
        await tx.execute(delete(table).where(table.c.site_id == site_id, table.c.appliance_id == appliance_id))
    await tx.execute(update(appliances).where(mine).values(**values))
    await _forget_envelopes(tx, site_id, appliance_id)


async def _take_use(tx: Transaction, code: Row) -> None:
    used = code["used"] + 1
    values: dict[str, Any] = {"used": used}
    if used >= code["uses"]:
        values |= {"status": "claimed", "ciphertext": None}
    await tx.execute(
        update(provision_codes)
        .where(provision_codes.c.site_id == code["site_id"], provision_codes.c.id == code["id"])
        .values(**values)
    )


async def _keep_key(
    central: Central, tx: Transaction, site_id: str, appliance_id: str, key: Secret, now: datetime
) -> None:
    """Store a further key; of more than five the oldest that was never used ends."""
    mine = (appliance_keys.c.site_id == site_id) & (appliance_keys.c.appliance_id == appliance_id)
    rows = await tx.fetch_all(
        select(appliance_keys.c.key_hash)
        .where(mine, appliance_keys.c.used_at.is_(None))
        .order_by(appliance_keys.c.created_at)
    )
    in_use = await tx.fetch_all(select(appliance_keys.c.key_hash).where(mine, appliance_keys.c.used_at.is_not(None)))
    too_many = len(rows) + len(in_use) + 1 - MOST_KEYS
    for row in rows[: max(0, too_many)]:
        await tx.execute(delete(appliance_keys).where(mine, appliance_keys.c.key_hash == row["key_hash"]))
    await tx.execute(
        insert(appliance_keys).values(
            site_id=site_id, key_hash=hash_of(central, key), appliance_id=appliance_id, created_at=now
        )
    )


async def _reply(
    central: Central, tx: Transaction, code: Row, appliance_id: str, key: Secret, sealed_to: Claim | None
) -> ClaimReply:
    site = await tx.fetch_one(select(sites).where(sites.c.site_id == code["site_id"]))
    partner = await tx.fetch_one(select(partners).where(partners.c.id == code["partner_id"]))
    if site is None or partner is None:
        raise ProblemError("provision-code-unknown")
    sealed = None
    if sealed_to is not None and sealed_to.keys is not None:
        context = api_key_context(partner["id"], site["site_id"], appliance_id)
        sealed = seal(key, sealed_to.keys.sealing, context)
    return ClaimReply(
        status="claimed",
        site_id=site["site_id"],
        appliance_id=appliance_id,
        api_endpoint=central.endpoint,
        partner=partner_of(partner),
        checkin_interval_seconds=site["checkin_interval_seconds"],
        api_key=key if sealed is None else None,
        sealed_api_key=sealed,
    )


def partner_of(row: Row) -> Partner:
    """A row as an appliance shows it."""
    return Partner(row["id"], row["slug"], row["brand_name"], row["primary_color"], row["logo_url"])
