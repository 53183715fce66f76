"""What a stand-in directory holds: entries, builders of computer entries, and how a search picks among them. Pure.

Example:
    >>> entry = make_computer_entry("SRV1", "Windows Server 2022 Standard", domain="northvalley.test")
    >>> entry.dn
    'CN=SRV1,CN=Computers,DC=northvalley,DC=test'
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sansldap
from attrs import field, frozen, mutable

from msp_sdk.directory.entry import domain_to_dn, render_filetime, render_sid

_BIT_AND = "1.2.840.113556.1.4.803"
_BIT_OR = "1.2.840.113556.1.4.804"

UAC_DISABLED = 0x2
UAC_WORKSTATION = 0x1000
UAC_CONTROLLER = 0x2000 | 0x80000
UAC_READ_ONLY_CONTROLLER = 0x0400_0000 | 0x1000

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
        "objectSid": render_sid(f"S-1-5-21-1111-2222-3333-{1100 + identity.int % 1_000_000}"),
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


def escape_dn(value: str) -> str:
    """A value as it stands in a distinguished name (RFC 4514)."""
    escaped = "".join(f"\\{character}" if character in '\\,+"<>;=' else character for character in value)
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    return f"{escaped[:-1]}\\ " if escaped.endswith(" ") and len(value) > 1 else escaped


@mutable
class DirectorySpec:
    """A domain and what its directory holds. Change ``entries`` as you like between two searches.

    Attributes:
        hostname: The controller's short name.
        functional_level: 7 is Windows Server 2016.
        max_page_size: Answers are cut at this many entries, as Windows does; paging passes it.
        domain_in_root_dse: What the rootDSE claims, when it is to disagree.
    """

    domain: str
    netbios_name: str
    entries: list[DirectoryEntry] = field(factory=list)
    hostname: str = "dc1"
    ad_site: str = "Default-First-Site-Name"
    forest: str | None = None
    functional_level: int = 7
    max_page_size: int = 1000
    domain_in_root_dse: str | None = None

    @property
    def base_dn(self) -> str:
        """The partition root."""
        return domain_to_dn(self.domain)

    @property
    def configuration_dn(self) -> str:
        """The configuration partition, which lies in the forest's root domain."""
        return f"CN=Configuration,{domain_to_dn(self.forest or self.domain)}"

    def root_dse(self) -> DirectoryEntry:
        """What anybody may read."""
        base = domain_to_dn(self.domain_in_root_dse or self.domain)
        return make_entry(
            "",
            {
                "defaultNamingContext": base,
                "rootDomainNamingContext": domain_to_dn(self.forest or self.domain_in_root_dse or self.domain),
                "configurationNamingContext": self.configuration_dn,
                "schemaNamingContext": f"CN=Schema,{self.configuration_dn}",
                "namingContexts": (base, self.configuration_dn),
                "dnsHostName": f"{self.hostname}.{self.domain_in_root_dse or self.domain}",
                "serverName": f"CN={self.hostname.upper()},CN=Servers,CN={self.ad_site},CN=Sites,"
                f"{self.configuration_dn}",
                "domainFunctionality": self.functional_level,
                "forestFunctionality": self.functional_level,
                "domainControllerFunctionality": self.functional_level,
                "supportedLDAPVersion": (3, 2),
                "supportedControl": "1.2.840.113556.1.4.319",
                "supportedExtension": "1.3.6.1.4.1.1466.20037",
                "isGlobalCatalogReady": "TRUE",
            },
        )

    def cross_ref(self) -> DirectoryEntry:
        """The entry that holds the domain's NetBIOS name."""
        return make_entry(
            f"CN={self.netbios_name},CN=Partitions,{self.configuration_dn}",
            {
                "objectClass": ("top", "crossRef"),
                "nCName": self.base_dn,
                "dnsRoot": self.domain,
                "nETBIOSName": self.netbios_name,
                "systemFlags": 3,
            },
        )

    def find(self, base: str, scope: int, wanted: sansldap.LDAPFilter) -> list[DirectoryEntry] | None:
        """The entries that a search finds, in order; None when the base does not exist."""
        folded = fold_dn(base)
        in_configuration = folded.endswith(fold_dn(self.configuration_dn))
        pool: Iterable[DirectoryEntry] = [self.cross_ref()] if in_configuration else self.entries
        if not in_configuration and not folded.endswith(fold_dn(self.base_dn)):
            return None
        inside = [entry for entry in pool if _in_scope(fold_dn(entry.dn), folded, scope)]
        if scope == sansldap.SearchScope.BASE and not inside:
            return [] if folded == fold_dn(self.base_dn) else None
        return [entry for entry in inside if matches(wanted, entry)]


def fold_dn(dn: str) -> str:
    """A distinguished name for comparison: no space after commas, lower case."""
    return ",".join(part.strip() for part in dn.split(",")).lower()


def _in_scope(dn: str, base: str, scope: int) -> bool:
    if scope == sansldap.SearchScope.BASE:
        return dn == base
    if scope == sansldap.SearchScope.ONE_LEVEL:
        return dn.partition(",")[2] == base
    return dn == base or dn.endswith(f",{base}")


def matches(wanted: sansldap.LDAPFilter, entry: DirectoryEntry) -> bool:  # noqa: PLR0911 (one return a kind of filter)
    """True if the filter lets the entry pass; a kind of filter that the stand-in does not know never does."""
    match wanted:
        case sansldap.FilterAnd():
            return all(matches(part, entry) for part in wanted.filters)
        case sansldap.FilterOr():
            return any(matches(part, entry) for part in wanted.filters)
        case sansldap.FilterNot():
            return not matches(wanted.filter, entry)
        case sansldap.FilterPresent():
            return wanted.attribute.lower() in entry.folded
        case sansldap.FilterEquality():
            return any(_equal(wanted.attribute, value, wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterGreaterOrEqual():
            return any(_order(value) >= _order(wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterLessOrEqual():
            return any(_order(value) <= _order(wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterSubstrings():
            return any(_has_pieces(value.lower(), wanted) for value in _values(entry, wanted.attribute))
        case sansldap.FilterExtensibleMatch(rule=rule, attribute=str(name)) if rule in (_BIT_AND, _BIT_OR):
            return any(_has_bits(value, wanted.value, rule) for value in _values(entry, name))
    return False


def _values(entry: DirectoryEntry, attribute: str) -> tuple[bytes, ...]:
    return entry.folded.get(attribute.lower(), ())


def _equal(attribute: str, value: bytes, wanted: bytes) -> bool:
    if attribute.lower() == "objectcategory" and b"=" not in wanted:
        # Windows takes the class's short name for the distinguished name of its category.
        return value.lower().startswith(b"cn=" + wanted.lower() + b",")
    return value.lower() == wanted.lower()


def _order(value: bytes) -> tuple[int, int, bytes]:
    """Numbers by value, before text by its bytes."""
    try:
        return (0, int(value), b"")
    except ValueError:
        return (1, 0, value.lower())


def _has_pieces(value: bytes, wanted: sansldap.FilterSubstrings) -> bool:
    if wanted.initial is not None and not value.startswith(wanted.initial.lower()):
        return False
    rest = value[len(wanted.initial or b"") :]
    for piece in wanted.any or ():
        _, found, rest = rest.partition(piece.lower())
        if not found:
            return False
    return wanted.final is None or rest.endswith(wanted.final.lower())


def _has_bits(value: bytes, wanted: bytes, rule: str) -> bool:
    try:
        have, want = int(value), int(wanted)
    except ValueError:
        return False
    return have & want == want if rule == _BIT_AND else bool(have & want)


def _encode(value: Value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
