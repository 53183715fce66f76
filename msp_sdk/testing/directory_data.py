"""What a stand-in directory holds: entries and builders of computer entries. Pure.

Example:
    >>> entry = make_computer_entry("SRV1", "Windows Server 2022 Standard", domain="northvalley.test")
    >>> entry.dn
    'CN=SRV1,CN=Computers,DC=northvalley,DC=test'
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from attrs import field, frozen

from msp_sdk.directory.entry import domain_to_dn, escape_dn, render_filetime, render_sid

UAC_DISABLED = 0x2
UAC_WORKSTATION = 0x1000
UAC_CONTROLLER = 0x2000 | 0x80000
UAC_READ_ONLY_CONTROLLER = 0x0400_0000 | 0x1000

# Of every domain here; what stands behind it numbers the accounts.
DOMAIN_SID = "S-1-5-21-1111-2222-3333"

Value = str | bytes | int


@frozen
class DirectoryEntry:
    """An entry: its name and its attributes, in the case a directory uses."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]
    folded: Mapping[str, tuple[bytes, ...]] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "folded", {name.lower(): values for name, values in self.attributes.items()})


def make_entry(dn: str, attributes: Mapping[str, Value | Sequence[Value]]) -> DirectoryEntry:
    """Build an entry from plain values; text is UTF-8, numbers are decimal."""
    encoded: dict[str, tuple[bytes, ...]] = {"distinguishedName": (dn.encode(),)}
    for name, value in attributes.items():
        values = [value] if isinstance(value, str | bytes | int) else list(value)
        if values:
            encoded[name] = tuple(_encode(item) for item in values)
    return DirectoryEntry(dn, encoded)


def make_computer_entry(
    name: str,
    os_name: str | None,
    *,
    domain: str,
    os_version: str | None = None,
    ou: str = "CN=Computers",
    seen_at: datetime | None = None,
    uac: int = UAC_WORKSTATION,
    **more: Value | Sequence[Value] | None,
) -> DirectoryEntry:
    """Build a computer as a joined machine leaves it.

    Args:
        name: The short name; it may need escapes in the distinguished name.
        os_name: None for an account that was made before its machine: then it has no ``dNSHostName`` either.
        domain: The domain's DNS name.
        os_version: As Windows writes it, such as ``10.0 (20348)``.
        ou: The containers below the domain's root, leaf first, as in a distinguished name.
        seen_at: Last logon and last password change; now when it is left out.
        uac: ``userAccountControl``.
        more: Further attributes, or other values for these; None removes one.
    """
    now = datetime.now(UTC)
    stamp = render_filetime(seen_at or now)
    identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{domain}".lower())
    controller = bool(uac & UAC_CONTROLLER & ~UAC_WORKSTATION)
    attributes: dict[str, Value | Sequence[Value] | None] = {
        "objectClass": ("top", "person", "organizationalPerson", "user", "computer"),
        "objectCategory": f"CN=Computer,CN=Schema,CN=Configuration,{domain_to_dn(domain)}",
        "cn": name,
        "name": name,
        "sAMAccountName": f"{name[:15].upper()}$",
        "objectGUID": identity.bytes_le,
        "objectSid": render_sid(f"{DOMAIN_SID}-{1100 + identity.int % 1_000_000}"),
        "userAccountControl": uac,
        "primaryGroupID": 516 if controller else 515,
        "whenCreated": ((seen_at or now) - timedelta(days=400)).strftime("%Y%m%d%H%M%S.0Z"),
        "pwdLastSet": stamp,
    }
    if os_name is not None:
        attributes |= {
            "dNSHostName": f"{name.lower()}.{domain}",
            "operatingSystem": os_name,
            "operatingSystemVersion": os_version,
            "lastLogonTimestamp": stamp,
            "servicePrincipalName": (f"HOST/{name}", f"HOST/{name.lower()}.{domain}"),
        }
    else:
        attributes |= {"whenCreated": now.strftime("%Y%m%d%H%M%S.0Z"), "pwdLastSet": 0}
    attributes |= more
    dn = f"CN={escape_dn(name)},{ou},{domain_to_dn(domain)}"
    return make_entry(dn, {key: value for key, value in attributes.items() if value is not None})


def make_service_account_entry(name: str, *, domain: str) -> DirectoryEntry:
    """Build a group managed service account: an object that is a computer to every naive filter."""
    return make_computer_entry(
        name,
        None,
        domain=domain,
        ou="CN=Managed Service Accounts",
        objectClass=(
            "top",
            "person",
            "organizationalPerson",
            "user",
            "computer",
            "msDS-GroupManagedServiceAccount",
        ),
        dNSHostName=f"{name.lower()}.{domain}",
    )


def _encode(value: Value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
