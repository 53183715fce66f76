"""Answers of real Windows: how they are recorded, what is replaced in them, how they are counted and compared."""

from __future__ import annotations

import asyncio
import base64
import doctest
import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.errors import ConfigError
from msp_sdk.testing import captures, made_up_names
from msp_sdk.testing.builders import build_hosts
from msp_sdk.testing.captures import Capture, NotCaptured, capture_plan, count_captures, read_capture, read_captures
from msp_sdk.testing.directory_data import make_computer_entry
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.made_up_names import MadeUpNames
from msp_sdk.testing.windows_host import Machine, handler_of
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.windows.identity import HostIdentity
from msp_sdk.windows.scripts import load, names
from tests.conftest import CAPTURES

HOST = HostIdentity("RECEPTION", "CLINIC", "clinic.local", "S-1-5-21-7-8-9-1104", os_version="10.0.17763.0")


def made_up(script: str = "scan-firewall", **changes: object) -> Capture:
    """A capture that nobody captured."""
    loaded = load(script)
    assert loaded.contract is not None
    capture = Capture(
        script=script,
        version=loaded.version,
        sha256=loaded.sha256,
        captured_at="2026-01-05T08:00:00Z",
        windows="10.0.17763.0",
        powershell="5.1",
        names="made up",
        host=Machine("HOST1").identity(),
        input=loaded.contract.example_input,
        output=loaded.contract.example_output,
    )
    return evolve(capture, **changes)


@pytest.mark.parametrize("module", [captures, made_up_names])
def test_examples_say_the_truth(module):
    assert doctest.testmod(module).failed == 0


# What is run.


def test_plan_names_every_script_once_and_runs_none_that_writes():
    plan = capture_plan()
    assert sorted([*(script.name for script in plan.scripts), *(name for name, _ in plan.left_out)]) == list(names())
    assert not any(script.writes for script in plan.scripts)
    assert {name for name, why in plan.left_out if why == "it writes"} == {n for n in names() if load(n).writes}


def capture_lab(tmp_path: Path, change=None, **options: object):
    """The scripts on a stand-in that belongs to a domain and is a controller of it."""
    lab = HostLab(tmp_path)
    host = lab.host("SRV1")
    entry = make_computer_entry("WARD-7", "Windows 11 Pro", domain="corp.example")
    host.machine.notes["directory"] = [entry]
    if change is not None:
        change(host.machine)
    credential = lab.domain_credential()
    lab.prove(credential)

    async def go():
        from datetime import UTC, datetime

        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), credential) as shell:
                now = datetime(2026, 1, 5, 8, tzinfo=UTC)
                return [answer async for answer in captures.capture_host(shell, now, username="svc", **options)]
        finally:
            await shells.aclose()

    with HostsThread([host]):
        answers = asyncio.run(go())
    assert host.machine.violations == []
    return answers, host.machine


def test_capture_runs_every_script_of_the_plan_and_changes_nothing(tmp_path: Path):
    answers, machine = capture_lab(tmp_path)
    assert [answer.script for answer in answers] == [script.name for script in capture_plan().scripts]
    assert all(isinstance(answer, Capture) and not answer.is_stale for answer in answers)
    assert not any(load(call.script).writes for call in machine.calls)
    assert machine.files.size_bytes == 0
    assert {answer.windows for answer in answers} == {"10.0.17763.0"}
    assert {answer.host["computer_name"] for answer in answers} == {"HOST1"}
    sids = {answer.host["sid"] for answer in answers}
    assert sids == {"S-1-5-21-1-1-1-1000"}
    (computers,) = [answer for answer in answers if answer.script == "directory-computers"]
    entries = gzip.decompress(base64.b64decode(str(computers.output["entries"])))
    assert (computers.output["count"], entries.count(b"\n")) == (1, 1)
    assert b64("NAME1$").encode() in entries


def test_script_that_fails_on_the_host_is_told_and_the_others_are_recorded(tmp_path: Path):
    answers, _ = capture_lab(tmp_path, lambda machine: machine.notes.pop("directory"))
    failed = [answer for answer in answers if isinstance(answer, NotCaptured)]
    assert [(answer.script, answer.code) for answer in failed] == [("directory-computers", "script-failed")]
    assert len(answers) == len(capture_plan().scripts)


def test_answer_that_does_not_fit_its_contract_is_told_and_not_recorded(tmp_path: Path):
    # That is what a capture is for: Windows answers otherwise than we wrote.
    def change(machine: Machine) -> None:
        machine.defender.signature_age_days = "old"  # type: ignore[assignment]

    answers, _ = capture_lab(tmp_path, change)
    (failed,) = [answer for answer in answers if isinstance(answer, NotCaptured)]
    assert failed.script == "scan-defender"
    assert "signature_age_days" in failed.detail


# What is replaced.


def pack(*lines: str) -> str:
    return base64.b64encode(gzip.compress("".join(f"{line}\n" for line in lines).encode())).decode()


def b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


SID = bytes([1, 5, 0, 0, 0, 0, 0, 5]) + struct.pack("<5I", 21, 7, 8, 9, 1177)


def test_no_name_of_the_network_is_left_in_packed_entries():
    entries = pack(
        "\t".join(
            [
                b64("CN=WARD-7,OU=Clinic North,DC=clinic,DC=local"),
                f"samaccountname={b64('WARD-7$')}",
                f"dnshostname={b64('ward-7.clinic.local')}",
                f"serviceprincipalname={b64('HOST/ward-7.clinic.local')},{b64('WSMAN/WARD-7')}",
                f"objectsid={b64(SID)}",
                f"objectguid={b64(bytes(range(200, 216)))}",
                f"operatingsystem={b64('Windows 11 Pro')}",
            ]
        )
    )
    packed = str(MadeUpNames(HOST).replace(entries))
    (line,) = gzip.decompress(base64.b64decode(packed)).decode().splitlines()
    name, *attributes = line.split("\t")
    values = {
        key: [base64.b64decode(value) for value in found.split(",")]
        for key, _, found in (attribute.partition("=") for attribute in attributes)
    }
    assert base64.b64decode(name) == b"CN=NAME1,OU=CORP NAME2,DC=corp,DC=example"
    assert values["samaccountname"] == [b"NAME1$"]
    assert values["dnshostname"] == [b"NAME1.corp.example"]
    assert values["serviceprincipalname"] == [b"HOST/NAME1.corp.example", b"WSMAN/NAME1"]
    assert values["objectsid"] == [SID[:12] + struct.pack("<4I", 1, 1, 1, 1000)]
    assert values["objectguid"] == [(1).to_bytes(16, "big")]
    assert values["operatingsystem"] == [b"Windows 11 Pro"]


def test_names_and_sids_are_replaced_alike_wherever_they_stand():
    made_up_ones = MadeUpNames(HOST, "anna")
    text = (
        r"CLINIC\Anna on reception.clinic.local (S-1-5-21-7-8-9-1104, S-1-5-21-7-8-9-500, S-1-5-32-544), receptionist"
    )
    shown = r"CORP\USER1 on HOST1.corp.example (S-1-5-21-1-1-1-1000, S-1-5-21-1-1-1-500, S-1-5-32-544), receptionist"
    assert made_up_ones.replace({"a": [text, 5, None, True]}) == {"a": [shown, 5, None, True]}
    assert made_up_ones.replace("S-1-5-21-7-8-9-1104") == "S-1-5-21-1-1-1-1000"


def test_what_only_looks_packed_is_still_searched_for_names():
    assert MadeUpNames(HOST).replace("H4sI RECEPTION") == "H4sI HOST1"


def test_example_of_a_contract_asks_for_the_domain_of_the_host():
    example = {"base_dn": "DC=corp,DC=example", "attributes": ["sAMAccountName"], "page_size": 1000}
    made_up_ones = MadeUpNames(HOST)
    asked = made_up_ones.localise(example)
    assert asked == {**example, "base_dn": "DC=clinic,DC=local"}
    assert made_up_ones.replace(asked) == example
    assert MadeUpNames(HostIdentity("PC1", "WORKGROUP")).localise(example) == example


# Files and count.


def test_file_is_read_as_it_was_written_and_holds_no_run_id(tmp_path: Path):
    capture = made_up()
    path = tmp_path / capture.file_name
    path.write_text(capture.render(), encoding="utf-8")
    assert read_capture(path) == capture
    assert "run_id" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", made_up().render().replace('"windows"', '"other"'), made_up(version="1").render()]
)
def test_file_that_is_no_capture_is_an_error_and_no_count(tmp_path: Path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError):
        read_captures(tmp_path)


def test_only_captures_of_the_present_script_count_and_each_script_once():
    every = len(names())
    assert count_captures([]).render().endswith(f"0 captured from Windows, {every} written by hand")
    fresh, other_build = made_up(), made_up(windows="10.0.20348.0")
    stale = made_up("scan-defender", sha256="0" * 64)
    gone = made_up(script="scan-firewall")
    gone = evolve(gone, script="scan-no-more")
    count = count_captures([fresh, other_build, stale, gone])
    assert (count.captured, count.by_hand) == (1, every - 1)
    assert count.stale == ("scan-defender (10.0.17763.0)", "scan-no-more (10.0.17763.0)")
    assert "stale" in count.render()


def shape_trouble(capture: Capture) -> str:
    """The first place where the stand-in answers in another shape than Windows did; empty when there is none."""
    script = load(capture.script)
    handler = handler_of(script.sha256)
    assert handler is not None
    assert script.contract is not None
    machine = Machine("HOST1", domain="CORP", dns_domain="corp.example", is_controller=True)
    machine.notes["directory"] = []
    value = handler.handler(machine, dict(capture.input), b"")
    for name, here in machine.identity().items():
        there = capture.host.get(name, "missing")
        if there is not None and type(there) is not type(here):
            return f"the host's {name} is {here!r} here and {there!r} there"
    if set(value) != set(capture.output):
        return f"the keys are {sorted(value)} here and {sorted(capture.output)} there"
    return script.contract.trouble("output", capture.output) or script.contract.trouble("output", value)


def test_stand_in_answers_in_the_shape_of_every_capture():
    # Lesson 47. A stale one is counted as such and compared with nothing.
    found = read_captures(CAPTURES)
    assert [
        (entry.file_name, shape_trouble(entry)) for entry in found if not entry.is_stale and shape_trouble(entry)
    ] == []


def test_comparison_finds_what_the_stand_in_does_not_have():
    assert shape_trouble(made_up()) == ""
    assert "more" in shape_trouble(made_up(output={**made_up().output, "more": 1}))
    assert "host" in shape_trouble(made_up(host={**made_up().host, "sid": 5}))
    assert "service_state" in shape_trouble(made_up(output={"profiles": [], "service_state": 4}))


def test_test_run_says_the_count_at_its_end(tmp_path: Path):
    folder = tmp_path / "tests"
    (folder / "captures").mkdir(parents=True)
    (folder / "conftest.py").write_text((CAPTURES.parent / "conftest.py").read_text())
    (folder / "test_nothing.py").write_text("def test_nothing(): pass\n")
    (folder / "captures" / "a.json").write_text(made_up().render())
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)]
    environ = {**os.environ, "PYTHONPATH": str(CAPTURES.parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(run, capture_output=True, text=True, env=environ, check=False)
    assert f"1 captured from Windows, {len(names()) - 1} written by hand" in done.stdout


def test_command_records_a_host_and_says_what_it_left_out(tmp_path: Path):
    group = build_hosts(["WARD-7"])
    (host,) = group.hosts
    host.machine.os_name = "Windows 11 Pro"
    host.machine.notes["other_antivirus"] = ["Antivirus of ward-7"]
    password = group.credential.open().reveal()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
    environ = {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), "MSP_PASSWORD": password}
    command = [sys.executable, "-m", "runners.cli", "testing", "capture", host.address, "--user", r".\admin"]
    command += ["--out", str(tmp_path / "out"), "--json"]
    with HostsThread([host]):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, check=False, cwd=CAPTURES.parents[1]
        )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    # It is no controller, and that is said.
    assert [entry["script"] for entry in told["failed"]] == ["directory-computers"]
    assert done.returncode == 1
    assert {entry["script"] for entry in told["left_out"]} == {name for name in names() if load(name).writes}
    found = read_captures(tmp_path / "out")
    assert sorted(entry.script for entry in found) == sorted(entry["script"] for entry in told["captured"])
    assert count_captures(found).captured == len(capture_plan().scripts) - 1
    everything = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "Antivirus of HOST1" in everything
    assert "ward-7" not in everything.lower()
    assert password not in everything + done.stdout + done.stderr
    assert host.machine.violations == []
    assert not any(load(call.script).writes for call in host.machine.calls)
