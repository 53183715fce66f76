"""A whole site in one process: controllers, DNS, Windows hosts, each on its own loopback address. No root needed.

``python -m msp_sdk.testing.estate`` runs one for other processes: it prints one line of JSON when it is ready, answers
``accounts``, ``machines``, ``disable-account``, ``join NAME`` and ``remove NAME`` on stdin with a line of JSON each,
and ends when its stdin ends.

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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from attrs import field, frozen

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.directory.entry import parse_sid
from msp_sdk.errors import MspError, StateError
from msp_sdk.models.package import AgentPackage
from msp_sdk.testing.accounts import DISABLED, Account, Accounts
from msp_sdk.testing.builders import SERVICE_NAME, build_agent_package
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import LdapServer
from msp_sdk.testing.directory_data import (
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_WORKSTATION,
    DirectoryEntry,
    make_computer_entry,
    make_service_account_entry,
)
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.estate_plan import PlannedComputer, plan_computers
from msp_sdk.testing.netlogon import NetlogonServer
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.wire.converter import encode_bytes, unstructure

HTTP_PORT = 5985
HTTPS_PORT = 5986
_LOWEST_NETWORK, _NETWORKS = 64, 150


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
    """

    computers: int = 40
    domain: str = "northvalley.test"
    netbios_name: str = "NORTHVALLEY"
    username: str = "svc-msp"
    network: int | None = None
    with_directory: bool = True
    delay_s: float = 0.0
    agent_version: str = "1.4.0"


@frozen
class RunningEstate:
    """An estate that runs. Accounts, machines and hosts may be looked at and changed while it does."""

    spec: EstateSpec
    plan: tuple[PlannedComputer, ...]
    accounts: Accounts
    credential: Account
    ca: EstateCA
    dns: DnsServer
    directories: tuple[LdapServer, ...]
    hosts: dict[str, WsmanHost]
    package: AgentPackage
    package_content: bytes = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """What the partner of this estate knows, for JSON; holds the password."""
        return {
            "domain": self.spec.domain,
            "dns": "{}:{}".format(*self.dns.server),
            "username": self.credential.upn,
            "password": self.credential.password,
            "certificates": [server.certificate_sha256 for server in self.directories],
            "ca_pem": self.ca.pem.decode(),
            "package": unstructure(self.package),
            "package_content": encode_bytes(self.package_content),
            "computers": [{"name": entry.name, "role": entry.role, "truth": entry.truth} for entry in self.plan],
        }

    def join(self, name: str) -> bool:
        """A new computer joins the domain, known to every controller; False when its name is taken."""
        entry = make_computer_entry(
            name, "Windows 11 Pro", domain=self.spec.domain, os_version="10.0 (22631)", ou="OU=Workstations"
        )
        taken = name.casefold().encode()
        for server in self.directories:
            if any(held.folded.get("name", (b"",))[0].lower() == taken for held in server.spec.entries):
                return False
        for server in self.directories:
            server.spec.put(entry)
        return True

    def remove(self, name: str) -> bool:
        """A computer's account is deleted at every controller; False when there is none."""
        wanted, removed = name.casefold().encode(), False
        for server in self.directories:
            for held in list(server.spec.entries):
                if held.folded.get("name", (b"",))[0].lower() == wanted:
                    server.spec.delete(held.dn)
                    removed = True
        return removed

    def account_facts(self) -> list[dict[str, Any]]:
        """Each account's count of bad passwords and all of its logons."""
        return [
            {
                "username": account.username,
                "domain": account.domain,
                "bad_password_count": account.bad_password_count,
                "locked": account.locked,
                "attempts": account.attempts,
            }
            for account in self.accounts.all
        ]

    def machine_facts(self) -> dict[str, dict[str, Any]]:
        """By name: does the agent run there, how often was which script answered, what must never have happened."""
        facts = {}
        for name, host in self.hosts.items():
            service = host.machine.services.find(SERVICE_NAME)
            counts: dict[str, int] = {}
            for call in host.machine.calls:
                counts[call.script] = counts.get(call.script, 0) + 1
            facts[name] = {
                "agent_running": service is not None and service.state == "running",
                "scripts": counts,
                "violations": list(host.machine.violations),
            }
        return facts


class Estate:
    """Runs an estate as an async context manager.

    Raises:
        StateError: No part of the loopback network is free.
    """

    def __init__(self, spec: EstateSpec | None = None) -> None:
        self.spec = spec or EstateSpec()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> RunningEstate:
        async with contextlib.AsyncExitStack() as stack:
            running = await self._start(stack)
            self._stack = stack.pop_all()
        return running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> RunningEstate:
        spec = self.spec
        network = spec.network if spec.network is not None else stack.enter_context(_own_network())
        plan = plan_computers(spec.computers, network=network, now=datetime.now(UTC))
        entries = {entry.name: _directory_entry(entry, spec.domain) for entry in plan}
        account = Account(
            username=spec.username,
            password=secrets.token_urlsafe(18),
            domain=spec.netbios_name,
            dns_domain=spec.domain,
            administers=frozenset(entry.name.casefold() for entry in plan if entry.administrable),
        )
        accounts = Accounts([account])
        ca = EstateCA.make(f"{spec.netbios_name} Root CA")
        zone = DnsZone(spec.domain)
        directories = await self._start_directories(stack, plan, entries, accounts, ca, zone)
        for entry in plan:
            if entry.address is not None and entry.role != "domain_controller":
                zone.add_address(entry.name, entry.address)
        dns = await stack.enter_async_context(DnsServer(zone, address=f"127.{network}.0.1"))
        hosts = await self._start_hosts(stack, plan, entries, accounts, ca)
        package, content = build_agent_package(spec.agent_version)
        return RunningEstate(spec, plan, accounts, account, ca, dns, tuple(directories), hosts, package, content)

    async def _start_directories(
        self,
        stack: contextlib.AsyncExitStack,
        plan: Sequence[PlannedComputer],
        entries: dict[str, DirectoryEntry],
        accounts: Accounts,
        ca: EstateCA,
        zone: DnsZone,
    ) -> list[LdapServer]:
        servers = []
        for number, controller in enumerate(entry for entry in plan if entry.role == "domain_controller"):
            address = controller.address or ""
            directory = DirectorySpec(
                domain=self.spec.domain,
                netbios_name=self.spec.netbios_name,
                entries=[*entries.values(), make_service_account_entry("gmsa-backup", domain=self.spec.domain)],
                hostname=controller.name.lower(),
            )
            certificate = ca.issue([f"{controller.name.lower()}.{self.spec.domain}"], [address])
            server = LdapServer(directory, accounts, address=address, certificate=certificate)
            server.faults.delay_s = self.spec.delay_s
            async with contextlib.AsyncExitStack() as trial:
                await trial.enter_async_context(server)
                await trial.enter_async_context(NetlogonServer(directory, address=address, port=server.port))
                if self.spec.with_directory:
                    stack.push_async_exit(trial.pop_all())
            # A dead controller keeps its port in DNS: that is how the field looks after a power cut.
            zone.add_controller(
                controller.name.lower(), address, port=server.port, priority=number, ad_site=directory.ad_site
            )
            servers.append(server)
        return servers

    async def _start_hosts(
        self,
        stack: contextlib.AsyncExitStack,
        plan: Sequence[PlannedComputer],
        entries: dict[str, DirectoryEntry],
        accounts: Accounts,
        ca: EstateCA,
    ) -> dict[str, WsmanHost]:
        hosts = {}
        for entry in plan:
            if entry.door == "silent" and entry.address is not None:
                stack.enter_context(SilentHost(entry.address))
            if entry.door not in ("http", "https") or entry.address is None:
                continue
            machine = Machine(
                name=entry.name,
                domain=self.spec.netbios_name,
                dns_domain=self.spec.domain,
                sid=parse_sid(entries[entry.name].attributes["objectSid"][0]),
                os_name=entry.os_name or "",
            )
            host = WsmanHost(
                machine,
                accounts,
                address=entry.address,
                http_port=HTTP_PORT if entry.door == "http" else None,
                https_port=HTTPS_PORT if entry.door == "https" else None,
                certificate=ca.issue([f"{entry.name.lower()}.{self.spec.domain}"]) if entry.door == "https" else None,
            )
            host.faults.script_delay_s = self.spec.delay_s
            hosts[entry.name] = await stack.enter_async_context(host)
        return hosts


def _directory_entry(entry: PlannedComputer, domain: str) -> DirectoryEntry:
    uac = UAC_CONTROLLER if entry.role == "domain_controller" else UAC_WORKSTATION
    if not entry.enabled:
        uac |= UAC_DISABLED
    unit = {"server": "OU=Servers", "workstation": "OU=Workstations", "domain_controller": "OU=Domain Controllers"}
    return make_computer_entry(
        entry.name,
        entry.os_name,
        domain=domain,
        os_version=entry.os_version,
        ou=unit.get(entry.role, "CN=Computers"),
        seen_at=entry.last_seen_at,
        uac=uac,
    )


@contextlib.contextmanager
def _own_network() -> Iterator[int]:
    """A second octet that is ours as long as the estate stands; other estates may run beside it.

    A bound socket is the claim: it goes with the process, however that ends.
    """
    start = secrets.randbelow(_NETWORKS)
    for step in range(_NETWORKS):
        network = _LOWEST_NETWORK + (start + step) % _NETWORKS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as claim:
            try:
                claim.bind((f"127.{network}.0.1", HTTP_PORT))
            except OSError:
                continue
            yield network
            return
    raise StateError("no part of the loopback network is free.", code="no-free-network")


async def _serve(spec: EstateSpec) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Estate(spec) as estate:
        _say(estate.facts())
        while line := await reader.readline():
            match line.strip():
                case b"accounts":
                    _say(estate.account_facts())
                case b"machines":
                    _say(estate.machine_facts())
                case b"disable-account":
                    estate.credential.refusal = DISABLED
                    _say({"disabled": estate.credential.username})
                case order if order.startswith((b"join ", b"remove ")):
                    verb, _, name = order.decode(errors="replace").partition(" ")
                    change = estate.join if verb == "join" else estate.remove
                    _say({verb: name, "done": change(name)})
                case other:
                    _say({"error": f"unknown question of {len(other)} bytes"})


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
    options = parser.parse_args()
    # What the stand-ins write of themselves is for a person who looks for a fault of theirs.
    os.umask(0o077)
    spec = EstateSpec(
        computers=options.computers,
        network=options.network,
        with_directory=not options.no_directory,
        delay_s=options.delay,
    )
    # Every host takes some files, and the usual soft limit is 1,024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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
