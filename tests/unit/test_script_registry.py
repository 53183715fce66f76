"""The registry of scripts: what may be sent to a host at all."""

from __future__ import annotations

import hashlib
import re

import pytest

import msp_sdk.testing.script_handlers
from msp_sdk.errors import ConfigError
from msp_sdk.testing import windows_host
from msp_sdk.windows import envelope
from msp_sdk.windows.scripts import load, names, read_text

assert msp_sdk.testing.script_handlers


@pytest.mark.parametrize("name", names())
def test_script_has_its_header_and_a_handler_for_exactly_its_text(name: str) -> None:
    # Lesson 47: a changed script must not be answered by what stood for the old one.
    script = load(name)
    assert script.sha256 == hashlib.sha256(script.text.encode()).hexdigest()
    handler = windows_host.handler_of(script.sha256)
    assert handler is not None, f"the handler of {name} is for another text; its digest is now {script.sha256}"
    assert handler.script == name


@pytest.mark.parametrize("name", [*names(), "bootstrap", "prelude"])
def test_script_is_ascii_and_splices_nothing(name: str) -> None:
    # Lesson 40: what comes in stays data.
    text = read_text(name)
    assert text.isascii()
    assert not re.search(r"Invoke-Expression|\biex\b|-EncodedCommand|ConvertTo-SecureString", text, re.IGNORECASE)


@pytest.mark.parametrize("name", ["bootstrap", "prelude", "no-such", "../identify", "Identify", ""])
def test_what_is_no_script_is_not_loaded(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name)
    assert caught.value.code == "unknown-script"


def test_command_line_is_constant_and_fits_every_windows() -> None:
    assert len(envelope.COMMAND) + len(" ".join(envelope.ARGUMENTS)) < 3000
    assert " ".join(envelope.ARGUMENTS).isascii()


def test_carriers_hold_only_names_that_a_restricted_language_allows_before_the_check() -> None:
    # ConstrainedLanguage must still be able to say that it is one.
    before, marker, _ = read_text("bootstrap").partition("MSP1-LANGUAGE")
    assert marker
    assert "[Console]" not in before
    assert "New-Object" not in before
