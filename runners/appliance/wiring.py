"""How the daemon's parts are put together: one place that knows every constructor."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from attrs import evolve

from msp_sdk.checkin import CheckinClient, CompletedGenerations, Holdings, Outbox, Report
from msp_sdk.compliance import ComplianceScanner
from msp_sdk.deployment import AgentDeployer
from msp_sdk.deployment.package import PackageFile
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
from msp_sdk.discovery.sweep import Sweep, sweep_subnets
from msp_sdk.enumeration import ADEnumerator, AdSubnet, EnumerationOptions, Locality, rules_of_site, scope_of_domain
from msp_sdk.errors import ConfigError, MspError, StateError
from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.domain import Domain
from msp_sdk.models.generation import ENUMERATION, SCAN
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.provision import Enrolment
from msp_sdk.models.scope import fold_path
from msp_sdk.models.target import Target
from msp_sdk.network.host_pins import FILE_NAME as HOST_PINS
from msp_sdk.network.host_pins import HostPin, HostPins
from msp_sdk.network.kdcs import Kdc, kdcs_of
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.probe import DoorProber, Pace, ProbeOptions
from msp_sdk.network.resolver import Resolver
from msp_sdk.provisioning import load_config
from msp_sdk.provisioning.config import write_atomically
from msp_sdk.reachability import ReachabilityCache, ReachabilityProber
from msp_sdk.reachability.prober import Resolve
from msp_sdk.secret import Secret
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.targets import TargetMerger
from msp_sdk.windows.shell import HostPolicy, WindowsShells
from msp_sdk.wire.http import HttpOptions
from runners.appliance.backoff import Backoff
from runners.appliance.clock import Clock
from runners.appliance.kept_connection import KeptConnections
from runners.appliance.locating import Located, locate, reach
from runners.appliance.network_marks import NetworkMarks, read_network_marks
from runners.appliance.packages import PackageCache
from runners.appliance.settings import ApplianceSettings
from runners.appliance.state import Owner, StateFiles, claim_state


def report_id() -> str:
    """A new id for a report."""
    return str(uuid.uuid4())


class EnrolmentMovedError(StateError):
    """``config.yaml`` was written anew with another place for this appliance."""


def _place(enrolment: Enrolment) -> tuple[str, ...]:
    return (enrolment.site_id, enrolment.appliance_id, enrolment.partner.id, enrolment.api_endpoint)


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
        clock: For waits of the work.
    """

    def __init__(
        self,
        settings: ApplianceSettings,
        enrolment: Enrolment,
        keys: DevicePrivateKeys,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self.clock = clock or Clock()
        self.enrolment = enrolment
        self.state = StateFiles(settings.state_folder)
        self.ledger = LogonLedger(settings.state_folder / "logons.db")
        self._host_pins = HostPins(settings.state_folder / HOST_PINS, write_atomically)
        self.completed = CompletedGenerations(settings.state_folder / "completed.json", write_atomically)
        self.checkin = CheckinClient(
            enrolment,
            keys=keys,
            outbox=Outbox(settings.outbox_folder),
            key=self._key,
            options=HttpOptions(ca_file=settings.ca_file, attempts=1),
        )
        self.packages = PackageCache(settings.config.parent / "packages", self.checkin.http)
        self.probing = ProbeOptions(excluded=settings.excluded)
        # What trips a small site's firewall is the sum of what discovery, sweep and reachability knock at.
        self.pace = Pace(self.probing)
        # What was seen of hosts lately, and the wishes that it was looked at for.
        self._seen = ReachabilityCache(ttl_s=settings.silence_ttl_s, live_ttl_s=settings.live_ttl_s)
        self._seen_for: tuple[int, ...] = ()
        self._discovery = DiscoveryOptions(
            resolvers=settings.resolvers,
            search=settings.search,
            doors=evolve(DiscoveryOptions().doors, excluded=settings.excluded),
            pace=self.pace,
        )
        self.discoverer = DomainDiscoverer(options=self._discovery)
        # None where nobody asked for it.
        self.sweep: Callable[[], Awaitable[Sweep]] | None = self._sweep if settings.sweep else None
        self.domain: Domain | None = None
        self.domains: tuple[Domain, ...] = ()
        # Of each domain that was read, by its folded name: which networks are of which of its own sites.
        self.ad_subnets: dict[str, tuple[AdSubnet, ...]] = {}
        # ... and the containers, as paths, that it holds and that the scope leaves out.
        self.excluded_ous: dict[str, tuple[str, ...]] = {}
        # How many check-ins were answered: what is done once after each compares it.
        self.beats = 0
        self.draw = random.random
        self.network_marks: Callable[[], NetworkMarks] = lambda: read_network_marks(settings.resolvers, settings.search)
        self.directory = KeptConnections(self.enumerator, self.ledger.refuse)
        self.posted = asyncio.Event()
        self._credentials = _HeldCredentials(self.checkin)
        self._shells = WindowsShells(self.ledger, policy=self._host_policy, prove=self.prove, kdcs=self._kdcs)

    def backoff(self, first_s: float, longest_s: float) -> Backoff:
        """A back-off on our clock."""
        return Backoff(first_s, longest_s, clock=self.clock.monotonic)

    def _key(self) -> Secret:
        """The API key as the config has it now, for as long as it is a key of our place.

        With the key of another place, what this customer's network told us would reach that other customer.

        Raises:
            EnrolmentMovedError: The config says another place.
            ConfigError: It cannot be read.
        """
        now = load_config(self._settings.config)
        if _place(now) != _place(self.enrolment):
            raise EnrolmentMovedError("the config has changed.", code="enrolment-moved")
        return now.api_key

    async def aclose(self) -> None:
        """Close every connection."""
        await self.directory.close()
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
            # Where they cannot be read, hosts are not worked with: no pins would mean that nobody has pinned any.
            pins=self._host_pins.all(),
        )

    def pins(self) -> tuple[HostPin, ...]:
        """The hosts' certificates that a person has pinned on this appliance (``msp pins``); none if unreadable."""
        with contextlib.suppress(ConfigError):
            return self._host_pins.all()
        return ()

    def _kdcs(self, credential: Credential) -> tuple[Kdc, ...]:
        """Of the credential's domain, as it was discovered last."""
        return kdcs_of(self.domains, credential, self._settings.excluded)

    async def prove(self, credential: Credential) -> None:
        """Bind once at a controller: is the password still right, or is it the host that says no?"""
        # Only its own domain can judge it: a controller of another one would refuse it, and that would end it.
        wanted = (credential.domain_name or "").rstrip(".").casefold()
        domain = next((domain for domain in self.domains if domain.name.casefold() == wanted), None)
        if domain is None:
            raise MspError("there is no controller to prove the credential at.", code="unreachable-controller")
        options = EnumerationOptions(directory=self._directory_options())
        async with ADEnumerator(domain, credential, ledger=self.ledger, options=options) as enumerator:
            await enumerator.prove()

    def credential_states(self) -> tuple[CredentialState, ...]:
        """What the ledger knows of the credentials that we hold."""
        return tuple(self.ledger.state(credential) for credential in self._holdings.credentials or ())

    def enumerator(self, domain: Domain, credential: Credential) -> ADEnumerator:
        """A reader of a domain's computers, as far as they belong to the site.

        Raises:
            ConfigError: Nothing of this domain does, or the site's scope cannot be meant.
        """
        scope = self._holdings.scope
        options = EnumerationOptions(
            directory=self._directory_options(),
            scope=scope_of_domain(scope, domain.name),
            rules=rules_of_site(scope, domain.name),
            optional_ous=self.optional_ous(domain.name),
            # Where LDAP is closed, an administrator of the controller may read on it.
            shells=self._shells,
        )
        return ADEnumerator(domain, credential, ledger=self.ledger, options=options)

    def optional_ous(self, domain_name: str) -> tuple[str, ...]:
        """The excluded containers that need not be in this domain: another one holds them, and it never did itself.

        One that nobody holds is misspelt, and one that was there was renamed: what it held must not become a target.
        """
        own = {fold_path(path) for path in self.excluded_ous.get(domain_name.casefold(), ())}
        others = (path for paths in self.excluded_ous.values() for path in paths)
        return tuple(sorted({path for path in others if fold_path(path) not in own}))

    def _directory_options(self) -> DirectoryOptions:
        policy = self._holdings.policy
        return DirectoryOptions(ca_pems=policy.trusted_cas, allow_ntlm=policy.allow_ntlm)

    def resolver_of(self, domain: Domain | None) -> Resolver:
        """Who resolves names: the domain's own servers where there is a domain."""
        if domain is not None and domain.dns_servers:
            return Resolver.of_domain(domain.dns_servers)
        return Resolver(self._settings.resolvers or None, search=self._settings.search)

    async def _sweep(self) -> Sweep:
        """A look at the own subnets, with the names that the network's DNS has for what is found.

        Raises:
            DiscoveryError: Our own side could not knock at any door. Retryable.
        """
        prober = DoorProber(self._discovery.doors, pace=self.pace)
        return await sweep_subnets(prober, self.resolver_of(self.domain).each())

    def locality(self, domain_name: str | None) -> Locality:
        """Where the site lies, as far as the computers of a domain are concerned."""
        scope, ad_subnets = self._holdings.scope, self.ad_subnets.get((domain_name or "").casefold(), ())
        return Locality(scope.subnets, scope.ad_sites, ad_subnets)

    async def locate(
        self, domain: Domain, computers: Sequence[Computer], known: Mapping[str, Computer] | None = None
    ) -> Located:
        """The computers with their addresses, and which of their doors stand open; in their order.

        What was seen of an address lately is not looked at again, until the next wish of a person.
        """
        return await locate(
            computers,
            resolver=self.resolver_of(domain),
            prober=self._prober(),
            locality=self.locality(domain.name),
            known=known or {},
        )

    async def reach(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """The targets, each looked up and knocked at now; an address that a person gave stays as it is."""
        localities = {name: self.locality(name) for name in {target.domain_name for target in targets}}
        return await reach(
            targets,
            resolve=self._addresses,
            make_prober=lambda resolve: self._prober(resolve, is_fresh=True),
            locality_of=lambda target: localities[target.domain_name],
        )

    def _prober(self, resolve: Resolve | None = None, *, is_fresh: bool = False) -> ReachabilityProber:
        # Whoever wishes to know wants it as it is now.
        wished = tuple(self._holdings.wished.get(work, 0) for work in (ENUMERATION, SCAN))
        if wished != self._seen_for:
            self._seen.forget()
            self._seen_for = wished
        return ReachabilityProber(self.probing, resolve=resolve, pace=self.pace, cache=self._seen, is_fresh=is_fresh)

    async def _addresses(self, name: str) -> Sequence[str]:
        """The addresses of a name: a domain's own servers know its names, the first one's everything else."""
        folded = name.rstrip(".").casefold()
        owners = [domain for domain in self.domains if folded.endswith(f".{domain.name.casefold()}")]
        owner = max(owners, key=lambda domain: len(domain.name), default=self.domain)
        return await self.resolver_of(owner).addresses(name)

    async def report(self, report: Report) -> None:
        """Keep a report; it is sent by whoever :attr:`posted` wakes. Work never waits for Central.

        Raises:
            ConfigError: It cannot be written.
        """
        await self.checkin.keep(report)
        self.posted.set()

    def merger(self, policy: SitePolicy) -> TargetMerger:
        """The merging of all sources, under the site's policy."""
        return TargetMerger(policy)

    def deployer(self, package: AgentPackage, file: PackageFile) -> AgentDeployer:
        """A deployer of a package whose file was fetched."""
        return AgentDeployer(package, shell=self._shells, credentials=self._credentials, file=file)

    def scanner(self) -> ComplianceScanner:
        """The scanner of hosts."""
        return ComplianceScanner(shell=self._shells, credentials=self._credentials)


@asynccontextmanager
async def open_tools(
    settings: ApplianceSettings, enrolment: Enrolment, clock: Clock | None = None
) -> AsyncIterator[Tools]:
    """Put the tools together, and close them at the end.

    Raises:
        ConfigError: A file of the appliance cannot be used.
    """
    keys = await asyncio.to_thread(DevicePrivateKeys.load_or_make, settings.keys_file)
    await asyncio.to_thread(
        claim_state, settings.state_folder, settings.outbox_folder, Owner(enrolment.site_id, enrolment.appliance_id)
    )
    tools = Tools(settings, enrolment, keys, clock)
    async with tools.checkin:
        try:
            yield tools
        finally:
            await tools.aclose()
