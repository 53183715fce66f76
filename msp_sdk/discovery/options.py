"""How discovery works: what a person may set of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from attrs import field, frozen

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.network.probe import Pace, ProbeOptions
from msp_sdk.network.resolver import DnsServer, Draw, ResolverOptions, parse_server


def _servers(given: Sequence[DnsServer | str] | None) -> tuple[DnsServer, ...]:
    return tuple(parse_server(item) if isinstance(item, str) else item for item in given or ())


def _names_of(given: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(given or ())


def _draw(highest: int) -> int:
    return random.randint(0, highest)  # noqa: S311 (spreads load, guards nothing)


@frozen
class DiscoveryOptions:
    """How discovery works.

    Attributes:
        resolvers: DNS servers that a person set, as (address, port) or text; with them neither
            resolv.conf nor leases are asked.
        search: Domains that a person set; with them no other hint is followed.
        dns: Patience of look-ups; all servers are asked at the same time.
        directory: Patience of connections to controllers.
        doors: Patience and pace of looking which doors are open.
        pace: Shared with whoever else knocks at doors; None means a pace of its own.
        ping_waits_s: How long to wait after each datagram of a netlogon ping.
        ldap_port: Where a DNS server's LDAP would be if it were a controller.
        sweep: Look for Windows hosts in the appliance's own subnets too; nobody is disturbed unless a person asks.
        root: Where the file system begins (resolv.conf, leases, routes).
        hostname: The machine's own name; None asks the system.
        clock: The present, aware.
        draw: For weights among controllers.
    """

    resolvers: tuple[DnsServer, ...] = field(default=(), converter=_servers)
    search: tuple[str, ...] = field(default=(), converter=_names_of)
    dns: ResolverOptions = field(default=ResolverOptions(timeout_s=0.8, lifetime_s=2.4))
    directory: DirectoryOptions = field(default=DirectoryOptions(connect_timeout_s=2, receive_timeout_s=2.5))
    doors: ProbeOptions = field(default=ProbeOptions(timeout_s=1.5))
    pace: Pace | None = None
    ping_waits_s: tuple[float, ...] = (0.5, 1.0)
    ldap_port: int = 389
    sweep: bool = False
    root: Path = Path("/")
    hostname: str | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    draw: Draw = _draw
