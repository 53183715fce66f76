"""Stored secrets: each is bound to its site and id, and opens there alone."""

from __future__ import annotations

from central_app.database.connection import Row
from central_app.state import Central
from central_app.vault import Envelope
from msp_sdk.secret import Secret


def bound_to(site_id: str, credential_id: str) -> str:
    """What a stored secret is bound to."""
    return f"credential:{site_id}:{credential_id}"


def open_secret(central: Central, row: Row) -> Secret:
    """The secret of a row, for sealing it to a device or comparing it.

    Raises:
        StateError: It does not open with this vault.
    """
    envelope = Envelope(row["ciphertext"], row["wrapped_key"])
    return central.vault.decrypt(envelope, bound_to(row["site_id"], row["id"]))
