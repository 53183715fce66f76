"""What the appliance says of itself at a check-in, read from the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msp_sdk.checkin import ApplianceStatus
from msp_sdk.provisioning import read_identity

_SIOCGIFADDR = 0x8915
_SIOCGIFNETMASK = 0x891B


def read_subnets() -> tuple[str, ...]:
    """The networks that the appliance stands in, without loopback."""
    return tuple(sorted({str(interface.network) for interface in _ipv4_interfaces()}))


def read_status() -> ApplianceStatus:
    """How the appliance is now; what cannot be read is left out."""
    interfaces = _ipv4_interfaces()
    identity = read_identity()
    return ApplianceStatus(
        hostname=socket.gethostname(),
        agent_version=_own_version(),
        ip_addresses=tuple(str(interface.ip) for interface in interfaces),
        uptime_seconds=_uptime_s(),
        nixos_version=_nixos_version(),
        all_mac_addresses=identity.mac_addresses,
        subnets=read_subnets(),
    )


def _ipv4_interfaces() -> tuple[ipaddress.IPv4Interface, ...]:
    """Addresses of the network cards without loopback.

    Source: netdevice(7).
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name[:15].encode())
            with contextlib.suppress(OSError):
                address = socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24])
                mask = socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFNETMASK, request)[20:24])
                found.append(ipaddress.IPv4Interface(f"{address}/{mask}"))
    return tuple(interface for interface in found if not interface.is_loopback)


def _own_version() -> str:
    try:
        return version("msp-sdk")
    except PackageNotFoundError:
        return "0"


def _uptime_s() -> float:
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 0.0


def _nixos_version() -> str | None:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    if facts.get("ID", "").strip('"') != "nixos":
        return None
    return facts.get("VERSION_ID", "").strip('"') or None
