"""Credentials as partners handle them: typed once, rotated, retried, destroyed; never readable again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update

from central_app.audit.service import record_by
from central_app.auth import Caller, new_id
from central_app.bodies import check_text
from central_app.credentials.envelopes import bound_to
from central_app.credentials.twins import refused_twin
from central_app.database.connection import Reader, Row, Transaction
from central_app.database.tables import credential_leases, credential_states, credentials, sealed_credentials
from central_app.events import emit
from central_app.partners.site_service import check_pem
from central_app.problems import invalid, not_found
from central_app.state import Central
from central_app.wishes import raise_credentials_version, wish
from msp_sdk.models.credential import (
    DOMAIN_TYPES,
    NewCredential,
    StoredCredential,
    TrustedCertificate,
    is_local_name,
)
from msp_sdk.models.generation import WORK
from msp_sdk.wire.converter import structure, unstructure

LONGEST_NAME = 255
LONGEST_PASSWORD = 1024
MOST_CERTIFICATES = 100
HIGHEST_PORT = 65535
_HEX = frozenset("0123456789abcdef")
_SHA256_DIGITS = 64


def check_credential(new: NewCredential) -> None:
    """Check what the model cannot say: the place is the type's.

    Raises:
        ProblemError: ``invalid``, with the path; never the value.
    """
    check_text("username", new.username, LONGEST_NAME)
    if not 1 <= len(new.password.reveal()) <= LONGEST_PASSWORD:
        raise invalid("password", f"has 1 to {LONGEST_PASSWORD} characters")
    check_text("host", new.host, LONGEST_NAME)
    check_text("domain_name", new.domain_name, LONGEST_NAME)
    check_text("netbios_name", new.netbios_name, 40)
    _check_place(new)
    if new.port is not None and not 1 <= new.port <= HIGHEST_PORT:
        raise invalid("port", f"is 1 to {HIGHEST_PORT}")
    if len(new.trusted_certificates) > MOST_CERTIFICATES:
        raise invalid("trusted_certificates", f"holds at most {MOST_CERTIFICATES}")
    for number, certificate in enumerate(new.trusted_certificates):
        _check_certificate(f"trusted_certificates[{number}]", certificate)


def _check_place(new: NewCredential) -> None:
    if new.type in DOMAIN_TYPES:
        if new.domain_name is None:
            raise invalid("domain_name", "is needed for this type")
        if new.host is not None:
            raise invalid("host", "does not go with this type")
    elif new.domain_name is not None:
        raise invalid("domain_name", "does not go with this type")
    if new.type == "local_admin" and new.host is None and not is_local_name(new.username):
        raise invalid("username", r"is of a domain; an administrator of every host is a local account, such as .\name")
    if new.type == "winrm" and new.host is None:
        raise invalid("host", "is needed for this type")


def _check_certificate(path: str, certificate: TrustedCertificate) -> None:
    if (certificate.sha256 is None) == (certificate.ca_pem is None):
        raise invalid(path, "needs sha256 or ca_pem, and only one of them")
    digest = certificate.sha256
    if digest is not None and (len(digest) != _SHA256_DIGITS or not _HEX.issuperset(digest)):
        raise invalid(f"{path}.sha256", "is not 64 lower-case hex digits")
    if certificate.ca_pem is not None:
        check_pem(f"{path}.ca_pem", certificate.ca_pem)


def stored_of(row: Row) -> StoredCredential:
    """A row as the partner sees it: everything but the secret."""
    return StoredCredential(
        id=row["id"],
        site_id=row["site_id"],
        version=row["version"],
        type=row["type"],
        username=row["username"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        host=row["host"],
        domain_name=row["domain_name"],
        netbios_name=row["netbios_name"],
        port=row["port"],
        use_ssl=row["use_ssl"],
        trusted_certificates=certificates_of(row),
        state=row["state"],
        state_code=row["state_code"],
        state_at=row["state_at"],
    )


def certificates_of(row: Row) -> tuple[TrustedCertificate, ...]:
    """The certificates that the partner listed for a credential."""
    return structure(row["trusted_certificates"], tuple[TrustedCertificate, ...])


def _columns(central: Central, site_id: str, credential_id: str, new: NewCredential) -> dict[str, Any]:
    envelope = central.vault.encrypt(new.password, bound_to(site_id, credential_id))
    return {
        "type": new.type,
        "username": new.username,
        "host": new.host,
        "domain_name": new.domain_name,
        "netbios_name": new.netbios_name,
        "port": new.port,
        "use_ssl": new.use_ssl,
        "trusted_certificates": unstructure(new.trusted_certificates),
        "ciphertext": envelope.ciphertext,
        "wrapped_key": envelope.wrapped_key,
        "state": "unproven",
        "state_code": None,
        "state_at": None,
    }


async def create_credential(central: Central, caller: Caller, site_id: str, new: NewCredential) -> StoredCredential:
    """Store a credential; one for a domain wishes an enumeration and a scan of every appliance of the site.

    The same logon that stands refused under another id is stored as refused.

    Raises:
        ProblemError: ``invalid``.
    """
    check_credential(new)
    now = central.now()
    credential_id = new_id("credential")
    values = {
        **_columns(central, site_id, credential_id, new),
        "site_id": site_id,
        "id": credential_id,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    async with central.db.transaction() as tx:
        values |= await _refusal(central, tx, caller, values, new, now)
        await tx.execute(insert(credentials).values(**values))
        await _changed(tx, caller, values, "credential-created", now)
    return stored_of(values)


async def list_credentials(reader: Reader, site_id: str, *, domain_only: bool = False) -> list[StoredCredential]:
    """The credentials of a site, oldest first, without their secrets."""
    statement = select(credentials).where(credentials.c.site_id == site_id)
    if domain_only:
        statement = statement.where(credentials.c.type.in_(sorted(DOMAIN_TYPES)))
    rows = await reader.fetch_all(statement.order_by(credentials.c.created_at, credentials.c.id))
    return [stored_of(row) for row in rows]


async def find_credential(reader: Reader, site_id: str, credential_id: str) -> Row:
    """One credential's row.

    Raises:
        ProblemError: ``not-found``.
    """
    row = await reader.fetch_one(
        select(credentials).where(credentials.c.site_id == site_id, credentials.c.id == credential_id)
    )
    if row is None:
        raise not_found()
    return row


async def rotate_credential(
    central: Central, caller: Caller, site_id: str, credential_id: str, changes: Mapping[str, Any]
) -> StoredCredential:
    """Change a credential; what ``changes`` does not name stays, but the password is always typed anew.

    The same logon that stands refused under another id is stored as refused.

    Raises:
        ProblemError, WireError: ``not-found``, ``invalid``.
    """
    now = central.now()
    async with central.db.transaction() as tx:
        row = await find_credential(tx, site_id, credential_id)
        names = ("type", "username", "host", "domain_name", "netbios_name", "port", "use_ssl", "trusted_certificates")
        new = structure({**{name: row[name] for name in names}, **changes}, NewCredential)
        check_credential(new)
        values = {**_columns(central, site_id, credential_id, new), "version": row["version"] + 1, "updated_at": now}
        values |= await _refusal(central, tx, caller, {**row, **values}, new, now)
        await _replace(tx, site_id, credential_id, values)
        await _changed(tx, caller, {**row, **values}, "credential-rotated", now)
    return stored_of({**row, **values})


async def retry_credential(central: Central, caller: Caller, site_id: str, credential_id: str) -> StoredCredential:
    """Raise the version of the same secret: exactly one more attempt.

    Raises:
        ProblemError: ``not-found``.
    """
    now = central.now()
    async with central.db.transaction() as tx:
        row = await find_credential(tx, site_id, credential_id)
        values = {
            "version": row["version"] + 1,
            "state": "unproven",
            "state_code": None,
            "state_at": None,
            "updated_at": now,
        }
        await _replace(tx, site_id, credential_id, values)
        await _changed(tx, caller, {**row, **values}, "credential-retried", now)
    return stored_of({**row, **values})


async def delete_credential(central: Central, caller: Caller, site_id: str, credential_id: str) -> None:
    """Destroy a credential and every envelope of it; the appliances forget it at their next check-in.

    Raises:
        ProblemError: ``not-found``.
    """
    now = central.now()
    async with central.db.transaction() as tx:
        row = await find_credential(tx, site_id, credential_id)
        await tx.execute(delete(credentials).where(credentials.c.site_id == site_id, credentials.c.id == credential_id))
        for table in (sealed_credentials, credential_leases, credential_states):
            await tx.execute(delete(table).where(table.c.site_id == site_id, table.c.credential_id == credential_id))
        await raise_credentials_version(tx, site_id)
        detail = {"credential_id": credential_id, "type": row["type"]}
        await record_by(tx, caller, "credential-deleted", now, site_id, detail)
        await emit(tx, site_id, "credential-deleted", detail)


async def _refusal(
    central: Central, tx: Transaction, caller: Caller, row: Row, new: NewCredential, now: datetime
) -> dict[str, Any]:
    """The state of what is about to be stored, where the same logon stands refused under another id; else nothing.

    Nobody gets it then: another id is no reason for another strike (lesson 32). ``retry`` is, since a person says so.
    """
    twin = await refused_twin(central, tx, row, new.password, caller.actor, caller.address)
    return {} if twin is None else {"state": "refused", "state_code": twin["state_code"], "state_at": now}


async def _replace(tx: Transaction, site_id: str, credential_id: str, values: Mapping[str, Any]) -> None:
    await tx.execute(
        update(credentials).where(credentials.c.site_id == site_id, credentials.c.id == credential_id).values(**values)
    )
    # Envelopes and leases are of a version; those of an older one are worth nothing any more.
    for table in (sealed_credentials, credential_leases):
        await tx.execute(delete(table).where(table.c.site_id == site_id, table.c.credential_id == credential_id))


async def _changed(tx: Transaction, caller: Caller, row: Row, action: str, now: datetime) -> None:
    site_id = row["site_id"]
    await raise_credentials_version(tx, site_id)
    if row["type"] in DOMAIN_TYPES:
        await wish(tx, site_id, WORK)
    detail = {"credential_id": row["id"], "version": row["version"], "type": row["type"]}
    await record_by(tx, caller, action, now, site_id, detail)
    await emit(tx, site_id, action, detail)
    if row["state"] == "refused":
        refusal = {"credential_id": row["id"], "version": row["version"], "code": row["state_code"] or ""}
        await emit(tx, site_id, "credential-refused", refusal)
