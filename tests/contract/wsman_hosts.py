"""Many WinRM endpoints in one process: ``python -m tests.contract.wsman_hosts COUNT`` serves until its stdin ends.

It prints their addresses as a line of JSON, and, for each line of stdin, what became of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.host_lab import LAB_PASSWORD
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost


async def serve(count: int) -> None:
    """Serve so many hosts, ``PC0`` and on, to the account ``CORP\\svc``."""
    accounts = Accounts([Account("svc", LAB_PASSWORD, "CORP", dns_domain="corp.example", administers=frozenset("*"))])
    hosts = [
        WsmanHost(
            Machine(f"PC{number}", domain="CORP", dns_domain="corp.example"),
            accounts,
            address=take_address(),
            https_port=None,
        )
        for number in range(count)
    ]
    for host in hosts:
        await host.start()
    print(json.dumps({host.machine.name: host.address for host in hosts}), flush=True)  # noqa: T201 (its answer)
    begun_s = time.process_time()
    while await asyncio.to_thread(sys.stdin.readline):
        facts = {
            "cpu_s": time.process_time() - begun_s,
            "violations": [text for host in hosts for text in host.machine.violations],
            "calls": {host.machine.name: [call.script for call in host.machine.calls] for host in hosts},
            "requests": sum(len(host.operations) for host in hosts),
            "shells": sum(len(host.shells.shells) for host in hosts),
        }
        print(json.dumps(facts), flush=True)  # noqa: T201
    for host in hosts:
        await host.stop()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
