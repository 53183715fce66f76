"""``msp demo``: the whole job on one machine, without root and with nothing but loopback.

The demo plays the partner through the public API. It knows what is true of the estate, and checks at the end that
Central says exactly that of every host.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msp_sdk.errors import ConfigError, StateError

if TYPE_CHECKING:
    from msp_sdk.models.site import DeploymentStatus
    from runners.cli.demo_world import DemoWorld
    from runners.cli.hosts import HostLine
    from runners.cli.view import LiveView, PlainView

FAULTS = {
    "wrong-password": "the partner stores a wrong password: one attempt, then it is said and never tried again",
    "unreachable-controller": "DNS names controllers, but none of them answers",
}
_POLL_S = 0.25
_LONGEST_S = 180.0
_NEWCOMER = "RECEPTION-99"


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="the whole job on this machine: see it work")
    parser.add_argument("--computers", type=int, default=40, metavar="N", help="how many computers (default 40)")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="Central's port; default a free one")
    parser.add_argument("--exit-when-complete", action="store_true", help="check the outcome and end")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="show how trouble looks")
    parser.add_argument("--folder", metavar="DIR", help="keep everything there instead of in a folder that is removed")
    parser.set_defaults(run=run_demo)


async def run_demo(options: argparse.Namespace) -> int:
    """Run the demo until it is complete or interrupted; returns the exit code.

    Raises:
        ConfigError: There cannot be that many computers, or the folder cannot be used.
        StateError: A process ended too early, or it took too long.
    """
    from msp_sdk.testing.estate_plan import LEAST_COMPUTERS, MOST_COMPUTERS

    if not LEAST_COMPUTERS <= options.computers <= MOST_COMPUTERS:
        raise ConfigError(
            f"an estate has {LEAST_COMPUTERS} to {MOST_COMPUTERS} computers, not {options.computers}.",
            remedy="Give another --computers.",
        )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    folder = await asyncio.to_thread(_make_folder, options.folder)
    try:
        show = asyncio.create_task(_show(options, folder))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({show, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if show.done():
            return show.result()
        show.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await show
        return 130
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)


def _make_folder(wanted: str | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="msp-demo-"))
    folder = Path(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        used = any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be used: {error.strerror}.") from error
    if used:
        raise ConfigError(f"the folder {folder} is not empty.", remedy="The demo begins anew: give an empty folder.")
    return folder


async def _show(options: argparse.Namespace, folder: Path) -> int:
    from runners.cli.demo_world import DemoWorld, WorldSpec
    from runners.cli.view import make_view

    spec = WorldSpec(
        computers=options.computers, port=options.port, with_directory=options.fault != "unreachable-controller"
    )
    async with DemoWorld(folder, spec) as world:
        login = await world.partner.login_code()
        with make_view(f"{world.url}/sites/{world.site.site_id}", login.code.reveal()) as view:
            await world.claim()
            await world.start_appliance()
            trouble = await _play_partner(world, view, options)
            if not trouble:
                await _let_one_join(world, view, options)
            if options.fault:
                await _say_what_the_fault_did(world, view)
            mistakes = [] if trouble else await _say_summary(world, view)
            if trouble and options.exit_when_complete:
                view.say(f"not complete: {trouble}")
            if mistakes or options.exit_when_complete:
                return 1 if mistakes or trouble else 0
            view.say("Ctrl-C ends the demo and removes it.")
            while True:
                await _look(world, view)
                await asyncio.sleep(1.0)


async def _play_partner(world: DemoWorld, view: PlainView | LiveView, options: argparse.Namespace) -> str | None:
    """Watch the site; give the credential when it is asked for. None when complete, else why it will not be.

    Raises:
        StateError: With ``--exit-when-complete``: it took too long.
    """
    given = False
    try:
        async with asyncio.timeout(_LONGEST_S if options.exit_when_complete else None):
            while True:
                status, _ = await _look(world, view)
                if status.phase == "complete":
                    return None
                if status.phase == "awaiting_credentials" and not given:
                    await world.give_credential(wrong=options.fault == "wrong-password")
                    view.say(f"the partner stores one credential: {world.facts['username']}")
                    given = True
                trouble = await _trouble(world, status.details.awaiting)
                if trouble:
                    await _look(world, view)
                    return trouble
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        status = await world.partner.status(world.site.site_id)
        raise StateError(f"after {_LONGEST_S:.0f} s the site is still {status.phase}.", code="not-complete") from None


async def _let_one_join(world: DemoWorld, view: PlainView | LiveView, options: argparse.Namespace) -> None:
    """A computer joins a site that was complete: it is listed, gets its system and address, and then its agent.

    Raises:
        StateError: With ``--exit-when-complete``: it took too long.
    """
    await world.let_join(_NEWCOMER)
    view.say(f"{_NEWCOMER} joins the domain")
    try:
        async with asyncio.timeout(_LONGEST_S if options.exit_when_complete else None):
            await _watch_host(world, view, ("skipped", "new"))
            view.say(f"{_NEWCOMER} is listed as new; now it restarts")
            await world.let_boot(_NEWCOMER)
            await _watch_host(world, view, ("agent", None))
            view.say(f"{_NEWCOMER} has its agent")
    except TimeoutError:
        raise StateError(f"after {_LONGEST_S:.0f} s {_NEWCOMER} has no agent.", code="not-complete") from None


async def _watch_host(world: DemoWorld, view: PlainView | LiveView, wanted: tuple[str, str | None]) -> None:
    """Look on until Central says this of the newcomer, and the site is complete again."""
    while True:
        status, hosts = await _look(world, view)
        said = [(host.state, host.reason) for host in hosts if host.hostname.casefold() == _NEWCOMER.casefold()]
        if said == [wanted] and status.phase == "complete":
            return
        await asyncio.sleep(_POLL_S)


async def _look(world: DemoWorld, view: PlainView | LiveView) -> tuple[DeploymentStatus, tuple[HostLine, ...]]:
    status, hosts = await world.partner.status(world.site.site_id), await world.hosts()
    view.show(status, hosts)
    return status, hosts


async def _trouble(world: DemoWorld, awaiting: tuple[str, ...]) -> str | None:
    """Why the site will not become complete by itself; None when it may."""
    if any(entry.endswith(":unreachable-controller") for entry in awaiting):
        return "no controller of the domain answers, so no domain is believed; it is looked for again"
    for credential in await world.partner.credentials(world.site.site_id):
        if credential.state == "refused":
            return f"the credential {credential.username} was refused: {credential.state_code}"
    return None


async def _say_what_the_fault_did(world: DemoWorld, view: PlainView | LiveView) -> None:
    for account in await world.ask_estate("accounts"):
        if account["attempts"]:
            view.say(f"bad-password count of {account['username']} in the directory: {account['bad_password_count']}")


async def _say_summary(world: DemoWorld, view: PlainView | LiveView) -> list[str]:
    from runners.cli.view import summarise

    hosts = await world.hosts()
    for reason, count in summarise(hosts):
        view.say(f"{count:5d}  {reason}")
    mistakes = await world.mistakes()
    for mistake in mistakes:
        view.say(f"WRONG  {mistake}")
    if not mistakes:
        view.say(f"complete: each of {len(hosts)} computers runs the agent or is listed with its true reason")
    return mistakes
