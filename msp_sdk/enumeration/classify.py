"""What a directory's entry is: controller, server, workstation, or something that is no target, and why not.

One table, pure, with ``now`` passed in. Nothing is dropped: what is not a target carries its reason. Managed service
accounts, which are computers to a naive filter, come back as :class:`ServiceAccount`. What repeats itself from entry
to entry (a system's name, a container, a domain's SID) is worked out once.

Example:
    >>> from msp_sdk.models.reason import reason
    >>> reason("vendor-managed").title
    'The vendor of this machine manages it.'
"""

from __future__ import annotations

import functools
from datetime import datetime, timedelta

from attrs import field, frozen

from msp_sdk.directory.entry import Entry, ou_path, parse_guid, parse_sid
from msp_sdk.enumeration.systems import System, VendorRules, fold, system_of
from msp_sdk.models.computer import Computer, ComputerRole, LapsKind

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
    "description",
    "managedBy",
    # That there is a password, by the day on which it expires; the password itself is never asked for.
    "ms-Mcs-AdmPwdExpirationTime",
    "msLAPS-PasswordExpirationTime",
)
COMPUTER_FILTER = "(objectClass=computer)"

# lastLogonTimestamp is written only when it is older than 9 to 14 days.
LOGON_STAMP_LAG = timedelta(days=14)

_UAC_DISABLED = 0x0000_0002
_UAC_CONTROLLER = 0x0000_2000
_UAC_READ_ONLY_CONTROLLER = 0x0400_0000
_GROUP_CONTROLLERS = 516
_GROUP_READ_ONLY_CONTROLLERS = 521

SERVICE_ACCOUNT_CLASSES = (
    "msDS-GroupManagedServiceAccount",
    "msDS-ManagedServiceAccount",
    "msDS-DelegatedManagedServiceAccount",
)
_SERVICE_ACCOUNTS = frozenset(name.lower().encode() for name in SERVICE_ACCOUNT_CLASSES)
# The name of a cluster, and the name of one of its roles. Its nodes are machines and register other services.
_CLUSTER_SPN = b"\nmsclustervirtualserver/"
_CLUSTER_DESCRIPTION = "failover cluster virtual network name account"
# The interface by which controllers replicate; nothing else registers it.
_REPLICATION_SPN = b"\ne3514235-4b06-11d1-ab04-00c04fc2dcd2/"


@frozen
class ClassifyRules:
    """What a site may set of the rules.

    Attributes:
        stale_after: No sign of life for longer than this makes a computer stale.
        vendor: Which machines their vendor manages.
    """

    stale_after: timedelta = timedelta(days=90)
    vendor: VendorRules = field(factory=VendorRules)


_RULES = ClassifyRules()


@frozen
class ServiceAccount:
    """A managed service account: counted, never listed."""

    name: str


@frozen
class _Traits:
    """What the table of reasons looks at."""

    system: System
    is_cluster: bool
    enabled: bool
    stale: bool
    has_name: bool
    vendor_managed: bool


def last_sign_of_life(entry: Entry) -> datetime | None:
    """The latest instant at which the computer may last have been in touch with its domain, or None."""
    value = entry.value
    stamp = _filetime(value("lastlogontimestamp"))
    latest = None if stamp is None else _after(stamp, LOGON_STAMP_LAG)
    for sign in (_filetime(value("pwdlastset")), _created(value("whencreated"))):
        if sign is not None and (latest is None or sign > latest):
            latest = sign
    return latest


def classify(
    entry: Entry, *, domain_name: str, now: datetime, rules: ClassifyRules = _RULES
) -> Computer | ServiceAccount:
    """Make a computer of an entry.

    Args:
        entry: With :data:`COMPUTER_ATTRIBUTES`; any of them may be missing, and hold anything.
        domain_name: The domain that was read.
        now: Aware; stale is judged by it.
        rules: What a site has set.
    """
    value = entry.value
    account = entry.text("samaccountname") or entry.text("name") or entry.dn
    if _is_service_account(entry.values("objectclass")):
        return ServiceAccount(account)
    services = b"\n".join((b"", *entry.values("serviceprincipalname"))).lower()
    description = _text(value("description"))
    fqdn = entry.text("dnshostname")
    hostname = (fqdn or "").partition(".")[0] or account.removesuffix("$")
    os_name, os_version = _text(value("operatingsystem")), _text(value("operatingsystemversion"))
    place = ou_path(entry.dn)
    system = system_of(os_name, os_version)
    uac = _number(value("useraccountcontrol")) or 0
    sign = last_sign_of_life(entry)
    traits = _Traits(
        system,
        is_cluster=_CLUSTER_SPN in services or (description is not None and _is_cluster(description)),
        enabled=not uac & _UAC_DISABLED,
        stale=sign is not None and now - sign > rules.stale_after,
        has_name=fqdn is not None,
        vendor_managed=system.vendor_managed
        or rules.vendor.names(hostname, description)
        or _lies_with_vendor(rules.vendor, place),
    )
    role = _role(traits, is_controller=_is_controller(uac, _number(value("primarygroupid")), services))
    return Computer(
        object_guid=parse_guid(value("objectguid")) or "",
        sid=parse_sid(value("objectsid")),
        sam_account_name=account,
        hostname=hostname,
        fqdn=fqdn,
        domain_name=domain_name,
        role=role,
        is_server=role in ("server", "domain_controller"),
        is_workstation=role == "workstation",
        is_domain_controller=role == "domain_controller",
        os_name=os_name,
        os_version=os_version,
        ou_path=place,
        enabled=traits.enabled,
        last_logon_at=_filetime(value("lastlogontimestamp")),
        stale=traits.stale,
        skipped_reason=_skipped_reason(traits),
        platform=system.platform,
        managed_by=_text(value("managedby")),
        laps=_laps(entry),
    )


def _role(traits: _Traits, *, is_controller: bool) -> ComputerRole:
    if traits.is_cluster:
        return "other"
    if is_controller:
        return "domain_controller"
    kind = traits.system.kind
    return kind if kind in ("server", "workstation") else "other"


def _skipped_reason(traits: _Traits) -> str | None:
    """The first of these that holds: what it is comes before the state it is in."""
    system = traits.system
    table = (
        (traits.is_cluster, "cluster-name"),
        (system.kind == "foreign", "not-windows"),
        (not traits.enabled, "disabled-account"),
        (traits.stale, "stale"),
        (system.kind == "unknown", "new"),
        (not traits.has_name, "no-name"),
        (system.too_old, "unsupported-os"),
        (traits.vendor_managed, "vendor-managed"),
    )
    for holds, code in table:
        if holds:
            return code
    return None


def _is_controller(uac: int, group: int | None, services: bytes) -> bool:
    return (
        bool(uac & (_UAC_CONTROLLER | _UAC_READ_ONLY_CONTROLLER))
        or group in (_GROUP_CONTROLLERS, _GROUP_READ_ONLY_CONTROLLERS)
        or _REPLICATION_SPN in services
    )


def _laps(entry: Entry) -> LapsKind | None:
    """Windows LAPS is the younger one: where a computer has both, it rules."""
    if entry.value("mslaps-passwordexpirationtime"):
        return "windows"
    return "legacy" if entry.value("ms-mcs-admpwdexpirationtime") else None


def _after(instant: datetime, lag: timedelta) -> datetime:
    try:
        return instant + lag
    except OverflowError:
        return instant


@functools.lru_cache(maxsize=4096)
def _lies_with_vendor(vendor: VendorRules, place: str) -> bool:
    return vendor.holds(place)


# What repeats itself is decoded once: systems, flags, groups, descriptions, the second in which many were joined.


@functools.lru_cache(maxsize=4096)
def _text(value: bytes | None) -> str | None:
    return None if value is None else Entry("", {"": (value,)}).text("")


@functools.lru_cache(maxsize=4096)
def _number(value: bytes | None) -> int | None:
    return None if value is None else Entry("", {"": (value,)}).number("")


@functools.lru_cache(maxsize=4096)
def _created(value: bytes | None) -> datetime | None:
    return None if value is None else Entry("", {"": (value,)}).generalized_time("")


@functools.lru_cache(maxsize=4096)
def _filetime(value: bytes | None) -> datetime | None:
    return None if value is None else Entry("", {"": (value,)}).filetime("")


@functools.lru_cache(maxsize=1024)
def _is_service_account(classes: tuple[bytes, ...]) -> bool:
    return not _SERVICE_ACCOUNTS.isdisjoint(value.lower() for value in classes)


@functools.lru_cache(maxsize=4096)
def _is_cluster(description: str) -> bool:
    return fold(description) == _CLUSTER_DESCRIPTION
