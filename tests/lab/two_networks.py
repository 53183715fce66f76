"""Two network namespaces joined by a cable: one that looks, and one that is looked at. Needs root and ``ip``."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from tests.real import do_without, need

OURS, THEIRS = "10.76.0.1", "10.76.0.2"


@frozen
class Cable:
    """The two ends, by their names."""

    here: str
    there: str

    def ip(self, end: str, *words: str) -> None:
        """Run ``ip`` at one end."""
        subprocess.run(["ip", "-n", end, *words], check=True, capture_output=True, text=True)

    def command(self, end: str, *words: str) -> Sequence[str]:
        """A command line that runs at one end."""
        return ("ip", "netns", "exec", end, *words)


@contextmanager
def two_networks() -> Iterator[Cable]:
    """A cable between 10.76.0.1 (here) and 10.76.0.2 (there); taken away at the end."""
    need("ip")
    if os.geteuid() != 0:
        do_without("network namespaces need root")
    name = f"msp-{secrets.token_hex(4)}"
    cable = Cable(f"{name}-a", f"{name}-b")
    ends = ((cable.here, OURS), (cable.there, THEIRS))
    try:
        for end, _ in ends:
            made = subprocess.run(["ip", "netns", "add", end], capture_output=True, text=True, check=False)
            if made.returncode:
                do_without(f"the kernel lends no network namespace: {made.stderr.strip()}")
        cable.ip(cable.here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", cable.there)
        for end, address in ends:
            cable.ip(end, "addr", "add", f"{address}/24", "dev", "cable")
            cable.ip(end, "link", "set", "lo", "up")
            cable.ip(end, "link", "set", "cable", "up")
        yield cable
    finally:
        for end, _ in ends:
            subprocess.run(["ip", "netns", "del", end], capture_output=True, check=False)
