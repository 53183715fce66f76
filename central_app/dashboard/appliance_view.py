"""What the page says of a site's appliances: whether they check in, and what they say does not work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from attrs import frozen

from central_app.dashboard.view import ICONS, Tone, Words, ago
from msp_sdk.models.appliance import Appliance
from msp_sdk.models.reason import REASONS

LATE_AFTER_INTERVALS = 3
APPLIANCE_WORDS: dict[str, tuple[str, Tone]] = {
    "awaiting_approval": ("Awaiting approval", "wait"),
    "revoked": ("Revoked", "bad"),
}


@frozen
class ApplianceLine:
    """An appliance as the table has it."""

    name: str
    mac: str
    word: str
    tone: Tone
    icon: str
    seen: str = ""
    ago: str = ""
    version: str = ""
    problems: tuple[Words, ...] = ()


def make_appliance(appliance: Appliance, now: datetime, interval: timedelta) -> ApplianceLine:
    """An appliance; one that has missed three check-ins is late, which is neither on nor off."""
    word, tone = APPLIANCE_WORDS.get(appliance.state, ("", "idle"))
    if not word:
        if appliance.last_seen_at is None:
            word, tone = "Not seen yet", "wait"
        elif now - appliance.last_seen_at > interval * LATE_AFTER_INTERVALS:
            word, tone = "Late", "wait"
        else:
            word, tone = "Checks in", "good"
    seen = appliance.last_seen_at
    return ApplianceLine(
        name=appliance.hostname or appliance.mac_address,
        mac=appliance.mac_address,
        word=word,
        tone=tone,
        icon=ICONS[tone],
        seen=seen.isoformat() if seen else "",
        ago=ago(seen, now) if seen else "",
        version=appliance.agent_version or "",
        problems=_problems(appliance),
    )


def _problems(appliance: Appliance) -> tuple[Words, ...]:
    """What an appliance said does not work, in words; one of a newer kind is shown as it is."""
    said = appliance.health.get("problems")
    if not isinstance(said, Mapping):
        return ()
    found = []
    for what, code in said.items():
        known = REASONS.get(str(code))
        found.append(Words(f"{what}: {known.title if known else code}", known.remedy if known else ""))
    return tuple(found)
