"""The daemon: a heartbeat that never waits for work, work that never waits for the heartbeat, signals, watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator

from attrs import evolve

from msp_sdk.checkin import ENTRIES_REFUSED, REPORT_REFUSED, next_wait_s, phase_s
from msp_sdk.errors import CentralError, MspError, NotEnrolledError
from msp_sdk.models.credential import CredentialState
from runners.appliance.backoff import Backoff
from runners.appliance.claiming import enrolment_of
from runners.appliance.cycle import Cycle
from runners.appliance.notify import notify, watchdog_interval_s
from runners.appliance.settings import ApplianceSettings
from runners.appliance.state import only_one
from runners.appliance.status import read_status
from runners.appliance.wiring import EnrolmentMovedError, Tools, open_tools

logger = logging.getLogger(__name__)

# Work looks for itself this often even when no check-in brings news (a host that was off, a domain that appears).
LOOK_S = 5.0
# Reports that could not be sent are tried again at the latest after this long.
POST_AGAIN_S = 60.0
# So many reports that wait are worth a word at the check-in.
MANY_REPORTS = 20
# A check-in has at most 64 KiB; each state takes about 150 bytes.
MOST_STATES = 200
# After a signal: time to close what is open. What is on disk is whole at every moment, so nothing is lost after it.
LEAVE_AFTER_S = 5.0


class _MovedError(Exception):
    """``config.yaml`` says that we belong somewhere else now."""


class Daemon:
    """One appliance at work.

    Args:
        tools: What it works with.
        interval_s: Until the first check-in says another one.
    """

    def __init__(self, tools: Tools, interval_s: float) -> None:
        self._tools = tools
        self._interval_s = interval_s
        self._cycle = Cycle(tools)
        self._news = asyncio.Event()
        self._answers = asyncio.Event()
        self._held = asyncio.Event()
        self._failures = 0
        self._revoked = False
        self._pass: asyncio.Task[None] | None = None
        self._problems: dict[str, str] = {}
        self._states_from = 0

    async def run(self) -> None:
        """Work until cancelled, or until the config says that the appliance has another place."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat_for_ever(), name="heartbeat")
                tasks.create_task(self._work_for_ever(), name="work")
                tasks.create_task(self._post_for_ever(), name="reports")
                tasks.create_task(self._watch_directory_for_ever(), name="directory")
                tasks.create_task(_feed_watchdog(), name="watchdog")
        except* _MovedError:
            logger.warning("the config has changed: this appliance begins anew in its new place")

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
        states = await self._credential_states()
        refused = tools.checkin.refused
        gravest = REPORT_REFUSED if REPORT_REFUSED in refused.values() else ENTRIES_REFUSED
        lost = {"outbox": gravest} if refused else {}
        problems = {**self._cycle.problems, **lost, **self._problems}
        waiting = tools.checkin.waiting_count
        status = evolve(
            await asyncio.to_thread(read_status),
            completed=tools.completed.completed,
            credential_states=states,
            health={
                **({"problems": problems} if problems else {}),
                **({"directory": directory} if (directory := self._cycle.directory_facts) else {}),
                **({"reports_waiting": waiting} if waiting > MANY_REPORTS else {}),
                **({"reports_refused": dict(refused)} if refused else {}),
            },
        )
        reply = await tools.checkin.check_in(status)
        tools.beats += 1
        self._interval_s = reply.next_checkin_seconds
        self._revoked = False
        self._held.set()

    async def _credential_states(self) -> tuple[CredentialState, ...]:
        """What the ledger knows, so many at a time that a check-in stays small; never at the price of the heartbeat."""
        try:
            states = await asyncio.to_thread(self._tools.credential_states)
        except MspError as error:
            if self._problems.get("ledger") != error.code:
                logger.error("%s", error)  # noqa: TRY400 (the error says all)
            self._problems["ledger"] = error.code
            return ()
        self._problems.pop("ledger", None)
        if len(states) <= MOST_STATES:
            return states
        begin = self._states_from % len(states)
        self._states_from = begin + MOST_STATES
        return (states + states)[begin : begin + MOST_STATES]

    async def _beat_for_ever(self) -> None:
        await asyncio.sleep(min(phase_s(self._tools.enrolment.appliance_id, self._interval_s), self._interval_s / 4))
        while True:
            retry_after_s: float | None = None
            try:
                await self.check_in()
            except EnrolmentMovedError as error:
                raise _MovedError from error
            except NotEnrolledError as error:
                self._failures += 1
                self._stop_working(error)
            except MspError as error:
                self._failures += 1
                retry_after_s = error.retry_after_s if isinstance(error, CentralError) else None
                logger.warning("check-in failed (%d in a row): %s", self._failures, error)
            except Exception:
                # Whatever it is: an appliance that is not heard of cannot be helped.
                self._failures += 1
                logger.exception("check-in failed unforeseen (%d in a row)", self._failures)
            else:
                if self._failures:
                    # Reports may have waited for this.
                    self._tools.posted.set()
                self._failures = 0
                notify("READY=1")
                self._news.set()
                self._answers.set()
            await asyncio.sleep(next_wait_s(self._interval_s, self._failures, retry_after_s))

    def _stop_working(self, error: NotEnrolledError) -> None:
        """Our key is no longer good: what is under way is cut off, and what Central gave is forgotten."""
        if not self._revoked:
            logger.error("Central does not know our key any more; all work stops: %s", error)
        self._revoked = True
        self._tools.checkin.forget()
        self._held.set()
        if self._pass is not None:
            self._pass.cancel()

    async def _watch_directory_for_ever(self) -> None:
        """After each answer of Central, whatever a pass is busy with."""
        while True:
            await self._held.wait()
            self._held.clear()
            await self._cycle.watch_directory()

    async def _work_for_ever(self) -> None:
        while True:
            await happens(self._news, LOOK_S)
            self._news.clear()
            if self._revoked:
                continue
            self._pass = asyncio.create_task(self._cycle.run(), name="pass")
            try:
                await asyncio.wait({self._pass})
            finally:
                # What it has open is closed before the tools are.
                self._pass.cancel()
                await asyncio.wait({self._pass})
            error = None if self._pass.cancelled() else self._pass.exception()
            # Cut off is not failed, and of a bad key the heartbeat speaks.
            if error is not None and not isinstance(error, NotEnrolledError):
                raise error
            self._pass = None

    async def _post_for_ever(self) -> None:
        """Send the reports that wait, in their order; neither work nor the heartbeat waits for it."""
        tools = self._tools
        waiting = Backoff(1.0, 60.0)
        while True:
            # After a failure new reports wait with the others: only an answer of Central, or time, is news.
            event = self._answers if waiting.failures else tools.posted
            await happens(event, waiting.wait_s() if waiting.failures else POST_AGAIN_S)
            tools.posted.clear()
            self._answers.clear()
            if self._revoked:
                waiting.reset()
                continue
            left = 1
            try:
                await tools.checkin.flush()
                left = tools.checkin.waiting_count
                self._problems.pop("outbox", None)
            except NotEnrolledError:
                pass  # the heartbeat says so
            except MspError as error:
                self._problems["outbox"] = error.code
                logger.warning("reports wait: %s", error)
            except Exception:
                self._problems["outbox"] = "internal"
                logger.exception("reports could not be sent")
            if left:
                waiting.failed()
            else:
                waiting.reset()


async def happens(event: asyncio.Event, longest_s: float) -> None:
    """Wait for an event, or so long.

    ``asyncio.wait_for`` loses a cancellation that comes in the same moment as the event (Python 3.11): a daemon that
    is told to end would then go on for ever.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()


async def _feed_watchdog() -> None:
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _leave_in_time() -> None:
    """A thread that waits for a host cannot be ended from outside: it does not keep the process either."""
    leaving = threading.Timer(LEAVE_AFTER_S, os._exit, (0,))
    leaving.daemon = True
    leaving.start()


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
        StateError: Another daemon works with the same files (with ``once`` too).
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
                if stopped.done():
                    _leave_in_time()
                stopped.cancel()
                if not work.done():
                    work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work


async def _claim_and_work(settings: ApplianceSettings, *, once: bool) -> None:
    while True:
        notify("STATUS=waiting to be claimed")
        enrolment = await enrolment_of(settings)
        notify(f"STATUS=enrolled as {enrolment.appliance_id}")
        async with open_tools(settings, enrolment) as tools:
            daemon = Daemon(tools, enrolment.checkin_interval_seconds)
            if once:
                await daemon.once()
                return
            await daemon.run()
