"""Two hundred WinRM endpoints in one process: each answers for itself, however many ask at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from attrs import evolve

from msp_sdk.models.target import Target
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import HostPolicy, ShellOptions, WindowsShells

HOSTS = 200


def target(name: str, address: str) -> Target:
    return Target(
        hostname=name,
        role="workstation",
        fqdn=f"{name.lower()}.corp.example",
        domain_name="corp.example",
        ip_addresses=(address,),
        port=5985,
        use_ssl=False,
    )


async def run_on_all(lab: HostLab, addresses: dict[str, str]) -> dict[str, str]:
    """Which computer answered at each host's address."""
    credential = evolve(lab.domain_credential())
    lab.prove(credential)
    policy = HostPolicy(allow_ntlm=True)
    shells = WindowsShells(lab.ledger, policy=lambda: policy, options=ShellOptions(threads=32, connect_s=20))

    async def run(name: str) -> str:
        async with shells.open(target(name, addresses[name]), credential) as shell:
            result = await shell.run(load("identify"), {}, deadline_s=60)
            assert result.value == {"identified": True}
            return result.host.computer_name

    try:
        return dict(zip(addresses, await asyncio.gather(*map(run, addresses)), strict=True))
    finally:
        await shells.aclose()


def test_two_hundred_hosts_in_one_process_answer_each_for_itself(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.contract.wsman_hosts", str(HOSTS)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        answered = asyncio.run(run_on_all(HostLab(tmp_path), addresses))
        process.stdin.write("\n")
        process.stdin.flush()
        facts = json.loads(process.stdout.readline())
        process.stdin.close()
    assert answered == {name: name for name in addresses}
    assert len(answered) == HOSTS
    assert facts["violations"] == []
    assert facts["shells"] == 0
    assert all("identify" in calls for calls in facts["calls"].values())
    print(f"{1000 * facts['cpu_s'] / HOSTS:.1f} ms of processor a host, {facts['requests'] / HOSTS:.1f} operations")  # noqa: T201
