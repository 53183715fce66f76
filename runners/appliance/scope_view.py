"""What of a domain belongs to the site, by the scope of now, and who was read once and is left out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from msp_sdk.enumeration import narrow, place
from msp_sdk.enumeration.locality import OUT_OF_SCOPE, Locality
from msp_sdk.models.computer import Computer, Enumeration, RemovedComputer
from msp_sdk.models.scope import SiteScope


@frozen
class _Narrowed:
    """The computers of an enumeration under another scope than it was read in."""

    enumeration: Enumeration
    scope: SiteScope
    computers: tuple[Computer, ...]


class ScopeView:
    """See the module.

    Args:
        domain_name: Folded.

    Attributes:
        left_out: objectGUIDs of computers that were read once, and that the scope leaves out.
    """

    def __init__(self, domain_name: str) -> None:
        self._domain_name = domain_name
        self._narrowed: _Narrowed | None = None
        self.left_out: set[str] = set()

    def narrowed(self, enumeration: Enumeration, scope: SiteScope, locality: Locality) -> tuple[Computer, ...]:
        """The computers of an enumeration that a scope covers, or those it says to be outside of it; same order.

        The same object while nothing has changed.
        """
        known = self._narrowed
        if known is None or known.enumeration is not enumeration or known.scope != scope:
            computers = narrow(enumeration.computers, scope, self._domain_name)
            known = self._narrowed = _Narrowed(enumeration, scope, place(computers, locality))
        return known.computers

    def note_reading(self, enumeration: Enumeration, before: Sequence[Computer]) -> None:
        """Who was there ``before`` and is missing now is gone only if this reading is sure to have looked at it."""
        if enumeration.scope.is_everything:
            # It would have been read: whoever is not there was deleted meanwhile.
            self.left_out.clear()
            return
        present = {computer.object_guid for computer in enumeration.computers}
        self.left_out -= present
        self.left_out |= {
            computer.object_guid
            for computer in before
            if computer.object_guid not in present
            and not enumeration.scope.covers(hostname=computer.hostname, ou_path=computer.ou_path, role=computer.role)
        }

    def note_changes(self, changed: Iterable[Computer], removed: Iterable[RemovedComputer]) -> None:
        """Who is told anew is in the scope; who left it is still there."""
        self.left_out -= {entry.object_guid for entry in changed}
        self.left_out |= {entry.object_guid for entry in removed if entry.reason == OUT_OF_SCOPE}
