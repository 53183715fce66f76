"""Sealing: a secret for one device, bound to everything it is for.

HPKE base mode (RFC 9180), X25519, HKDF-SHA256, AES-256-GCM. The context goes into ``info``: an envelope that was
meant for another credential, version, device or site does not open. Base mode does not authenticate the sender.
"""

from __future__ import annotations

import hashlib

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from msp_sdk.errors import UnsupportedVersionError, WireError
from msp_sdk.models.credential import SealedSecret
from msp_sdk.secret import Secret

SUITE = "x25519-sha256-aes256gcm"
VERSION = 1
_LABEL = b"msp-seal-v1"
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

# An API key is sealed under this id, version and type; the other parts of its context are empty.
API_KEY_ID = "api_key"
API_KEY_VERSION = 1


@frozen
class SealContext:
    """What an envelope is bound to. Absent parts are empty text; ``place`` is the host or the domain."""

    partner_id: str
    site_id: str
    appliance_id: str
    credential_id: str
    version: int
    type: str
    username: str = ""
    place: str = ""


def key_id(sealing_key: bytes) -> str:
    """The id of a raw public sealing key: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(sealing_key).hexdigest()[:32]


def api_key_context(partner_id: str, site_id: str, appliance_id: str) -> SealContext:
    """The context of a sealed API key."""
    return SealContext(partner_id, site_id, appliance_id, API_KEY_ID, API_KEY_VERSION, API_KEY_ID)


def _info(context: SealContext, recipient: str) -> bytes:
    parts = (
        context.partner_id,
        context.site_id,
        context.appliance_id,
        recipient,
        context.credential_id,
        str(context.version),
        context.type,
        context.username,
        context.place,
    )
    encoded = [part.encode() for part in parts]
    return _LABEL + b"".join(len(part).to_bytes(2, "big") + part for part in encoded)


def seal(secret: Secret, sealing_key: bytes, context: SealContext) -> SealedSecret:
    """Seal a secret to a device's raw public X25519 key.

    Raises:
        WireError: The key is no usable X25519 key. Not retryable.
    """
    recipient = key_id(sealing_key)
    try:
        public = X25519PublicKey.from_public_bytes(sealing_key)
        blob = _HPKE.encrypt(secret.reveal().encode(), public, info=_info(context, recipient))
    except ValueError as error:
        raise WireError("the sealing key is no usable X25519 key.", path="device_keys.sealing") from error
    return SealedSecret(VERSION, SUITE, recipient, context.credential_id, context.version, blob)


def open_sealed(sealed: SealedSecret, private: X25519PrivateKey, context: SealContext) -> Secret:
    """Open an envelope.

    Raises:
        UnsupportedVersionError: Another version or suite.
        WireError: It is not for this key and context, or was changed on the way. Not retryable.
    """
    if sealed.v != VERSION or sealed.suite != SUITE:
        raise UnsupportedVersionError("this envelope is of a kind that we do not know.", path="sealed_password.suite")
    recipient = key_id(private.public_key().public_bytes_raw())
    if (sealed.key_id, sealed.credential_id, sealed.version) != (recipient, context.credential_id, context.version):
        raise WireError("this envelope is for something else.", path="sealed_password", code="sealed-elsewhere")
    try:
        return Secret(_HPKE.decrypt(sealed.blob, private, info=_info(context, recipient)).decode())
    except (InvalidTag, ValueError, UnicodeDecodeError):
        raise WireError("this envelope does not open.", path="sealed_password", code="sealed-broken") from None
