"""A site drawn from a seed: names, systems, and trouble in it. Pure: the same arguments give the same site.

Example:
    >>> from datetime import UTC, datetime
    >>> plan = plan_site(7, computers=20, faults={"silent": 3}, network=77, now=datetime.now(UTC))
    >>> sum(entry.truth == "no-answer" for entry in plan)
    3
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from attrs import evolve

from msp_sdk.errors import ConfigError
from msp_sdk.testing import wsman_faults
from msp_sdk.testing.estate_faults import COMPUTER_LAYERS, TROUBLES, Layer, Wanted, is_share, troubles_of
from msp_sdk.testing.estate_plan import (
    AGENT,
    ROOMS,
    SERVER_NAMES,
    SERVER_SYSTEMS,
    WORKSTATION_SYSTEMS,
    PlannedComputer,
    address_of,
    check_count,
    number_accounts,
)

_SERVERS_SHARE = 0.25
_ROLES: tuple[tuple[Literal["server", "workstation"], Sequence[str], Sequence[tuple[str, str]]], ...] = (
    ("server", [name for name in SERVER_NAMES if name != "IMAGING"], SERVER_SYSTEMS),
    ("workstation", ROOMS, WORKSTATION_SYSTEMS),
)


def plan_site(
    seed: int, *, computers: int, faults: Wanted, network: int, now: datetime, controllers: int = 2
) -> tuple[PlannedComputer, ...]:
    """Draw a site.

    As long as what is asked for is no more than there are computers, each trouble has a computer to itself. Beyond
    that each layer is drawn by itself, and a computer may have one of each. One server is always well.

    Args:
        seed: Names, systems and who has which trouble follow from it.
        computers: How many there are, the controllers among them.
        faults: See :mod:`msp_sdk.testing.estate_faults`.
        network: The second octet of their loopback addresses.
        now: Last logons are counted from here.
        controllers: How many controllers; their own troubles are not of this plan.

    Returns:
        Controllers first, then servers, then workstations.

    Raises:
        ConfigError: A number is out of its range, a fault is not known, or there are more of them than computers.
    """
    check_count(computers)
    if not 1 <= controllers <= computers // 4:
        raise ConfigError(f"a site of {computers} computers has 1 to {computers // 4} controllers, not {controllers}.")
    wanted = troubles_of(faults)
    dice = random.Random(seed)  # noqa: S311 (a site that is drawn again must be the same one)
    seen = now - timedelta(days=2)
    plan = [
        PlannedComputer(f"DC{number + 1}", "domain_controller", *SERVER_SYSTEMS[0], address_of(number, network),
                        "closed", "domain-controller", last_seen_at=seen)
        for number in range(controllers)
    ]  # fmt: skip
    servers = max(2, int((computers - controllers) * _SERVERS_SHARE))
    names: set[str] = set()
    for number in range(controllers, computers):
        role, kinds, systems = _ROLES[number >= controllers + servers]
        os_name, os_version = dice.choice(systems)
        plan.append(
            PlannedComputer(_name(dice, kinds, names), role, os_name, os_version, address_of(number, network), "both",
                            AGENT, last_seen_at=seen - timedelta(hours=dice.randrange(24 * 20)))
        )  # fmt: skip
    numbered = list(number_accounts(plan))
    given = _give(dice, wanted, range(controllers + 1, computers))
    planned = [_spoil(entry, given.get(number, ())) for number, entry in enumerate(numbered)]
    well = [entry for entry in planned[controllers:] if not entry.troubles and entry.role == "server"]
    return tuple(
        evolve(entry, address=dice.choice(well).address) if entry.decided_by == "stale-record" else entry
        for entry in planned
    )


def site_troubles(faults: Wanted, layer: Layer, count: int) -> tuple[str, ...]:
    """The troubles of the controllers, or of DNS: one for each of them, in the order of the table.

    Raises:
        ConfigError: A fault is not known, or there are more of them than controllers.
    """
    names = [
        name
        for name, amount in troubles_of(faults).items()
        if TROUBLES[name].layer == layer
        for _ in range(_count(amount, count))
    ]
    if len(names) > count:
        raise ConfigError(f"the faults {', '.join(names)} are more than the {count} of {layer} that there are.")
    return tuple(sorted(names, key=list(TROUBLES).index))


def _name(dice: random.Random, kinds: Sequence[str], taken: set[str]) -> str:
    while True:
        name = f"{dice.choice(kinds)}{dice.choice(('', '-'))}{dice.randrange(1, 10_000):02d}"
        if name not in taken:
            taken.add(name)
            return name


def _give(dice: random.Random, wanted: dict[str, float], pool: Sequence[int]) -> dict[int, list[str]]:
    """Who has which trouble, by number, in the order of the layers."""
    counts = {
        name: _count(wanted[name], len(pool))
        for layer in COMPUTER_LAYERS
        for name, trouble in TROUBLES.items()
        if trouble.layer == layer and name in wanted
    }
    given: dict[int, list[str]] = {}
    each_has_one = sum(counts.values()) <= len(pool)
    left: list[int] = []
    for layer in COMPUTER_LAYERS:
        if not each_has_one or not left:
            left = dice.sample(pool, len(pool))
        for name in (name for name in counts if TROUBLES[name].layer == layer):
            if counts[name] > len(left) and not is_share(wanted[name]):
                raise ConfigError(f"{name}: there are not {counts[name]} computers left that could have it.")
            for number in left[: counts[name]]:
                given.setdefault(number, []).append(name)
            del left[: counts[name]]
    return given


def _count(amount: float, of: int) -> int:
    """A count, or a share of so many; a share above 0 is at least one."""
    if not is_share(amount):
        return int(amount)
    return max(1, int(amount * of)) if amount else 0


def _spoil(entry: PlannedComputer, troubles: Sequence[str]) -> PlannedComputer:
    """A computer with its troubles, as far as one gets."""
    for name in troubles:
        trouble = TROUBLES[name]
        entry = evolve(
            trouble.change(entry), troubles=(*entry.troubles, name), or_else=(*entry.or_else, *trouble.or_else)
        )
        if trouble.truth is not None:
            entry = evolve(entry, truth=trouble.truth, decided_by=name)
            break
    return evolve(entry, or_else=(*entry.or_else, *_given_up_at(entry.troubles)))


def _given_up_at(troubles: Sequence[str]) -> tuple[str, ...]:
    """Where two things go wrong once each, an honest program may give up at the second."""
    hitches = [hitch for name in troubles if (hitch := TROUBLES[name].hitch) is not None and not hitch.lasting]
    if len(hitches) < 2:  # noqa: PLR2004 (as said)
        return ()
    return tuple(sorted(set().union(*(wsman_faults.TROUBLES[hitch.name].ends_as for hitch in hitches)) - {""}))
