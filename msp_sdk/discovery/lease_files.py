"""Where DHCP clients and the system's resolvers leave what they were told, and reading it.

``127.0.0.53`` in resolv.conf is systemd-resolved, which keeps the real servers and each link's domains in files of
its own; NetworkManager and resolvconf do likewise. udhcpc keeps nothing: its script writes resolv.conf, or hands the
lease to resolvconf. The newest file comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from msp_sdk.discovery.dhcp import (
    Lease,
    parse_dhclient,
    parse_dhcp_message,
    parse_key_values,
    parse_resolv_lease,
)

_MAX_BYTES = 1_000_000
_Parse = Callable[[bytes, str], Lease]


def _text(parse: Callable[[str, str], Lease], data: bytes, source: str) -> Lease:
    text = data.decode("utf-8", "replace")
    # A file of dhclient's is one wherever it lies.
    return parse_dhclient(text, source) if "lease {" in text or "lease6 {" in text else parse(text, source)


_KEYS = partial(_text, parse_key_values)
_RESOLV = partial(_text, parse_resolv_lease)

# Folder below the root, pattern, who writes there, how it is read.
_PLACES: tuple[tuple[str, str, str, _Parse], ...] = (
    ("run/systemd/netif/leases", "*", "dhcp networkd", _KEYS),
    ("run/systemd/netif/links", "*", "networkd link", _KEYS),
    ("run/systemd/resolve/netif", "*", "systemd-resolved link", _KEYS),
    ("run/systemd/resolve", "resolv.conf", "systemd-resolved", _RESOLV),
    ("run/NetworkManager/devices", "*", "dhcp networkmanager", _KEYS),
    ("run/NetworkManager", "no-stub-resolv.conf", "networkmanager", _RESOLV),
    ("run/NetworkManager", "resolv.conf", "networkmanager", _RESOLV),
    ("var/lib/NetworkManager", "*.lease", "dhcp networkmanager", _KEYS),
    ("var/lib/dhcp", "*.lease*", "dhcp dhclient", _KEYS),
    ("var/lib/dhclient", "*.lease*", "dhcp dhclient", _KEYS),
    ("var/lib/dhcpcd", "*.lease*", "dhcp dhcpcd", parse_dhcp_message),
    ("var/lib/dhcpcd5", "*.lease*", "dhcp dhcpcd", parse_dhcp_message),
    ("run/dhcpcd/hook-state/resolv.conf", "*", "dhcp dhcpcd", _RESOLV),
    ("run/dhcpcd", "resolv.conf", "dhcp dhcpcd", _RESOLV),
    ("run/dhcpcd/resolv.conf", "*", "dhcp dhcpcd", _RESOLV),
    ("run/udhcpc", "*", "dhcp udhcpc", _KEYS),
    ("run/resolvconf/interface", "*.udhcpc", "dhcp udhcpc", _RESOLV),
    ("run/resolvconf/interface", "*", "resolvconf", _RESOLV),
    ("run/resolvconf/interfaces", "*", "resolvconf", _RESOLV),
)


def read_leases(root: Path = Path("/")) -> tuple[Lease, ...]:
    """Every lease below ``root`` that says something, newest file first; the system's own resolver is one of them."""
    files: dict[Path, tuple[float, str, _Parse]] = {}
    for folder, pattern, source, parse in _PLACES:
        try:
            for path in (root / folder).glob(pattern):
                if path.is_file() and path.stat().st_size <= _MAX_BYTES:
                    files.setdefault(path, (path.stat().st_mtime, source, parse))
        except OSError:
            continue
    leases: list[Lease] = []
    for path, (_, source, parse) in sorted(files.items(), key=lambda item: (-item[1][0], str(item[0]))):
        try:
            lease = parse(path.read_bytes(), source)
        except OSError:
            continue
        if (lease.domains or lease.dns_servers) and lease not in leases:
            leases.append(lease)
    return tuple(leases)
