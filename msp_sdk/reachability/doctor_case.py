"""One examination under way: what is known by now, and the asking of DNS servers, doors and clocks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from attrs import evolve, field, mutable

from msp_sdk.directory.session import DirectoryOptions, read_root_dse
from msp_sdk.errors import ConfigError, DirectoryError, DiscoveryError, MspError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.finding import Finding
from msp_sdk.models.target import Target
from msp_sdk.network import probe
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.kdcs import Kdc, kdcs_of
from msp_sdk.network.kerberos import can_seal_here, is_installed
from msp_sdk.network.resolver import Resolver, render_server
from msp_sdk.network.threads import ThreadPool
from msp_sdk.reachability.doctor_kdc import ask_kdc_for_time
from msp_sdk.reachability.doctor_look import DoorLook
from msp_sdk.reachability.doctor_names import ServerAnswer, candidates
from msp_sdk.secret import Secret
from msp_sdk.windows.channel import Channel, Place, Trust
from msp_sdk.windows.doors import Door, certificate_names, doors, name_of
from msp_sdk.windows.identity import is_address

CONTROLLERS_ASKED = 2


@mutable
class Case:
    """What is known of the host by now.

    Attributes:
        target: As the work would have it; it gets its name and addresses on the way.
        findings: Of the steps so far.
        address: Where a door of WinRM stands open; None before, and where none does.
        looks: At the open doors, by port.
        certificate_error: Why the work would not take the certificate; None when it does, or has not looked.
        unusable: Ports that are open and of no use.
        kdc_clocks: By name, how far a KDC's clock is ahead of ours; None for one that did not answer.
    """

    target: Target
    credential: Credential | None = None
    findings: list[Finding] = field(factory=list)
    answers: tuple[ServerAnswer, ...] = ()
    address: str | None = None
    knocks: tuple[probe.Door, ...] = ()
    looks: dict[int, DoorLook] = field(factory=dict)
    certificate_error: MspError | None = None
    unusable: frozenset[int] = frozenset()
    kdc_clocks: dict[str, float | None] = field(factory=dict)

    @property
    def fqdn(self) -> str | None:
        """The host's whole name; None where only an address or a short name is known."""
        name = (self.target.fqdn or self.target.hostname).rstrip(".")
        return name if "." in name and not is_address(name) else None

    @property
    def server_name(self) -> str | None:
        """The name for a host to choose a certificate by; None where it is none that TLS can carry."""
        try:
            return self.fqdn if self.fqdn and self.fqdn.encode("idna") else None
        except UnicodeError:
            return None

    @property
    def wanted(self) -> tuple[Door, ...]:
        """The doors that the work tries, in its order."""
        return doors(evolve(self.target, doors=()))

    @property
    def open_ports(self) -> tuple[int, ...]:
        """Those that stand open at the address."""
        return tuple(knock.port for knock in self.knocks if knock.address == self.address and knock.state == "open")

    def ended_at(self, *steps: str) -> str | None:
        """Why one cannot go on: the first of these steps that found trouble, in words."""
        for found in self.findings:
            if found.ok is False and found.step in steps:
                return f"it ended at {found.step} ({found.code})"
        return None


def make_target(host: str | Target, domain: Domain | None) -> Target:
    """The target that a host's name or address is.

    Raises:
        ConfigError: It is no name and no address.
    """
    if isinstance(host, Target):
        return host
    name = host.strip().rstrip(".")
    bare = name.strip("[]")
    if is_address(bare):
        return Target(hostname=bare, role="other")
    if not name or any(letter.isspace() or letter in "/:\\@" for letter in name):
        raise ConfigError(
            f"{host!r} is neither a name nor an address.", remedy="Give a name, such as srv1.corp.example."
        )
    return with_domain(Target(hostname=name, role="other", fqdn=name if "." in name else None), domain)


def with_domain(target: Target, domain: Domain | None) -> Target:
    """The target with what the domain tells of it: its role, and that it is a member by its name."""
    name = (target.fqdn or "").casefold()
    if domain is None or not name.endswith(f".{domain.name.casefold()}"):
        return target
    is_controller = any(entry.fqdn.casefold() == name for entry in domain.controllers)
    role = "domain_controller" if is_controller else target.role
    return evolve(target, domain_name=target.domain_name or domain.name, role=role)


def without_excluded(domain: Domain, excluded: ExcludedNetworks) -> Domain:
    """The domain without the controllers that nothing is sent to; one with another address is asked at that one."""
    controllers = [
        evolve(controller, addresses=left)
        for controller in domain.controllers
        if (left := tuple(address for address in controller.addresses if not excluded.covers(address)))
        or not controller.addresses
    ]
    return evolve(domain, controllers=tuple(controllers))


async def ask_for_name(
    host: str, used: Resolver, compared: Sequence[Resolver]
) -> tuple[tuple[str, ...], tuple[ServerAnswer, ...]]:
    """All servers' answers for the first name that has an address, and the names that were tried."""
    tried: list[str] = []
    answers: tuple[ServerAnswer, ...] = ()
    for name in candidates(host, used.search):
        tried.append(name)
        answers = tuple(
            await asyncio.gather(
                *(_ask_server(name, server, used=True) for server in used.each()),
                *(_ask_server(name, server, used=False) for server in compared),
            )
        )
        if any(answer.addresses for answer in answers if answer.used):
            break
    return tuple(tried), answers


async def _ask_server(name: str, resolver: Resolver, *, used: bool) -> ServerAnswer:
    (server,) = map(render_server, resolver.servers)
    addresses, alias = await asyncio.gather(resolver.addresses(name), resolver.alias(name), return_exceptions=True)
    if isinstance(addresses, DiscoveryError):
        return ServerAnswer(server, failure=addresses.code, used=used)
    if isinstance(addresses, BaseException):
        raise addresses
    # A server that answers for addresses alone is no less right.
    return ServerAnswer(server, addresses, None if isinstance(alias, BaseException) else alias, used=used)


async def ask_for_reverse(addresses: Sequence[str], resolver: Resolver) -> dict[str, tuple[str, ...] | None]:
    """What reverse DNS calls each address; None where no server could say."""

    async def one(address: str) -> tuple[str, ...] | None:
        try:
            return await resolver.reverse_names(address)
        except DiscoveryError:
            return None

    found = await asyncio.gather(*(one(address) for address in addresses))
    return dict(zip(addresses, found, strict=True))


def check_certificate(address: str, door: Door, target: Target, trust: Trust, connect_s: float) -> MspError | None:
    """What the work's own check says of a door of TLS; None when it would go on. Blocks: call it in a thread."""
    place = Place(address, door, name_of(target), certificate_names(target), trust)
    try:
        Channel.connect(place, connect_s).close()
    except MspError as error:
        return error
    return None


async def ask_for_clocks(domain: Domain | None, pool: ThreadPool, timeout_s: float) -> dict[str, float | None]:
    """How far the clocks of a few controllers are ahead of ours; None for one that did not say."""
    if domain is None:
        return {}
    asked = domain.controllers[:CONTROLLERS_ASKED]
    found = await asyncio.gather(*(pool.run(_clock_of, controller, timeout_s) for controller in asked))
    return {controller.fqdn: skew_s for controller, skew_s in zip(asked, found, strict=True)}


def _clock_of(controller: DomainController, timeout_s: float) -> float | None:
    options = DirectoryOptions(
        connect_timeout_s=timeout_s / 4, receive_timeout_s=timeout_s / 2, answer_timeout_s=timeout_s
    )
    try:
        skew = read_root_dse(controller, options).clock_skew(datetime.now(UTC))
    except DirectoryError:
        return None
    return None if skew is None else skew.total_seconds()


def kdcs_for_anybody(domain: Domain) -> tuple[Kdc, ...]:
    """A domain's controllers as KDCs, for whatever account of it."""
    return kdcs_of([domain], Credential.typed("nobody", Secret(""), domain_name=domain.name))


def what_kerberos_lacks() -> str | None:
    """The reason why this machine can use no Kerberos at all; None when it can."""
    if not is_installed():
        return "kerberos-missing"
    return None if can_seal_here() else "kerberos-settings"


async def ask_kdcs(kdcs: Sequence[Kdc], timeout_s: float) -> dict[str, float | None]:
    """How far the clocks of a few KDCs are ahead of ours; None for one that did not answer."""
    asked = kdcs[:CONTROLLERS_ASKED]
    found = await asyncio.gather(*(ask_kdc_for_time(kdc.address, kdc.port, kdc.realm, timeout_s) for kdc in asked))
    return {kdc.name or kdc.address: skew_s for kdc, skew_s in zip(asked, found, strict=True)}
