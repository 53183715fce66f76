"""Two hundred hosts at once, each trouble on a tenth of them: each result is right, and nothing stays behind.

A tenth of everything (``hell``) hides most of it: few hosts are left whose account, name, doors and logon are all well.
So there is a second site (``storm``): a tenth of everything that can be got over, and of the rest so much that each is
met.

The site runs in a process of its own, so that threads, sockets and descriptors counted here are the library's.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
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
from msp_sdk.enumeration import with_addresses
from msp_sdk.errors import LogonRejectedError, MspError
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver
from msp_sdk.secret import Secret
from msp_sdk.testing.estate_faults import PRESETS
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import HostPolicy, ShellOptions, WindowsShells

AGENT = "agent"
DEADLINE_S = 10.0
# Patient enough for a machine that does other things meanwhile.
OPTIONS = ShellOptions(connect_s=2.5, quiet_s=1.0, identify_s=8.0)
# What a host may take: its doors, a logon and the first script, two scripts, and the end of its shell.
HOST_AT_MOST_S = 2 * 2 * OPTIONS.connect_s + OPTIONS.identify_s + 2 * DEADLINE_S + OPTIONS.quiet_s


class Site:
    """An estate in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self._process = process
        self.facts = facts

    async def ask(self, order: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n".encode())
        return json.loads(await self._process.stdout.readline())


@asynccontextmanager
async def site(*options: str) -> AsyncIterator[Site]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "msp_sdk.testing.estate", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
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
    runs_s: list[float] = field(factory=list)
    troubles: dict[str, Any] = field(factory=dict)
    machines: dict[str, Any] = field(factory=dict)
    accounts: list[dict[str, Any]] = field(factory=list)
    violations: list[str] = field(factory=list)
    opened: dict[str, str] = field(factory=dict)
    state: str = ""

    def hosts(self, *troubles: str) -> list[str]:
        """Those where one of these decides."""
        return [name for name, entry in self.troubles.items() if entry["layer"] and entry["troubles"][-1] in troubles]


async def work(shells: WindowsShells, target: Target, credential: Credential, runs_s: list[float]) -> str:
    """Two scripts on a host: one that looks, one that writes. How long each took is added to ``runs_s``."""
    look, write = load("agent-state"), load("agent-stage")
    try:
        async with shells.open(target, credential) as shell:
            for script, payload in ((look, b""), (write, b"test")):
                assert script.contract is not None
                begun = time.monotonic()
                try:
                    await shell.run(script, script.contract.example_input, deadline_s=DEADLINE_S, payload=payload)
                finally:
                    runs_s.append(time.monotonic() - begun)
    except MspError as error:
        return error.code
    return AGENT


def resolver(facts: dict[str, Any]) -> Resolver:
    address, port = facts["dns"].split(":")
    return Resolver([(address, int(port))])


async def discover(facts: dict[str, Any]) -> Domain:
    address, port = facts["dns"].split(":")
    options = DiscoveryOptions(resolvers=((address, int(port)),), search=(facts["domain"],))
    found = await DomainDiscoverer(options=options).discover()
    assert found.best is not None
    return found.best


def make_credential(facts: dict[str, Any]) -> Credential:
    secret = Secret(facts["password"])
    trusted = tuple(TrustedCertificate(sha256=each) for each in facts["certificates"])
    return Credential(
        "c1", 1, "service_account", facts["username"], lambda: secret, domain_name=facts["domain"],
        trusted_certificates=trusted,
    )  # fmt: skip


def right(entry: dict[str, Any]) -> set[str]:
    return {entry["truth"], *entry["or_else"]}


async def walk(folder: Path, *options: str) -> Walk:
    walked = Walk()
    async with site(*options) as there:
        facts = there.facts
        ledger, credential = LogonLedger(folder / "ledger.db"), make_credential(facts)
        async with ADEnumerator(await discover(facts), credential, ledger=ledger) as enumerator:
            enumeration = await enumerator.enumerate()
            located = await with_addresses(enumeration.computers, resolver(facts))
            merged = TargetMerger().merge(credentials=[credential], enumerated=evolve(enumeration, computers=located))
            skipped = {entry.hostname.upper(): entry.reason for entry in merged.skipped}
            targets = [target for target in merged.targets if target.role != "domain_controller"]
            policy = HostPolicy(allow_ntlm=True, trusted_cas=(facts["ca_pem"],))

            async def prove(_: Credential) -> None:
                await enumerator.prove()

            shells = WindowsShells(ledger, policy=lambda: policy, prove=prove, options=OPTIONS)
            begun = time.monotonic()
            codes = await asyncio.gather(*(work(shells, target, credential, walked.runs_s) for target in targets))
            walked.took_s = time.monotonic() - begun
            await shells.aclose()
        walked.opened = {target.hostname.upper(): code for target, code in zip(targets, codes, strict=True)}
        walked.outcomes = skipped | walked.opened
        walked.troubles = await there.ask("troubles")
        walked.machines = await there.ask("machines")
        walked.accounts = await there.ask("accounts")
        walked.violations = await there.ask("violations")
        walked.state = ledger.state(credential).state
    return walked


# What a host that talks nonsense is not asked any more, or cannot be asked: a shell there ends by itself.
BEYOND_US = "answers"
# A logon whose end is not known, or that a host alone refuses, is not made again there.
ONE_LOGON = ("broken-trust", "drops-logon")


@pytest.mark.parametrize(("mix", "computers"), [("storm", 230), ("hell", 500)])
def test_every_host_ends_as_is_right_and_nothing_is_left(tmp_path: Path, mix: str, computers: int) -> None:
    before = Held.now()
    walked = asyncio.run(walk(tmp_path, "--seed", "8", "--computers", str(computers), "--faults", mix))
    assert len(walked.opened) >= 200
    if mix == "storm":
        met = set(itertools.chain.from_iterable(entry["troubles"] for entry in walked.troubles.values()))
        assert met == set(PRESETS["storm"])
    wrong = {
        name: (walked.outcomes.get(name), entry["truth"], entry["troubles"])
        for name, entry in walked.troubles.items()
        if walked.outcomes.get(name) not in right(entry) and entry["truth"] != "domain-controller"
    }
    assert wrong == {}
    # A script waits for a thread that another host has, and then has its own time and what ends it.
    assert max(walked.runs_s) < HOST_AT_MOST_S + DEADLINE_S + OPTIONS.quiet_s
    # Each wave of threads ends within what one host may take.
    assert walked.took_s < math.ceil(len(walked.opened) / OPTIONS.threads) * HOST_AT_MOST_S

    # Logons: none was refused for its password, none was made again where it must not be, the credential still stands.
    (account,) = walked.accounts
    assert Counter(outcome for _, outcome in account["attempts"]).keys() == {"ok"}
    assert walked.state == "proven"
    assert walked.violations == []
    for name in walked.hosts(*ONE_LOGON):
        assert walked.machines[name]["logons"] == 1, name

    # Nobody touched what is left alone, and no shell stays behind where a host can be asked to end it.
    for name, facts in walked.machines.items():
        entry = walked.troubles[name]
        if entry["layer"] == "account":
            assert facts["connections"] == 0, name
        # Where the connection is gone at the end only another logon could end the shell, which then ends by itself.
        is_left = name in walked.hosts("too-large") or "closes-idle" in entry["troubles"]
        if entry["layer"] != BEYOND_US and not is_left:
            assert facts["shells"] == 0, (name, entry["troubles"])
    assert Held.now() == before


def test_wrong_password_is_seen_by_one_controller_and_no_host(tmp_path: Path) -> None:
    # lesson 32, at the size of a site
    async def run() -> None:
        async with site("--seed", "7", "--computers", "204") as there:
            there.facts["password"] = "not-this-one"
            ledger, credential = LogonLedger(tmp_path / "ledger.db"), make_credential(there.facts)
            found = await discover(there.facts)
            enumerator = ADEnumerator(found, credential, ledger=ledger)
            with pytest.raises(LogonRejectedError):
                async with enumerator:
                    await enumerator.enumerate()
            shells = WindowsShells(ledger, policy=lambda: HostPolicy(allow_ntlm=True), options=OPTIONS)
            targets = [
                Target(
                    entry["name"], "server", fqdn=f"{entry['name']}.{there.facts['domain']}", ip_addresses=(address,)
                )
                for entry in there.facts["computers"]
                for address in await resolver(there.facts).addresses(f"{entry['name']}.{there.facts['domain']}")
            ]
            codes = await asyncio.gather(*(work(shells, target, credential, []) for target in targets))
            await shells.aclose()
            assert Counter(codes) == {"wrong-password": len(targets)}
            (account,) = await there.ask("accounts")
            assert [outcome for _, outcome in account["attempts"]] == ["52e"]
            assert not any(facts["connections"] for facts in (await there.ask("machines")).values())

    asyncio.run(run())
