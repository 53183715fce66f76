"""Windows hosts in a process of their own, for :mod:`tests.bench.windows`: they answer at once and count requests.

Reads commands on stdin: ``zero`` forgets what was counted, ``count`` prints it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msp_sdk.testing.script_handlers
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.powershell import Command, PowerShell
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.testing.wsman_shells import ShellService
from msp_sdk.windows.envelope import COMMAND

assert msp_sdk.testing.script_handlers


class Counts:
    """What all hosts saw."""

    requests = 0
    body_bytes = 0


class CountingHost(WsmanHost):
    """Counts what comes in, and answers ``run_ps`` and the like with one word."""

    async def _request(self, connection: Any, request: Any) -> None:
        Counts.requests += 1
        Counts.body_bytes += len(request.body)
        await super()._request(connection, request)


def make_host(lab: HostLab, number: int) -> WsmanHost:
    made = lab.host(f"PC{number}")
    # The others compare the certificate with the address that they connect to.
    certificate = lab.ca.issue([f"pc{number}.corp.example"], [made.address])
    host = CountingHost(made.machine, made.accounts, address=made.address, certificate=certificate)
    ours = PowerShell(host.machine, script_delay_s=lambda: 0.0, stdout=lambda: None)

    async def run(command: Command) -> int:
        if command.command == COMMAND:
            return await ours.run(command)
        command.stdout.append(b"done\r\n")
        return 0

    host.shells = ShellService(host.machine, runner=run)
    return host


async def serve(count: int, folder: Path) -> None:
    lab = HostLab(folder)
    hosts = [make_host(lab, number) for number in range(count)]
    for host in hosts:
        await host.start()
    (folder / "ca.pem").write_bytes(lab.ca.pem)
    place = {"ca": str(folder / "ca.pem"), "hosts": [[host.machine.name, host.address] for host in hosts]}
    sys.stdout.write(json.dumps(place) + "\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "zero":
            Counts.requests = Counts.body_bytes = 0
            for host in hosts:
                host.operations.clear()
                host.machine.violations.clear()
                host.machine.calls.clear()
        answer = {"requests": Counts.requests, "body_bytes": Counts.body_bytes}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
