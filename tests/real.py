"""Parts of other people that tests use: programs, a kernel that lends namespaces, an extra that must be built.

Where one is missing the test is skipped with the reason; with ``MSP_REQUIRE_REAL=1`` it fails instead.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = os.environ.get("MSP_REQUIRE_REAL") == "1"


def do_without(reason: str) -> NoReturn:
    """End the test: something real is missing."""
    if REQUIRED:
        pytest.fail(f"MSP_REQUIRE_REAL=1, but {reason}.")
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Go on only where all of these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            do_without(f"{program} is not installed")
