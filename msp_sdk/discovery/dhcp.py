"""DHCP leases as the usual clients leave them on disk: domain (option 15), search list (119), DNS servers (6).

Read: systemd-networkd, NetworkManager, dhclient, dhcpcd and udhcpc's scripts. A lease is a stranger's text: what
cannot be read is left out. The newest block of a file that holds many wins.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

_MAX_BYTES = 1_000_000

# Folders, patterns and the client that writes there, as paths below the root.
_PLACES: tuple[tuple[str, str, str], ...] = (
    ("run/systemd/netif/leases", "*", "networkd"),
    ("var/lib/NetworkManager", "*.lease", "networkmanager"),
    ("run/NetworkManager/devices", "*", "networkmanager"),
    ("var/lib/dhcp", "*.lease*", "dhclient"),
    ("var/lib/dhclient", "*.lease*", "dhclient"),
    ("var/lib/NetworkManager", "dhclient*.lease", "dhclient"),
    ("run/dhcpcd/hook-state/resolv.conf", "*", "resolv.conf"),
    ("run/dhcpcd/resolv.conf", "*", "resolv.conf"),
    ("run/udhcpc", "*", "udhcpc"),
    ("var/run/udhcpc", "*", "udhcpc"),
)

# Keys of ``KEY=value`` files, by what they mean.
_DOMAIN_KEYS = frozenset({"domainname", "domain_name", "domain", "new_domain_name"})
_SEARCH_KEYS = frozenset({"domain_search", "domain_search_list", "search", "new_domain_search", "domains"})
_DNS_KEYS = frozenset({"dns", "domain_name_servers", "nameserver", "new_domain_name_servers"})
_DHCLIENT_OPTION = re.compile(r"^\s*option\s+([a-z0-9-]+)\s+(.*?);\s*$", re.MULTILINE)


@frozen
class Lease:
    """What one lease says that matters here.

    Attributes:
        source: The client, such as ``dhclient``.
        domains: Option 15, then option 119; as sent.
        dns_servers: Option 6; IP addresses only.
    """

    source: str
    domains: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()


def parse_key_values(text: str, source: str) -> Lease:
    """A lease as ``KEY=value`` lines (systemd-networkd, NetworkManager, udhcpc); lists are parted by space or comma."""
    domain: list[str] = []
    search: list[str] = []
    servers: list[str] = []
    for line in text.splitlines():
        key, found, value = line.partition("=")
        name = key.strip().lower().replace("-", "_").removeprefix("dhcp4_")
        words = value.strip().strip("'\"").replace(",", " ").split()
        if not found:
            continue
        if name in _DOMAIN_KEYS:
            domain += words
        elif name in _SEARCH_KEYS:
            search += words
        elif name in _DNS_KEYS:
            servers += words
    return _lease(source, [*domain, *search], servers)


def parse_dhclient(text: str) -> Lease:
    """The last lease of a dhclient file."""
    block = text.rpartition("lease {")[2]
    options: dict[str, str] = dict(_DHCLIENT_OPTION.findall(block))
    quoted = re.findall(r'"([^"]*)"', f"{options.get('domain-name', '')} {options.get('domain-search', '')}")
    # Some servers send several names in option 15, parted by spaces.
    domains = [word for text_value in quoted for word in text_value.split()]
    return _lease("dhclient", domains, options.get("domain-name-servers", "").replace(",", " ").split())


def parse_resolv_lease(text: str) -> Lease:
    """A lease that its client left as a resolv.conf (dhcpcd)."""
    words = [line.partition("#")[0].split() for line in text.splitlines()]
    domains = [word for line in words if line and line[0] in ("domain", "search") for word in line[1:]]
    return _lease("dhcpcd", domains, [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"])


def read_leases(root: Path = Path("/")) -> tuple[Lease, ...]:
    """Every lease below ``root`` that says something, newest file first."""
    files: dict[Path, tuple[float, str]] = {}
    for folder, pattern, kind in _PLACES:
        try:
            for path in (root / folder).glob(pattern):
                if path.is_file() and path.stat().st_size <= _MAX_BYTES:
                    files[path] = (path.stat().st_mtime, kind)
        except OSError:
            continue
    leases: list[Lease] = []
    for path, (_, kind) in sorted(files.items(), key=lambda item: (-item[1][0], str(item[0]))):
        try:
            lease = parse_lease(path.read_text(encoding="utf-8", errors="replace"), kind)
        except OSError:
            continue
        if (lease.domains or lease.dns_servers) and lease not in leases:
            leases.append(lease)
    return tuple(leases)


def parse_lease(text: str, kind: str) -> Lease:
    """Read a lease by the client that wrote it; a file with ``lease {`` is dhclient's wherever it lies."""
    if "lease {" in text:
        return parse_dhclient(text)
    if kind == "resolv.conf":
        return parse_resolv_lease(text)
    return parse_key_values(text, kind)


def _lease(source: str, domains: Iterable[str], servers: Iterable[str]) -> Lease:
    return Lease(
        source,
        tuple(dict.fromkeys(domain.strip(".").lower() for domain in domains if domain.strip("."))),
        tuple(dict.fromkeys(server for server in servers if _is_address(server))),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
