"""What a directory's entry is: controller, server, workstation, or something that is no target, and why not.

One table, pure, with ``now`` passed in. Nothing is dropped: what is not a target carries its reason. Managed service
accounts, which are computers to a naive filter, come back as :class:`ServiceAccount`.

Example:
    >>> system_of("Red Hat Enterprise Linux", "9.4").kind
    'foreign'
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Literal

from attrs import frozen

from msp_sdk.directory.entry import Entry, ou_path, parse_guid, parse_sid
from msp_sdk.models.computer import Computer, ComputerRole

# What is read of each computer, and no more.
COMPUTER_ATTRIBUTES = (
    "objectClass",
    "objectGUID",
    "objectSid",
    "sAMAccountName",
    "name",
    "dNSHostName",
    "operatingSystem",
    "operatingSystemVersion",
    "userAccountControl",
    "primaryGroupID",
    "servicePrincipalName",
    "lastLogonTimestamp",
    "pwdLastSet",
    "whenCreated",
)
COMPUTER_FILTER = "(objectClass=computer)"

STALE_AFTER = timedelta(days=90)
# lastLogonTimestamp is written only when it is older than 9 to 14 days.
LOGON_STAMP_LAG = timedelta(days=14)

_UAC_DISABLED = 0x0000_0002
_UAC_CONTROLLER = 0x0000_2000
_UAC_READ_ONLY_CONTROLLER = 0x0400_0000
_GROUP_CONTROLLERS = 516
_GROUP_READ_ONLY_CONTROLLERS = 521

_SERVICE_ACCOUNT_CLASSES = frozenset(
    {
        "msds-groupmanagedserviceaccount",
        "msds-managedserviceaccount",
        "msds-delegatedmanagedserviceaccount",
    }
)
_CLUSTER_SPN = "msclustervirtualserver/"

SystemKind = Literal["server", "workstation", "foreign", "unknown"]

# First match wins; every row is looked for in the folded name.
_SYSTEMS: tuple[tuple[re.Pattern[str], SystemKind], ...] = (
    (re.compile(r"^$"), "unknown"),
    (re.compile(r"^hyper-v server\b"), "server"),
    (re.compile(r"^azure (stack hci|local)\b"), "server"),
    (re.compile(r"^(microsoft )?windows\b.*\b(server|azure stack hci)\b"), "server"),
    (re.compile(r"^(microsoft )?windows\b"), "workstation"),
    (re.compile(r""), "foreign"),
)
_VENDOR_MANAGED = re.compile(r"\b(embedded|iot)\b")
_TOO_OLD_NAME = re.compile(r"\b(nt|2000|xp|vista|2003)\b|\bserver 2008(?! r2)\b")
_TOO_OLD_BELOW = (6, 1)
_MARKS = str.maketrans(dict.fromkeys("®™©", " ") | {"\N{NO-BREAK SPACE}": " "})


@frozen
class System:
    """What an operating system's name and version say.

    Attributes:
        vendor_managed: The name says that it is built into something.
        too_old: Windows PowerShell 5.1 does not run there.
    """

    kind: SystemKind
    vendor_managed: bool = False
    too_old: bool = False


@frozen
class ServiceAccount:
    """A managed service account: counted, never listed."""

    name: str


def system_of(name: str | None, version: str | None) -> System:
    """Judge an operating system by what the directory says of it; both may be None."""
    folded = " ".join((name or "").translate(_MARKS).casefold().split())
    kind = next(kind for pattern, kind in _SYSTEMS if pattern.search(folded))
    if kind not in ("server", "workstation"):
        return System(kind)
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    too_old = (
        (int(numbers[1]), int(numbers[2])) < _TOO_OLD_BELOW if numbers else _TOO_OLD_NAME.search(folded) is not None
    )
    return System(kind, vendor_managed=_VENDOR_MANAGED.search(folded) is not None, too_old=too_old)


def last_sign_of_life(entry: Entry) -> datetime | None:
    """The latest instant at which the computer may last have been in touch with its domain, or None."""
    stamp = entry.filetime("lastLogonTimestamp")
    signs = [
        None if stamp is None else stamp + LOGON_STAMP_LAG,
        entry.filetime("pwdLastSet"),
        entry.generalized_time("whenCreated"),
    ]
    return max((sign for sign in signs if sign is not None), default=None)


def classify(entry: Entry, *, domain_name: str, now: datetime) -> Computer | ServiceAccount:
    """Make a computer of an entry.

    Args:
        entry: With :data:`COMPUTER_ATTRIBUTES`; any of them may be missing.
        domain_name: The domain that was read.
        now: Aware; stale is judged by it.
    """
    account = entry.text("sAMAccountName") or entry.text("name") or entry.dn
    if _SERVICE_ACCOUNT_CLASSES & {value.lower() for value in entry.texts("objectClass")}:
        return ServiceAccount(account)
    uac = entry.number("userAccountControl") or 0
    group = entry.number("primaryGroupID")
    is_controller = bool(uac & (_UAC_CONTROLLER | _UAC_READ_ONLY_CONTROLLER)) or group in (
        _GROUP_CONTROLLERS,
        _GROUP_READ_ONLY_CONTROLLERS,
    )
    is_cluster = any(spn.lower().startswith(_CLUSTER_SPN) for spn in entry.texts("servicePrincipalName"))
    fqdn = entry.text("dNSHostName")
    os_name = entry.text("operatingSystem")
    os_version = entry.text("operatingSystemVersion")
    system = system_of(os_name, os_version)
    role = _role(system, is_controller=is_controller, is_cluster=is_cluster)
    enabled = not uac & _UAC_DISABLED
    sign = last_sign_of_life(entry)
    stale = sign is not None and now - sign > STALE_AFTER
    guid = next(iter(entry.values("objectGUID")), None)
    sid = next(iter(entry.values("objectSid")), None)
    return Computer(
        object_guid=parse_guid(guid) or "",
        sid=parse_sid(sid),
        sam_account_name=account,
        hostname=(fqdn or "").split(".")[0] or account.removesuffix("$"),
        fqdn=fqdn,
        domain_name=domain_name,
        role=role,
        is_server=role in ("server", "domain_controller"),
        is_workstation=role == "workstation",
        is_domain_controller=role == "domain_controller",
        os_name=os_name,
        os_version=os_version,
        ou_path=ou_path(entry.dn),
        enabled=enabled,
        last_logon_at=entry.filetime("lastLogonTimestamp"),
        stale=stale,
        skipped_reason=_skipped_reason(
            system, has_name=fqdn is not None, is_cluster=is_cluster, enabled=enabled, stale=stale
        ),
    )


def _role(system: System, *, is_controller: bool, is_cluster: bool) -> ComputerRole:
    if is_cluster:
        return "other"
    if is_controller:
        return "domain_controller"
    return system.kind if system.kind in ("server", "workstation") else "other"


def _skipped_reason(system: System, *, has_name: bool, is_cluster: bool, enabled: bool, stale: bool) -> str | None:
    """The first of these that holds: what it is comes before the state it is in."""
    table = (
        (is_cluster, "cluster-name"),
        (system.kind == "foreign", "not-windows"),
        (not enabled, "disabled-account"),
        (stale, "stale"),
        (system.kind == "unknown", "new"),
        (not has_name, "no-name"),
        (system.too_old, "unsupported-os"),
        (system.vendor_managed, "vendor-managed"),
    )
    return next((code for holds, code in table if holds), None)
