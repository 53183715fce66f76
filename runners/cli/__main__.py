"""``msp``: the command line. One file a command; each is imported only when it runs, so that help is instant.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import logging
import sys
import traceback

from msp_sdk.errors import ConfigError, MspError
from runners.cli import appliance, central, demo, deploy, discover, enumerate_, partner, plan, probe

DONE, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130
_COMMANDS = (demo, central, partner, appliance, discover, enumerate_, probe, plan, deploy)


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="msp", description="From a provision code to agents running. `msp demo` shows the whole job."
    )
    parser.add_argument("--debug", action="store_true", help="show the trace of an error, and log more")
    parser.add_argument("--version", action="version", version="msp 0.1.0")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run ``msp``; returns the exit code."""
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
            result = asyncio.run(result)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MspError as error:
        if options.debug:
            traceback.print_exc()
        sys.stderr.write(f"msp: {error}\n")
        return WRONG_CALL if isinstance(error, ConfigError) else FAILED
    except BrokenPipeError:
        # The reader of our output went away (`msp … | head`); that is no failure of ours.
        sys.stderr.close()
        return DONE
    return int(result or DONE)


if __name__ == "__main__":
    sys.exit(main())
