"""Events of a site: what changed, in the order of the site's own sequence. And what the audit keeps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import field, frozen


@frozen
class Event:
    """Something changed at a site; the reader fetches what it wants to know."""

    sequence: int
    type: str
    at: datetime
    data: Mapping[str, object] = field(factory=dict)


@frozen
class AuditEntry:
    """Who did what, when and from where. ``digest`` chains over the entry before, per site."""

    sequence: int
    at: datetime
    actor: str
    action: str
    address: str | None = None
    site_id: str | None = None
    detail: Mapping[str, object] = field(factory=dict)
    digest: str = ""
