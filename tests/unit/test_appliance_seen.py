"""What the appliance saw of hosts a while ago: whom it spares a knock, and who looks anew."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.models.computer import Computer
from msp_sdk.models.domain import Domain
from msp_sdk.models.target import Target
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.loopback import take_address


@pytest.mark.parametrize("wish", ["wish_enumeration", "wish_scan"])
def test_enumeration_believes_what_was_seen_until_a_person_wishes(open_lab: Callable[..., Any], wish: str) -> None:
    async def run() -> None:
        address = take_address()
        zone = DnsZone("corp.test")
        zone.add_address("srv", address)
        srv = Computer("srv", "srv$", "srv", "server", True, False, False, fqdn="srv.corp.test")
        async with open_lab(computers=None) as lab, lab.tools() as tools, DnsServer(zone) as dns:
            domain = Domain(
                "corp.test", (), datetime.now(UTC), dns_servers=(f"{dns.server[0]}:{dns.server[1]}",)
            )  # fmt: skip

            async def doors() -> tuple[int, ...]:
                (found,) = (await tools.locate(domain, [srv])).computers
                return tuple(found.doors)

            await lab.beat(tools)
            assert await doors() == ()
            with closing(socket.create_server((address, 5986))):
                assert await doors() == ()
                await getattr(lab.partner, wish)(lab.site_id)
                await lab.beat(tools)
                assert await doors() == (5986,)
            assert await doors() == (5986,), "and that is believed in its turn"

    asyncio.run(run())


def test_host_that_a_rollout_waits_for_is_looked_at_anew(open_lab: Callable[..., Any]) -> None:
    """Lesson 45."""

    async def run() -> None:
        address = take_address()
        target = Target(hostname="srv", role="server", ip_addresses=(address,))
        async with open_lab(computers=None) as lab, lab.tools() as tools:
            (found,) = await tools.reach([target])
            assert found.reachable is False
            with closing(socket.create_server((address, 5986))):
                (found,) = await tools.reach([target])
            assert found.doors == (5986,)

    asyncio.run(run())


@pytest.mark.parametrize(("ttl_s", "doors"), [(0.0, ()), (300.0, (5986,))])
def test_how_long_life_is_believed_is_a_setting(
    open_lab: Callable[..., Any], ttl_s: float, doors: tuple[int, ...]
) -> None:
    async def run() -> None:
        address = take_address()
        here = Computer("srv", "srv$", "srv", "server", True, False, False, ip_addresses=(address,))
        async with open_lab(computers=None) as lab:
            lab.settings = evolve(lab.settings, live_ttl_s=ttl_s)
            async with lab.tools() as tools:
                domain = Domain("corp.test", (), datetime.now(UTC))
                with closing(socket.create_server((address, 5986))):
                    await tools.locate(domain, [here])
                (found,) = (await tools.locate(domain, [here])).computers
                assert found.doors == doors

    asyncio.run(run())
