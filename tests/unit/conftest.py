"""An appliance's parts beside a real Central and a stand-in estate, all in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest

from msp_sdk.directory.session import SkippedDoor
from msp_sdk.enumeration import AdSubnet, ControllerFailure, KnownDomain
from msp_sdk.errors import MspError
from msp_sdk.models.computer import Computer, Enumeration, EnumerationChanges, EnumerationScope, RemovedComputer
from msp_sdk.models.credential import (
    Credential,
    CredentialType,
    NewDomainCredential,
    StoredCredential,
    TrustedCertificate,
)
from msp_sdk.models.domain import Domain
from msp_sdk.models.provision import Enrolment, ProvisionRequest
from msp_sdk.models.rollout import NewRollout, Rollout
from msp_sdk.models.site import NewSite, Site
from msp_sdk.network.probe import ProbeOptions
from msp_sdk.partner import PartnerClient
from msp_sdk.secret import Secret
from msp_sdk.testing.estate import Estate, EstateSpec, RunningEstate
from runners.appliance.claiming import claim
from runners.appliance.clock import Clock
from runners.appliance.daemon import Daemon
from runners.appliance.kept_connection import KeptConnections
from runners.appliance.settings import ApplianceSettings
from runners.appliance.survey import Survey
from runners.appliance.wiring import Tools, open_tools
from tests.prepared_central import bootstrapped


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self._begun = datetime.now(UTC)

    def clock(self) -> Clock:
        return Clock(lambda: self.at_s, lambda: self._begun + timedelta(seconds=self.at_s))


class ApplianceLab:
    """A claimed appliance, its Central, and (where asked for) an estate."""

    def __init__(
        self,
        central: Any,
        partner: PartnerClient,
        estate: RunningEstate | None,
        site: Site,
        settings: ApplianceSettings,
    ) -> None:
        self.central = central
        self.partner = partner
        self.estate = estate
        self.site = site
        self.settings = settings
        self.time = Time()
        self.enrolment: Enrolment

    @property
    def site_id(self) -> str:
        return self.site.site_id

    async def claim(self) -> Enrolment:
        provision = await self.partner.create_provision(ProvisionRequest(site_id=self.site_id))
        self.enrolment = await claim(self.settings, Secret(provision.provision_code or ""))
        return self.enrolment

    @contextlib.asynccontextmanager
    async def tools(self) -> AsyncIterator[Tools]:
        """The appliance's tools; opening them again is what a restart does."""
        async with open_tools(self.settings, self.enrolment, self.time.clock()) as tools:
            tools.probing = ProbeOptions(timeout_s=0.5, connects_per_second=None)
            yield tools

    async def beat(self, tools: Tools) -> None:
        """One check-in, and what waits is sent."""
        await Daemon(tools, 60).check_in()
        await tools.checkin.flush()

    async def give_credential(
        self, password: str | None = None, credential_type: CredentialType = "service_account"
    ) -> StoredCredential:
        assert self.estate is not None
        return await self.partner.create_domain_credential(
            self.site_id,
            NewDomainCredential(
                domain_name=self.estate.spec.domain,
                username=self.estate.credential.upn,
                password=Secret(password or self.estate.credential.password),
                credential_type=credential_type,
                trusted_certificates=tuple(
                    TrustedCertificate(sha256=server.certificate_sha256) for server in self.estate.directories
                ),
            ),
        )

    async def roll_out(self, **wish: Any) -> Rollout:
        assert self.estate is not None
        package = self.estate.package
        if package.sha256 not in {entry.sha256 for entry in await self.partner.packages()}:
            await self.partner.create_package(package)
            await self.partner.upload_package(package.sha256, self.estate.package_content)
        return await self.partner.create_rollout(self.site_id, NewRollout(package.sha256, **wish))


OpenLab = Callable[..., AbstractAsyncContextManager[ApplianceLab]]


@pytest.fixture
def open_lab(tmp_path: Path) -> OpenLab:
    @contextlib.asynccontextmanager
    async def lab(*, computers: int | None = 12, **site: Any) -> AsyncIterator[ApplianceLab]:
        from central_app.app import running

        central_settings, key = await asyncio.to_thread(bootstrapped, tmp_path)
        async with contextlib.AsyncExitStack() as stack:
            central = await stack.enter_async_context(running(central_settings))
            url = f"http://127.0.0.1:{central.port}"
            partner = await stack.enter_async_context(PartnerClient(url, key))
            estate = None
            resolver, search = ("127.0.0.1", 1), "nowhere.test"
            if computers is not None:
                estate = await stack.enter_async_context(Estate(EstateSpec(computers=computers)))
                resolver, search = estate.dns.server, estate.spec.domain
                site.setdefault("trusted_cas", (estate.ca.pem.decode(),))
            made = await partner.create_site(NewSite("Clinic", allow_ntlm=True, **site))
            settings = ApplianceSettings(
                config=tmp_path / "appliance" / "config.yaml", central=url, resolvers=(resolver,), search=(search,)
            )
            opened = ApplianceLab(central.app.ctx.central, partner, estate, made, settings)
            await opened.claim()
            yield opened

    return lab


# --- A directory that the test changes, where the reader of the real one stands ---

DOMAIN = "northvalley.test"
ROLES = {"server": (True, False), "workstation": (False, True)}


def computer(name: str, role: str = "server", **more: Any) -> Computer:
    is_server, is_workstation = ROLES.get(role, (False, False))
    return Computer(
        object_guid=f"guid-{name.casefold()}",
        sam_account_name=f"{name}$",
        hostname=name,
        role=role,  # type: ignore[arg-type]
        is_server=is_server,
        is_workstation=is_workstation,
        is_domain_controller=False,
        **{"os_name": "Windows Server 2022", "domain_name": DOMAIN, **more},
    )


def fresh(name: str) -> Computer:
    return computer(name, "other", os_name=None, skipped_reason="new")


class ScriptedDirectory:
    """A directory that is changed by the test; every connection binds once."""

    def __init__(self, *names: str) -> None:
        self.computers = {name: computer(name) for name in names}
        self.log: list[tuple[str, Computer | None]] = []
        self.binds: list[str] = []
        self.asked: list[str] = []
        self.open_count = 0
        self.failure: MspError | None = None
        self.logon_failure: MspError | None = None
        self.changes_failure: MspError | None = None
        self.complete = True
        self.at_another_controller = False
        self.has_cursor = True
        self.scope = EnumerationScope()
        self.ad_subnets: tuple[AdSubnet, ...] = ()
        self.other_domains: tuple[KnownDomain, ...] = ()
        self.pause: asyncio.Event | None = None

    def put(self, entry: Computer) -> None:
        self.computers[entry.hostname] = entry
        self.log.append((entry.hostname, entry))

    def delete(self, name: str) -> None:
        self.log.append((self.computers.pop(name).object_guid, None))

    def touch(self, name: str) -> None:
        """A change that no attribute of ours shows."""
        self.log.append((name, self.computers[name]))

    @property
    def cursor(self) -> str:
        return f"c{len(self.log)}"

    def reader(self, domain: Domain, credential: Credential) -> ScriptedReader:
        return ScriptedReader(self, domain, credential)


class ScriptedReader:
    """A reader of a scripted directory."""

    def __init__(self, directory: ScriptedDirectory, domain: Domain, credential: Credential) -> None:
        self._directory = directory
        self._domain = domain
        self._credential = credential
        self._is_bound = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.open_count -= self._is_bound
        self._is_bound = False

    @property
    def source(self) -> str | None:
        return "dc1 ldaps" if self._is_bound else None

    @property
    def skipped_doors(self) -> tuple[SkippedDoor, ...]:
        return (SkippedDoor("dc1", "kerberos", "no-kerberos", "the extra is missing"),)

    @property
    def failures(self) -> list[ControllerFailure]:
        failed = self._directory.failure or self._directory.logon_failure
        return [ControllerFailure("dc1", failed.code, failed.detail)] if failed else []

    def _connect(self, what: str) -> None:
        self._directory.asked.append(what)
        if not self._is_bound:
            self._directory.binds.append(self._credential.username)
            if self._directory.logon_failure is not None:
                raise self._directory.logon_failure
            self._is_bound = True
            self._directory.open_count += 1
        if self._directory.failure is not None:
            raise self._directory.failure

    async def enumerate(self) -> Enumeration:
        self._connect("full")
        found = self._directory
        if found.pause is not None:
            await found.pause.wait()
        name, computers = self._domain.name, tuple(found.computers.values())
        cursor = found.cursor if found.has_cursor else None
        return Enumeration(name, computers, datetime.now(UTC), "dc1 ldaps", cursor=cursor, scope=found.scope)

    async def changes(self, since: str) -> EnumerationChanges:
        self._connect(since)
        found = self._directory
        if found.changes_failure is not None:
            raise found.changes_failure
        news = found.log[int(since[1:]) :]
        return EnumerationChanges(
            self._domain.name,
            tuple(entry for _, entry in news if entry is not None),
            tuple(RemovedComputer(guid, "deleted") for guid, entry in news if entry is None and found.complete),
            since,
            found.cursor,
            datetime.now(UTC),
            "dc1 ldaps",
            found.complete,
            at_another_controller=found.at_another_controller,
        )

    async def netbios_name(self) -> str | None:
        return "NORTHVALLEY"

    async def ad_subnets(self, ad_sites: Iterable[str]) -> tuple[AdSubnet, ...]:
        del ad_sites
        return self._directory.ad_subnets

    async def other_domains(self) -> tuple[KnownDomain, ...]:
        return self._directory.other_domains


class Watched:
    """An appliance that has read a scripted directory once."""

    def __init__(self, lab: Any, tools: Tools, directory: ScriptedDirectory) -> None:
        self.lab = lab
        self.tools = tools
        self.directory = directory
        tools.directory = KeptConnections(directory.reader, tools.ledger.refuse)
        tools.draw = lambda: 0.5
        self.survey = Survey(tools)

    async def turn(self, after_s: float = 60) -> None:
        """A check-in, a pass, and what waits is sent."""
        self.lab.time.at_s += after_s
        await self.lab.beat(self.tools)
        await self.survey.domains.discover()
        await self.survey.directory.enumerate()
        await self.survey.directory.follow()
        await self.survey.merge_targets()

    def reports(self) -> list[dict[str, Any]]:
        """The enumeration reports that wait."""
        folder = self.lab.settings.outbox_folder
        return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*-EnumerationReport.json"))]

    async def names(self) -> list[str]:
        await self.tools.checkin.flush()
        return sorted(entry.hostname for entry in await self.lab.partner.computers(self.lab.site_id))


@pytest.fixture
def scripted(open_lab: OpenLab) -> SimpleNamespace:
    """A scripted directory beside a real Central and the estate's DNS, and an appliance that has read it once."""

    def watching(work: Callable[[Watched], Any]) -> None:
        async def run() -> None:
            async with open_lab() as lab, lab.tools() as tools:
                await lab.give_credential()
                watched = Watched(lab, tools, ScriptedDirectory("SRV1", "SRV2"))
                await watched.turn()
                assert watched.directory.asked == ["full"]
                await watched.tools.checkin.flush()
                await work(watched)

        asyncio.run(run())

    return SimpleNamespace(
        directory=ScriptedDirectory, watched=Watched, computer=computer, fresh=fresh, watching=watching
    )
