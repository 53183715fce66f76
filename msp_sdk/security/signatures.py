"""Ed25519: what an appliance signs, and how it is verified."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from msp_sdk.models.appliance import canonical_mac
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import encode_bytes

RAW_KEY_BYTES = 32


def claim_message(code: Secret, mac: str, sealing_key: bytes) -> bytes:
    """What a claim's proof signs.

    Args:
        code: Canonical, without dashes.
        mac: Any spelling; canonicalised here.
        sealing_key: Raw public X25519 key.
    """
    return f"msp-claim-v1\n{code.reveal()}\n{canonical_mac(mac)}\n{encode_bytes(sealing_key)}".encode()


def verify_signature(signing_key: bytes, signature: bytes, message: bytes) -> bool:
    """True if ``signature`` over ``message`` was made with the private half of ``signing_key`` (raw, 32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
