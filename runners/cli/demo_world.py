"""The processes of the demo: Central, an estate without Windows, an appliance; and the partner's part in it.

Each is a real process with its log in one folder. What the partner does goes through the public API.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import frozen

from msp_sdk.errors import StateError
from msp_sdk.models.credential import NewDomainCredential, StoredCredential, TrustedCertificate
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.provision import ProvisionRequest
from msp_sdk.models.site import AutoRollout, NewSite, Site
from msp_sdk.partner import PartnerClient
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import decode_bytes, structure
from runners.cli.hosts import HostLine, read_hosts
from runners.cli.processes import Child

# The demo's appliance checks in every second, instead of every minute.
INTERVAL_S = 1.0
WRONG_PASSWORD = "not-the-password"  # noqa: S105 (a fault to show)


@frozen
class WorldSpec:
    """What to run.

    Attributes:
        port: Central's; 0 takes a free one.
        with_directory: False: DNS names controllers that are dead.
        delay_s: Every answer of directory and hosts takes this much longer.
        interval_s: Between check-ins.
    """

    computers: int = 40
    port: int = 0
    with_directory: bool = True
    delay_s: float = 0.0
    interval_s: float = INTERVAL_S


class DemoWorld:
    """A whole world on one machine, as an async context manager; ends every process that it began.

    Args:
        folder: Where everything is kept: Central's database, the appliance's files, the logs.
        spec: What to run.

    Attributes:
        url: Central's address.
        facts: What the estate's partner knows of it; holds the password.

    Raises:
        StateError: A process ended too early; the message holds its last words.
    """

    partner: PartnerClient
    site: Site
    facts: dict[str, Any]

    def __init__(self, folder: Path, spec: WorldSpec | None = None) -> None:
        self.folder = folder
        self.spec = spec or WorldSpec()
        self.url = ""
        self._stack = contextlib.AsyncExitStack()
        self._central: Child | None = None
        self._estate: Child | None = None
        self._appliance: Child | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        arguments = ("central", "bootstrap", "--database", self._database, "--partner", "Demo MSP")
        bootstrap = await self._child("bootstrap", "runners.cli", (*arguments, "--email", "demo@msp.invalid"))
        key = (await bootstrap.finish(b"")).decode().split()[-1]
        await self.start_central(self.spec.port)
        self._estate = await self._child("estate", "msp_sdk.testing.estate", self._estate_arguments())
        self.facts = json.loads(await self._estate.ask())
        self.partner = await self._stack.enter_async_context(PartnerClient(self.url, Secret(key)))
        self.site = await self._make_site()

    async def _stop(self) -> None:
        await self._stack.aclose()
        for child in (self._appliance, self._central, self._estate):
            if child is not None:
                await child.stop()

    @property
    def _database(self) -> str:
        return f"sqlite:///{self.folder / 'central.db'}"

    @property
    def config(self) -> Path:
        """The appliance's config."""
        return self.folder / "appliance" / "config.yaml"

    def _estate_arguments(self) -> list[str]:
        arguments = ["--computers", str(self.spec.computers), "--delay", str(self.spec.delay_s)]
        return arguments if self.spec.with_directory else [*arguments, "--no-directory"]

    async def _child(self, name: str, module: str, arguments: Sequence[str], **environ: str) -> Child:
        log = self.folder / f"{name}.log"
        return await Child.start(name, module, arguments, log=log, environ=environ)

    async def _make_site(self) -> Site:
        package = structure(self.facts["package"], AgentPackage)
        await self.partner.create_package(package)
        await self.partner.upload_package(package.sha256, decode_bytes(self.facts["package_content"]))
        return await self.partner.create_site(
            NewSite(
                name="Northvalley Clinic",
                checkin_interval_seconds=self.spec.interval_s,
                auto_rollout=AutoRollout(package.sha256),
                # Hosts without an HTTPS listener are reached by NTLM inside WinRM's own encryption here.
                allow_ntlm=True,
                trusted_cas=(self.facts["ca_pem"],),
            )
        )

    # Central and the appliance may be started, ended and killed while the world stands.

    async def start_central(self, port: int) -> None:
        """Start Central on a port; 0 takes a free one."""
        arguments = ("central", "serve", "--database", self._database, "--port", str(port))
        self._central = await self._child("central", "runners.cli", arguments)
        self.url = (await self._central.ask()).decode().split()[-1]
        self._central.drain()

    async def kill_central(self) -> int:
        """End Central as a power cut would; returns the port it had."""
        assert self._central is not None  # noqa: S101 (it runs from the start on)
        await self._central.kill()
        return int(self.url.rsplit(":", 1)[1])

    async def new_code(self) -> Secret:
        """A provision code for the site."""
        provision = await self.partner.create_provision(ProvisionRequest(site_id=self.site.site_id))
        return Secret(provision.provision_code or "")

    async def claim(self) -> None:
        """Claim a code as a technician would, through ``msp appliance claim -``."""
        code = await self.new_code()
        arguments = ("appliance", "claim", "-", "--central", self.url, "--config", str(self.config))
        claim = await self._child("claim", "runners.cli", arguments)
        await claim.finish(f"{code.reveal()}\n".encode())

    async def start_appliance(self, **environ: str) -> None:
        """Start the daemon."""
        arguments = ("appliance", "run", "--config", str(self.config), "--resolver", self.facts["dns"])
        self._appliance = await self._child(
            "appliance", "runners.cli", (*arguments, "--search", self.facts["domain"]), **environ
        )
        self._appliance.drain()

    async def kill_appliance(self) -> None:
        """End the daemon as a power cut would."""
        if self._appliance is not None:
            await self._appliance.kill()

    async def give_credential(self, *, wrong: bool = False) -> StoredCredential:
        """The partner looks at the certificates that the appliance saw, and stores one domain credential.

        Raises:
            StateError: The appliance saw a certificate that is not the estate's; no password is given.
        """
        seen = {
            certificate.sha256
            for report in await self.partner.domains(self.site.site_id)
            if report.discovered_domain is not None
            for certificate in report.discovered_domain.certificates
        }
        if seen - set(self.facts["certificates"]):
            # A person would look at it here; the demo knows its own and gives no password to others.
            raise StateError(
                "the appliance saw a certificate that is not the estate's.",
                code="certificate-untrusted",
                remedy="Something else listens on the estate's addresses.",
            )
        return await self.partner.create_domain_credential(
            self.site.site_id,
            NewDomainCredential(
                domain_name=self.facts["domain"],
                username=self.facts["username"],
                password=Secret(WRONG_PASSWORD if wrong else self.facts["password"]),
                credential_type="service_account",
                trusted_certificates=tuple(TrustedCertificate(sha256=digest) for digest in sorted(seen)),
            ),
        )

    # What is true of the estate, and what Central says.

    async def ask_estate(self, question: str) -> Any:
        """Ask the estate itself, or tell it what to do: :mod:`msp_sdk.testing.estate` has the orders.

        Raises:
            StateError: It cannot do that.
        """
        assert self._estate is not None  # noqa: S101 (it runs from the start on)
        answer = json.loads(await self._estate.ask(question.encode()))
        if isinstance(answer, dict) and set(answer) == {"error"}:
            raise StateError(f"the estate refuses {question!r}: {answer['error']}", code="order-refused")
        return answer

    async def let_join(self, name: str) -> None:
        """A computer joins the domain; it has no system and no address before :meth:`let_boot`."""
        await self._let(f"join {name}")

    async def let_boot(self, name: str) -> None:
        """A computer that joined has restarted."""
        await self._let(f"boot {name}")

    async def _let(self, order: str) -> None:
        await self.ask_estate(order)
        self.facts["computers"] = await self.ask_estate("computers")

    async def hosts(self) -> tuple[HostLine, ...]:
        """Every host as Central lists it."""
        return await read_hosts(self.partner, self.site.site_id)

    async def mistakes(self) -> list[str]:
        """Where Central's list or the machines differ from the truth; empty when all is as it should be."""
        truth = self.facts["computers"]
        return compare(await self.hosts(), truth) + compare_machines(await self.ask_estate("machines"), truth)


def compare(hosts: Sequence[HostLine], truth: Sequence[dict[str, Any]]) -> list[str]:
    """Where Central's list differs from the truth about the estate; empty when it is true of every host."""
    said = {host.hostname.casefold(): host for host in hosts}
    mistakes = []
    for computer in truth:
        host = said.pop(computer["name"].casefold(), None)
        if host is None:
            mistakes.append(f"{computer['name']} is not listed at all")
            continue
        answer = "agent" if host.state == "agent" else host.reason
        if answer != computer["truth"]:
            mistakes.append(f"{host.hostname}: {answer} is said, {computer['truth']} is true ({host.detail or '-'})")
    return mistakes + [f"{name} is listed, but there is no such computer" for name in said]


def compare_machines(machines: dict[str, dict[str, Any]], truth: Sequence[dict[str, Any]]) -> list[str]:
    """Where the machines differ from the truth: does the agent run there, and did anything happen that never may."""
    mistakes = []
    for computer in truth:
        machine = machines.get(computer["name"])
        running = bool(machine and machine["agent_running"])
        if running != (computer["truth"] == "agent"):
            mistakes.append(f"{computer['name']}: the agent {'runs' if running else 'does not run'} on the machine")
        if machine and machine["violations"]:
            mistakes.append(f"{computer['name']}: {machine['violations'][0]}")
    return mistakes


async def wait_for_phase(world: DemoWorld, *phases: str, longest_s: float = 60.0) -> str:
    """Wait until the site is in one of these phases, and return it.

    Raises:
        StateError: It took too long.
    """
    phase = "unknown"
    try:
        async with asyncio.timeout(longest_s):
            while True:
                phase = (await world.partner.status(world.site.site_id)).phase
                if phase in phases:
                    return phase
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StateError(f"after {longest_s:.0f} s the site is still {phase}.", code="not-complete") from None
