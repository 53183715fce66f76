"""How the daemon's parts are put together: one place that knows every constructor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import evolve

from msp_sdk.checkin import CheckinClient, CompletedGenerations, Holdings, Outbox
from msp_sdk.compliance import ComplianceScanner
from msp_sdk.deployment import AgentDeployer
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions, with_addresses
from msp_sdk.errors import MspError
from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.domain import Domain
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.provision import Enrolment
from msp_sdk.models.target import MergeResult, Target
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver
from msp_sdk.provisioning import key_provider
from msp_sdk.provisioning.config import write_atomically
from msp_sdk.reachability import ReachabilityProber
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.targets import TargetMerger
from msp_sdk.windows.shell import HostPolicy, WindowsShells
from msp_sdk.wire.http import HttpOptions
from runners.appliance.packages import PackageCache
from runners.appliance.settings import ApplianceSettings
from runners.appliance.state import StateFiles


class _HeldCredentials:
    """Credentials as the last check-in left them: a withdrawn one is gone at once."""

    def __init__(self, checkin: CheckinClient) -> None:
        self._checkin = checkin

    def credential(self, credential_id: str) -> Credential | None:
        """The credential with this id, or None (any more)."""
        return self._checkin.holdings.credential(credential_id)


class Tools:
    """Everything the appliance works with.

    Args:
        settings: The daemon's settings.
        enrolment: Where we belong.
        keys: The device's keys.
    """

    def __init__(self, settings: ApplianceSettings, enrolment: Enrolment, keys: DevicePrivateKeys) -> None:
        self._settings = settings
        self.enrolment = enrolment
        self.state = StateFiles(settings.state_folder)
        self.ledger = LogonLedger(settings.state_folder / "logons.db")
        self.completed = CompletedGenerations(settings.state_folder / "completed.json", write_atomically)
        self.checkin = CheckinClient(
            enrolment,
            keys=keys,
            outbox=Outbox(settings.config.parent / "outbox"),
            key=key_provider(settings.config),
            options=HttpOptions(ca_file=settings.ca_file, attempts=1),
        )
        self.packages = PackageCache(settings.config.parent / "packages", self.checkin.http)
        self.discoverer = DomainDiscoverer(
            options=DiscoveryOptions(resolvers=settings.resolvers, search=settings.search)
        )
        self.domain: Domain | None = None
        self._credentials = _HeldCredentials(self.checkin)
        self._shells = WindowsShells(self.ledger, policy=self._host_policy, prove=self._prove)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._shells.aclose()

    @property
    def _holdings(self) -> Holdings:
        return self.checkin.holdings

    def _host_policy(self) -> HostPolicy:
        policy = self._holdings.policy
        return HostPolicy(
            allow_ntlm=policy.allow_ntlm,
            allow_domain_admin_on_hosts=policy.allow_domain_admin_on_hosts,
            trusted_cas=policy.trusted_cas,
        )

    async def _prove(self, credential: Credential) -> None:
        """Bind once at a controller: is the password still right, or is it the host that says no?"""
        if self.domain is None:
            raise MspError("there is no controller to prove the credential at.", code="unreachable-controller")
        async with self.enumerator(self.domain, credential) as enumerator:
            await enumerator.prove()

    def credential_states(self) -> tuple[CredentialState, ...]:
        """What the ledger knows of the credentials that we hold."""
        return tuple(self.ledger.state(credential) for credential in self._holdings.credentials or ())

    def enumerator(self, domain: Domain, credential: Credential) -> ADEnumerator:
        """A reader of a domain's computers."""
        directory = DirectoryOptions(ca_pems=self._holdings.policy.trusted_cas)
        return ADEnumerator(domain, credential, ledger=self.ledger, options=EnumerationOptions(directory=directory))

    def resolver_of(self, domain: Domain | None) -> Resolver:
        """Who resolves names: the domain's own servers where there is a domain."""
        if domain is not None and domain.dns_servers:
            return Resolver.of_domain(domain.dns_servers)
        return Resolver(self._settings.resolvers or None, search=self._settings.search)

    async def locate(self, domain: Domain, computers: Sequence[Computer]) -> tuple[Computer, ...]:
        """The computers with their addresses, and which of their doors stand open; in their order."""
        placed = await with_addresses(computers, self.resolver_of(domain))
        found: dict[str, Computer] = {}
        async for computer in ReachabilityProber().probe(placed):
            found[computer.object_guid] = computer
        return tuple(found[computer.object_guid] for computer in placed)

    async def reach_manual(self, merged: MergeResult) -> MergeResult:
        """The merged list with the targets probed that no enumeration has probed."""
        unknown = [target for target in merged.targets if target.reachable is None]
        if not unknown:
            return merged
        prober = ReachabilityProber(resolve=self.resolver_of(self.domain).addresses)
        probed: dict[str, Target] = {}
        async for target in prober.probe(unknown):
            probed[target.key] = target
        return evolve(merged, targets=tuple(probed.get(target.key, target) for target in merged.targets))

    def merger(self, policy: SitePolicy) -> TargetMerger:
        """The merging of all sources, under the site's policy."""
        return TargetMerger(policy)

    def deployer(self, package: AgentPackage) -> AgentDeployer:
        """A deployer of a package whose file was fetched."""
        return AgentDeployer(
            package, shell=self._shells, credentials=self._credentials, file=self.packages.path(package)
        )

    def scanner(self) -> ComplianceScanner:
        """The scanner of hosts."""
        return ComplianceScanner(shell=self._shells, credentials=self._credentials)


@asynccontextmanager
async def open_tools(settings: ApplianceSettings, enrolment: Enrolment) -> AsyncIterator[Tools]:
    """Put the tools together, and close them at the end.

    Raises:
        ConfigError: A file of the appliance cannot be used.
    """
    keys = await asyncio.to_thread(DevicePrivateKeys.load_or_make, settings.keys_file)
    tools = Tools(settings, enrolment, keys)
    async with tools.checkin:
        try:
            yield tools
        finally:
            await tools.aclose()
