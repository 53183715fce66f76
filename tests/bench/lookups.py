"""Our look-ups as a process, so that its start counts as dig's does: ``python lookups.py ORDER``; prints each address.

``ORDER`` is a file with ``{"server", "names"}`` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from msp_sdk.enumeration.enumerator import with_addresses
from msp_sdk.models.computer import Computer
from msp_sdk.network.resolver import Resolver


async def look_up(server: str, names: Sequence[str]) -> tuple[Computer, ...]:
    """Look all names up as an enumeration does."""
    computers = [
        Computer(
            name, name, name, "other", is_server=False, is_workstation=False, is_domain_controller=False, fqdn=name
        )
        for name in names
    ]
    return await with_addresses(computers, Resolver.of_domain((server,)))


def main() -> None:
    """Do what the order says."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="ascii"))
    found = asyncio.run(look_up(order["server"], order["names"]))
    print("\n".join(address for computer in found for address in computer.ip_addresses))  # noqa: T201 (its answer)


if __name__ == "__main__":
    main()
