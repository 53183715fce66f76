"""An appliance's parts beside a real Central and a stand-in estate, all in one loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.models.credential import NewDomainCredential, StoredCredential, TrustedCertificate
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
from runners.appliance.settings import ApplianceSettings
from runners.appliance.wiring import Tools, open_tools


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

    async def give_credential(self, password: str | None = None) -> StoredCredential:
        assert self.estate is not None
        return await self.partner.create_domain_credential(
            self.site_id,
            NewDomainCredential(
                domain_name=self.estate.spec.domain,
                username=self.estate.credential.upn,
                password=Secret(password or self.estate.credential.password),
                credential_type="service_account",
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
        from central_app.opening import bootstrap
        from central_app.settings import make_settings

        central_settings = make_settings({}, database=f"sqlite:///{tmp_path / 'central.db'}", port=0)
        key = await asyncio.to_thread(bootstrap, central_settings, "Contoso IT", "admin@contoso.example")
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
