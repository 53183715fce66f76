"""A planned computer as it stands in the directory, and as a host that answers WinRM."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from msp_sdk.directory.entry import render_sid
from msp_sdk.testing import wsman_faults
from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import EstateCA, IssuedCertificate, issue_self_signed
from msp_sdk.testing.directory_data import (
    DOMAIN_SID,
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_WORKSTATION,
    DirectoryEntry,
    make_computer_entry,
)
from msp_sdk.testing.estate_faults import TROUBLES
from msp_sdk.testing.estate_plan import PlannedComputer
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost

HTTP_PORT = 5985
HTTPS_PORT = 5986
HTTP_DOORS = ("http", "both")
HTTPS_DOORS = ("https", "both")
WINRM_DOORS = frozenset({*HTTP_DOORS, *HTTPS_DOORS})
_UNITS = {"server": "OU=Servers", "workstation": "OU=Workstations", "domain_controller": "OU=Domain Controllers"}


def name_of_machine(entry: PlannedComputer) -> str:
    """What the machine calls itself."""
    return entry.machine_name or entry.name


def make_planned_entry(entry: PlannedComputer, domain: str) -> DirectoryEntry:
    """A planned computer as the directory holds it."""
    uac = UAC_CONTROLLER if entry.role == "domain_controller" else UAC_WORKSTATION
    return make_computer_entry(
        entry.name,
        entry.os_name,
        domain=domain,
        os_version=entry.os_version,
        ou=_UNITS.get(entry.role, "CN=Computers"),
        seen_at=entry.last_seen_at,
        uac=uac if entry.enabled else uac | UAC_DISABLED,
        objectSid=render_sid(f"{DOMAIN_SID}-{entry.rid}"),
        description=entry.description,
    )


def make_planned_host(
    entry: PlannedComputer,
    accounts: Accounts,
    ca: EstateCA,
    *,
    domain: str,
    netbios_name: str,
    machine: Machine | None = None,
) -> WsmanHost:
    """WinRM of a planned computer, not yet started, with all that is wrong with it.

    Args:
        entry: Its door is one of WinRM's.
        accounts: Who may log on.
        ca: Signs its certificate.
        domain: Its DNS name.
        netbios_name: Its short name.
        machine: The one that was there before; None sets one up.
    """
    machine = machine or Machine(
        name=name_of_machine(entry),
        domain=netbios_name,
        dns_domain=domain,
        sid=f"{DOMAIN_SID}-{entry.machine_rid or entry.rid}",
        os_name=entry.os_name or "",
    )
    https = entry.door in HTTPS_DOORS
    host = WsmanHost(
        machine,
        accounts,
        address=entry.address or "",
        http_port=HTTP_PORT if entry.door in HTTP_DOORS else None,
        https_port=HTTPS_PORT if https else None,
        certificate=_certificate(entry, ca, domain) if https else None,
    )
    for trouble in (TROUBLES[name] for name in entry.troubles):
        set_all(host, trouble.host)
        if trouble.hitch is not None:
            made = wsman_faults.TROUBLES[trouble.hitch.name]
            if trouble.hitch.lasting:
                made.start(host)
            else:
                made.once(host, at=trouble.hitch.at, skip=trouble.hitch.skip)
    return host


def set_all(thing: object, values: Mapping[str, object]) -> None:
    """Set attributes by their paths, such as ``faults.silent``; a path that is not there is an ``AttributeError``."""
    for path, value in values.items():
        parent, _, name = path.rpartition(".")
        held = attrgetter(parent)(thing) if parent else thing
        getattr(held, name)
        setattr(held, name, copy.deepcopy(value))


def _certificate(entry: PlannedComputer, ca: EstateCA, domain: str) -> IssuedCertificate:
    own = f"{entry.name.lower()}.{domain}"
    if entry.certificate == "self-signed":
        return issue_self_signed([own])
    if entry.certificate == "other":
        return ca.issue([f"gone-{entry.rid}.{domain}"])
    if entry.certificate == "expired":
        return ca.issue([own], until=datetime.now(UTC) - timedelta(days=30))
    return ca.issue([own])
