"""What was seen of hosts a while ago, so that they are not knocked at again and again.

What showed life is believed for minutes, silence for an hour. Our own side's trouble is never kept. Another network
empties it: the same address is another machine there.

Example:
    >>> cache = ReachabilityCache(clock=lambda: 0.0)
    >>> cache.put(Sign("tcp", "10.0.0.7", "open", 5986))
    >>> cache.get("tcp", "10.0.0.7", 5986).said
    'open'
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from msp_sdk.network.own_networks import OwnNetworks
from msp_sdk.reachability.diagnosis import Sign, SignKind

TTL_S = 3600.0
LIVE_TTL_S = 300.0

_SILENCE = frozenset({"silent", "absent"})
_FORMAT = 1
_ENTRIES_AT_MOST = 100_000

Key = tuple[SignKind, str, int | None]
# What is looked for where the doors of WinRM are silent: the network card, the endpoint mapper of RPC, ping.
RPC_PORT = 135
LIFE_KEYS: tuple[tuple[SignKind, int | None], ...] = (("neighbour", None), ("tcp", RPC_PORT), ("ping", None))


class ReachabilityCache:
    """Signs by kind, address and port. For one event loop.

    Args:
        ttl_s: How long silence is believed.
        live_ttl_s: How long a sign of life is believed.
        clock: Monotonic seconds; of the machine's start where the cache is kept in a file.
    """

    def __init__(
        self, *, ttl_s: float = TTL_S, live_ttl_s: float = LIVE_TTL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._live_ttl_s = live_ttl_s
        self._clock = clock
        self._network = ""
        self._entries: dict[Key, tuple[float, Sign]] = {}

    def get(self, kind: SignKind, address: str, port: int | None = None) -> Sign | None:
        """What was seen, with its age; None when it is not known, or too old."""
        seen_at, sign = self._entries.get((kind, address, port), (0.0, None))
        if sign is None:
            return None
        age_s = self._clock() - seen_at
        if not 0 <= age_s < self._life_of(sign):
            del self._entries[kind, address, port]
            return None
        return evolve(sign, age_s=age_s)

    def put(self, sign: Sign) -> None:
        """Keep what was seen just now. What says nothing of the host is not kept, nor is what it replaces."""
        key = (sign.kind, sign.address, sign.port)
        self._entries.pop(key, None)
        if sign.is_alive or sign.said in _SILENCE:
            self._entries[key] = (self._clock(), sign)
        if len(self._entries) > _ENTRIES_AT_MOST:
            del self._entries[next(iter(self._entries))]

    def put_life(self, address: str, signs: Sequence[Sign]) -> None:
        """Keep what a look for other signs of life saw, in place of what the last one did.

        The silence of a ping beside a network card that answers would outlive that card's sign: it is not kept.
        """
        for kind, port in LIFE_KEYS:
            self._entries.pop((kind, address, port), None)
        for sign in [sign for sign in signs if sign.is_alive] or signs:
            self.put(sign)

    def forget(self) -> None:
        """Empty it."""
        self._entries.clear()

    def notice_network(self, marks: str) -> None:
        """Say which network we are in; another one than before empties the cache."""
        if marks != self._network:
            self.forget()
        self._network = marks

    def _life_of(self, sign: Sign) -> float:
        return self._live_ttl_s if sign.is_alive else self._ttl_s

    def save(self, path: Path) -> None:
        """Keep it in a file, mode 0600, for the next process; until the machine restarts.

        Raises:
            OSError: It could not be written; what was there before still is.
        """
        document = {
            "format": _FORMAT,
            "boot": boot_id(),
            "network": self._network,
            "entries": [[seen_at, asdict(sign)] for seen_at, sign in self._entries.values()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise

    def load(self, path: Path) -> None:
        """Read what an earlier process kept; nothing, where there is nothing that can be used."""
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT or document["boot"] != boot_id():
                return
            entries = [(float(seen_at), Sign(**fields)) for seen_at, fields in document["entries"]]
            network = str(document["network"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        self._network = network
        self._entries = {(sign.kind, sign.address, sign.port): (seen_at, sign) for seen_at, sign in entries}


def boot_id(root: Path = Path("/")) -> str:
    """Which start of the machine this is: its clock begins anew with each. Empty where the kernel does not say."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def describe_network(networks: OwnNetworks) -> str:
    """What marks the network that we are in: our subnets, addresses and gateways."""
    parts = (networks.subnets, networks.addresses, networks.gateways, networks.subnets_v6)
    return ";".join(",".join(sorted(map(str, part))) for part in parts)
