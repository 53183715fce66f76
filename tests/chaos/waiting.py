"""What the stories wait for: check-ins, not seconds."""

from __future__ import annotations

import asyncio

from runners.cli.demo_world import DemoWorld

# Often, so that a story that needs many check-ins takes few seconds.
OFTEN_S = 0.3
# Longer than the first wait of a back-off: what is tried again by mistake has been tried by then.
LONGER_THAN_A_BACK_OFF_S = 2.5


async def wait_for_check_ins(world: DemoWorld, count: int) -> None:
    """Wait until the appliance was heard of so many times more."""
    seen: set[object] = set()
    async with asyncio.timeout(30):
        while len(seen) <= count:
            (box,) = await world.partner.appliances(world.site.site_id)
            seen.add(box.last_seen_at)
            await asyncio.sleep(0.05)
