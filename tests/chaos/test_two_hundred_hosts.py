"""Two hundred hosts at once, a tenth of them with each trouble there is: each result is right, and nothing stays behind.

The site runs in a process of its own, so that threads, sockets and descriptors counted here are the library's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from attrs import evolve, field, frozen, mutable

from msp_sdk import ADEnumerator, DiscoveryOptions, DomainDiscoverer, TargetMerger
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration import EnumerationOptions, with_addresses
from msp_sdk.errors import MspError
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver
from msp_sdk.secret import Secret
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import HostPolicy, ShellOptions, WindowsShells

AGENT = "agent"
DEADLINE_S = 10.0
OPTIONS = ShellOptions(connect_s=1.0, quiet_s=1.0, identify_s=5.0)
# What a host may take: its doors, a logon and the first script, two scripts, and the end of its shell.
HOST_AT_MOST_S = 2 * 2 * OPTIONS.connect_s + OPTIONS.identify_s + 2 * DEADLINE_S + OPTIONS.quiet_s


class Site:
    """An estate in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self._process = process
        self.facts = facts

    async def ask(self, order: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{order}\n".encode())
        return json.loads(await self._process.stdout.readline())


@asynccontextmanager
async def site(*options: str) -> AsyncIterator[Site]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "msp_sdk.testing.estate", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Site(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        await process.wait()


@frozen
class Held:
    """What this process holds."""

    threads: int
    descriptors: int
    sockets: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        us = psutil.Process()
        return cls(threading.active_count(), us.num_fds(), len(us.net_connections("inet")))


@mutable
class Walk:
    """What was found of each computer."""

    outcomes: dict[str, str] = field(factory=dict)
    took_s: float = 0.0
    troubles: dict[str, Any] = field(factory=dict)
    machines: dict[str, Any] = field(factory=dict)
    accounts: list[dict[str, Any]] = field(factory=list)
    violations: list[str] = field(factory=list)
    opened: int = 0
    state: str = ""


async def work(shells: WindowsShells, target: Target, credential: Credential) -> str:
    """Two scripts on a host: one that looks, one that writes."""
    look, write = load("agent-state"), load("agent-stage")
    assert look.contract is not None and write.contract is not None
    try:
        async with shells.open(target, credential) as shell:
            await shell.run(look, look.contract.example_input, deadline_s=DEADLINE_S)
            await shell.run(write, write.contract.example_input, deadline_s=DEADLINE_S, payload=b"test")
    except MspError as error:
        return error.code
    return AGENT


async def walk(folder: Path, *options: str) -> Walk:
    walked = Walk()
    async with site(*options) as there:
        facts = there.facts
        address, port = facts["dns"].split(":")
        server = (address, int(port))
        found = await DomainDiscoverer(
            options=DiscoveryOptions(resolvers=(server,), search=(facts["domain"],))
        ).discover()
        assert found.best is not None
        ledger = LogonLedger(folder / "ledger.db")
        secret = Secret(facts["password"])
        credential = Credential(
            "c1", 1, "service_account", facts["username"], lambda: secret, domain_name=facts["domain"],
            trusted_certificates=tuple(TrustedCertificate(sha256=each) for each in facts["certificates"]),
        )  # fmt: skip
        resolver = Resolver([server])
        how = EnumerationOptions(directory=DirectoryOptions(), resolver=resolver)
        async with ADEnumerator(found.best, credential, ledger=ledger, options=how) as enumerator:
            enumeration = await enumerator.enumerate()
            located = await with_addresses(enumeration.computers, resolver)
            merged = TargetMerger().merge(
                credentials=[credential], enumerated=evolve(enumeration, computers=located)
            )
            walked.outcomes = {entry.hostname.upper(): entry.reason for entry in merged.skipped}
            targets = [target for target in merged.targets if target.role != "domain_controller"]
            walked.opened = len(targets)
            policy = HostPolicy(allow_ntlm=True, trusted_cas=(facts["ca_pem"],))

            async def prove(_: Credential) -> None:
                await enumerator.prove()

            shells = WindowsShells(ledger, policy=lambda: policy, prove=prove, options=OPTIONS)
            begun = time.monotonic()
            codes = await asyncio.gather(*(work(shells, target, credential) for target in targets))
            walked.took_s = time.monotonic() - begun
            await shells.aclose()
        walked.outcomes |= {target.hostname.upper(): code for target, code in zip(targets, codes, strict=True)}
        walked.troubles = await there.ask("troubles")
        walked.machines = await there.ask("machines")
        walked.accounts = await there.ask("accounts")
        walked.violations = await there.ask("violations")
        walked.state = ledger.state(credential).state
    return walked
