"""Other signs of life of a host whose doors are silent: its network card, RPC, ping.

Example:
    >>> async def look(address: str) -> None:
    ...     async with LifeLooker(DoorProber()) as looker:
    ...         for sign in await looker.look(address):
    ...             print(sign.kind, sign.said)
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from types import TracebackType
from typing import Self

from msp_sdk.network.neighbours import Neighbour, read_neighbours
from msp_sdk.network.own_networks import read_own_networks
from msp_sdk.network.ping import Pinger
from msp_sdk.network.probe import DoorProber
from msp_sdk.reachability.cache import RPC_PORT
from msp_sdk.reachability.diagnosis import Sign

# The kernel asks for three seconds after five of hesitation; by then it knows.
_SETTLES_WITHIN_S = 9.0
_LOOK_S = 0.5
_SNAPSHOT_S = 0.25


class LifeLooker:
    """Looks for signs of life, politely. An asynchronous context, in one event loop.

    Args:
        prober: Its pace, its patience, and what is excluded.
    """

    def __init__(self, prober: DoorProber) -> None:
        self._prober = prober
        self._pinger = Pinger()
        self._own = read_own_networks()
        self._table: dict[str, Neighbour] = {}
        self._read_at = -_SNAPSHOT_S

    async def __aenter__(self) -> Self:
        await self._pinger.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pinger.__aexit__(kind, error, trace)

    async def look(self, address: str) -> tuple[Sign, ...]:
        """Look at an address that was knocked at just now and was silent.

        Where the kernel found nobody at it on our own link, nothing more is sent.

        Returns:
            What was seen: the neighbour (on our own subnet alone), then RPC and ping. Empty for an excluded address,
            and for one of this machine itself: it is we who would answer, whoever is meant to be there.
        """
        if self.is_left_out(address):
            return ()
        neighbour = await self.neighbour(address)
        if neighbour is not None and neighbour.said == "absent":
            return (neighbour,)
        signs = await asyncio.gather(self.rpc(address), self.ping(address))
        # Where what was sent before is minutes old the kernel had no entry any more; now it has asked again.
        neighbour = neighbour or await self.neighbour(address)
        return signs if neighbour is None else (neighbour, *signs)

    def is_left_out(self, address: str) -> bool:
        """True where no sign is looked for."""
        return self._prober.options.excluded.covers(address) or self._own.is_own(address)

    async def neighbour(self, address: str) -> Sign | None:
        """What the table of neighbours says; None off our own subnets, or when it does not settle in nine seconds.

        Sends nothing: the kernel asks because of what was sent to the address before.
        """
        try:
            plain = str(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            return None
        until = time.monotonic() + _SETTLES_WITHIN_S
        while (entry := self._look_up(plain)) is not None and entry.state == "unsettled":
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(_LOOK_S)
        if entry is None:
            return None
        return Sign("neighbour", address, entry.state, detail=entry.hardware_address)

    async def rpc(self, address: str) -> Sign:
        """Knock at the endpoint mapper of RPC: refused or open, somebody is there."""
        door = await self._prober.knock(address, RPC_PORT)
        return Sign("tcp", address, door.state, RPC_PORT, door.detail)

    async def ping(self, address: str) -> Sign:
        """Ping, at the prober's pace."""
        if self._prober.options.excluded.covers(address):
            return Sign("ping", address, "excluded")
        await self._prober.pace.turn()
        found = await self._pinger.ping(address, timeout_s=self._prober.options.timeout_s)
        return Sign("ping", address, found.state, detail=found.detail)

    def _look_up(self, address: str) -> Neighbour | None:
        """The entry of the table, which is read a few times a second at most, however many ask."""
        now = time.monotonic()
        if now - self._read_at >= _SNAPSHOT_S:
            self._table, self._read_at = read_neighbours() or {}, now
        return self._table.get(address)
