"""What of a domain a report speaks for. A pure rule; a scope that is not understood speaks for nothing."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from attrs import field, frozen

from msp_sdk.errors import WireError
from msp_sdk.models.computer import EnumerationScope
from msp_sdk.wire.converter import structure

_KNOWN = frozenset(entry.name for entry in attrs.fields(EnumerationScope))


@frozen
class ReportScope:
    """Which computers a full report would have held.

    Attributes:
        scope: As the report says it.
        is_clear: False when the report was narrowed by something that no model here knows: then nobody can say what
            it left out, and nothing that is missing in it has vanished.
    """

    scope: EnumerationScope = field(factory=EnumerationScope)
    is_clear: bool = True

    @property
    def is_everything(self) -> bool:
        """Whether the report held all computers of its domain."""
        return self.is_clear and self.scope.is_everything

    def covers(self, *, hostname: str, ou_path: str, role: str) -> bool:
        """Whether a computer like this would have been in the report for sure."""
        return self.is_clear and self.scope.covers(hostname=hostname, ou_path=ou_path, role=role)


def scope_of_report(data: object) -> ReportScope:
    """The scope of a whole report, or of its first line, as JSON says it; also of a newer peer."""
    results = data.get("results") if isinstance(data, Mapping) else None
    return read_scope(results.get("scope") if isinstance(results, Mapping) else None)


def read_scope(data: object) -> ReportScope:
    """The scope as JSON says it."""
    if not data:
        return ReportScope()
    if not isinstance(data, Mapping) or any(value for name, value in data.items() if name not in _KNOWN):
        return ReportScope(is_clear=False)
    try:
        return ReportScope(structure(data, EnumerationScope))
    except WireError:
        return ReportScope(is_clear=False)
