"""Computers: objects of a directory, classified, and the report that carries them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from attrs import evolve, field, frozen

from msp_sdk.models.scope import ComputerRole, EnumerationScope, SiteScope

__all__ = [
    "Computer",
    "ComputerRole",
    "Enumeration",
    "EnumerationChanges",
    "EnumerationFailure",
    "EnumerationReport",
    "EnumerationResults",
    "EnumerationScope",
    "FailedController",
    "LapsKind",
    "Platform",
    "RemovedComputer",
    "apply_changes",
    "make_changes_results",
    "make_enumeration_results",
]

Platform = Literal["windows", "linux", "macos", "storage", "other"]
LapsKind = Literal["legacy", "windows", "windows-encrypted"]


@frozen
class Computer:
    """A computer of the directory, as it is listed and reported.

    Attributes:
        hostname: The short name, as the directory has it; for one without ``dNSHostName`` its sAMAccountName
            without the ``$``. Never empty.
        stale: No sign of life for long; see ``skipped_reason``.
        reachable: None when it was not probed.
        doors: Ports that stand open, ascending.
        skipped_reason: Why it is not a target (a reason code), or None.
        platform: What its operating system is; None when the directory does not say. ``storage`` is a file server
            that is no Windows.
        managed_by: Distinguished name of who looks after it.
        laps: How the password of its local administrator is kept in the directory; None when it is not, as far as
            this account sees. ``windows`` is Windows LAPS; that its password is encrypted shows only to an account
            that may read it.
        laps_readable: This account may read that password. None: nobody has looked. The password itself is never read.
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
    platform: Platform | None = None
    managed_by: str | None = None
    laps: LapsKind | None = None
    laps_readable: bool | None = None


@frozen
class RemovedComputer:
    """A computer that is gone: ``deleted`` from the directory, or moved ``out-of-scope``."""

    object_guid: str
    reason: str


@frozen
class Enumeration:
    """One complete reading of a domain's computers.

    Attributes:
        computers: In the directory's order; may be empty only if the directory holds none.
        source: Controller and door, such as ``dc1.corp.example ldaps``.
        service_accounts_count: Of the whole domain, whatever the scope.
        unreadable_count: Entries that are not listed, because this account may not read their objectGUID.
        cursor: Where changes go on; None when the directory gave none.
        scope: What was read.
    """

    domain_name: str
    computers: tuple[Computer, ...]
    enumerated_at: datetime
    source: str
    service_accounts_count: int = 0
    cursor: str | None = None
    scope: EnumerationScope = field(factory=EnumerationScope)
    unreadable_count: int = 0

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
class EnumerationChanges:
    """What has changed in a domain since a cursor. Each changed computer is whole.

    Attributes:
        changed: Computers that are new or other than they were; a repeat is possible, a gap is not.
        removed: Computers that are gone from the directory.
        since: The cursor that was asked with.
        cursor: Where changes go on from here.
        source: Controller and door.
        complete: False when this account cannot see what was deleted, or who left a group of the scope, or when it
            was read at another controller: a full reading reconciles that.
        at_another_controller: It was read in another database than what it goes on from, which may be behind: what
            it says may be older than what was known. Read in full soon, without this cursor.
        service_accounts_count: Counted anew; None when no change touched one.
        scope: What was read.
    """

    domain_name: str
    changed: tuple[Computer, ...]
    removed: tuple[RemovedComputer, ...]
    since: str
    cursor: str
    enumerated_at: datetime
    source: str
    complete: bool = True
    service_accounts_count: int | None = None
    scope: EnumerationScope = field(factory=EnumerationScope)
    at_another_controller: bool = False


def apply_changes(enumeration: Enumeration, changes: EnumerationChanges) -> Enumeration:
    """The enumeration as it is after the changes: known computers keep their place, new ones come last."""
    computers = enumeration.computers
    if changes.changed or changes.removed:
        by_guid = {computer.object_guid: computer for computer in computers}
        by_guid |= {computer.object_guid: computer for computer in changes.changed}
        for removed in changes.removed:
            by_guid.pop(removed.object_guid, None)
        computers = tuple(by_guid.values())
    return evolve(
        enumeration,
        computers=computers,
        enumerated_at=changes.enumerated_at,
        source=changes.source,
        cursor=changes.cursor,
        service_accounts_count=(
            enumeration.service_accounts_count
            if changes.service_accounts_count is None
            else changes.service_accounts_count
        ),
    )


@frozen
class EnumerationResults:
    """The body of an enumeration report. Totals count all; ``servers`` holds the controllers too.

    Attributes:
        base_cursor: The ``cursor`` of the report that these changes go on from.
        cursor: Where the next changes go on; None when the directory gave none.
        site_scope: The site's whole scope, as it was when this was read. None: from an older appliance.
    """

    kind: Literal["full", "changes"]
    domain_name: str
    enumeration_time: datetime
    source: str
    generation: int | None = None
    base_cursor: str | None = None
    cursor: str | None = None
    scope: EnumerationScope = field(factory=EnumerationScope)
    total_servers: int = 0
    total_workstations: int = 0
    reachable_servers: int = 0
    reachable_workstations: int = 0
    unreachable: int = 0
    service_accounts_count: int = 0
    unreadable_count: int = 0
    servers: tuple[Computer, ...] = ()
    workstations: tuple[Computer, ...] = ()
    others: tuple[Computer, ...] = ()
    removed: tuple[RemovedComputer, ...] = ()
    site_scope: SiteScope | None = None

    @property
    def computers(self) -> tuple[Computer, ...]:
        """All computers of the report."""
        return (*self.servers, *self.workstations, *self.others)


@frozen
class FailedController:
    """Why a controller did not let us read. ``code`` is a reason; without a ``door`` it is said of all of them."""

    controller: str
    code: str
    detail: str = ""
    door: str | None = None


@frozen
class EnumerationFailure:
    """Why an enumeration ended without a result. ``code`` is a reason.

    Attributes:
        domain_name: Of which domain; None where there is none.
        failures: What each controller and door answered, in the order in which they were tried.
        site_scope: As in the results.
    """

    code: str
    detail: str
    remedy: str = ""
    controllers_tried: tuple[str, ...] = ()
    generation: int | None = None
    domain_name: str | None = None
    failures: tuple[FailedController, ...] = ()
    site_scope: SiteScope | None = None


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
        cursor=enumeration.cursor,
        scope=enumeration.scope,
        total_servers=len(servers),
        total_workstations=len(workstations),
        reachable_servers=sum(1 for computer in servers if computer.reachable),
        reachable_workstations=sum(1 for computer in workstations if computer.reachable),
        unreachable=sum(1 for computer in probed if computer.reachable is False),
        service_accounts_count=enumeration.service_accounts_count,
        unreadable_count=enumeration.unreadable_count,
        servers=servers,
        workstations=workstations,
        others=tuple(computer for computer in probed if computer.role == "other"),
    )


def make_changes_results(changes: EnumerationChanges, computers: Iterable[Computer]) -> EnumerationResults:
    """A report of changes, and the same changed computers after they were probed. Totals count the report alone."""
    changed = Enumeration(
        changes.domain_name, tuple(computers), changes.enumerated_at, changes.source, scope=changes.scope
    )
    return evolve(
        make_enumeration_results(changed, changed.computers, generation=None),
        kind="changes",
        base_cursor=changes.since,
        cursor=changes.cursor,
        removed=changes.removed,
    )
