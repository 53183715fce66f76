"""Before Central serves: the schema, the vault's key, the first partner. Synchronous, safe beside a running Central."""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import datetime
from pathlib import Path

from sqlalchemy import insert, select

from central_app.audit.service import record
from central_app.auth import PARTNER_PREFIX, new_id, new_token
from central_app.database import schema
from central_app.database.connection import Transaction, open_database, sqlite_path
from central_app.database.tables import partner_keys, partners, users, vault_keys
from central_app.settings import CentralSettings
from central_app.state import utc_now
from central_app.vault import Vault, load_key, make_key
from msp_sdk.errors import ConfigError
from msp_sdk.secret import Secret

LONGEST_NAME = 200
LONGEST_EMAIL = 320


def open_vault(settings: CentralSettings) -> Vault:
    """The vault with the key outside the database.

    Raises:
        ConfigError: The key is missing, readable by others or no key. Not retryable.
    """
    return Vault(load_key(settings.vault_key_path))


def prepare(settings: CentralSettings) -> None:
    """Make an empty database ready, with its key; refuse one that is not of our version or not of this key.

    Raises:
        ConfigError: With what to do. Not retryable.
    """
    path = sqlite_path(settings.database)
    with schema.schema_lock(path):
        state = schema.schema_state(path)
        if state == "older":
            raise ConfigError(
                "the database's schema is older than this version.",
                code="schema-older",
                remedy="Run: msp central migrate",
            )
        _refuse_strange(state, path)
        if state == "empty":
            make_key(settings.vault_key_path)
            schema.migrate(path)
        asyncio.run(_check_key(settings, path))


def migrate(settings: CentralSettings) -> None:
    """Bring the schema to our version; an empty database gets its key, too.

    Raises:
        ConfigError: With what to do. Not retryable.
    """
    path = sqlite_path(settings.database)
    with schema.schema_lock(path):
        state = schema.schema_state(path)
        _refuse_strange(state, path)
        if state == "empty":
            make_key(settings.vault_key_path)
        schema.migrate(path)
        asyncio.run(_check_key(settings, path))


def _refuse_strange(state: schema.SchemaState, path: Path) -> None:
    if state == "unknown":
        # Perhaps another program's file: nothing is guessed, and nothing in it is touched.
        raise ConfigError(
            f"{path} holds tables, but does not say of which version of Central.",
            code="schema-unknown",
            remedy="Name another file, or restore a backup.",
        )
    if state == "newer":
        raise ConfigError(
            "the database was written by a newer version.", code="schema-newer", remedy="Update this installation."
        )


async def _check_key(settings: CentralSettings, path: Path) -> None:
    """The key must be the one this database was begun with: with another nothing would open, silently."""
    vault = open_vault(settings)
    database = open_database(settings.database)
    await database.connect()
    try:
        async with database.transaction() as tx:
            row = await tx.fetch_one(select(vault_keys.c.key_name))
            if row is None:
                await tx.execute(insert(vault_keys).values(key_name=vault.name, created_at=utc_now()))
            elif row["key_name"] != vault.name:
                raise ConfigError(
                    f"{settings.vault_key_path} is not the key of the database {path}.",
                    code="vault-key-differs",
                    remedy="Restore the key file, or name it in MSP_CENTRAL_KEY_FILE.",
                )
    finally:
        await database.disconnect()


def bootstrap(settings: CentralSettings, partner: str, email: str) -> Secret:
    """Make a partner with an admin; works beside a running Central.

    Returns:
        The admin's API key. It is not readable again.

    Raises:
        ConfigError: The name or address cannot be one, or the partner exists. Not retryable.
    """
    name, address = partner.strip(), email.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigError("a partner's name has 1 to 200 characters.", remedy="Give --partner NAME.")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", address) or len(address) > LONGEST_EMAIL or not address.isprintable():
        raise ConfigError("this is not an e-mail address.", remedy="Give --email NAME@EXAMPLE.")
    prepare(settings)
    return asyncio.run(_bootstrap(settings, name, address))


async def _bootstrap(settings: CentralSettings, name: str, email: str) -> Secret:
    vault = open_vault(settings)
    database = open_database(settings.database)
    await database.connect()
    try:
        async with database.transaction() as tx:
            return await make_partner(tx, vault, name, email, utc_now())
    finally:
        await database.disconnect()


async def make_partner(tx: Transaction, vault: Vault, name: str, email: str, now: datetime) -> Secret:
    """A partner, its admin and the admin's key.

    Raises:
        ConfigError: A partner of this name exists. Not retryable.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or f"partner-{secrets.token_hex(4)}"
    if await tx.fetch_one(select(partners.c.id).where(partners.c.slug == slug)):
        raise ConfigError(f"there is a partner {slug!r} already.", code="partner-exists", remedy="Choose another name.")
    partner_id, user_id = new_id("partner"), new_id("user")
    await tx.execute(insert(partners).values(id=partner_id, slug=slug, brand_name=name, created_at=now))
    await tx.execute(
        insert(users).values(partner_id=partner_id, id=user_id, email=email.lower(), role="admin", created_at=now)
    )
    key = new_token(PARTNER_PREFIX, partner_id)
    await tx.execute(
        insert(partner_keys).values(
            partner_id=partner_id,
            id=new_id("key"),
            key_hash=vault.hash_token(PARTNER_PREFIX, key.reveal()),
            user_id=user_id,
            label="bootstrap",
            created_at=now,
        )
    )
    await record(
        tx, partner_id=partner_id, actor="bootstrap", action="partner-created", now=now, detail={"email": email}
    )
    return key
