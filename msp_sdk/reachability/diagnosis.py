"""What the doors of a host say about it. No I/O.

Example:
    >>> diagnose([]).reason
    'no-address'
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from msp_sdk.network.probe import Door


@frozen
class Diagnosis:
    """Whether a host can be reached.

    Attributes:
        doors: Ports that stand open, ascending.
        reachable: None when our own side's trouble kept us from finding out.
        reason: A reason code; None when it is reachable.
    """

    doors: tuple[int, ...]
    reachable: bool | None
    reason: str | None


def diagnose(doors: Sequence[Door]) -> Diagnosis:
    """Judge a host by its doors.

    Silence is never called "off" (lesson 56): a firewall that drops everything looks the same.

    Args:
        doors: Of all its addresses, in any order; empty when it has no address.
    """
    if not doors:
        return Diagnosis((), reachable=False, reason="no-address")
    states = {door.state for door in doors}
    if "open" in states:
        ports = tuple(sorted({door.port for door in doors if door.state == "open"}))
        return Diagnosis(ports, reachable=True, reason=None)
    if "refused" in states:
        return Diagnosis((), reachable=False, reason="winrm-closed")
    if "silent" in states:
        return Diagnosis((), reachable=False, reason="no-answer")
    return Diagnosis((), reachable=None, reason="internal")
