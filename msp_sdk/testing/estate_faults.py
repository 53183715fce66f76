"""Everything that can be wrong at a site of the estate, by name, with what is then right to find. Pure.

:data:`TROUBLES` is the whole list. A trouble is asked for by its name, with a share of the computers (``0.1``) or a
count (``3``); :data:`PRESETS` are mixes. The **layers** are the order in which one meets trouble on the way to a host:
its account, its name in DNS, its doors, what they show, the wire, the service, its clock, the logon, the machine, its
disk. The first one that cannot be got over decides what is true of the computer, and what lies behind that is not there.

Example:
    >>> troubles_of({"silent": 2})["silent"]
    2
    >>> TROUBLES["silent"].truth
    'no-answer'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Literal, get_args

from attrs import evolve, field, frozen

from msp_sdk.errors import ConfigError
from msp_sdk.testing.estate_plan import PlannedComputer

__all__ = ["LAYERS", "PRESETS", "TROUBLES", "Layer", "Trouble", "Wanted", "troubles_of"]

Layer = Literal[
    "account", "name", "door", "listener", "wire", "service", "clock", "logon", "machine", "disk", "controller", "dns"
]
LAYERS: tuple[Layer, ...] = get_args(Layer)
# Those of computers; the last two are the site's.
COMPUTER_LAYERS = LAYERS[:-2]
# A share or a count by name, or the name of a preset.
Wanted = Mapping[str, float] | str

_STALE = timedelta(days=400)


def _unchanged(entry: PlannedComputer) -> PlannedComputer:
    return entry


def _set(**changes: object) -> Callable[[PlannedComputer], PlannedComputer]:
    return lambda entry: evolve(entry, **changes)  # type: ignore[arg-type] (the table below is read by a test)


@frozen
class Trouble:
    """One thing that is wrong.

    Attributes:
        name: What it is asked for by.
        says: What is the case, for a person.
        truth: The reason code that is right to find; None where all goes well in the end, or at least as before.
        change: What it makes of the plan of a computer.
        host: What it sets on the running host: attributes of :class:`~msp_sdk.testing.wsman.WsmanHost` by their path,
            such as ``faults.silent``. For a controller those of :class:`~msp_sdk.testing.directory.LdapServer`, for
            DNS those of :class:`~msp_sdk.testing.dns.DnsServer`.
        cldap: What it sets on a controller's answers to pings.
    """

    name: str
    layer: Layer
    says: str
    truth: str | None = None
    change: Callable[[PlannedComputer], PlannedComputer] = field(default=_unchanged, repr=False)
    host: Mapping[str, object] = field(factory=dict)
    cldap: Mapping[str, object] = field(factory=dict)


_LIST = (
    # The account in the directory. The machine runs on: whoever touches it all the same is seen.
    Trouble("disabled-account", "account", "the account is disabled", "disabled-account", _set(enabled=False)),
    Trouble("stale-account", "account", "no sign of life for more than a year", "stale",
            lambda entry: evolve(entry, address=None, door="none",
                                 last_seen_at=entry.last_seen_at and entry.last_seen_at - _STALE)),
    Trouble("vendor-managed", "account", "an imaging station", "vendor-managed",
            _set(description="PACS station of the radiology")),
    Trouble("not-windows", "account", "a Linux server in the domain", "not-windows",
            _set(role="other", os_name="Red Hat Enterprise Linux", os_version="9.4", door="closed")),
    Trouble("windows-2003", "account", "older than our floor", "unsupported-os",
            _set(os_name="Windows Server 2003", os_version="5.2 (3790)", role="server", door="closed")),
    Trouble("not-yet-started", "account", "an account whose computer has never started", "new",
            _set(role="other", os_name=None, os_version=None, address=None, door="none", last_seen_at=None)),
    # Its name in DNS.
    Trouble("no-address", "name", "DNS knows no address of it", "no-address", _set(address=None, door="none")),
    Trouble("stale-record", "name", "its A record leads to another machine", "wrong-host", _set(door="none")),
    # Its doors.
    Trouble("winrm-closed", "door", "on, and WinRM is closed", "winrm-closed", _set(door="closed")),
    Trouble("silent", "door", "off, or a firewall that drops everything", "no-answer", _set(door="silent")),
    Trouble("mute", "door", "it takes connections and says nothing", "no-answer", host={"faults.silent": True}),
    # What the doors show.
    Trouble("http-only", "listener", "5985 alone", None, _set(door="http")),
    Trouble("https-only", "listener", "5986 alone", None, _set(door="https")),
    Trouble("other-certificate", "listener", "the certificate of another host", "wrong-host",
            _set(door="https", certificate="other")),
    Trouble("self-signed", "listener", "a certificate that it signed itself", "certificate-untrusted",
            _set(door="https", certificate="self-signed")),
    Trouble("expired-certificate", "listener", "a certificate of last year", "certificate-untrusted",
            _set(door="https", certificate="expired")),
    # The logon.
    Trouble("broken-trust", "logon", "it cannot ask its domain, and refuses every account", "not-authorised-here",
            host={"faults.refuse_logons": True}),
    Trouble("not-administrator", "logon", "the account is no local administrator", "needs-local-administrator",
            _set(administrable=False)),
    Trouble("no-shell-left", "logon", "others have used up its remote shells", "quota-exceeded",
            host={"shells.quotas.shells_per_user": 0}),
    # The machine.
    Trouble("restricted-language", "machine", "application control restricts PowerShell", "language-restricted",
            host={"machine.language_mode": "ConstrainedLanguage"}),
    Trouble("powershell-2", "machine", "Windows PowerShell 2.0", "unsupported-os",
            host={"machine.powershell_version": "2.0"}),
    Trouble("reinstalled", "machine", "set up anew under the old name: another account", "wrong-host",
            lambda entry: evolve(entry, machine_rid=entry.rid + 1_000_000)),
    Trouble("renamed", "machine", "it goes by another name under the same account", None,
            lambda entry: evolve(entry, machine_name=f"NEW{entry.rid}")),
    # The wire; all of it is got over.
    Trouble("slow", "wire", "every answer takes a while", host={"faults.delay_s": 0.1}),
    Trouble("slow-scripts", "wire", "every script takes a while", host={"faults.script_delay_s": 0.5}),
    Trouble("resets-first", "wire", "the first request is met with a reset", host={"faults.reset_connections": 1}),
    Trouble("drops-requests", "wire", "the connection is cut before a command is read",
            host={"faults.drop_before": ["Command"]}),
    Trouble("drops-answers", "wire", "the connection is cut where output was due",
            host={"faults.drop_after": ["Receive"]}),
    Trouble("forgets-logon", "wire", "a sealed request is met with an empty 400", host={"faults.forget_logon": True}),
    Trouble("closes-idle", "wire", "quiet connections are closed at once", host={"idle_close_s": 0.3}),
    # The disk; it is felt by what writes.
    Trouble("disk-full", "disk", "no room left", "disk-full", host={"machine.disk_free_bytes": 1000}),
    # The controllers, and DNS.
    Trouble("ldap-silent", "controller", "it takes requests and never answers", host={"faults.silent": True}),
    Trouble("ldap-slow", "controller", "every answer takes a while", host={"faults.delay_s": 0.1}),
    Trouble("ldap-drops", "controller", "searches break off half-way", host={"faults.drop_after_entries": 7}),
    Trouble("ldap-nonsense", "controller", "it answers what is no LDAP", host={"faults.nonsense": True}),
    Trouble("ldap-no-tls", "controller", "it has no certificate", host={"faults.refuse_tls": True}),
    Trouble("ldap-unsigned", "controller", "it demands neither signing nor binding, as of old",
            host={"demands_signing": False, "demands_binding": False}),
    Trouble("ldap-endless", "controller", "the last page comes again and again", host={"faults.endless_pages": True}),
    Trouble("cldap-silent", "controller", "its LDAP answers, its pings are dropped", cldap={"faults.silent": True}),
    Trouble("dns-slow", "dns", "every answer takes a while", host={"faults.delay_s": 0.1}),
)  # fmt: skip

TROUBLES: Mapping[str, Trouble] = MappingProxyType({trouble.name: trouble for trouble in _LIST})

PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "none": MappingProxyType({}),
        # As a clinic of some age looks.
        "clinic": MappingProxyType(
            {
                "winrm-closed": 0.2, "silent": 0.1, "http-only": 0.1, "https-only": 0.05, "stale-account": 0.05,
                "disabled-account": 0.04, "no-address": 0.04, "vendor-managed": 0.03, "self-signed": 0.03,
                "not-windows": 0.02, "not-administrator": 0.02, "stale-record": 0.02, "not-yet-started": 0.01,
                "expired-certificate": 0.01, "other-certificate": 0.01, "broken-trust": 0.01, "disk-full": 0.01,
                "restricted-language": 0.01, "slow": 0.02,
            }
        ),
        # A tenth of everything.
        "hell": MappingProxyType({name: 0.1 for name, each in TROUBLES.items() if each.layer in COMPUTER_LAYERS}),
    }
)  # fmt: skip


def troubles_of(wanted: Wanted) -> dict[str, float]:
    """What is asked for, by name; a preset's name stands for its mix.

    Raises:
        ConfigError: A name is not known; the message lists those that are. A share or count cannot be one.
    """
    if isinstance(wanted, str):
        if wanted not in PRESETS:
            raise ConfigError(f"there is no mix of faults {wanted!r}; there are {', '.join(PRESETS)}.")
        return dict(PRESETS[wanted])
    unknown = sorted(set(wanted) - set(TROUBLES))
    if unknown:
        raise ConfigError(f"there are no faults {', '.join(unknown)}; there are {', '.join(sorted(TROUBLES))}.")
    for name, amount in wanted.items():
        if amount < 0 or (isinstance(amount, float) and amount > 1):
            raise ConfigError(f"{name}: {amount} is neither a share from 0.0 to 1.0 nor a count.")
    return dict(wanted)
