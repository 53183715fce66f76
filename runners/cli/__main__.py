"""``msp``: the command line. One file a command; each is imported only when it runs, so that help is instant.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Coroutine
from types import FrameType
from typing import Any, NoReturn

from msp_sdk.errors import CentralError, ConfigError, MspError
from runners.cli import appliance, central, demo, deploy, discover, doctor, enumerate_, partner, plan, probe, testing_
from runners.cli.common import Parser, plain

DONE, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130
_NOT_FOUND, _UNPROCESSABLE = 404, 422
_COMMANDS = (demo, central, partner, appliance, discover, enumerate_, probe, doctor, plan, deploy, testing_)
# What a command needs beside the library itself, as the extras of the package.
_EXTRAS = {"demo": "central,appliance,testing", "central": "central"}
# After Ctrl-C a logon that is under way is given this long to end, so that the ledger knows how it did.
_GRACE_S = 3.0
_SHOW_CURSOR = "\x1b[?25h"


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"msp {version('msp-sdk')}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="msp", description="From a provision code to agents running. `msp demo` shows the whole job.")
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run ``msp``; returns the exit code."""
    _open_streams()
    options = make_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.INFO if options.command == "appliance" else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # These would write requests, some with tokens, at our own level.
    for noisy in ("httpx", "httpcore", "urllib3", "requests_ntlm", "spnego", "ldap3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        result = options.run(options)
        if inspect.iscoroutine(result):
            result = asyncio.run(_run(result))
        # Here and not when the interpreter ends, where a reader that went away is an ugly trace.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`msp … | head`): nothing to say, and nobody to say it to.
        _forget_stdout()
        return FAILED
    except Exception as error:  # noqa: BLE001 (the last edge: a person gets one line, and the trace on request)
        if options.debug:
            traceback.print_exc()
        sys.stderr.write(f"msp: {plain(' '.join(_describe(error, options.command).split()))}\n")
        if isinstance(error, OSError):
            _forget_stdout()
        return WRONG_CALL if _is_callers_fault(error) else FAILED
    return int(result or DONE)


def _open_streams() -> None:
    """A closed stdout, or a name that the terminal's encoding lacks, must not end the command in a trace."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(errors="replace")


def _is_callers_fault(error: Exception) -> bool:
    """True when nothing was tried, since what was asked for cannot be: here, or in Central's eyes."""
    return isinstance(error, ConfigError) or (isinstance(error, CentralError) and error.status == _UNPROCESSABLE)


def _describe(error: Exception, command: str) -> str:
    """What, why, and what to do."""
    if command == "partner" and isinstance(error, CentralError) and error.status == _NOT_FOUND and not error.remedy:
        return f"{error} Look up the site or the id: `msp partner sites list`, and the lists of the others."
    if isinstance(error, MspError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(("msp_sdk", "runners")):
        extras = _EXTRAS.get(command, "appliance")
        return f"the Python package {error.name} is missing. Install msp-sdk[{extras}]."
    return f"this failed on our side: {type(error).__name__}: {error}. Run it again with --debug and report the trace."


def _forget_stdout() -> None:
    """What is still buffered can go nowhere; without this the interpreter would complain as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_now() -> NoReturn:
    if sys.stderr.isatty():
        # A progress bar that is cut off has hidden it.
        sys.stderr.write(_SHOW_CURSOR)
    sys.stderr.flush()
    os._exit(INTERRUPTED)


async def _run(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Run a command; after Ctrl-C it has a moment to end in order, and then ends.

    A call in a thread cannot be cancelled and would hold the whole process until its deadline.
    """
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        last = threading.Timer(_GRACE_S, _end_now)
        last.daemon = True
        last.start()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
