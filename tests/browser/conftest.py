"""A real browser before a real Central."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real import do_without

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)


def _contract() -> Any:
    """The contract tests' own Central: there is one way to start it in a test."""
    path = Path(__file__).parent.parent / "contract" / "conftest.py"
    spec = importlib.util.spec_from_file_location("contract_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Any]:
    # It is prepared by `asyncio.run`, which this thread has no room for while playwright keeps its loop here.
    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(_contract().CentralUnderTest, tmp_path).result()
    yield made
    made.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for a file; what a test sees and keeps is in a context of its own."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        do_without("playwright is not installed")
    if not CHROMIUM.exists():
        do_without(f"there is no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        except Error as error:
            do_without(f"the browser does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture
def page(central: Any, chromium: Any) -> Iterator[Any]:
    """A page that fails the test when its console or a script complains; closed before its Central ends."""
    del central
    complaints: list[str] = []
    context = chromium.new_context()
    made = context.new_page()
    made.complaints = complaints
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    yield made
    context.close()
    assert complaints == []
