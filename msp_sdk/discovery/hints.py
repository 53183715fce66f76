"""Names that may be domains, from what the appliance was told: settings, resolv.conf, DHCP leases, its own name.

A hint is never believed by itself: a provider's router hands out suffixes too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from msp_sdk.discovery.dhcp import Lease
from msp_sdk.discovery.lease_files import read_leases
from msp_sdk.models.domain import Hint
from msp_sdk.network.resolver import ResolvConf, read_resolv_conf

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME_MAX = 253
# A domain lies at most so far above a search suffix; beyond it we would ask the whole internet.
_PARENT_LABELS_MIN = 2
_ABOVE = "above "
_NEVER = frozenset({"localhost", "localdomain", "in-addr.arpa", "ip6.arpa", "invalid", "example"})


@frozen
class Hints:
    """What was found, in the order in which it is tried.

    Attributes:
        names: Domains to ask for; distinct.
        servers: DNS servers that resolv.conf, the system's resolver and leases name. Any of them may know a domain
            that the first one does not, and any may be a controller.
    """

    names: tuple[Hint, ...] = ()
    servers: tuple[Hint, ...] = ()


def canonical_name(text: str) -> str | None:
    """A DNS name in lower case without the final dot; None when it is no name, or one that is never a domain."""
    name = text.strip().strip(".").lower()
    labels = name.split(".")
    if not name or len(name) > _NAME_MAX or name in _NEVER or labels[-1].isdigit():
        return None
    return name if all(_LABEL.fullmatch(label) for label in labels) else None


def collect_hints(
    *,
    settings: Sequence[str] = (),
    resolv_conf: ResolvConf | None = None,
    leases: Sequence[Lease] = (),
    fqdn: str = "",
) -> Hints:
    """Order all hints: what a person set, then what the network said, then the own name, then their parents.

    Args:
        settings: Search domains that a person set; with them no other name is asked for.
        resolv_conf: The machine's own.
        leases: Of the DHCP clients and the system's resolver.
        fqdn: The appliance's own name; its first label is dropped.
    """
    own = resolv_conf or ResolvConf()
    servers = [Hint(server, "resolv.conf") for server in own.servers]
    servers += [Hint(server, lease.source) for lease in leases for server in lease.dns_servers]
    found = [Hint(name, "resolv.conf") for name in own.search]
    found += [Hint(name, lease.source) for lease in leases for name in lease.domains]
    found.append(Hint(fqdn.partition(".")[2], "own name"))
    if settings:
        found = [Hint(name, "settings") for name in settings]
    names = found if settings else with_parents(found)
    first: dict[str, Hint] = {}
    for server in servers:
        first.setdefault(server.value, server)
    return Hints(_distinct(names), tuple(first.values()))


def is_parent(hint: Hint) -> bool:
    """True for a name that nobody told us: it lies above one that somebody did."""
    return hint.source.startswith(_ABOVE)


def with_parents(found: Sequence[Hint]) -> tuple[Hint, ...]:
    """Hints, then the names above them."""
    return (*found, *(Hint(parent, f"{_ABOVE}{hint.value}") for hint in found for parent in _parents(hint.value)))


def read_hints(settings: Sequence[str], *, root: Path = Path("/"), hostname: str | None = None) -> Hints:
    """Collect the hints of this machine.

    Args:
        settings: Search domains that a person set.
        root: Where the file system begins; another folder in tests.
        hostname: The machine's name; None asks the system.
    """
    return collect_hints(
        settings=settings,
        resolv_conf=read_resolv_conf(root / "etc/resolv.conf"),
        leases=read_leases(root),
        fqdn=full_name(socket.gethostname() if hostname is None else hostname, _read(root / "etc/hosts")),
    )


def full_name(hostname: str, hosts: str) -> str:
    """A machine's name with its domain, as ``/etc/hosts`` has it where the name itself is short."""
    short = hostname.lower()
    if "." in short:
        return short
    for line in hosts.splitlines():
        for name in line.partition("#")[0].lower().split()[1:]:
            if name.startswith(f"{short}."):
                return name
    return short


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parents(name: str) -> list[str]:
    labels = name.strip(".").split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels) - _PARENT_LABELS_MIN + 1)]


def _distinct(hints: Iterable[Hint]) -> tuple[Hint, ...]:
    seen: dict[str, Hint] = {}
    for hint in hints:
        name = canonical_name(hint.value)
        if name is not None:
            seen.setdefault(name, Hint(name, hint.source))
    return tuple(seen.values())
