"""What a directory's entry is: controller, server, workstation, or something that is no target, and why not.

One table, pure, with ``now`` passed in. Nothing is dropped: what is not a target carries its reason. Managed service
accounts, which are computers to a naive filter, come back as :class:`ServiceAccount`, and what nobody can tell from
another as :class:`Unidentified`. Values are strangers': every computer that leaves here can be kept and shown, with
its texts on one line and of bounded length. What repeats itself from entry to entry (a system's name, a container, a
domain's SID) is worked out once.

Example:
    >>> from msp_sdk.models.reason import reason
    >>> reason("vendor-managed").title
    'The vendor of this machine manages it.'
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

from attrs import field, frozen

from msp_sdk.directory.entry import (
    FILETIME_MAX,
    Entry,
    Held,
    first,
    one_line,
    ou_path,
    parse_filetime,
    parse_generalized_time,
    parse_guid,
    parse_host_name,
    parse_line,
    parse_number,
    parse_sid,
    parse_text,
    render_filetime,
)
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
# In the order in which an entry is taken apart.
_RECORD = tuple(
    name.lower()
    for name in (
        "objectClass", "operatingSystem", "operatingSystemVersion", "userAccountControl", "primaryGroupID",
        "objectGUID", "objectSid", "sAMAccountName", "dNSHostName", "servicePrincipalName", "description",
        "lastLogonTimestamp", "pwdLastSet", "whenCreated", "managedBy",
        "msLAPS-PasswordExpirationTime", "ms-Mcs-AdmPwdExpirationTime",
    )
)  # fmt: skip

# Distinguished names and paths; the deepest that anybody has is shorter.
_LONGEST_PLACE = 4096

# lastLogonTimestamp is written only when it is older than 9 to 14 days.
LOGON_STAMP_LAG = timedelta(days=14)
_LOGON_STAMP_LAG_STEPS = LOGON_STAMP_LAG // timedelta(microseconds=1) * 10

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
# Accounts of Entra ID (single sign-on, its Kerberos keys; the latter's looks like a read-only controller's), and the
# service of a file share in Azure. None is a machine, and deleting one locks people out.
_CLOUD_ACCOUNTS = frozenset({"azureadssoacc$", "azureadkerberos$"})
_CLOUD_SPN = b".file.core."
# The interface by which controllers replicate; nothing else registers it.
_REPLICATION_SPN = b"\ne3514235-4b06-11d1-ab04-00c04fc2dcd2/"


@frozen
class ClassifyRules:
    """What a site may set of the rules.

    Attributes:
        stale_after: No sign of life for longer than this makes a computer stale.
        new_for: So long a computer whose system nobody knows may be about to start for the first time.
        vendor: Which machines their vendor manages.
    """

    stale_after: timedelta = timedelta(days=90)
    new_for: timedelta = timedelta(days=30)
    vendor: VendorRules = field(factory=VendorRules)


_RULES = ClassifyRules()
_KEPT_COUNT = 4096


@frozen
class ServiceAccount:
    """A managed service account: counted, never listed."""

    name: str


@frozen
class Unidentified:
    """An entry without a readable objectGUID: counted, never listed, since nobody could say of whom."""

    name: str


@frozen(eq=False)
class _Kind:
    """What an entry says of its kind; one for all that say the same, so that it is a key by itself.

    Attributes:
        controller: By its flags or its primary group.
    """

    service_account: bool
    system: System
    os_name: str | None
    os_version: str | None
    enabled: bool
    controller: bool


@frozen
class _Verdict:
    role: ComputerRole
    is_server: bool
    is_workstation: bool
    is_domain_controller: bool
    skipped_reason: str | None


def classify(
    entry: Entry, *, domain_name: str, now: datetime, rules: ClassifyRules = _RULES
) -> Computer | ServiceAccount | Unidentified:
    """Make a computer of an entry.

    Args:
        entry: With :data:`COMPUTER_ATTRIBUTES`; any of them may be missing, and hold anything.
        domain_name: The domain that was read.
        now: Aware; stale is judged by it.
        rules: What a site has set.

    Returns:
        For a computer: ``object_guid`` and ``hostname`` are never empty, and no text holds a control character.
    """
    (
        classes, os_name, os_version, flags, group, guid, sid, account_name, dns_name, services, description,
        logon_stamp, password_set, created, managed_by, windows_laps, legacy_laps,
    ) = entry.record(_RECORD)  # fmt: skip
    kind = _kind_of(classes, os_name, os_version, flags, group)
    identity = parse_guid(first(guid))
    account = parse_line(first(account_name)) or parse_line(entry.value("name")) or one_line(entry.dn) or identity or ""
    if kind.service_account:
        return ServiceAccount(account)
    if identity is None:
        return Unidentified(account)
    fqdn = parse_host_name(first(dns_name))
    hostname = fqdn.partition(".")[0] if fqdn else account.removesuffix("$").rstrip() or account
    about = _text(description)
    place = ou_path(entry.dn)
    names = _services(services)
    logon = parse_number(first(logon_stamp))
    stale = _is_stale(_before(now, rules.stale_after), logon, password_set, created)
    system = kind.system
    unknown = "unknown-os"
    if system.kind == "unknown":
        unknown = _why_unknown(_before(now, rules.new_for), logon, password_set, created)
    verdict = _verdict(
        kind,
        unknown,
        (
            account.lower() in _CLOUD_ACCOUNTS or _CLOUD_SPN in names,
            _CLUSTER_SPN in names or (about is not None and _is_cluster(about)),
            kind.controller or _REPLICATION_SPN in names,
            stale,
            fqdn is not None,
            system.vendor_managed or rules.vendor.names(hostname, about) or rules.vendor.holds(place),
        ),
    )
    return Computer(
        object_guid=identity,
        sid=parse_sid(first(sid)),
        sam_account_name=account,
        hostname=hostname,
        fqdn=fqdn,
        domain_name=domain_name,
        role=verdict.role,
        is_server=verdict.is_server,
        is_workstation=verdict.is_workstation,
        is_domain_controller=verdict.is_domain_controller,
        os_name=kind.os_name,
        os_version=kind.os_version,
        ou_path=place[:_LONGEST_PLACE],
        enabled=kind.enabled,
        last_logon_at=parse_filetime(logon),
        stale=stale,
        skipped_reason=verdict.skipped_reason,
        platform=system.platform,
        managed_by=parse_line(first(managed_by), _LONGEST_PLACE),
        laps=_laps(windows_laps, legacy_laps),
    )


@lru_cache(_KEPT_COUNT)
def _kind_of(
    classes: Held | None, os_name: Held | None, os_version: Held | None, flags: Held | None, group: Held | None
) -> _Kind:
    names = (classes or ()) if not isinstance(classes, bytes) else (classes,)
    name, version = parse_line(first(os_name)), parse_line(first(os_version))
    uac = parse_number(first(flags)) or 0
    return _Kind(
        service_account=not _SERVICE_ACCOUNTS.isdisjoint(value.lower() for value in names),
        system=system_of(name, version),
        os_name=name,
        os_version=version,
        enabled=not uac & _UAC_DISABLED,
        controller=bool(uac & (_UAC_CONTROLLER | _UAC_READ_ONLY_CONTROLLER))
        or parse_number(first(group)) in (_GROUP_CONTROLLERS, _GROUP_READ_ONLY_CONTROLLERS),
    )


@lru_cache(_KEPT_COUNT)
def _verdict(kind: _Kind, unknown: str, signs: tuple[bool, bool, bool, bool, bool, bool]) -> _Verdict:
    is_cloud, is_cluster, is_controller, stale, has_name, vendor_managed = signs
    system = kind.system
    role: ComputerRole = "other"
    if is_cloud or is_cluster:
        pass
    elif is_controller:
        role = "domain_controller"
    elif system.kind in ("server", "workstation"):
        role = system.kind
    # The first of these that holds: what it is comes before the state it is in.
    table = (
        (is_cloud, "cloud-account"),
        (is_cluster, "cluster-name"),
        (system.kind == "foreign", "not-windows"),
        (not kind.enabled, "disabled-account"),
        (stale, "stale"),
        (system.kind == "unknown", unknown),
        (not has_name, "no-name"),
        (system.too_old, "unsupported-os"),
        (vendor_managed, "vendor-managed"),
    )
    return _Verdict(
        role,
        is_server=role in ("server", "domain_controller"),
        is_workstation=role == "workstation",
        is_domain_controller=role == "domain_controller",
        skipped_reason=next((code for holds, code in table if holds), None),
    )


def _services(names: Held | None) -> bytes:
    """All service principal names in one, each after a line's end, in lower case."""
    if isinstance(names, tuple):
        return b"\n".join((b"", *names)).lower()
    return b"" if names is None else b"\n" + names.lower()


def _is_stale(before: int, logon: int | None, password_set: Held | None, created: Held | None) -> bool:
    """True if there was a sign of life, and the latest is from before that instant. Instants are FILETIMEs."""
    signs = 0
    if logon is not None and 0 < logon <= FILETIME_MAX:
        signs += 1
        if logon + _LOGON_STAMP_LAG_STEPS >= before:
            return False
    for sign in (parse_number(first(password_set)), _created(created)):
        if sign is not None and 0 < sign <= FILETIME_MAX:
            signs += 1
            if sign >= before:
                return False
    return signs > 0


def _why_unknown(recent: int, logon: int | None, password_set: Held | None, created: Held | None) -> str:
    """The reason of a computer whose system nobody knows. Instants are FILETIMEs; what is not before ``recent`` is.

    A join makes an account or, where one was made before, sets its password; the system is told after the restart.
    """
    made = _created(created)
    has_logged_on = logon is not None and logon > 0
    if made is not None and made >= recent:
        return "new"
    if not has_logged_on and recent <= (parse_number(first(password_set)) or 0) <= FILETIME_MAX:
        return "new"
    return "unknown-os" if has_logged_on or made is None else "pre-staged"


def _laps(windows: Held | None, legacy: Held | None) -> LapsKind | None:
    """Windows LAPS is the younger one: where a computer has both, it rules."""
    if first(windows):
        return "windows"
    return "legacy" if first(legacy) else None


# What repeats itself is worked out once.


@lru_cache(_KEPT_COUNT)
def _text(held: Held | None) -> str | None:
    return parse_text(first(held))


@lru_cache(_KEPT_COUNT)
def _created(held: Held | None) -> int | None:
    """The second in which many were joined."""
    created = parse_generalized_time(parse_text(first(held)))
    return None if created is None else render_filetime(created)


@lru_cache(16)
def _before(now: datetime, age: timedelta) -> int:
    return render_filetime(now - age)


@lru_cache(_KEPT_COUNT)
def _is_cluster(description: str) -> bool:
    return fold(description) == _CLUSTER_DESCRIPTION
