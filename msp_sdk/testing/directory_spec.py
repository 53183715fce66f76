"""A domain as one controller holds it: what tests write into it, and what searches find there. Pure but for the clock.

Example:
    >>> spec = DirectorySpec("corp.example", "CORP")
    >>> spec.put(make_entry("OU=Berlin,DC=corp,DC=example", {"objectClass": ("top", "organizationalUnit")}))
    >>> second = spec.replica("dc2")
    >>> spec.delete("OU=Berlin,DC=corp,DC=example")
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import sansldap
from attrs import field, mutable

from msp_sdk.directory.entry import domain_to_dn
from msp_sdk.testing.directory_data import DirectoryEntry, Value, make_entry
from msp_sdk.testing.directory_filter import IN_CHAIN, fold_dn, in_scope, matches, split_dn
from msp_sdk.testing.directory_log import DELETED_OBJECTS, Change, DirectoryLog, guid_of, guid_of_name
from msp_sdk.testing.directory_rights import EVERYTHING, DirectoryRights, Reader

SUPPORTED_CONTROLS = (
    "1.2.840.113556.1.4.319",
    "1.2.840.113556.1.4.417",
    "1.2.840.113556.1.4.841",
    "1.2.840.113556.1.4.1339",
)
_GUID_BASE = re.compile(r"<GUID=([0-9a-fA-F-]{32,36})>", re.ASCII)
_PLAIN_GUID_CHARACTERS = 32


@mutable(eq=False)
class DirectorySpec:
    """A domain as one controller holds it.

    Write by :meth:`put`, :meth:`change`, :meth:`move`, :meth:`delete`, or change ``entries`` as you like between two
    searches: what changed there is found by comparing, and numbered then.

    Attributes:
        hostname: The controller's short name.
        subnets: The networks of the forest's sites: network to site.
        functional_level: Of the domain; 7 is Windows Server 2016.
        forest_level: Of the forest; None means the domain's. So does ``controller_level``.
        max_page_size: Answers are cut at this many entries, as Windows does; paging passes it.
        max_val_range: An attribute with more values comes in ranges of so many.
        domain_in_root_dse: What the rootDSE claims, when it is to disagree.
        rights: Who may read what; shared by the replicas.
        sasl_mechanisms: What the rootDSE offers.
        replication_delay_s: How long a partner's write takes to get here; by default it is here at once, and with
            ``math.inf`` at :meth:`replicate` alone.
        clock: The time, for stamps and for that delay.
        invocation_id: Names this controller's database; where its numbers begin follows from it.
    """

    domain: str
    netbios_name: str
    entries: list[DirectoryEntry] = field(factory=list)
    hostname: str = "dc1"
    ad_site: str = "Default-First-Site-Name"
    subnets: dict[str, str] = field(factory=dict)
    forest: str | None = None
    functional_level: int = 7
    forest_level: int | None = None
    controller_level: int | None = None
    max_page_size: int = 1000
    max_val_range: int = 1500
    domain_in_root_dse: str | None = None
    rights: DirectoryRights = field(factory=DirectoryRights)
    sasl_mechanisms: tuple[str, ...] = ("GSSAPI", "GSS-SPNEGO", "EXTERNAL", "DIGEST-MD5")
    replication_delay_s: float = 0.0
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    invocation_id: uuid.UUID = field(factory=uuid.uuid4)
    _log: DirectoryLog = field(init=False, repr=False)
    _seen: list[DirectoryEntry] = field(init=False, factory=list, repr=False)
    _partners: list[DirectorySpec] = field(init=False, factory=list, repr=False)
    _waiting: list[Change] = field(init=False, factory=list, repr=False)
    _root: DirectoryEntry = field(init=False, repr=False)
    _container: DirectoryEntry = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._log = DirectoryLog(self.base_dn, self.invocation_id)
        container = f"{DELETED_OBJECTS},{self.base_dn}"
        self._root = make_entry(
            self.base_dn,
            {
                "objectClass": ("top", "domain", "domainDNS"),
                "objectGUID": guid_of_name(fold_dn(self.base_dn)),
                "name": self.domain.partition(".")[0],
            },
        )
        self._container = make_entry(
            container,
            {
                "objectClass": ("top", "container"),
                "objectGUID": guid_of_name(fold_dn(container)),
                "name": "Deleted Objects",
                "isDeleted": "TRUE",
            },
        )

    @property
    def base_dn(self) -> str:
        """The partition root."""
        return domain_to_dn(self.domain)

    @property
    def configuration_dn(self) -> str:
        """The configuration partition, which lies in the forest's root domain."""
        return f"CN=Configuration,{domain_to_dn(self.forest or self.domain)}"

    @property
    def server_dn(self) -> str:
        """This controller's own object in its site."""
        return f"CN={self.hostname.upper()},CN=Servers,CN={self.ad_site},CN=Sites,{self.configuration_dn}"

    @property
    def log(self) -> DirectoryLog:
        """What is held, up to date."""
        self._refresh()
        return self._log

    # Writing.

    def put(self, entry: DirectoryEntry) -> None:
        """Add an entry, or replace the one with its identity."""
        record = self.log.records.get(guid_of(entry))
        if record is None or record.deleted:
            self.entries.append(entry)
            self._seen.append(entry)
        else:
            self._replace(record.entry.dn, entry)
        self._tell(self._log.write(entry, self.clock()))

    def change(self, dn: str, attributes: Mapping[str, Value | Sequence[Value] | None]) -> None:
        """Set attributes of an entry; None or no values removes one.

        Raises:
            KeyError: There is no such entry.
        """
        values = dict(self._plain(dn).attributes)
        for name, value in attributes.items():
            known = next((other for other in values if other.lower() == name.lower()), name)
            values.pop(known, None)
            if value is not None:
                values |= {key: each for key, each in make_entry(dn, {known: value}).attributes.items() if key == known}
        self.put(DirectoryEntry(self._plain(dn).dn, values))

    def move(self, dn: str, parent: str, *, name: str | None = None) -> str:
        """Move an entry below another parent, or give it another name as well; returns where it is now.

        What lies below goes along, and no change tells of it.

        Raises:
            KeyError: There is no such entry.
        """
        entry = self._plain(dn)
        first = split_dn(entry.dn)[0] if name is None else f"{split_dn(entry.dn)[0].partition('=')[0]}={name}"
        moved = f"{first},{parent}"
        attributes = dict(entry.attributes) | {"distinguishedName": (moved.encode(),), "objectGUID": (guid_of(entry),)}
        if name is not None:
            attributes |= {"cn": (name.encode(),), "name": (name.encode(),)}
        self.put(DirectoryEntry(moved, attributes))
        self._take_along(entry.dn, moved)
        return moved

    def delete(self, dn: str) -> None:
        """Delete an entry; a tombstone stays.

        Raises:
            KeyError: There is no such entry.
        """
        guid = guid_of(self._plain(dn))
        self._replace(dn, None)
        self._tell(self._log.delete(guid, self.clock()))

    def replica(self, hostname: str, *, delay_s: float = 0.0, invocation_id: uuid.UUID | None = None) -> DirectorySpec:
        """Another controller of this domain, with numbers of its own; writes reach each other's after the delay."""
        other = DirectorySpec(
            self.domain,
            self.netbios_name,
            hostname=hostname,
            ad_site=self.ad_site,
            subnets=self.subnets,
            forest=self.forest,
            functional_level=self.functional_level,
            max_page_size=self.max_page_size,
            max_val_range=self.max_val_range,
            rights=self.rights,
            sasl_mechanisms=self.sasl_mechanisms,
            replication_delay_s=delay_s,
            clock=self.clock,
            invocation_id=invocation_id or uuid.uuid4(),
        )
        for record in sorted(self.log.records.values(), key=lambda each: each.usn_changed):
            for version in sorted(set(record.versions.values()), key=lambda each: each.usn):
                names = {record.names[name]: name for name, held in record.versions.items() if held == version}
                values = {name: record.entry.folded.get(folded, ()) for name, folded in names.items()}
                guid = record.entry.folded["objectguid"][0]
                other._take(Change(guid, record.entry.dn, values, version, self.clock()))
        for partner in (self, *self._partners):
            partner._partners.append(other)  # noqa: SLF001 (the same class)
            other._partners.append(partner)
        return other

    def replicate(self) -> None:
        """Take at once what partners wrote and the delay still holds back."""
        self._refresh(everything=True)

    def _tell(self, change: Change | None) -> None:
        if change is not None:
            for partner in self._partners:
                partner._waiting.append(change)  # noqa: SLF001 (the same class)

    def _take(self, change: Change) -> None:
        before = self._log.records.get(change.guid)
        dn = None if before is None or before.deleted else before.entry.dn
        self._log.apply(change)
        record = self._log.records[change.guid]
        held = None if record.deleted else record.entry
        if dn is not None:
            self._replace(dn, held)
            if held is not None:
                self._take_along(dn, held.dn)
        elif held is not None:
            self.entries.append(held)
            self._seen.append(held)

    def _refresh(self, *, everything: bool = False) -> None:
        """Take what partners wrote, and number what was changed in ``entries`` by hand."""
        if self._seen != self.entries:
            self._compare()
        now = self.clock()
        while self._waiting and (everything or (now - self._waiting[0].at).total_seconds() >= self.replication_delay_s):
            self._take(self._waiting.pop(0))

    def _compare(self) -> None:
        now = self.clock()
        present: set[bytes] = set()
        # Only what is not the very same object can have changed.
        known = {id(entry) for entry in self._seen}
        for entry in self.entries:
            guid = guid_of(entry)
            if guid in present:
                guid = guid_of_name(fold_dn(entry.dn))
            present.add(guid)
            if id(entry) not in known:
                self._tell(self._log.write(DirectoryEntry(entry.dn, {**entry.attributes, "objectGUID": (guid,)}), now))
        for guid in [guid for guid, record in self._log.records.items() if not record.deleted and guid not in present]:
            self._tell(self._log.delete(guid, now))
        self._seen = list(self.entries)

    def _take_along(self, before: str, after: str) -> None:
        if before != after:
            for dn, entry in self._log.relocate(before, after).items():
                self._replace(dn, entry)

    def _plain(self, dn: str) -> DirectoryEntry:
        """The entry of a name, as it is held."""
        record = self.log.alive(dn)
        if record is None:
            raise KeyError(dn)
        return record.entry

    def _replace(self, dn: str, entry: DirectoryEntry | None) -> None:
        folded = fold_dn(dn)
        at = next(number for number, each in enumerate(self.entries) if fold_dn(each.dn) == folded)
        self.entries[at : at + 1] = [] if entry is None else [entry]
        self._seen[at : at + 1] = [] if entry is None else [entry]

    # Reading.

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
                "serverName": self.server_dn,
                "dsServiceName": f"CN=NTDS Settings,{self.server_dn}",
                "highestCommittedUSN": self.log.usn,
                "currentTime": self.clock().strftime("%Y%m%d%H%M%S.0Z"),
                "domainFunctionality": self.functional_level,
                "forestFunctionality": self.forest_level or self.functional_level,
                "domainControllerFunctionality": self.controller_level or self.functional_level,
                "supportedLDAPVersion": (3, 2),
                "supportedControl": SUPPORTED_CONTROLS,
                "supportedSASLMechanisms": self.sasl_mechanisms,
                "supportedExtension": "1.3.6.1.4.1.1466.20037",
                "isSynchronized": "TRUE",
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

    def ntds_settings(self) -> DirectoryEntry:
        """The entry that holds the identity of this controller's database."""
        return make_entry(
            f"CN=NTDS Settings,{self.server_dn}",
            {
                "objectClass": ("top", "applicationSettings", "nTDSDSA"),
                "objectGUID": guid_of_name(fold_dn(self.server_dn)),
                "invocationId": self.invocation_id.bytes_le,
            },
        )

    def _topology(self) -> Iterator[DirectoryEntry]:
        """The sites of the forest and their networks."""
        sites = f"CN=Sites,{self.configuration_dn}"
        for name in sorted({self.ad_site, *self.subnets.values()}):
            yield make_entry(f"CN={name},{sites}", {"objectClass": ("top", "site"), "cn": name})
        for network, name in self.subnets.items():
            yield make_entry(
                f"CN={network},CN=Subnets,{sites}",
                {"objectClass": ("top", "subnet"), "cn": network, "siteObject": f"CN={name},{sites}"},
            )

    def referral(self, base: str) -> str | None:
        """Where to ask for a base of another domain or forest; None when it belongs here, or is no domain's."""
        folded = fold_dn(base)
        parts = [part[3:] for part in folded.split(",") if part.startswith("dc=")]
        if not parts or folded.endswith((fold_dn(self.base_dn), fold_dn(self.configuration_dn))):
            return None
        return ".".join(parts)

    def find(
        self,
        base: str,
        scope: int,
        wanted: sansldap.LDAPFilter,
        reader: Reader = EVERYTHING,
        *,
        show_deleted: bool = False,
    ) -> list[DirectoryEntry] | None:
        """The entries that a search finds, in order; None when the base does not exist for this reader."""
        log = self.log
        if (by_guid := _GUID_BASE.fullmatch(base)) is not None:
            record = log.records.get(_guid_in_base(by_guid[1]))
            if record is None:
                return None
            base = record.entry.dn
        folded = fold_dn(base)
        in_configuration = folded.endswith(fold_dn(self.configuration_dn))
        if not in_configuration and not folded.endswith(fold_dn(self.base_dn)):
            return None
        if scope == sansldap.SearchScope.BASE and not in_configuration:
            pool = self._at(folded, show_deleted=show_deleted and reader.deleted)
        else:
            pool = self._pool(show_deleted=show_deleted and reader.deleted, configuration=in_configuration)
        inside = [
            seen
            for entry in pool
            if in_scope(fold_dn(entry.dn), folded, scope) and (seen := reader.view(entry)) is not None
        ]
        if scope == sansldap.SearchScope.BASE and not inside:
            return None
        lookup = self._lookup if IN_CHAIN in str(wanted) else _nobody
        return [entry for entry in inside if matches(wanted, entry, lookup)]

    def _pool(self, *, show_deleted: bool, configuration: bool) -> Iterator[DirectoryEntry]:
        if configuration:
            yield self.cross_ref()
            yield self.ntds_settings()
            yield from self._topology()
            return
        tombstones = []
        for record in self._log.records.values():
            if not record.deleted:
                yield record.entry
            elif show_deleted:
                tombstones.append(record.entry)
        if show_deleted:
            yield self._container
        yield from tombstones

    def _at(self, folded: str, *, show_deleted: bool) -> Iterator[DirectoryEntry]:
        record = self._log.records.get(self._log.guids.get(folded, b""))
        if record is not None:
            if show_deleted or not record.deleted:
                yield record.entry
        elif folded == fold_dn(self.base_dn):
            yield self._root
        elif show_deleted and folded == fold_dn(self._container.dn):
            yield self._container
        elif any(
            fold_dn(each.entry.dn).endswith(f",{folded}") for each in self._log.records.values() if not each.deleted
        ):
            # A container that nobody wrote, in which something lies.
            yield make_entry(folded, {"objectClass": "top", "name": split_dn(folded)[0].partition("=")[2]})

    def _lookup(self, folded: str) -> DirectoryEntry | None:
        record = self._log.alive(folded)
        return None if record is None else record.entry


def _nobody(_: str) -> None:
    return None


def _guid_in_base(text: str) -> bytes:
    """``<GUID=...>`` holds the bytes as they are stored, or, with dashes, as people write them."""
    if len(text) == _PLAIN_GUID_CHARACTERS and "-" not in text:
        return bytes.fromhex(text)
    try:
        return uuid.UUID(text).bytes_le
    except ValueError:
        return b""
