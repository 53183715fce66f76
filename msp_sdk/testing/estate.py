"""A whole site in one process: controllers, DNS, Windows hosts, each on its own loopback address. No root needed.

``python -m msp_sdk.testing.estate`` runs one for other processes. It prints one line of JSON when it is ready, answers
each line of its stdin with a line of JSON, and ends when its stdin ends:

* ``accounts``, ``machines``, ``computers`` and ``troubles`` ask what is counted, what runs, what is true, and what is
  wrong; ``violations`` asks for what must never have happened;
* ``join NAME`` makes a computer's account, ``boot NAME`` lets it restart: only then has it a system and an address;
* ``disable NAME``, ``rename NAME OTHER``, ``remove NAME``; ``disable-account`` is about the service account;
* an order that is unknown or cannot be obeyed is answered by ``{"error": …}``, and nothing changed.

It does not prove what its parts do not prove: see :mod:`~msp_sdk.testing.directory`, :mod:`~msp_sdk.testing.wsman` and
:mod:`~msp_sdk.testing.windows_host`. A host that is asleep is a full accept queue: Linux then drops what comes, as a
stealth firewall does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from attrs import frozen

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.errors import ConfigError, MspError
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.builders import build_agent_package
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import LdapServer
from msp_sdk.testing.directory_data import make_service_account_entry
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.estate_faults import TROUBLES, Layer, Wanted, parse_faults
from msp_sdk.testing.estate_hosts import (
    HTTP_PORT,
    HTTPS_PORT,
    WINRM_DOORS,
    make_planned_entry,
    name_of_machine,
    set_all,
)
from msp_sdk.testing.estate_plan import PlannedComputer, plan_computers
from msp_sdk.testing.estate_running import RunningEstate
from msp_sdk.testing.estate_site import plan_site, site_troubles
from msp_sdk.testing.loopback import claim_network
from msp_sdk.testing.netlogon import NetlogonServer

# What the doors of a host keep open, and one connection; a silent one is full of its own.
_FILES: Mapping[str, int] = {"both": 3, "https": 2, "http": 2, "silent": 6, "closed": 0, "none": 0}
_FILES_OF_A_PROCESS = 500

__all__ = ["HTTPS_PORT", "HTTP_PORT", "Estate", "EstateSpec", "RunningEstate", "SilentHost"]


class SilentHost:
    """An address where nothing answers: its accept queues are full, so that further packets are dropped.

    Args:
        address: A loopback address of its own.
        ports: What is silent; every other port refuses.
    """

    def __init__(self, address: str, ports: Sequence[int] = (HTTP_PORT, HTTPS_PORT)) -> None:
        self._address = address
        self._ports = ports
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for port in self._ports:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._address, port))
            listener.listen(0)
            # A backlog of 0 takes one connection; the second one is already held back by some kernels.
            for _ in range(2):
                filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                self._sockets.append(filler)
                filler.setblocking(False)
                filler.connect_ex((self._address, port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()


@frozen
class EstateSpec:
    """What to run.

    Attributes:
        network: Second octet of the loopback addresses; None takes one that is free.
        with_directory: False leaves the controllers in DNS and dead.
        delay_s: Every answer of the directory, and every script, takes this much longer.
        seed: Draws the site; None is the clinic of the demo, always the same.
        faults: What is wrong at a site that is drawn, see :mod:`msp_sdk.testing.estate_faults`.
        controllers: Of a site that is drawn.
    """

    computers: int = 40
    domain: str = "northvalley.test"
    netbios_name: str = "NORTHVALLEY"
    username: str = "svc-msp"
    network: int | None = None
    with_directory: bool = True
    delay_s: float = 0.0
    agent_version: str = "1.4.0"
    seed: int | None = None
    faults: Wanted = "none"
    controllers: int = 2

    def plan(self, network: int, now: datetime) -> tuple[PlannedComputer, ...]:
        """The computers, at addresses of a network.

        Raises:
            ConfigError: There is no such estate.
        """
        if self.seed is None:
            return plan_computers(self.computers, network=network, now=now)
        return plan_site(
            self.seed,
            computers=self.computers,
            faults=self.faults,
            network=network,
            now=now,
            controllers=self.controllers,
        )


class Estate:
    """Runs an estate as an async context manager.

    Raises:
        StateError: No part of the loopback network is free.
    """

    def __init__(self, spec: EstateSpec | None = None) -> None:
        self.spec = spec or EstateSpec()
        self._stack = contextlib.AsyncExitStack()

    @classmethod
    def build(cls, seed: int, *, computers: int = 500, faults: Wanted = "clinic", **more: Any) -> Self:
        """A whole site, drawn from a seed, with trouble in it.

        Args:
            seed: The same one gives the same names, systems, SIDs and troubles, and the same addresses but for their
                second part, which is one that is free.
            computers: How many.
            faults: A share or a count of each, by name, such as ``{"silent": 0.1, "self-signed": 2}``, or the name of
                a mix: ``none``, ``clinic``, ``each``, ``storm``, ``hell``.
                See :data:`msp_sdk.testing.estate_faults.TROUBLES` for all.
            more: Other values for :class:`EstateSpec`.

        Raises:
            ConfigError: There is no such fault, more of them than computers, or no such estate.
        """
        spec = EstateSpec(computers=computers, seed=seed, faults=faults, **more)
        spec.plan(0, datetime.now(UTC))
        site_troubles(faults, "controller", spec.controllers)
        site_troubles(faults, "dns", 1)
        return cls(spec)

    async def __aenter__(self) -> RunningEstate:
        try:
            return await self._start(self._stack)
        except BaseException:
            await self._stack.aclose()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> RunningEstate:
        spec = self.spec
        network = spec.network if spec.network is not None else stack.enter_context(claim_network())
        plan = spec.plan(network, datetime.now(UTC))
        _make_room(plan)
        account = Account(
            username=spec.username,
            password=secrets.token_urlsafe(18),
            domain=spec.netbios_name,
            dns_domain=spec.domain,
            administers=frozenset(name_of_machine(entry).casefold() for entry in plan if entry.administrable),
        )
        accounts = Accounts([account])
        ca = EstateCA.make(f"{spec.netbios_name} Root CA")
        zone = DnsZone(spec.domain)
        directories = await self._start_directories(stack, plan, accounts, ca, zone)
        for entry in plan:
            if entry.address is not None and entry.role != "domain_controller":
                zone.add_address(entry.name, entry.address)
        dns = await stack.enter_async_context(DnsServer(zone, address=f"127.{network}.0.1"))
        for name in self._site_troubles("dns", 1):
            set_all(dns, TROUBLES[name].host)
        package, content = build_agent_package(spec.agent_version)
        estate = RunningEstate(
            spec, network, plan, accounts, account, ca, zone, dns, directories, package, content, stack=stack
        )
        for entry in plan:
            if entry.address is not None and entry.door == "silent":
                stack.enter_context(SilentHost(entry.address))
            elif entry.address is not None and entry.door in WINRM_DOORS:
                await estate.start_host(entry)
        return estate

    def _site_troubles(self, layer: Layer, count: int) -> tuple[str, ...]:
        return () if self.spec.seed is None else site_troubles(self.spec.faults, layer, count)

    async def _start_directories(
        self,
        stack: contextlib.AsyncExitStack,
        plan: Sequence[PlannedComputer],
        accounts: Accounts,
        ca: EstateCA,
        zone: DnsZone,
    ) -> tuple[LdapServer, ...]:
        entries = [make_planned_entry(entry, self.spec.domain) for entry in plan]
        entries.append(make_service_account_entry("gmsa-backup", domain=self.spec.domain))
        controllers = [entry for entry in plan if entry.role == "domain_controller"]
        first = DirectorySpec(self.spec.domain, self.spec.netbios_name, entries, hostname=controllers[0].name.lower())
        servers = []
        troubles = self._site_troubles("controller", len(controllers))
        for number, controller in enumerate(controllers):
            name, address = controller.name.lower(), controller.address or ""
            directory = first.replica(name) if number else first
            certificate = ca.issue([f"{name}.{self.spec.domain}"], [address])
            server = LdapServer(directory, accounts, address=address, certificate=certificate)
            server.faults.delay_s = self.spec.delay_s
            async with contextlib.AsyncExitStack() as trial:
                await trial.enter_async_context(server)
                pings = NetlogonServer(directory, address=address, port=server.port)
                await trial.enter_async_context(pings)
                for trouble in (TROUBLES[each] for each in troubles[number : number + 1]):
                    set_all(server, trouble.host)
                    set_all(pings, trouble.cldap)
                if self.spec.with_directory:
                    stack.push_async_exit(trial.pop_all())
            # A dead controller keeps its port in DNS: that is how the field looks after a power cut.
            zone.add_controller(name, address, port=server.port, priority=number, ad_site=directory.ad_site)
            servers.append(server)
        return tuple(servers)


def _make_room(plan: Sequence[PlannedComputer]) -> None:
    """Raise the soft limit of open files as far as the hosts need: the usual one is 1,024.

    Raises:
        ConfigError: The hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_OF_A_PROCESS + sum(_FILES[entry.door] for entry in plan)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError(
                f"an estate of {len(plan)} computers takes up to {needed} open files, and the limit is {hard}.",
                remedy="Take fewer computers, or raise the limit (ulimit -n).",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


_QUESTIONS: Mapping[str, Callable[[RunningEstate], object]] = {
    "accounts": RunningEstate.account_facts,
    "machines": RunningEstate.machine_facts,
    "computers": RunningEstate.computer_facts,
    "troubles": RunningEstate.trouble_facts,
    "violations": RunningEstate.violations,
}


async def _serve(spec: EstateSpec) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Estate(spec) as estate:
        _say(estate.facts())
        while line := await reader.readline():
            try:
                _say(await _answer(estate, line.decode(errors="replace").split()))
            except MspError as error:
                _say({"error": str(error)})


async def _answer(estate: RunningEstate, order: list[str]) -> object:
    """Answer one line of stdin; what is not known or cannot be done is an error."""
    match order:
        case [question] if question in _QUESTIONS:
            return _QUESTIONS[question](estate)
        case ["disable-account"]:
            estate.disable_account()
        case ["join", name]:
            await estate.join(name)
        case ["boot", name]:
            await estate.boot(name)
        case ["disable", name]:
            await estate.disable(name)
        case ["remove", name]:
            await estate.remove(name)
        case ["rename", name, other]:
            await estate.rename(name, other)
        case _:
            raise ConfigError("unknown order.")
    return {"done": " ".join(order)}


def _say(facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run an estate for other processes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="msp_sdk.testing.estate", description=__doc__)
    parser.add_argument("--computers", type=int, default=40)
    parser.add_argument("--network", type=int, help="second octet of the loopback addresses")
    parser.add_argument("--no-directory", action="store_true", help="the controllers are in DNS and dead")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds by which every answer is late")
    parser.add_argument("--seed", type=int, help="draw a site; without one it is the clinic of the demo")
    parser.add_argument(
        "--faults", default="none", help="a mix (none, clinic, each, storm, hell), or NAME=SHARE,NAME=COUNT,…"
    )
    options = parser.parse_args()
    # What the stand-ins write of themselves is for a person who looks for a fault of theirs.
    os.umask(0o077)
    try:
        faults = parse_faults(options.faults)
    except ConfigError as error:
        parser.error(error.detail)
    spec = EstateSpec(
        computers=options.computers,
        network=options.network,
        with_directory=not options.no_directory,
        delay_s=options.delay,
        seed=options.seed,
        faults=faults,
    )
    try:
        asyncio.run(_serve(spec))
    except KeyboardInterrupt:
        return 130
    except MspError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
