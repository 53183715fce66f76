"""What of the appliance's network decides where a domain is looked for; read from files and the kernel, cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from msp_sdk.discovery.hints import read_hints
from msp_sdk.network.own_networks import read_own_networks
from msp_sdk.network.resolver import DnsServer
from runners.appliance.status import read_subnets


@frozen
class NetworkMarks:
    """The network as far as it says where to look, in no order: which lease was renewed last says nothing."""

    names: frozenset[str]
    servers: frozenset[str]
    subnets: tuple[str, ...]
    subnets_v6: tuple[str, ...] = ()


def read_network_marks(
    resolvers: Sequence[DnsServer] = (), search: Sequence[str] = (), *, root: Path = Path("/")
) -> NetworkMarks:
    """The network as it is now. What a person set is not read from it.

    Args:
        resolvers: DNS servers that a person set.
        search: Search domains that a person set.
        root: Where the file system begins; another folder in tests.
    """
    hints = read_hints(search, root=root)
    return NetworkMarks(
        names=frozenset(hint.value for hint in hints.names),
        servers=frozenset(() if resolvers else (hint.value for hint in hints.servers)),
        subnets=read_subnets(),
        subnets_v6=tuple(map(str, read_own_networks(root).subnets_v6)),
    )
