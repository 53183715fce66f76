"""A Windows estate without Windows, on loopback and without root: for tests of programs that use the SDK.

* :class:`Estate` runs a whole site from an :class:`EstateSpec`: controllers, DNS, Windows hosts. ``Estate.build`` draws
  one from a seed, with the trouble in it that is asked for (:mod:`~msp_sdk.testing.estate_faults`).
* :mod:`~msp_sdk.testing.pytest_plugin` has all of this as fixtures.
* :class:`LdapServer` is one controller alone. It holds a :class:`DirectorySpec`; :func:`make_computer_entry` and
  :func:`make_entry` fill that.
* :class:`WsmanHost` is WinRM of one :class:`Machine`.
* :class:`DnsServer` serves a :class:`DnsZone`; :class:`Accounts` holds who may log on, :class:`EstateCA` signs.

Each name is imported when it is first asked for.

Example:
    >>> async with Estate(EstateSpec(computers=12)) as estate:  # doctest: +SKIP
    ...     await estate.join("RECEPTION-9")
    ...     estate.computer_facts()[-1]
    {'name': 'RECEPTION-9', 'role': 'workstation', 'truth': 'new'}
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msp_sdk.testing.accounts import Account, Accounts
    from msp_sdk.testing.certificates import EstateCA
    from msp_sdk.testing.directory import DirectorySpec, LdapServer
    from msp_sdk.testing.directory_data import make_computer_entry, make_entry
    from msp_sdk.testing.dns import DnsServer, DnsZone
    from msp_sdk.testing.estate import Estate, EstateSpec, RunningEstate
    from msp_sdk.testing.host_lab import HostLab
    from msp_sdk.testing.windows_host import Machine, answers
    from msp_sdk.testing.wsman import HostsThread, WsmanHost

__all__ = [
    "Account",
    "Accounts",
    "DirectorySpec",
    "DnsServer",
    "DnsZone",
    "Estate",
    "EstateCA",
    "EstateSpec",
    "HostLab",
    "HostsThread",
    "LdapServer",
    "Machine",
    "RunningEstate",
    "WsmanHost",
    "answers",
    "make_computer_entry",
    "make_entry",
]

_HOME = {
    "Account": "accounts",
    "Accounts": "accounts",
    "DirectorySpec": "directory",
    "DnsServer": "dns",
    "DnsZone": "dns",
    "Estate": "estate",
    "EstateCA": "certificates",
    "EstateSpec": "estate",
    "HostLab": "host_lab",
    "HostsThread": "wsman",
    "LdapServer": "directory",
    "Machine": "windows_host",
    "RunningEstate": "estate",
    "WsmanHost": "wsman",
    "answers": "windows_host",
    "make_computer_entry": "directory_data",
    "make_entry": "directory_data",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
