"""Appliances: their identity (the lowest universal MAC) and how a partner sees them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen

from msp_sdk.errors import WireError

ApplianceState = Literal["active", "awaiting_approval", "revoked"]
_MAC = re.compile(r"[0-9A-F]{12}")
_LOCAL_BIT = 0x02
_GROUP_BIT = 0x01


def canonical_mac(text: str) -> str:
    """A MAC in upper case with ``:``, from any of the usual spellings.

    Raises:
        WireError: It is not 12 hex digits. Not retryable.
    """
    digits = re.sub(r"[:.\-]", "", text.strip()).upper()
    if not _MAC.fullmatch(digits):
        message = "a MAC address has 12 hex digits."
        raise WireError(message, path="mac_address")
    return ":".join(digits[start : start + 2] for start in range(0, 12, 2))


def is_universal_mac(mac: str) -> bool:
    """True for an address that a manufacturer gave (not locally administered, not a group, not zero)."""
    first = int(canonical_mac(mac)[:2], 16)
    return not first & (_LOCAL_BIT | _GROUP_BIT) and canonical_mac(mac) != "00:00:00:00:00:00"


def identifying_mac(macs: Iterable[str], signing_key: bytes | None = None) -> str:
    """The MAC that names an appliance: the lowest universal one, else the lowest.

    Args:
        macs: All of the appliance's MACs, any spelling and order; may be empty.
        signing_key: The raw public signing key; used only where there is no network card.

    Raises:
        WireError: There is neither a MAC nor a key. Not retryable.
    """
    canonical = sorted({canonical_mac(mac) for mac in macs} - {"00:00:00:00:00:00"})
    universal = [mac for mac in canonical if is_universal_mac(mac)]
    if universal or canonical:
        return (universal or canonical)[0]
    if signing_key is None:
        message = "an appliance without a network card needs device keys."
        raise WireError(message, path="mac_address")
    return canonical_mac("02" + hashlib.sha256(signing_key).hexdigest()[:10])


def make_appliance_id(site_id: str, mac: str) -> str:
    """``<site_id>-<MAC>``; opaque everywhere else and never parsed."""
    return f"{site_id}-{canonical_mac(mac)}"


@frozen
class DeviceIdentity:
    """What an appliance knows of itself before it is claimed. MACs in any spelling; may be empty."""

    hostname: str
    mac_addresses: tuple[str, ...] = ()
    hardware_id: str | None = None


@frozen
class Appliance:
    """An appliance as the partner sees it. ``health`` is what it last said of itself; empty when all is well."""

    id: str
    site_id: str
    state: ApplianceState
    mac_address: str
    hostname: str | None
    created_at: datetime
    last_seen_at: datetime | None = None
    agent_version: str | None = None
    nixos_version: str | None = None
    ip_addresses: tuple[str, ...] = ()
    sealing_key_id: str | None = None
    clock_skew_s: float | None = None
    health: Mapping[str, object] = field(factory=dict)
