"""When a directory is read in full again by itself. Pure."""

from __future__ import annotations

from runners.appliance.kept_enumeration import KeptEnumeration

# A full reading reconciles: daily, more often for an account that does not see what was deleted, hourly where nothing
# tells what changes or Central refuses what was read, and soon after a change of controllers; not at once, since one
# that comes and goes would be read in full each time.
RECONCILE_S = 24 * 3600.0
RECONCILE_BLIND_S = 6 * 3600.0
RECONCILE_WITHOUT_CURSOR_S = 3600.0
RECONCILE_REFUSED_S = 3600.0
RECONCILE_MOVED_S = 900.0


def reconcile_s(kept: KeptEnumeration, *, is_refused: bool) -> float:
    """How old the full reading in what is kept may become.

    Args:
        kept: With what has changed since.
        is_refused: Central could not take what was reported of it.
    """
    if kept.at_another_controller:
        return RECONCILE_MOVED_S
    if is_refused:
        return RECONCILE_REFUSED_S
    if kept.enumeration.cursor is None:
        return RECONCILE_WITHOUT_CURSOR_S
    return RECONCILE_S if kept.sees_removals else RECONCILE_BLIND_S
