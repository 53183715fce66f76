"""Which targets a rollout covers, and which outcome belongs to which target.

Pure rules on names. A host is one host whether it is spelled ``SRV1``, ``srv1.corp.example`` or by its objectGUID;
two hosts with different objectGUIDs are two hosts, though both may be called ``SRV1``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from attrs import field, frozen

from msp_sdk.models.rollout import RolloutScope

T = TypeVar("T")


@frozen
class HostNames:
    """All that names a host in a report."""

    hostname: str
    fqdn: str | None = None
    object_guid: str | None = None

    @property
    def key(self) -> str:
        """The one key it is stored under: the objectGUID, else the folded name."""
        return host_key(self.hostname, self.object_guid, self.fqdn)

    @property
    def folded(self) -> frozenset[str]:
        """Its names, folded; the objectGUID is not among them."""
        return frozenset(name.casefold() for name in (self.hostname, self.fqdn) if name)


def host_key(hostname: str, object_guid: str | None, fqdn: str | None = None) -> str:
    """What names a host in Central's tables: its folded objectGUID, else its folded name."""
    return (object_guid or fqdn or hostname).casefold()


@frozen
class HostIndex(Generic[T]):
    """Finds what was reported of a host, by objectGUID first and by name where one side knows no objectGUID."""

    _by_guid: Mapping[str, T] = field(factory=dict)
    _by_name: Mapping[str, T] = field(factory=dict)
    _by_name_without_guid: Mapping[str, T] = field(factory=dict)

    @classmethod
    def make(cls, entries: Iterable[tuple[HostNames, T]]) -> HostIndex[T]:
        """Index entries; of two with the same name the later one wins."""
        by_guid: dict[str, T] = {}
        by_name: dict[str, T] = {}
        without: dict[str, T] = {}
        for names, value in entries:
            if names.object_guid:
                by_guid[names.object_guid.casefold()] = value
            for name in names.folded:
                by_name[name] = value
                if not names.object_guid:
                    without[name] = value
        return cls(by_guid, by_name, without)

    def find(self, host: HostNames) -> T | None:
        """What was reported of this host, or None."""
        if host.object_guid:
            found = self._by_guid.get(host.object_guid.casefold())
            if found is not None:
                return found
        names = self._by_name_without_guid if host.object_guid else self._by_name
        return next((names[name] for name in sorted(host.folded) if name in names), None)


def covers(scope: RolloutScope, host: HostNames, role: str) -> bool:
    """Whether a rollout covers a target. ``include`` names hosts beyond the roles; ``exclude`` always wins."""
    names = host.folded | ({host.object_guid.casefold()} if host.object_guid else set())
    if any(name.casefold() in names for name in scope.exclude):
        return False
    return role in scope.roles or any(name.casefold() in names for name in scope.include)
