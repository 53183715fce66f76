"""What an estate is made of: a clinic's computers as the field really is, and the truth about each.

Pure: the same arguments give the same computers. The truth is what a product must find out by itself.
:func:`plan_computers` is the clinic of the demo; :mod:`~msp_sdk.testing.estate_site` draws sites from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from attrs import evolve, frozen

from msp_sdk.errors import ConfigError

Door = Literal["https", "http", "both", "closed", "silent", "none"]
ShownCertificate = Literal["own", "other", "self-signed", "expired"]
AGENT = "agent"
LEAST_COMPUTERS = 12
# Each host takes some of a process's files; the usual hard limit allows about this many.
MOST_COMPUTERS = 2500
# Windows gives accounts of an administrator's making numbers from 1000 on; the first ones are people's.
FIRST_RID = 1100

SERVER_SYSTEMS = (
    ("Windows Server 2022 Standard", "10.0 (20348)"),
    ("Windows Server 2019 Standard", "10.0 (17763)"),
    ("Windows Server 2016 Datacenter", "10.0 (14393)"),
)
WORKSTATION_SYSTEMS = (
    ("Windows 11 Pro", "10.0 (26100)"),
    ("Windows 10 Enterprise", "10.0 (19045)"),
    ("Windows 11 Enterprise", "10.0 (22631)"),
)
SERVER_NAMES = ("FILE", "APP", "PRINT", "SQL", "RDS", "BACKUP", "IMAGING", "HR")
ROOMS = ("RECEPTION", "WARD", "LAB", "OFFICE", "EXAM")


@frozen
class PlannedComputer:
    """One computer of the estate.

    Attributes:
        address: What DNS says of it; None when DNS knows nothing.
        door: What stands behind the address: WinRM over ``https``, ``http`` or ``both``, a ``closed`` port, ``silent``
            packets that nobody answers, or ``none``: another machine lives at this address.
        truth: ``agent``, or the reason code why it can have none; at a site that trusts the estate's CA and allows
            NTLM.
        administrable: The service account is a local administrator.
        rid: The last part of the SID of its account; unique in an estate.
        description: What the directory says of it.
        troubles: What is wrong, in the order in which one meets it; names of :data:`~.estate_faults.TROUBLES`.
        decided_by: The one among them that decides the truth; None when all that is wrong is got over.
        or_else: Other codes than ``truth`` that are right to find, where an honest program may give up.
        certificate: What it shows over TLS: its ``own``, one for ``other`` names, …
        machine_name: What the machine calls itself, where that is not its account's name.
        machine_rid: Which account the machine takes itself for, where that is not this one.
    """

    name: str
    role: Literal["domain_controller", "server", "workstation", "other"]
    os_name: str | None
    os_version: str | None
    address: str | None
    door: Door
    truth: str
    enabled: bool = True
    last_seen_at: datetime | None = None
    administrable: bool = True
    rid: int = 0
    description: str | None = None
    troubles: tuple[str, ...] = ()
    decided_by: str | None = None
    or_else: tuple[str, ...] = ()
    certificate: ShownCertificate = "own"
    machine_name: str | None = None
    machine_rid: int | None = None


def number_accounts(plan: Iterable[PlannedComputer]) -> tuple[PlannedComputer, ...]:
    """Give each account its own identifier, in order."""
    return tuple(evolve(entry, rid=FIRST_RID + number) for number, entry in enumerate(plan))


def check_count(count: int) -> None:
    """Whether an estate can have so many computers.

    Raises:
        ConfigError: It cannot.
    """
    if not LEAST_COMPUTERS <= count <= MOST_COMPUTERS:
        raise ConfigError(f"an estate has {LEAST_COMPUTERS} to {MOST_COMPUTERS} computers, not {count}.")


def address_of(number: int, network: int) -> str:
    """The address of the n-th computer; they begin at ``127.<network>.1.1``."""
    return f"127.{network}.{1 + number // 250}.{1 + number % 250}"


def plan_computers(count: int, *, network: int, now: datetime) -> tuple[PlannedComputer, ...]:
    """Plan an estate.

    Args:
        count: How many computers; at least :data:`LEAST_COMPUTERS`.
        network: The second octet of their loopback addresses (127.<network>.x.y), 1 to 254.
        now: Last logons are counted from here.

    Returns:
        Controllers first, then servers, workstations, and the odd ones.

    Raises:
        ConfigError: Too few computers for an estate that shows anything, or too many for the network.
    """
    check_count(count)
    numbers = iter(range(count))

    def address() -> str:
        return address_of(next(numbers), network)

    seen = now - timedelta(days=2)
    controllers = [
        PlannedComputer(f"DC{n}", "domain_controller", *SERVER_SYSTEMS[0], address(), "closed", "domain-controller",
                        last_seen_at=seen)
        for n in (1, 2)
    ]  # fmt: skip
    ordinary = count - len(controllers) - 6
    servers = [_server(n, address(), seen) for n in range(max(2, ordinary // 4))]
    workstations = [_workstation(n, address(), seen) for n in range(ordinary - len(servers))]
    occupied = servers[0].address
    odd = [
        PlannedComputer("LNX-PACS", "other", "Red Hat Enterprise Linux", "9.4", address(), "closed", "not-windows",
                        last_seen_at=seen),
        PlannedComputer("PC-LEFT-1", "workstation", *WORKSTATION_SYSTEMS[1], address(), "closed", "disabled-account",
                        enabled=False, last_seen_at=seen),
        PlannedComputer("PC-LEFT-2", "workstation", *WORKSTATION_SYSTEMS[1], None, "none", "disabled-account",
                        enabled=False, last_seen_at=seen),
        PlannedComputer("PC-FORGOTTEN", "workstation", "Windows 7 Professional", "6.1 (7601)", None, "none", "stale",
                        last_seen_at=now - timedelta(days=700)),
        PlannedComputer("PC-ORDERED", "other", None, None, None, "none", "new"),
        # Its A record was never cleaned up: the address belongs to a server now.
        PlannedComputer("PC-MOVED", "workstation", *WORKSTATION_SYSTEMS[0], occupied, "none", "wrong-host",
                        last_seen_at=seen),
    ]  # fmt: skip
    return number_accounts((*controllers, *servers, *workstations, *odd))


def _server(number: int, address: str, seen: datetime) -> PlannedComputer:
    name = f"{SERVER_NAMES[number % len(SERVER_NAMES)]}{number // len(SERVER_NAMES) + 1:02d}"
    os_name, os_version = SERVER_SYSTEMS[number % len(SERVER_SYSTEMS)]
    doors: tuple[Door, ...] = ("https", "http", "https", "http", "https", "silent", "http", "closed")
    door = doors[number % len(doors)]
    administrable = number % len(doors) != 6  # noqa: PLR2004 (the imaging server, which its vendor administers)
    truth = {"closed": "winrm-closed", "silent": "no-answer"}.get(door, AGENT)
    if not administrable:
        truth = "needs-local-administrator"
    return PlannedComputer(name, "server", os_name, os_version, address, door, truth, last_seen_at=seen,
                           administrable=administrable)  # fmt: skip


def _workstation(number: int, address: str, seen: datetime) -> PlannedComputer:
    name = f"{ROOMS[number % len(ROOMS)]}-{number // len(ROOMS) + 1:02d}"
    os_name, os_version = WORKSTATION_SYSTEMS[number % len(WORKSTATION_SYSTEMS)]
    # Most workstations have WinRM closed; some are asleep.
    doors: tuple[Door, ...] = ("https", "closed", "closed", "silent", "http", "closed", "closed", "silent")
    door = doors[number % len(doors)]
    truth = {"closed": "winrm-closed", "silent": "no-answer"}.get(door, AGENT)
    return PlannedComputer(name, "workstation", os_name, os_version, address, door, truth, last_seen_at=seen)
