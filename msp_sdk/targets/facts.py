"""The facts of one target while it is put together: the first source that knows a field has the say."""

from __future__ import annotations

from typing import Any

from attrs import field, mutable

from msp_sdk.models.computer import Computer
from msp_sdk.models.target import Target

DIRECTORY_FIELDS = ("hostname", "role", "fqdn", "domain_name", "object_guid", "sid", "ip_addresses", "os_name")
PROBE_FIELDS = ("doors", "reachable", "unreachable_reason")


@mutable
class Facts:
    """Values by field and where each comes from."""

    # Any: the fields' own types are checked where they are read from a model.
    values: dict[str, Any] = field(factory=dict)
    sources: dict[str, str] = field(factory=dict)

    def take(self, name: str, value: object, source: str) -> None:
        """Take a value unless there is one already, or this is none."""
        if name not in self.values and value not in (None, (), ""):
            self.values[name] = value
            self.sources[name] = source

    def target(self) -> Target:
        """The target as it stands."""
        return Target(**self.values, provenance=dict(sorted(self.sources.items())))


def take_computer(facts: Facts, computer: Computer) -> None:
    """Take what the directory knows, and what probing found."""
    for name in DIRECTORY_FIELDS:
        facts.take(name, getattr(computer, name), "directory")
    if computer.reachable is not None:
        for name in PROBE_FIELDS:
            facts.take(name, getattr(computer, name), "probe")
