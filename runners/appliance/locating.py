"""Where computers and targets are: looked up, judged by the site's networks, and only then knocked at (lesson 60)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from attrs import evolve, frozen

from msp_sdk.enumeration import Locality, place, with_addresses
from msp_sdk.enumeration.locality import OUT_OF_SCOPE
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.computer import Computer
from msp_sdk.models.target import MergeResult, SkippedTarget, Target
from msp_sdk.network.resolver import Resolver
from msp_sdk.reachability import ReachabilityProber
from msp_sdk.reachability.prober import Resolve


@frozen
class Located:
    """Computers with their addresses, and which of their doors stand open; in their order.

    Attributes:
        unanswered: Those whose name DNS gave no answer about, by objectGUID. Each keeps the addresses that it had.
        failure: Why, where DNS gave no answer about any.
    """

    computers: tuple[Computer, ...]
    unanswered: frozenset[str] = frozenset()
    failure: DiscoveryError | None = None


async def locate(
    computers: Sequence[Computer],
    *,
    resolver: Resolver,
    prober: ReachabilityProber,
    locality: Locality,
    known: Mapping[str, Computer],
) -> Located:
    """Find out where computers are. What the directory says of them is true whatever DNS does.

    Args:
        computers: As the directory has them, without addresses.
        resolver: Knows their names.
        prober: Knocks.
        locality: Who lies elsewhere is not knocked at.
        known: What was known of them, by objectGUID.
    """
    failure = None
    try:
        placed = await with_addresses(computers, resolver)
    except DiscoveryError as error:
        placed, failure = tuple(computers), error
    # A name that DNS gave no answer about is left open: that is not the same as "no address".
    unanswered = frozenset(
        entry.object_guid
        for entry in placed
        if entry.fqdn and not (entry.ip_addresses or entry.unreachable_reason or entry.skipped_reason)
    )
    placed = place(
        (_as_known(entry, known) if entry.object_guid in unanswered else entry for entry in placed), locality
    )
    found: dict[tuple[str, str], Computer] = {}
    asked = [entry for entry in placed if entry.ip_addresses or entry.unreachable_reason]
    async for entry in prober.probe(asked):
        found[entry.object_guid, entry.sam_account_name] = entry
    located = tuple(found.get((entry.object_guid, entry.sam_account_name), entry) for entry in placed)
    return Located(located, unanswered, failure)


def _as_known(computer: Computer, known: Mapping[str, Computer]) -> Computer:
    before = known.get(computer.object_guid)
    if before is None or before.fqdn != computer.fqdn:
        return computer
    return evolve(computer, ip_addresses=before.ip_addresses)


async def reach(
    targets: Sequence[Target],
    *,
    resolve: Resolve,
    make_prober: Callable[[Resolve], ReachabilityProber],
    locality_of: Callable[[Target], Locality],
) -> tuple[Target, ...]:
    """The targets, each looked up and knocked at now, in no order; an address that a person gave stays as it is.

    One that lies elsewhere is not knocked at: it comes back as ``out-of-scope`` and without an address, unless a
    person named it.
    """
    elsewhere: set[str] = set()
    localities = {_name(target): locality_of(target) for target in targets if is_found(target)}

    async def resolve_here(name: str) -> Sequence[str]:
        addresses = await resolve(name)
        locality = localities.get(name)
        if locality is None or locality.covers(addresses):
            return addresses
        elsewhere.add(name)
        return ()

    prober = make_prober(resolve_here)
    return tuple(
        [
            evolve(target, unreachable_reason=OUT_OF_SCOPE) if _name(target) in elsewhere else target
            async for target in prober.probe(_without_found_address(target) for target in targets)
        ]
    )


def is_found(target: Target) -> bool:
    """True for a computer of the directory that no person has named: a person's word is above the scope."""
    return target.object_guid is not None and target.provenance.get("hostname") != "manual"


def leave_out(merged: MergeResult, elsewhere: Collection[str]) -> MergeResult:
    """The list without the targets, by key, that lie elsewhere; each is skipped with its reason."""
    gone = [target for target in merged.targets if target.key in elsewhere and is_found(target)]
    if not gone:
        return merged
    skipped = [SkippedTarget(target.hostname, OUT_OF_SCOPE, target.object_guid, target.role) for target in gone]
    return MergeResult(
        tuple(target for target in merged.targets if target not in gone),
        tuple(
            sorted((*merged.skipped, *skipped), key=lambda entry: (entry.hostname.casefold(), entry.object_guid or ""))
        ),
    )


def _name(target: Target) -> str:
    return target.fqdn or target.hostname


def _without_found_address(target: Target) -> Target:
    """The target as it was before anybody looked its name up: a laptop comes back with another address."""
    if target.provenance.get("ip_addresses") in ("directory", "probe"):
        return evolve(target, ip_addresses=())
    return target
