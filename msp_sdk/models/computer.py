"""Computers: objects of a directory, classified, and the report that carries them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from attrs import frozen

ComputerRole = Literal["domain_controller", "server", "workstation", "other"]


@frozen
class Computer:
    """A computer of the directory, as it is listed and reported.

    Attributes:
        hostname: The short name, as the directory has it; for one without ``dNSHostName`` its sAMAccountName
            without the ``$``.
        stale: No sign of life for long; see ``skipped_reason``.
        reachable: None when it was not probed.
        doors: Ports that stand open, ascending.
        skipped_reason: Why it is not a target (a reason code), or None.
    """

    object_guid: str
    sam_account_name: str
    hostname: str
    role: ComputerRole
    is_server: bool
    is_workstation: bool
    is_domain_controller: bool
    sid: str | None = None
    fqdn: str | None = None
    domain_name: str | None = None
    ad_site: str | None = None
    ip_addresses: tuple[str, ...] = ()
    os_name: str | None = None
    os_version: str | None = None
    ou_path: str = ""
    enabled: bool = True
    last_logon_at: datetime | None = None
    stale: bool = False
    reachable: bool | None = None
    doors: tuple[int, ...] = ()
    unreachable_reason: str | None = None
    skipped_reason: str | None = None


@frozen
class RemovedComputer:
    """A computer that is gone from the directory."""

    object_guid: str
    reason: str


@frozen
class Enumeration:
    """One complete reading of a domain's computers.

    Attributes:
        computers: In the directory's order; may be empty only if the directory holds none.
        source: Controller and door, such as ``dc1.corp.example ldaps``.
        cursor: Where changes go on; None when the directory gave none.
    """

    domain_name: str
    computers: tuple[Computer, ...]
    enumerated_at: datetime
    source: str
    service_accounts_count: int = 0
    cursor: str | None = None

    @property
    def servers(self) -> tuple[Computer, ...]:
        """Servers, controllers among them."""
        return tuple(computer for computer in self.computers if computer.is_server)

    @property
    def workstations(self) -> tuple[Computer, ...]:
        """Workstations."""
        return tuple(computer for computer in self.computers if computer.is_workstation)

    @property
    def domain_controllers(self) -> tuple[Computer, ...]:
        """Domain controllers, read-only ones among them."""
        return tuple(computer for computer in self.computers if computer.is_domain_controller)

    @property
    def others(self) -> tuple[Computer, ...]:
        """What is neither server nor workstation, each with its reason."""
        return tuple(computer for computer in self.computers if computer.role == "other")


@frozen
class EnumerationScope:
    """What of a domain was read; empty means all."""

    ous: tuple[str, ...] = ()


@frozen
class EnumerationResults:
    """The body of an enumeration report. Totals count all; ``servers`` holds the controllers too."""

    kind: Literal["full", "changes"]
    domain_name: str
    enumeration_time: datetime
    source: str
    generation: int | None = None
    base_cursor: str | None = None
    scope: EnumerationScope = EnumerationScope()
    total_servers: int = 0
    total_workstations: int = 0
    reachable_servers: int = 0
    reachable_workstations: int = 0
    unreachable: int = 0
    service_accounts_count: int = 0
    servers: tuple[Computer, ...] = ()
    workstations: tuple[Computer, ...] = ()
    others: tuple[Computer, ...] = ()
    removed: tuple[RemovedComputer, ...] = ()

    @property
    def computers(self) -> tuple[Computer, ...]:
        """All computers of the report."""
        return (*self.servers, *self.workstations, *self.others)


@frozen
class EnumerationFailure:
    """Why an enumeration ended without a result. ``code`` is a reason."""

    code: str
    detail: str
    remedy: str = ""
    controllers_tried: tuple[str, ...] = ()
    generation: int | None = None


@frozen
class EnumerationReport:
    """``POST /api/appliances/enumeration-results``: results, or why there are none. Never both, never neither."""

    report_id: str
    results: EnumerationResults | None = None
    failed: EnumerationFailure | None = None


def make_enumeration_results(
    enumeration: Enumeration, computers: Iterable[Computer], *, generation: int | None
) -> EnumerationResults:
    """A full report from an enumeration and the same computers after they were probed."""
    probed = tuple(computers)
    servers = tuple(computer for computer in probed if computer.is_server)
    workstations = tuple(computer for computer in probed if computer.is_workstation)
    return EnumerationResults(
        kind="full",
        domain_name=enumeration.domain_name,
        enumeration_time=enumeration.enumerated_at,
        source=enumeration.source,
        generation=generation,
        total_servers=len(servers),
        total_workstations=len(workstations),
        reachable_servers=sum(1 for computer in servers if computer.reachable),
        reachable_workstations=sum(1 for computer in workstations if computer.reachable),
        unreachable=sum(1 for computer in probed if computer.reachable is False),
        service_accounts_count=enumeration.service_accounts_count,
        servers=servers,
        workstations=workstations,
        others=tuple(computer for computer in probed if computer.role == "other"),
    )
