"""Controllers looked at side by side, a few at a time: the sick ones never hold up the one that is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.controllers import Seen
from msp_sdk.models.domain import DomainController, Evidence

# So many are asked at once, and so many times that number in all: a big domain has hundreds.
CONTROLLERS_ASKED = 8
_ROUNDS = 4
# Without proof the next ones are asked after so long, while the former may still answer.
_NEXT_ROUND_S = 0.5
# After the proof the last ones asked have so long: one that is silent is found so by then.
_AFTER_PROOF_S = 1.6


async def look_in_rounds(
    controllers: Sequence[DomainController],
    look: Callable[[DomainController], Awaitable[Seen]],
    is_proof: Callable[[Seen], bool],
) -> dict[DomainController, Seen]:
    """Look at some, and soon at others as well, as long as none of them gives proof.

    Mostly the first round is the last; but the only one within our reach may be named late, and those before it may
    be too sick to say so. Once there is proof, the others have little time left.

    Args:
        controllers: In the order in which they are asked; may be empty.
        look: Asks one.
        is_proof: Whether what it showed is enough.

    Returns:
        Those that were asked, with what they showed.
    """
    waiting = list(controllers[: CONTROLLERS_ASKED * _ROUNDS])
    tasks: dict[DomainController, asyncio.Future[Seen]] = {}
    pending: set[asyncio.Future[Seen]] = set()
    loop = asyncio.get_running_loop()
    is_proved = False
    round_at = until = loop.time()
    try:
        while waiting or pending:
            now = loop.time()
            if is_proved and (now >= until or not pending):
                break
            if waiting and not is_proved and (now >= round_at or not pending):
                asked, waiting = waiting[:CONTROLLERS_ASKED], waiting[CONTROLLERS_ASKED:]
                begun = {each: asyncio.ensure_future(look(each)) for each in asked}
                tasks |= begun
                pending |= set(begun.values())
                round_at, until = now + _NEXT_ROUND_S, now + _AFTER_PROOF_S
            limit = until if is_proved else round_at if waiting else None
            done, pending = await asyncio.wait(
                pending,
                timeout=None if limit is None else max(0.0, limit - now),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not is_proved and any(is_proof(task.result()) for task in done):
                is_proved, until = True, max(until, loop.time() + _NEXT_ROUND_S)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return {each: _late(each) if task.cancelled() else task.result() for each, task in tasks.items()}


def _late(controller: DomainController) -> Seen:
    slow = Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, "it answers too slowly.")
    return Seen(controller, (slow,))
