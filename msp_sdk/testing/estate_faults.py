"""Everything that can be wrong at a site of the estate, by name, with what is then right to find. Pure.

:data:`TROUBLES` is the whole list. A trouble is asked for by its name, with a share of the computers (``0.1``) or a
count (``3``); :data:`PRESETS` are mixes. The **layers** are the order in which one meets trouble on the way to a host:
its account, its name in DNS, its doors, what they show, its clock, the logon, what answers, the wire, the service, the
machine, its disk. The first one that cannot be got over decides what is true of the computer, and what would lie behind
it is not there.

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
from typing import Any, Literal, get_args

from attrs import evolve, field, frozen

from msp_sdk.errors import ConfigError
from msp_sdk.testing.estate_plan import PlannedComputer

__all__ = ["LAYERS", "PRESETS", "TROUBLES", "Hitch", "Layer", "Trouble", "Wanted", "parse_faults", "troubles_of"]

Layer = Literal[
    "account", "name", "door", "listener", "clock", "logon", "answers", "wire", "service", "machine", "disk",
    "controller", "dns",
]  # fmt: skip
LAYERS: tuple[Layer, ...] = get_args(Layer)
# Those of computers; the last two are the site's.
COMPUTER_LAYERS = LAYERS[:-2]
# A share or a count by name, or the name of a preset.
Wanted = Mapping[str, float] | str

_STALE = timedelta(days=400)


def _unchanged(entry: PlannedComputer) -> PlannedComputer:
    return entry


def _set(**changes: Any) -> Callable[[PlannedComputer], PlannedComputer]:
    return lambda entry: evolve(entry, **changes)


@frozen
class Hitch:
    """A trouble of the endpoint, see :data:`msp_sdk.testing.wsman_faults.TROUBLES`.

    Attributes:
        name: Which one.
        lasting: For good; else once, at operation ``at``, after ``skip`` such operations.
    """

    name: str
    lasting: bool = False
    at: str | None = None
    skip: int = 0


@frozen
class Trouble:
    """One thing that is wrong.

    Attributes:
        name: What it is asked for by.
        says: What is the case, for a person.
        truth: The reason code that is right to find; None where all goes well in the end.
        or_else: Further codes that are right: an honest program may give up and say so, to be asked again.
        change: What it makes of the plan of a computer.
        host: What it sets on the running host: attributes of :class:`~msp_sdk.testing.wsman.WsmanHost` by their path,
            such as ``faults.silent``. For a controller those of :class:`~msp_sdk.testing.directory.LdapServer`, for
            DNS those of :class:`~msp_sdk.testing.dns.DnsServer`.
        hitch: What its endpoint does.
        cldap: What it sets on a controller's answers to pings.
    """

    name: str
    layer: Layer
    says: str
    truth: str | None = None
    change: Callable[[PlannedComputer], PlannedComputer] = field(default=_unchanged, repr=False)
    or_else: tuple[str, ...] = ()
    host: Mapping[str, object] = field(factory=dict)
    hitch: Hitch | None = None
    cldap: Mapping[str, object] = field(factory=dict)


_BROKE = ("connection-lost", "outcome-unknown")
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
            _set(role="server", os_name="Windows Server 2003", os_version="5.2 (3790)", door="closed")),
    Trouble("not-yet-started", "account", "an account whose computer has never started", "new",
            _set(role="other", os_name=None, os_version=None, address=None, door="none", last_seen_at=None)),
    # Its name in DNS.
    Trouble("no-address", "name", "DNS knows no address of it", "no-address", _set(address=None, door="none")),
    Trouble("stale-record", "name", "its A record leads to another machine", "wrong-host", _set(door="none")),
    # Its doors.
    Trouble("winrm-closed", "door", "on, and WinRM is closed", "winrm-closed", _set(door="closed")),
    Trouble("silent", "door", "off, or a firewall that drops everything", "no-answer", _set(door="silent")),
    Trouble("mute", "door", "it takes connections and says nothing", "no-answer", hitch=Hitch("silent", lasting=True)),
    Trouble("service-stopped", "door", "http.sys has nobody behind it", "winrm-closed",
            hitch=Hitch("stopped", lasting=True)),
    Trouble("service-starting", "door", "WinRM has been starting for ever", "winrm-closed",
            hitch=Hitch("restart", lasting=True)),
    # What the doors show.
    Trouble("http-only", "listener", "5985 alone", None, _set(door="http")),
    Trouble("https-only", "listener", "5986 alone", None, _set(door="https")),
    Trouble("other-certificate", "listener", "the certificate of another host", "wrong-host",
            _set(door="https", certificate="other")),
    Trouble("self-signed", "listener", "a certificate that it signed itself", "certificate-untrusted",
            _set(door="https", certificate="self-signed")),
    Trouble("expired-certificate", "listener", "a certificate that has run out", "certificate-expired",
            _set(door="https", certificate="expired")),
    # Its clock: Kerberos minds, NTLM does not.
    Trouble("clock-skew", "clock", "its clock is ten minutes fast", host={"machine.clock.skew": timedelta(minutes=10)}),
    # The logon.
    Trouble("slow-logon", "logon", "the password is judged slowly", hitch=Hitch("slow-logon", lasting=True)),
    Trouble("broken-trust", "logon", "it cannot ask its domain, and refuses every account", "not-authorised-here",
            hitch=Hitch("refuse-logons", lasting=True)),
    Trouble("drops-logon", "logon", "the connection is cut where the logon's end was due", "connection-lost",
            hitch=Hitch("drop-logon")),
    Trouble("not-administrator", "logon", "the account is no local administrator", "needs-local-administrator",
            _set(administrable=False)),
    Trouble("no-right", "logon", "rights of its remote shells were changed", "needs-local-administrator",
            hitch=Hitch("no-right", lasting=True)),
    Trouble("no-shell-left", "logon", "others have used up its remote shells", "quota-exceeded",
            hitch=Hitch("no-shell-left", lasting=True)),
    Trouble("too-many-users", "logon", "as many users as are allowed have shells", "quota-exceeded",
            hitch=Hitch("too-many-users", lasting=True)),
    # What answers.
    Trouble("no-http", "answers", "it answers what is no HTTP", "connection-lost",
            hitch=Hitch("not-http", lasting=True)),
    # Without TLS a page in clear is also an answer that nobody sealed.
    Trouble("no-soap", "answers", "it answers with pages for people", "windows-failed",
            or_else=("encryption-refused",), hitch=Hitch("not-soap", lasting=True)),
    Trouble("no-wsman", "answers", "it answers envelopes with nothing in them", "windows-failed",
            hitch=Hitch("not-wsman", lasting=True)),
    Trouble("other-answers", "answers", "it answers what was never asked", "windows-failed",
            hitch=Hitch("other-answer", lasting=True)),
    Trouble("damaged", "answers", "bytes of its answers are changed on the way", "encryption-refused",
            _set(door="http"), hitch=Hitch("damaged", lasting=True)),
    Trouble("unsealed", "answers", "somebody answers in its place, in clear", "encryption-refused",
            _set(door="http"), hitch=Hitch("unsealed", lasting=True)),
    Trouble("cut-base64", "answers", "the output in its answers is cut off", "windows-failed",
            hitch=Hitch("cut-base64", lasting=True)),
    # The wire.
    Trouble("slow", "wire", "every request is left lying", hitch=Hitch("slow", lasting=True)),
    Trouble("drip", "wire", "answers come byte by byte", hitch=Hitch("drip", lasting=True)),
    # On a busy machine the client's own pauses are quiet, too, more often than it tries again.
    Trouble("closes-idle", "wire", "quiet connections are closed at once", or_else=("connection-lost",),
            hitch=Hitch("idle-close", lasting=True)),
    Trouble("drops-request", "wire", "a connection is cut, its request unread", hitch=Hitch("cut", at="Command")),
    Trouble("drops-answer", "wire", "a connection is cut where output was due", or_else=_BROKE,
            hitch=Hitch("lost-answer", at="Receive", skip=1)),
    Trouble("drops-mid-body", "wire", "a connection is cut in the middle of output", or_else=_BROKE,
            hitch=Hitch("drop-mid-body", at="Receive", skip=1)),
    Trouble("half-close", "wire", "it shuts its side where output was due", or_else=_BROKE,
            hitch=Hitch("half-close", at="Receive", skip=1)),
    Trouble("half-close-head", "wire", "it sends a head, and shuts its side", or_else=_BROKE,
            hitch=Hitch("half-close-head", at="Receive", skip=1)),
    Trouble("forgets-logon", "wire", "a connection's logon is forgotten: 401",
            hitch=Hitch("forgotten-logon", at="Command")),
    Trouble("bad-request", "wire", "a connection's logon is forgotten: 400",
            hitch=Hitch("bad-request", at="Command")),
    # The service.
    Trouble("restarts", "service", "WinRM restarts in the middle", or_else=("winrm-closed", *_BROKE),
            hitch=Hitch("restart", at="Receive", skip=1)),
    Trouble("shell-gone", "service", "a shell ends by itself", hitch=Hitch("shell-gone")),
    Trouble("no-operation-left", "service", "a shell's operations are used up", hitch=Hitch("no-operation-left")),
    Trouble("no-process-left", "service", "a shell's processes are used up", hitch=Hitch("no-process-left")),
    Trouble("stdin-closed", "service", "a process ends before it has read", or_else=("script-failed", *_BROKE),
            hitch=Hitch("stdin-closed")),
    Trouble("small-envelope", "service", "it takes the smallest of envelopes",
            host={"shells.quotas.max_envelope_bytes": 150 * 1024}),
    Trouble("too-large", "service", "it takes hardly anything", "too-large", hitch=Hitch("too-large", lasting=True)),
    Trouble("no-powershell", "service", "Windows PowerShell is gone", "unsupported-os",
            hitch=Hitch("no-powershell", lasting=True)),
    Trouble("slow-scripts", "service", "every script takes a while", host={"faults.script_delay_s": 0.5}),
    # The machine.
    Trouble("restricted-language", "machine", "application control restricts PowerShell", "language-restricted",
            host={"machine.language_mode": "ConstrainedLanguage"}),
    Trouble("powershell-2", "machine", "Windows PowerShell 2.0", "unsupported-os",
            host={"machine.powershell_version": "2.0"}),
    Trouble("reinstalled", "machine", "set up anew under the old name: another account", "wrong-host",
            lambda entry: evolve(entry, machine_rid=entry.rid + 1_000_000)),
    Trouble("renamed", "machine", "it goes by another name under the same account", None,
            lambda entry: evolve(entry, machine_name=f"NEW{entry.rid}")),
    # The disk; it is felt by what writes.
    Trouble("disk-full", "disk", "no room left", "disk-full", host={"machine.disk_free_bytes": 0}),
    Trouble("antivirus", "disk", "the antivirus takes every file that is written", "blocked-by-antivirus",
            host={"machine.antivirus.knows": lambda _: True}),
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

_OF_COMPUTERS = [name for name, each in TROUBLES.items() if each.layer in COMPUTER_LAYERS]
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
        # Everything, each on computers of its own.
        "each": MappingProxyType({name: 1 / len(_OF_COMPUTERS) for name in _OF_COMPUTERS}),
        # A tenth of everything that can be got over, one upon the other, and some of what cannot.
        "storm": MappingProxyType({name: 0.1 if TROUBLES[name].truth is None else 0.015 for name in _OF_COMPUTERS}),
        # A tenth of everything, one upon the other: few get far.
        "hell": MappingProxyType(dict.fromkeys(_OF_COMPUTERS, 0.1)),
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
        if amount < 0 or (is_share(amount) and amount > 1):
            raise ConfigError(f"{name}: {amount} is neither a share from 0.0 to 1.0 nor a count.")
    return dict(wanted)


def parse_faults(text: str) -> Wanted:
    """Read what a person asks for: a mix's name, or ``silent=0.1,self-signed=2``.

    Raises:
        ConfigError: As for :func:`troubles_of`.
    """
    if "=" not in text:
        troubles_of(text)
        return text
    wanted: dict[str, float] = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        try:
            wanted[name.strip()] = int(amount) if amount.strip().isdigit() else float(amount)
        except ValueError:
            raise ConfigError(f"{part!r} is not NAME=SHARE or NAME=COUNT.") from None
    return troubles_of(wanted)


def is_share(amount: object) -> bool:
    """True for a share; a count is an ``int``, so that ``1.0`` is all of them and ``1`` is one."""
    return isinstance(amount, float)
