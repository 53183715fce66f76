"""Provision codes and what a claim sends and gets.

A code is 16 characters of Crockford base32 (80 bits), shown in groups of four, read without regard to case,
dashes or spaces, with ``O`` read as ``0`` and ``I`` and ``L`` as ``1``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal
from urllib.parse import parse_qs, urlencode

from attrs import field, frozen

from msp_sdk.errors import WireError
from msp_sdk.models.credential import SealedSecret
from msp_sdk.models.partner import Partner
from msp_sdk.secret import Secret

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 16
CODE_BYTES = 10
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})

ProvisionStatus = Literal["pending", "claimed", "expired", "revoked"]


def new_code(random_bytes: Callable[[int], bytes]) -> Secret:
    """Make a code, canonical (no dashes).

    Args:
        random_bytes: Gives that many random bytes, such as ``secrets.token_bytes``.
    """
    number = int.from_bytes(random_bytes(CODE_BYTES), "big")
    return Secret("".join(ALPHABET[(number >> shift) & 31] for shift in range(75, -1, -5)))


def parse_code(text: str) -> Secret:
    """Read a code as a person types it; the result is canonical (no dashes).

    Raises:
        WireError: It is not 16 characters of the alphabet. The message never repeats the text. Not retryable.
    """
    canonical = "".join(text.split()).upper().translate(_READ_AS)
    if len(canonical) != CODE_LENGTH or any(letter not in ALPHABET for letter in canonical):
        message = "a provision code has 16 letters and digits, in groups of four."
        raise WireError(
            message, path="provision_code", code="provision-code-malformed", remedy="Type it as it is shown."
        )
    return Secret(canonical)


def render_code(code: Secret) -> str:
    """The code in groups of four, for people."""
    text = code.reveal()
    return "-".join(text[start : start + 4] for start in range(0, CODE_LENGTH, 4))


def qr_content(code: Secret, central: str, pin: str | None = None) -> str:
    """What the QR picture of a code says: ``msp-claim:?code=…&central=…&pin=…``. It is never fetched."""
    fields = {"code": render_code(code), "central": central}
    if pin is not None:
        fields["pin"] = pin
    return f"msp-claim:?{urlencode(fields)}"


def parse_qr(text: str) -> tuple[Secret, str, str | None]:
    """Read a QR picture's text back into code, Central's address and pin.

    Raises:
        WireError: It is not such a text. Not retryable.
    """
    scheme, _, query = text.partition(":?")
    fields = parse_qs(query)
    if scheme != "msp-claim" or "code" not in fields or "central" not in fields:
        message = "this QR code does not hold a provision code."
        raise WireError(message, path="qr_content", code="provision-code-malformed")
    return parse_code(fields["code"][0]), fields["central"][0], fields.get("pin", [None])[0]


@frozen
class DeviceKeys:
    """The public keys of an appliance, raw, 32 bytes each: Ed25519 for signing, X25519 for sealing."""

    signing: bytes
    sealing: bytes


@frozen
class ClaimRequest:
    """What an appliance sends to claim a code. ``proof`` is required with ``device_keys``."""

    provision_code: Secret
    mac_address: str
    hostname: str | None = None
    all_mac_addresses: tuple[str, ...] = ()
    hardware_id: str | None = None
    device_keys: DeviceKeys | None = None
    proof: bytes | None = None


@frozen
class ClaimReply:
    """What Central answers. Either ``api_key`` or, to a repeat after first use, ``sealed_api_key``."""

    status: Literal["claimed"]
    site_id: str
    appliance_id: str
    api_endpoint: str
    partner: Partner
    checkin_interval_seconds: float
    api_key: Secret | None = None
    sealed_api_key: SealedSecret | None = None


@frozen
class Enrolment:
    """What claiming a code gives: where the appliance belongs, and its key. ``config.yaml`` holds exactly this."""

    site_id: str
    appliance_id: str
    api_key: Secret = field(repr=False)
    api_endpoint: str
    checkin_interval_seconds: float
    partner: Partner
    provisioned_at: datetime
    mac_address: str
    hostname: str


@frozen
class ProvisionRequest:
    """A wish for a provision code. Without ``site_id`` a new site is made at once."""

    client_name: str | None = None
    site_id: str | None = None
    expires_in_days: int = 30
    uses: int = 1
    auto_approve: bool = False


@frozen
class BulkProvisionRequest:
    """1 to 100 wishes; all or nothing."""

    entries: tuple[ProvisionRequest, ...]


@frozen
class Provision:
    """A provision code as the partner sees it. Code and QR text are empty once it is no longer pending."""

    id: str
    site_id: str
    status: ProvisionStatus
    expires_at: datetime
    created_at: datetime
    client_name: str | None = None
    provision_code: str | None = field(default=None, repr=False)
    qr_content: str | None = field(default=None, repr=False)
    uses: int = 1
    used: int = 0
    auto_approve: bool = False
