"""The daemon: a heartbeat that never waits for work, work that never waits for the heartbeat, signals, watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

from attrs import evolve

from msp_sdk.checkin import next_wait_s, phase_s
from msp_sdk.errors import CentralError, MspError, NotEnrolledError
from runners.appliance.claiming import enrolment_of
from runners.appliance.cycle import Cycle
from runners.appliance.notify import notify, watchdog_interval_s
from runners.appliance.settings import ApplianceSettings
from runners.appliance.state import only_one
from runners.appliance.status import read_status
from runners.appliance.wiring import Tools, open_tools

logger = logging.getLogger(__name__)

# Work looks for itself this often even when no check-in brings news (a host that was off, a domain that appears).
LOOK_S = 5.0


class Daemon:
    """One appliance at work."""

    def __init__(self, tools: Tools, interval_s: float) -> None:
        self._tools = tools
        self._interval_s = interval_s
        self._cycle = Cycle(tools)
        self._news = asyncio.Event()
        self._failures = 0
        self._revoked = False

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_for_ever(), name="heartbeat")
            tasks.create_task(self._work_for_ever(), name="work")
            tasks.create_task(_feed_watchdog(), name="watchdog")

    async def once(self) -> None:
        """One check-in, one pass, and one check-in that says what was done.

        Raises:
            MspError: A check-in failed.
        """
        await self.check_in()
        await self._cycle.run()
        await self.check_in()
        await self._tools.checkin.flush()

    async def check_in(self) -> None:
        """One check-in.

        Raises:
            MspError: As the client says.
        """
        tools = self._tools
        status = evolve(
            await asyncio.to_thread(read_status),
            completed=tools.completed.completed,
            credential_states=await asyncio.to_thread(tools.credential_states),
            health={"problems": self._cycle.problems} if self._cycle.problems else {},
        )
        reply = await tools.checkin.check_in(status)
        self._interval_s = reply.next_checkin_seconds
        self._revoked = False

    async def _beat_for_ever(self) -> None:
        await asyncio.sleep(min(phase_s(self._tools.enrolment.appliance_id, self._interval_s), self._interval_s / 4))
        while True:
            retry_after_s: float | None = None
            try:
                await self.check_in()
            except NotEnrolledError as error:
                self._failures += 1
                self._revoked = True
                logger.error("Central does not know our key any more: %s", error)  # noqa: TRY400
            except MspError as error:
                self._failures += 1
                retry_after_s = error.retry_after_s if isinstance(error, CentralError) else None
                logger.warning("check-in failed (%d in a row): %s", self._failures, error)
            else:
                self._failures = 0
                notify("READY=1")
                self._news.set()
            await asyncio.sleep(next_wait_s(self._interval_s, self._failures, retry_after_s))

    async def _work_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_S)
            self._news.clear()
            if self._revoked:
                continue
            with contextlib.suppress(NotEnrolledError):  # the heartbeat says so
                await self._tools.checkin.flush()
                await self._cycle.run()


async def _feed_watchdog() -> None:
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


@contextlib.asynccontextmanager
async def _stopping_on_signals() -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def run_appliance(settings: ApplianceSettings, *, once: bool = False) -> None:
    """Claim if needed, then work until a signal (or one pass with ``once``).

    Raises:
        ConfigError: Settings or files are wrong.
        StateError: Another daemon works with the same files.
        ClaimRejectedError: The provision code is no good.
        MspError: With ``once``: the check-in failed.
    """
    with only_one(settings.state_folder):
        async with _stopping_on_signals() as stop:
            work = asyncio.create_task(_claim_and_work(settings, once=once))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                notify("STOPPING=1")
                stopped.cancel()
                if not work.done():
                    work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work


async def _claim_and_work(settings: ApplianceSettings, *, once: bool) -> None:
    notify("STATUS=waiting to be claimed")
    enrolment = await enrolment_of(settings)
    notify(f"STATUS=enrolled as {enrolment.appliance_id}")
    async with open_tools(settings, enrolment) as tools:
        daemon = Daemon(tools, enrolment.checkin_interval_seconds)
        if once:
            await daemon.once()
        else:
            await daemon.run()
