"""Why does a host not work? Step by step, cheap ones first, to one reason and one remedy.

Nothing of a credential is sent before every step before the logon allows it, and then once: through the same shells,
rules and ledger as all other work, so that what is found here is what the work meets.

Example:
    >>> async def show(doctor):
    ...     examination = await doctor.examine("srv1.corp.example")
    ...     print(examination.verdict.title, examination.verdict.remedy)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import cast

from attrs import evolve, field, frozen

from msp_sdk.errors import MspError, UnreachableError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.finding import Examination, Finding, Step, fine, judge, not_looked_at, trouble
from msp_sdk.models.reason import reason_of
from msp_sdk.models.target import Target
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.kdcs import Kdc
from msp_sdk.network.own_networks import read_own_networks
from msp_sdk.network.probe import DoorProber, ProbeOptions
from msp_sdk.network.resolver import DNS_PORT, DnsServer, Resolver, ResolverOptions, read_resolv_conf
from msp_sdk.network.threads import ThreadPool
from msp_sdk.reachability import doctor_doors, doctor_logon, doctor_names
from msp_sdk.reachability.diagnosis import Sign
from msp_sdk.reachability.doctor_case import (
    Case,
    ask_for_clocks,
    ask_for_name,
    ask_for_reverse,
    ask_kdcs,
    check_certificate,
    kdcs_for_anybody,
    make_target,
    what_kerberos_lacks,
    with_domain,
    without_excluded,
)
from msp_sdk.reachability.doctor_directory import DoctorDirectory, look_at_service_names, service_names
from msp_sdk.reachability.doctor_look import look_at_door
from msp_sdk.reachability.doctor_rules import Ways, doors_left, look_at_rules
from msp_sdk.reachability.life import LifeLooker
from msp_sdk.windows.channel import CERTIFICATE_REASONS, trust_of
from msp_sdk.windows.doors import HostPolicy, kerberos_bar, service_host
from msp_sdk.windows.identity import is_address
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShell, WindowsShells

_THREADS = 4
_ADDRESSES_TRIED = 8
_LIFE_AT = 3
_COMPARE_OPTIONS = ResolverOptions(timeout_s=1.5, lifetime_s=2.5)

__all__ = ["DoctorOptions", "HostDoctor"]


@frozen
class DoctorOptions:
    """How patient an examination is.

    Attributes:
        total_s: For all of it; what is not reached by then is told as not looked at.
        step_s: For each step before the logon.
        logon_s: For the logon and all that needs one.
        connect_s: For a connection, and for TLS.
        excluded: Addresses that nothing is sent to.
        compare: DNS servers that are asked beside those of the work; None means those of this machine's resolv.conf.
    """

    total_s: float = 120.0
    step_s: float = 20.0
    logon_s: float = 60.0
    connect_s: float = 4.0
    excluded: ExcludedNetworks = field(factory=ExcludedNetworks)
    compare: tuple[DnsServer, ...] | None = None


@frozen
class _Turn:
    """A turn of the chain: the steps that it tells of, and what they find."""

    steps: tuple[Step, ...]
    take: Callable[[Case], Awaitable[Sequence[Finding]]]
    limit_s: float = field(kw_only=True)


class HostDoctor:
    """Examines hosts. Use it in one event loop, for as many hosts as you like.

    Args:
        domain: The domain that hosts belong to, where it is known: its controllers tell the time.
        resolver: Gives the addresses, as it does for the work; None means the domain's DNS servers, or the system's.
        shells: Log on; without them nothing of a credential is ever sent.
        policy: What the site allows.
        directory: Proves a domain's credential, and knows service names; None leaves that to the shells and the KDC.
        options: Patience.
    """

    def __init__(
        self,
        *,
        domain: Domain | None = None,
        resolver: Resolver | None = None,
        shells: WindowsShells | None = None,
        policy: HostPolicy | None = None,
        directory: DoctorDirectory | None = None,
        options: DoctorOptions | None = None,
    ) -> None:
        self._domain = domain
        self._resolver = resolver or Resolver.of_domain(domain.dns_servers if domain is not None else ())
        self._shells = shells
        self._policy = policy or HostPolicy()
        self._directory = directory
        self._options = options or DoctorOptions()
        # Who tells the time: a host may be a controller that is left alone.
        self._asked = None if domain is None else without_excluded(domain, self._options.excluded)
        servers = self._options.compare
        if servers is None:
            servers = tuple((server, DNS_PORT) for server in read_resolv_conf().servers)
        others = [server for server in servers if server not in self._resolver.servers]
        self._compared = tuple(Resolver((server,), options=_COMPARE_OPTIONS) for server in others)
        patience_s = min(2.0, self._options.connect_s)
        self._prober = DoorProber(ProbeOptions(timeout_s=patience_s, excluded=self._options.excluded))

    async def examine(self, host: str | Target, credential: Credential | None = None) -> Examination:
        """Take all steps.

        Args:
            host: A name or an address, or a target as the directory knows it.
            credential: Shown to the host once, at the end; None examines without any logon.

        Raises:
            ConfigError: The host is neither a name nor an address.
        """
        begun, begun_at = time.monotonic(), datetime.now(UTC)
        async with aclosing(self.findings(host, credential)) as found:
            findings = tuple([finding async for finding in found])
        name = host if isinstance(host, str) else host.fqdn or host.hostname
        return Examination(name, findings, judge(findings), begun_at, time.monotonic() - begun)

    async def findings(self, host: str | Target, credential: Credential | None = None) -> AsyncGenerator[Finding, None]:
        """The findings, each as soon as it is there, one a step, in the order of the steps.

        Raises:
            ConfigError: As :meth:`examine`, before the first one.
        """
        case = Case(make_target(host, self._domain), credential)
        until = time.monotonic() + self._options.total_s
        pool = ThreadPool("doctor", _THREADS)
        try:
            for turn in self._turns(pool):
                for finding in await self._take(turn, case, until):
                    case.findings.append(finding)
                    yield finding
        finally:
            pool.close()

    def _turns(self, pool: ThreadPool) -> tuple[_Turn, ...]:
        step_s, logon_s = self._options.step_s, self._options.logon_s

        async def tls(case: Case) -> Sequence[Finding]:
            return await self._look_at_tls(case, pool)

        async def clock(case: Case) -> Sequence[Finding]:
            return await self._look_at_clock(case, pool)

        return (
            _Turn(("name", "dns-servers"), self._look_at_name, limit_s=step_s),
            _Turn(("reverse-name",), self._look_at_reverse, limit_s=step_s),
            _Turn(("network",), self._look_at_network, limit_s=step_s),
            _Turn(("ports",), self._look_at_ports, limit_s=step_s),
            _Turn(("tls",), tls, limit_s=step_s),
            _Turn(("winrm",), self._look_at_winrm, limit_s=step_s),
            _Turn(("clock",), clock, limit_s=step_s),
            _Turn(("rules",), self._look_at_rules, limit_s=step_s),
            _Turn(("account",), self._look_at_account, limit_s=logon_s),
            _Turn(("spn",), self._look_at_service_names, limit_s=step_s),
            _Turn(("logon", "shell", "identity", "rights", "powershell"), self._log_on, limit_s=logon_s),
        )

    async def _take(self, turn: _Turn, case: Case, until: float) -> Sequence[Finding]:
        """A turn within its time; whatever goes wrong in it is a finding."""
        left_s = until - time.monotonic()
        if left_s <= 0:
            why = f"the examination may take {self._options.total_s:.0f} s in all"
            return [not_looked_at(step, why) for step in turn.steps]
        limit_s = min(turn.limit_s, left_s)
        try:
            async with asyncio.timeout(limit_s):
                return await turn.take(case)
        except TimeoutError:
            failed = trouble(turn.steps[0], "deadline-exceeded", f"This did not end within {limit_s:.0f} s.")
        except MspError as error:
            entry = reason_of(error)
            failed = trouble(turn.steps[0], entry.code, error.detail, remedy=entry.remedy)
        return [failed, *(not_looked_at(step, f"it ended at {turn.steps[0]}") for step in turn.steps[1:])]

    # Names and networks.

    async def _look_at_name(self, case: Case) -> Sequence[Finding]:
        target = case.target
        asked = target.fqdn or target.hostname
        if is_address(target.hostname) and target.fqdn is None:
            case.target = evolve(target, ip_addresses=(target.hostname,))
            title = (
                f"{target.hostname} is an address: Kerberos needs a name, and a certificate has to hold the address."
            )
            return fine("name", title, {"addresses": [target.hostname]}), not_looked_at(
                "dns-servers", "an address was given"
            )
        tried, case.answers = await ask_for_name(asked, self._resolver, self._compared)
        look = doctor_names.look_at_name(tried, case.answers)
        fqdn = look.name if "." in look.name and look.addresses else None
        case.target = with_domain(
            evolve(target, fqdn=target.fqdn or fqdn, ip_addresses=target.ip_addresses or look.addresses), self._domain
        )
        finding = look.finding
        if target.ip_addresses:
            finding = doctor_names.beside_known_addresses(finding, target.ip_addresses, look.addresses)
        return finding, doctor_names.look_at_servers(look.name, case.answers)

    async def _look_at_reverse(self, case: Case) -> Sequence[Finding]:
        addresses = case.target.ip_addresses
        if not addresses:
            return (not_looked_at("reverse-name", "there is no address"),)
        names = await ask_for_reverse(addresses[:_ADDRESSES_TRIED], self._resolver)
        return (doctor_names.look_at_reverse(case.fqdn, names),)

    async def _look_at_network(self, case: Case) -> Sequence[Finding]:
        addresses = case.target.ip_addresses
        if not addresses:
            return (not_looked_at("network", "there is no address"),)
        return (doctor_names.look_at_network(addresses, read_own_networks()),)

    # Doors.

    async def _look_at_ports(self, case: Case) -> Sequence[Finding]:
        addresses = case.target.ip_addresses[:_ADDRESSES_TRIED]
        if not addresses:
            return (not_looked_at("ports", "there is no address"),)
        ports = [door.port for door in case.wanted]
        knocked = await asyncio.gather(*(self._prober.knock_ports(address, ports) for address in addresses))
        case.knocks = tuple(knock for knocks in knocked for knock in knocks)
        case.address = doctor_doors.open_address(case.knocks)
        life: list[Sign] = []
        # Who refuses is there: nothing more has to be sent.
        if all(knock.state not in ("open", "refused") for knock in case.knocks):
            async with LifeLooker(self._prober) as looker:
                for signs in await asyncio.gather(*(looker.look(address) for address in addresses[:_LIFE_AT])):
                    life += signs
        return (doctor_doors.look_at_ports(case.knocks, life),)

    async def _look_at_tls(self, case: Case, pool: ThreadPool) -> Sequence[Finding]:
        opened = [door for door in case.wanted if door.port in case.open_ports]
        if case.address is None or not opened:
            return (not_looked_at("tls", "no door of WinRM is open"),)
        address, server_name = case.address, case.server_name
        looks = await asyncio.gather(
            *(look_at_door(address, door, server_name, self._options.connect_s * 2) for door in opened)
        )
        case.looks = {look.door.port: look for look in looks}
        door = next((door for door in opened if door.tls), None)
        if door is None:
            return (not_looked_at("tls", "the door of HTTPS is not open"),)
        trust = trust_of(case.target, case.credential, self._policy)
        error: MspError | None
        if case.looks[door.port].silence in ("silent", "no-connection") and case.looks[door.port].tls_version is None:
            # It said nothing to us, and would say nothing again.
            error = UnreachableError(f"{case.target.hostname} did not finish the TLS handshake.")
        else:
            error = await pool.run(check_certificate, address, door, case.target, trust, self._options.connect_s)
        case.certificate_error = error
        plain_too = any(not other.tls for other in opened)
        passed_by = plain_too and (
            isinstance(error, UnreachableError)
            or (error is not None and error.code in CERTIFICATE_REASONS and self._kerberos_bar(case) is None)
        )
        if isinstance(error, UnreachableError) and passed_by:
            case.unusable = frozenset({door.port})
        return (doctor_doors.look_at_tls(case.looks[door.port], error, passed_by=passed_by),)

    async def _look_at_winrm(self, case: Case) -> Sequence[Finding]:
        left = doors_left(case.wanted, case.open_ports, case.unusable)
        looks = [case.looks[door.port] for door in left if door.port in case.looks]
        if len(looks) > 1 and looks[0].silence == "no-tls":
            # It has been told at the step before.
            looks = looks[1:]
        return (doctor_doors.look_at_winrm(looks),)

    async def _look_at_clock(self, case: Case, pool: ThreadPool) -> Sequence[Finding]:
        kdcs = self._kdcs(case)
        controllers, case.kdc_clocks = await asyncio.gather(
            ask_for_clocks(self._asked, pool, self._options.connect_s), ask_kdcs(kdcs, self._options.connect_s)
        )
        # A controller's KDC has the controller's clock: it counts where LDAP did not tell.
        clocks = dict(case.kdc_clocks)
        clocks |= {name: skew_s for name, skew_s in controllers.items() if skew_s is not None or name not in clocks}
        credential = case.credential
        kerberos = credential is None or (credential.is_domain and self._kerberos_bar(case) is None)
        return (doctor_doors.look_at_clock(list(case.looks.values()), clocks, kerberos=kerberos),)

    # The credential.

    def _kdcs(self, case: Case) -> tuple[Kdc, ...]:
        """The KDCs at hand: those that the work would ask, else the domain's controllers."""
        if self._shells is not None and case.credential is not None:
            kdcs = self._shells.kdcs(case.credential)
            return tuple(kdc for kdc in kdcs if not self._options.excluded.covers(kdc.address))
        return () if self._asked is None else kdcs_for_anybody(self._asked)

    def _kerberos_bar(self, case: Case) -> str | None:
        """Why there is no Kerberos to this host; None when there is."""
        kdcs = self._kdcs(case)
        if case.credential is not None:
            bar = kerberos_bar(case.target, case.credential, is_kdc_known=bool(kdcs))
        elif service_host(case.target) is None:
            bar = "no-service-principal"
        else:
            bar = None if kdcs else "kdc-unknown"
        bar = bar or what_kerberos_lacks()
        if bar is None and case.kdc_clocks and all(skew_s is None for skew_s in case.kdc_clocks.values()):
            return "kdc-unreachable"
        return bar

    async def _look_at_rules(self, case: Case) -> Sequence[Finding]:
        ended = case.ended_at("name", "ports", "winrm")
        if ended is not None:
            return (not_looked_at("rules", ended),)
        left = doors_left(case.wanted, case.open_ports, case.unusable)
        error = case.certificate_error
        if error is not None and error.code not in CERTIFICATE_REASONS and left and left[0].tls:
            return (not_looked_at("rules", case.ended_at("tls") or "there is no TLS"),)
        distrusted = frozenset(door.port for door in left if door.tls and error is not None)
        ways = Ways(left, distrusted, self._kerberos_bar(case))
        return (look_at_rules(case.target, case.credential, self._policy, ways),)

    def _not_now(self, case: Case) -> str | None:
        """Why nobody is to log on: there is no credential, or a step before forbids it."""
        if case.credential is None:
            return "no credential was given"
        ended = case.ended_at("name", "ports", "tls", "winrm", "clock", "rules", "account")
        allowed = any(found.step == "rules" and found.ok for found in case.findings)
        # Rules that were not looked at allow nothing.
        return ended or (None if allowed else "the rules were not looked at")

    async def _look_at_account(self, case: Case) -> Sequence[Finding]:
        credential = case.credential
        why_not = self._not_now(case)
        if credential is None or why_not is not None:
            return (not_looked_at("account", why_not or "no credential was given"),)
        if not credential.is_domain:
            return (not_looked_at("account", "the account is the host's own; the host itself judges it"),)
        if self._directory is None:
            return (not_looked_at("account", "no directory is at hand"),)
        controller = await self._directory.prove(credential)
        user = credential.username
        return (
            fine("account", f"{controller} took the password of {user}.", {"controller": controller, "user": user}),
        )

    async def _look_at_service_names(self, case: Case) -> Sequence[Finding]:
        fqdn = case.fqdn
        if fqdn is None:
            return (not_looked_at("spn", "the host's whole name is not known"),)
        proven = any(found.step == "account" and found.ok for found in case.findings)
        if self._directory is None or not proven:
            return (not_looked_at("spn", "nobody is logged on at a directory"),)
        holders = await self._directory.holders(service_names(fqdn))
        return (look_at_service_names(fqdn, holders, kerberos=self._kerberos_bar(case) is None),)

    async def _log_on(self, case: Case) -> Sequence[Finding]:
        credential = case.credential
        why_not = self._not_now(case) or case.ended_at("spn")
        if credential is None or why_not is not None:
            return doctor_logon.left_out(why_not or "no credential was given")
        if self._shells is None:
            return doctor_logon.left_out("nothing that logs on was given")
        first = [address for address in case.target.ip_addresses if address == case.address]
        target = evolve(case.target, ip_addresses=tuple(first), doors=case.open_ports)
        try:
            async with self._shells.open(target, credential) as shell:
                identity = await shell.identify()
                policies = await self._ask_for_policies(shell)
                return doctor_logon.of_shell(identity, shell.way, credential.username, policies)
        except MspError as error:
            return doctor_logon.of_error(error, credential.username)

    async def _ask_for_policies(self, shell: WindowsShell) -> Mapping[str, str] | MspError:
        """The execution policies by scope, or why they cannot be told: the host is known to work by then."""
        try:
            result = await shell.run(load("execution-policy"), {}, deadline_s=self._options.step_s)
        except MspError as error:
            return error
        policies = cast("Sequence[Mapping[str, str]]", result.value["policies"])
        return {entry["scope"]: entry["policy"] for entry in policies}
