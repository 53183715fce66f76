"""The registry of scripts: what may be sent to a host at all."""

from __future__ import annotations

import hashlib
import re

import pytest

import msp_sdk.testing.script_handlers
from msp_sdk.errors import ConfigError
from msp_sdk.testing import windows_host
from msp_sdk.windows import envelope
from msp_sdk.windows.contract import parse_contract
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


@pytest.mark.parametrize("name", names())
def test_contract_names_what_the_script_says_of_itself(name: str) -> None:
    # The comment is for who reads the script, the contract is what is checked.
    script = load(name)
    assert script.contract is not None
    comment = " ".join(line.strip("# ") for line in script.text.splitlines() if line.startswith("#"))
    needed = [*(word for word in script.contract.input if not word.endswith("?")), *script.contract.output]
    assert name == "identify" or [word for word in needed if word not in comment] == []
    assert not (script.writes and script.contract.harmless)


@pytest.mark.parametrize("name", names())
def test_handler_keeps_the_contract(name: str) -> None:
    # Lesson 47: a stand-in that answers in a shape of its own proves nothing.
    script = load(name)
    handler = windows_host.handler_of(script.sha256)
    assert handler is not None
    assert script.contract is not None
    machine = windows_host.Machine("SRV1")
    machine.notes["directory"] = []
    if name == "agent-install":
        # The examples are of one delivery: what is staged there is installed here.
        stage = load("agent-stage")
        assert stage.contract is not None
        staged = windows_host.handler_of(stage.sha256)
        assert staged is not None
        staged.handler(machine, dict(stage.contract.example_input), b"test")
    value = handler.handler(machine, dict(script.contract.example_input), b"test")
    assert script.contract.trouble("output", value) == ""


CONTRACT = {
    "input": {"a": "string", "b?": ["integer"], "c": {"d": "boolean?"}},
    "output": {"x": ["string", None]},
    "example": {"input": {"a": "", "c": {"d": None}}, "output": {"x": None}},
    "harmless": True,
    "provenance": "written by us",
}


@pytest.mark.parametrize(
    ("values", "trouble"),
    [
        ({"a": "x", "b": [1], "c": {"d": True}}, ""),
        ({"c": {"d": True}}, "a: is missing"),
        ({"a": None, "c": {"d": True}}, "a: is no string"),
        ({"a": "x", "b": [1, True], "c": {"d": True}}, "b[1]: is no integer"),
        ({"a": "x", "b": 1, "c": {"d": True}}, "b: is no list"),
        ({"a": "x", "c": {"d": 1}}, "c.d: is no boolean"),
        ({"a": "x", "c": {"d": True, "e": 1}}, "c.e: is not in the contract"),
        ({"a": "x", "c": []}, "c: is no object"),
        ({"a": "x", "c": {"d": True}, "z": 1}, "z: is not in the contract"),
    ],
)
def test_parameters_that_do_not_fit_are_named_by_their_path(values: dict[str, object], trouble: str) -> None:
    assert parse_contract(CONTRACT).trouble("input", values) == trouble


def test_value_may_hold_more_than_the_contract_says() -> None:
    contract = parse_contract(CONTRACT)
    assert contract.trouble("output", {"x": ["a"], "new": 1}) == ""
    assert contract.trouble("output", {"x": [None]}) == "x[0]: is no string"


@pytest.mark.parametrize(
    "change",
    [
        {"input": []},
        {"input": {"a": "text"}},
        {"output": {"x": []}},
        {"harmless": "yes"},
        {"provenance": "somewhere"},
        {"example": {"input": {"a": 1, "c": {"d": None}}, "output": {"x": None}}},
        {"surprise": 1},
    ],
)
def test_contract_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_contract({**CONTRACT, **change})


def test_bootstrap_does_not_make_powershell_read_stdin_itself() -> None:
    # Its console host reads stdin where a command names this variable, and the loop would get what is left.
    lines = [line for line in read_text("bootstrap").splitlines() if not line.startswith("#")]
    assert not re.search(r"\$input\b", "\n".join(lines), re.IGNORECASE)


@pytest.mark.parametrize("name", names())
def test_script_leaves_nothing_in_its_process(name: str) -> None:
    # A runspace ends with its script; these would not.
    assert not re.search(
        r"\$env:\w+\s*=|\$global:|SetEnvironmentVariable|CurrentDirectory\s*=|Set-Location|Import-Module",
        read_text(name),
        re.IGNORECASE,
    )
