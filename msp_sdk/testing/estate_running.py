"""An estate that runs: what its partner knows, what its machines say, and how computers come and go.

Example:
    >>> await estate.join("RECEPTION-9")  # doctest: +SKIP
    >>> await estate.boot("RECEPTION-9")
    >>> await estate.remove("RECEPTION-9")
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, mutable

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.package import AgentPackage
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import DISABLED, Account, Accounts
from msp_sdk.testing.builders import SERVICE_NAME
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import LdapServer
from msp_sdk.testing.directory_data import UAC_DISABLED, UAC_WORKSTATION, DirectoryEntry
from msp_sdk.testing.directory_filter import split_dn
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.estate_faults import TROUBLES
from msp_sdk.testing.estate_hosts import HTTP_PORT, HTTPS_PORT, make_planned_entry, make_planned_host
from msp_sdk.testing.estate_plan import AGENT, PlannedComputer
from msp_sdk.testing.violations import violations_of
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.windows.doors import HostPolicy
from msp_sdk.wire.converter import encode_bytes, unstructure

if TYPE_CHECKING:
    from msp_sdk.testing.estate import EstateSpec

__all__ = ["HTTPS_PORT", "HTTP_PORT", "RunningEstate"]

# What Windows takes as a computer's name.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,13}[A-Za-z0-9])?", re.ASCII)
# Newcomers live beyond the addresses of the plan: 127.<network>.<this>.x.
_NEWCOMERS = 200
# Beyond the identifiers of the computers that were there from the start.
_FIRST_NEW_RID = 2_000_000


@mutable(eq=False)
class RunningEstate:
    """An estate that runs. Accounts, machines and hosts may be looked at and changed while it does.

    Attributes:
        plan: Every computer as it is now, and the truth about it.
        credential: The one domain account that the partner has.
        directories: The controllers. What is written at one reaches the others as they replicate.
        hosts: By name, the machines that answer WinRM.
    """

    spec: EstateSpec
    network: int
    plan: tuple[PlannedComputer, ...]
    accounts: Accounts
    credential: Account
    ca: EstateCA
    zone: DnsZone
    dns: DnsServer
    directories: tuple[LdapServer, ...]
    package: AgentPackage
    package_content: bytes = field(repr=False)
    hosts: dict[str, WsmanHost] = field(factory=dict)
    _stack: contextlib.AsyncExitStack = field(factory=contextlib.AsyncExitStack, repr=False)
    _newcomers_count: int = 0
    _addresses_count: int = 0

    # What is known.

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
            "computers": self.computer_facts(),
        }

    def domain_credential(self) -> Credential:
        """The account that the partner has, the controllers' certificates listed; no controller has taken it yet."""
        secret = Secret(self.credential.password)
        return Credential(
            "estate",
            1,
            "service_account",
            self.credential.upn,
            lambda: secret,
            domain_name=self.spec.domain,
            netbios_name=self.spec.netbios_name,
            trusted_certificates=tuple(
                TrustedCertificate(sha256=server.certificate_sha256) for server in self.directories
            ),
        )

    def host_policy(self) -> HostPolicy:
        """The policy by which the truth of each computer is said: the estate's CA is trusted, NTLM is allowed."""
        return HostPolicy(allow_ntlm=True, trusted_cas=(self.ca.pem.decode(),))

    def computer_facts(self) -> list[dict[str, Any]]:
        """Each computer as ``{"name": …, "role": …, "truth": …}``."""
        return [{"name": entry.name, "role": entry.role, "truth": entry.truth} for entry in self.plan]

    def trouble_facts(self) -> dict[str, dict[str, Any]]:
        """By name: what is wrong, what is right to find, and what else is right."""
        return {
            entry.name: {
                "truth": entry.truth,
                "or_else": list(entry.or_else),
                "troubles": list(entry.troubles),
                "layer": TROUBLES[entry.decided_by].layer if entry.decided_by else None,
            }
            for entry in self.plan
        }

    def violations(self) -> tuple[str, ...]:
        """What must never happen, and did: see :mod:`msp_sdk.testing.violations`."""
        return violations_of(self.hosts.values(), self.accounts)

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
        """By name: does the agent run there, how often was which script answered, what must never have happened.

        Logons and connections count from the start; shells are those that are open.
        """
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
                "connections": host.connection_count,
                "logons": host.logon_count,
                "shells": len(host.shells.shells),
            }
        return facts

    # How computers come and go. What cannot be done is a ConfigError, and nothing was changed.

    async def join(self, name: str) -> None:
        """A computer's account is made, as a join leaves it: no system and no address before it has restarted.

        Raises:
            ConfigError: The name is taken, or none that Windows takes.
        """
        self._check_free(name)
        self._newcomers_count += 1
        # Another computer than one of the same name that was there before.
        rid = _FIRST_NEW_RID + self._newcomers_count
        entry = PlannedComputer(name, "workstation", None, None, None, "none", "new", rid=rid)
        made = make_planned_entry(entry, self.spec.domain)
        identity = {"objectGUID": (uuid.uuid4().bytes_le,)}
        self._directory.put(DirectoryEntry(made.dn, {**made.attributes, **identity}))
        self.plan = (*self.plan, entry)

    async def boot(self, name: str) -> None:
        """A computer that has joined restarts: Windows 11, an address in DNS, WinRM over HTTPS.

        Raises:
            ConfigError: No such computer waits for that.
        """
        before = self._find(name)
        if before.truth != "new":
            raise ConfigError(f"{name} is not new.")
        self._addresses_count += 1
        third, fourth = divmod(self._addresses_count, 250)
        entry = evolve(
            before,
            role="workstation",
            os_name="Windows 11 Pro",
            os_version="10.0 (26100)",
            address=f"127.{self.network}.{_NEWCOMERS + third}.{1 + fourth}",
            door="https",
            truth=AGENT,
            troubles=(),
            decided_by=None,
            last_seen_at=datetime.now(UTC),
        )
        self.credential.administers |= {entry.name.casefold()}
        await self.start_host(entry)
        self.zone.add_address(entry.name, entry.address or "")
        self._write(before, make_planned_entry(entry, self.spec.domain).attributes)
        self._replace(before, entry)

    async def remove(self, name: str) -> None:
        """A computer's account is deleted and the machine goes; its address stays in DNS, as it does in the field.

        Raises:
            ConfigError: There is no such computer, or it is a controller.
        """
        entry = self._find(name)
        self._directory.delete(self._dn(entry))
        self.plan = tuple(each for each in self.plan if each is not entry)
        if (host := self.hosts.pop(entry.name, None)) is not None:
            await host.stop()

    async def disable(self, name: str) -> None:
        """A computer's account is disabled.

        Raises:
            ConfigError: There is no such computer, or it is a controller.
        """
        entry = self._find(name)
        self._directory.change(self._dn(entry), {"userAccountControl": UAC_WORKSTATION | UAC_DISABLED})
        self._replace(entry, _with_trouble(entry, "disabled-account"))

    async def rename(self, name: str, other: str) -> None:
        """A computer takes another name: in the directory, in DNS, in its certificate, and the machine itself.

        Raises:
            ConfigError: There is no such computer, it is a controller, or the other name cannot be had.
        """
        before = self._find(name)
        self._check_free(other)
        entry = evolve(before, name=other, machine_name=None)
        fresh = make_planned_entry(entry, self.spec.domain).attributes
        moved = self._directory.move(self._dn(before), split_dn(self._dn(before))[1], name=other)
        named = ("sAMAccountName", "dNSHostName", "servicePrincipalName")
        self._directory.change(moved, {key: fresh[key] for key in named if key in fresh})
        self._replace(before, entry)
        self.zone.remove(before.name)
        if entry.address is not None:
            self.zone.add_address(other, entry.address)
        if before.administrable:
            self.credential.administers |= {other.casefold()}
        if (host := self.hosts.pop(before.name, None)) is not None:
            await host.stop()
            host.machine.name = other
            await self.start_host(entry, host.machine)

    def disable_account(self) -> None:
        """The domain account is disabled: even its right password is refused from now on."""
        self.credential.refusal = DISABLED

    async def start_host(self, entry: PlannedComputer, machine: Machine | None = None) -> None:
        """Open WinRM of a computer at its address; it closes with the estate."""
        host = make_planned_host(
            entry,
            self.accounts,
            self.ca,
            domain=self.spec.domain,
            netbios_name=self.spec.netbios_name,
            machine=machine,
        )
        if self.spec.delay_s:
            host.faults.script_delay_s = self.spec.delay_s
        self.hosts[entry.name] = await self._stack.enter_async_context(host)

    @property
    def _directory(self) -> DirectorySpec:
        """Where administrators write."""
        return self.directories[0].spec

    def _held(self, entry: PlannedComputer) -> DirectoryEntry:
        wanted = entry.name.casefold().encode()
        return next(held for held in self._directory.entries if held.folded["name"][0].lower() == wanted)

    def _dn(self, entry: PlannedComputer) -> str:
        return self._held(entry).dn

    def _write(self, entry: PlannedComputer, attributes: Mapping[str, Sequence[bytes]]) -> None:
        """Set attributes of a computer, but not who and where it is."""
        kept = {"distinguishedName", "objectGUID", "objectSid", "whenCreated"}
        self._directory.change(self._dn(entry), {name: attributes[name] for name in attributes if name not in kept})

    def _replace(self, before: PlannedComputer, after: PlannedComputer) -> None:
        self.plan = tuple(after if each is before else each for each in self.plan)

    def _find(self, name: str) -> PlannedComputer:
        for entry in self.plan:
            if entry.name.casefold() == name.casefold() and entry.role != "domain_controller":
                return entry
        raise ConfigError(f"there is no computer {name!r} that could.")

    def _check_free(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of a computer.")
        taken = name.casefold().encode()
        if any(held.folded.get("name", (b"",))[0].lower() == taken for held in self._directory.entries):
            raise ConfigError(f"the name {name} is taken.")


def _with_trouble(entry: PlannedComputer, name: str) -> PlannedComputer:
    """The computer with one trouble that decides, whatever it had before."""
    trouble = TROUBLES[name]
    return evolve(
        trouble.change(entry), truth=trouble.truth or AGENT, troubles=(name,), decided_by=name, or_else=trouble.or_else
    )
