"""DHCP leases, read as values: domain (option 15), search list (119), DNS servers (6). Pure.

Known are the files of systemd-networkd, NetworkManager, dhclient and udhcpc's scripts, and the messages that dhcpcd
keeps as they came. A lease is a stranger's: what cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from msp_sdk.discovery.packed_names import read_packed_name
from msp_sdk.errors import WireError

# Keys of ``KEY=value`` files, by what they mean.
_DOMAIN_KEYS = frozenset({"domainname", "domain_name", "domain", "new_domain_name"})
_SEARCH_KEYS = frozenset(
    {"domain_search", "domain_search_list", "search", "new_domain_search", "domains", "route_domains"}
)
_DNS_KEYS = frozenset(
    {"dns", "domain_name_servers", "nameserver", "new_domain_name_servers", "servers", "name_servers"}
)
_DHCLIENT_BLOCK = re.compile(r"^\s*lease6? \{", re.MULTILINE)
_DHCLIENT_OPTION = re.compile(r"^\s*option\s+(?:dhcp6\.)?([a-z0-9-]+)\s+(.*?);\s*$", re.MULTILINE)

# A DHCPv4 message: fixed part, magic, options. Source: RFC 2131 2, RFC 2132.
_FIXED_BYTES = 236
_MAGIC = bytes((99, 130, 83, 99))
_PAD, _END, _DNS, _DOMAIN, _SEARCH = 0, 255, 6, 15, 119
# A DHCPv6 message: kind and transaction, options. Source: RFC 8415 8, RFC 3646.
_FIXED_BYTES_6 = 4
_DNS_6, _SEARCH_6 = 23, 24
_ADDRESS_BYTES, _ADDRESS_BYTES_6 = 4, 16


@frozen
class Lease:
    """What one lease, or one file of the system's resolver, says that matters here.

    Attributes:
        source: Who said it, such as ``dhcp dhclient``.
        domains: Option 15, then option 119; in lower case.
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
        name = key.strip().lower().replace("-", "_").removeprefix("dhcp4_").removeprefix("dhcp6_")
        words = value.strip().strip("'\"").replace(",", " ").split()
        if not found:
            continue
        if name in _DOMAIN_KEYS:
            domain += words
        elif name in _SEARCH_KEYS:
            search += words
        elif name in _DNS_KEYS:
            servers += words
    return make_lease(source, [*domain, *search], servers)


def parse_dhclient(text: str, source: str = "dhcp dhclient") -> Lease:
    """The last lease of a dhclient file, of either family."""
    block = _DHCLIENT_BLOCK.split(text)[-1]
    options: dict[str, str] = dict(_DHCLIENT_OPTION.findall(block))
    quoted = re.findall(r'"([^"]*)"', f"{options.get('domain-name', '')} {options.get('domain-search', '')}")
    # Some servers send several names in option 15, parted by spaces.
    domains = [word for text_value in quoted for word in text_value.split()]
    servers = f"{options.get('domain-name-servers', '')} {options.get('name-servers', '')}"
    return make_lease(source, domains, servers.replace(",", " ").split())


def parse_resolv_lease(text: str, source: str) -> Lease:
    """What was left as a resolv.conf (dhcpcd's hooks, resolvconf, systemd-resolved, udhcpc's script)."""
    words = [re.split("[#;]", line)[0].split() for line in text.splitlines()]
    domains = [word for line in words if line and line[0] in ("domain", "search") for word in line[1:]]
    return make_lease(source, domains, [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"])


def parse_dhcp_message(data: bytes, source: str = "dhcp dhcpcd") -> Lease:
    """A DHCPv4 or DHCPv6 message as it came, which is what dhcpcd keeps; what of it is broken says nothing."""
    if data[_FIXED_BYTES : _FIXED_BYTES + len(_MAGIC)] == _MAGIC:
        found = _joined(_options(data[_FIXED_BYTES + len(_MAGIC) :]))
        servers = _addresses(found.get(_DNS, b""), _ADDRESS_BYTES)
        text = found.get(_DOMAIN, b"").split(b"\0")[0].decode("utf-8", "replace")
        return make_lease(source, [*text.split(), *_names(found.get(_SEARCH, b""))], servers)
    found = _joined(_options_6(data[_FIXED_BYTES_6:]))
    servers = _addresses(found.get(_DNS_6, b""), _ADDRESS_BYTES_6)
    return make_lease(source, _names(found.get(_SEARCH_6, b"")), servers)


def make_lease(source: str, domains: Iterable[str], servers: Iterable[str]) -> Lease:
    """A lease of which each name and each address comes once; what is no address is left out."""
    names = (domain.strip().removeprefix("~").strip(".").lower() for domain in domains)
    addresses = (_address(server) for server in servers)
    return Lease(
        source,
        tuple(dict.fromkeys(name for name in names if name)),
        tuple(dict.fromkeys(address for address in addresses if address)),
    )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        yield data[at], data[at + 2 : at + 2 + size]
        at += 2 + size


def _options_6(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + 4 + size]
        at += 4 + size


def _joined(options: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """Options by number; one that comes in pieces is one (RFC 3396)."""
    found: dict[int, bytes] = {}
    for number, value in options:
        found[number] = found.get(number, b"") + value
    return found


def _names(data: bytes) -> list[str]:
    """The names of a search list, as far as it can be read."""
    names, at = [], 0
    with contextlib.suppress(WireError):
        while at < len(data):
            name, at = read_packed_name(data, at, len(data))
            names.append(name)
    return names


def _addresses(data: bytes, size: int) -> list[str]:
    return [str(ipaddress.ip_address(data[at : at + size])) for at in range(0, len(data) - size + 1, size)]


def _address(text: str) -> str | None:
    """The address of ``ADDRESS``, ``ADDRESS:53``, ``[V6]:53``, each perhaps with ``#NAME`` behind it; else None."""
    bare = text.partition("#")[0]
    if bare.startswith("["):
        bare, _, port = bare[1:].partition("]")
    elif bare.count(":") == 1:
        bare, _, port = bare.partition(":")
    else:
        port = ""
    if port.removeprefix(":") not in ("", "53"):
        return None
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return None
    return bare
