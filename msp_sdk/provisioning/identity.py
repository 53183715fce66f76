"""What an appliance knows of itself: its name, its network cards, its hardware id."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from msp_sdk.errors import WireError
from msp_sdk.models.appliance import DeviceIdentity, canonical_mac

_NO_MAC = "00:00:00:00:00:00"


def read_identity(system: Path = Path("/sys")) -> DeviceIdentity:
    """Read the identity from the kernel. Virtual cards (bridges, tunnels) are left out where real ones exist.

    Args:
        system: Where sysfs is mounted.

    Returns:
        MACs canonical and sorted; may be empty.

    Source: /sys/class/net, /sys/class/dmi/id/product_uuid.
    """
    real: set[str] = set()
    virtual: set[str] = set()
    for card in sorted((system / "class/net").glob("*")):
        with contextlib.suppress(OSError, WireError):
            mac = canonical_mac((card / "address").read_text(encoding="ascii"))
            if mac != _NO_MAC:
                (real if (card / "device").exists() else virtual).add(mac)
    hardware_id = None
    with contextlib.suppress(OSError):
        hardware_id = (system / "class/dmi/id/product_uuid").read_text(encoding="ascii").strip() or None
    return DeviceIdentity(
        hostname=socket.gethostname(), mac_addresses=tuple(sorted(real or virtual)), hardware_id=hardware_id
    )
