"""What the bench of the prober measures of ours, in a process of its own: ``probe_client.py WAY FILE TIMEOUT PORT…``.

Prints a JSON object: how many doors (way ``doors``) or hosts (way ``hosts``) came out how.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


async def knock(addresses: Sequence[str], timeout_s: float, ports: tuple[int, ...]) -> Counter[str]:
    """Every port of every address, by our one loop."""
    from msp_sdk.network.probe import DoorProber, ProbeOptions

    prober = DoorProber(ProbeOptions(timeout_s=timeout_s, connects_per_second=None))
    places = ((address, port) for address in addresses for port in ports)
    return Counter([door.state async for door in prober.knock_all(places)])


async def judge(addresses: Sequence[str], timeout_s: float, ports: tuple[int, ...]) -> Counter[str]:
    """The same with all that makes a verdict of it: targets, further signs of life where they are silent, reasons."""
    from msp_sdk.models.target import Target
    from msp_sdk.network.probe import ProbeOptions
    from msp_sdk.reachability import ReachabilityProber

    prober = ReachabilityProber(ProbeOptions(ports=ports, timeout_s=timeout_s, connects_per_second=None))
    targets = [Target(hostname=address, role="other") for address in addresses]
    return Counter([target.unreachable_reason or "open" async for target in prober.probe(targets)])


if __name__ == "__main__":
    way, file, timeout, *ports = sys.argv[1:]
    run = {"doors": knock, "hosts": judge}[way]
    listed = Path(file).read_text(encoding="ascii").split()
    print(json.dumps(asyncio.run(run(listed, float(timeout), tuple(map(int, ports))))))
