"""What every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest

CAPTURES = Path(__file__).parent / "captures"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many answers of the stand-in were compared with a real Windows."""
    from msp_sdk.errors import ConfigError
    from msp_sdk.testing.captures import count_captures, read_captures

    try:
        line = count_captures(read_captures(CAPTURES)).render()
    except ConfigError as error:
        line = f"script contracts: not counted, since {error.detail}"
    terminalreporter.write_line(line)
