"""The way in when LDAP is closed on every controller: the controller itself is asked to read its directory.

A registered script runs on it through :mod:`msp_sdk.windows`, and the entries that it sends are judged by the same
table. It needs an administrator of the controller, which reading a directory by LDAP does not: so only a
``domain_admin`` credential goes there, and never a service account.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from msp_sdk.directory.entry import Entry
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, COMPUTER_FILTER
from msp_sdk.errors import WireError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController
from msp_sdk.models.target import Target
from msp_sdk.windows.scripts import load

if TYPE_CHECKING:
    from msp_sdk.windows.shell import WindowsShell

DEADLINE_S = 600.0
_PAGE_SIZE = 1000
_MAX_BYTES = 512 * 2**20


class ShellOpener(Protocol):
    """Opens shells on hosts: :class:`msp_sdk.windows.shell.WindowsShells`."""

    def open(self, target: Target, credential: Credential) -> AbstractAsyncContextManager[WindowsShell]:
        """Connect to a host and log on."""
        ...


def controller_target(controller: DomainController, domain_name: str) -> Target:
    """A controller as a host to run a script on."""
    return Target(
        hostname=controller.fqdn.partition(".")[0],
        role="domain_controller",
        fqdn=controller.fqdn,
        domain_name=domain_name,
        ip_addresses=controller.addresses,
    )


async def read_by_shell(shells: ShellOpener, target: Target, credential: Credential, base_dn: str) -> tuple[Entry, ...]:
    """Read all computers on a controller.

    Raises:
        LogonError: The logon was refused or not allowed; ``not-authorised-here`` where the account is no
            administrator of the controller.
        WindowsError: The controller cannot be reached, or did not do it.
        WireError: What came is not what the script sends, or holds no computer.
    """
    parameters: dict[str, object] = {
        "base_dn": base_dn,
        "filter": COMPUTER_FILTER,
        "attributes": list(COMPUTER_ATTRIBUTES),
        "page_size": _PAGE_SIZE,
    }
    async with shells.open(target, credential) as shell:
        result = await shell.run(load("directory-computers"), parameters, deadline_s=DEADLINE_S)
    entries = parse_entries(result.value.get("entries"))
    if not entries:
        # The controller is one itself: it was let read nothing.
        raise WireError("the controller sent no computer, not even itself.")
    if len(entries) != result.value.get("count"):
        raise WireError("the controller sent another number of entries than it says.")
    return entries


def parse_entries(packed: object) -> tuple[Entry, ...]:
    """The entries that the script ``directory-computers`` sends.

    Raises:
        WireError: They are malformed, or too many. Not retryable.
    """
    if not isinstance(packed, str):
        raise WireError("the controller sent no entries.")
    try:
        unpacker = zlib.decompressobj(wbits=31)
        text = unpacker.decompress(base64.b64decode(packed, validate=True), _MAX_BYTES)
        if not unpacker.eof:
            raise WireError("the controller sent too much, or not all of it.")
        return tuple(_parse_line(line) for line in text.decode("ascii").split("\n") if line)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise WireError("the controller sent what are no entries.") from error


def _parse_line(line: str) -> Entry:
    dn, *parts = line.split("\t")
    attributes: dict[str, tuple[bytes, ...]] = {}
    for part in parts:
        # Values are base64, which may end in = itself.
        name, _, values = part.partition("=")
        attributes[name.lower()] = tuple(base64.b64decode(value, validate=True) for value in values.split(","))
    return Entry(base64.b64decode(dn, validate=True).decode("utf-8", errors="replace"), attributes)
