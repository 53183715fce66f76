"""``python -m runners.appliance``: the daemon without the command line, settings from the environment."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from msp_sdk.errors import MspError
from runners.appliance.daemon import run_appliance
from runners.appliance.settings import read_settings


def main() -> int:
    """Run the daemon; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # One line a request is noise at a check-in a minute, and holds addresses.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(run_appliance(read_settings(os.environ)))
    except MspError as error:
        sys.stderr.write(f"msp-appliance: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
