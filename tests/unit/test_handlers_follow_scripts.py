"""Where a handler once did something else than its script: what the script does there."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from msp_sdk.testing.agent_handlers import start_agent
from msp_sdk.testing.directory_data import make_computer_entry
from msp_sdk.testing.powershell import read_request
from msp_sdk.testing.script_handlers import directory_computers
from msp_sdk.testing.upload_handler import upload
from msp_sdk.testing.windows_host import Machine, ScriptFault, Service
from msp_sdk.windows.scripts import load, read_text

PATH = r"C:\ProgramData\msp\uploads\up-1\a.bin"


def send(machine: Machine, content: bytes, *, offset: int | None, restart: bool = False, size: int = 60) -> Any:
    parameters = {
        "upload_id": "up-1",
        "file_name": "a.bin",
        "offset": offset,
        "size_bytes": size,
        "sha256": hashlib.sha256(b"x" * size).hexdigest(),
        "restart": restart,
    }
    return upload(machine, parameters, content)


def test_an_upload_that_begins_anew_has_the_room_of_what_it_gives_up() -> None:
    machine = Machine("SRV1")
    send(machine, b"y" * 50, offset=0)
    machine.disk_free_bytes = 10
    assert send(machine, b"x" * 60, offset=0, restart=True)["held_bytes"] == 60


def test_an_upload_goes_on_beside_one_who_reads_and_lets_others_write() -> None:
    machine = Machine("SRV1")
    send(machine, b"x" * 50, offset=0)
    with machine.files.open(PATH, {"read"}, share={"read", "write"}):
        assert send(machine, b"x" * 10, offset=50)["held_bytes"] == 60


def test_an_upload_into_a_locked_file_changes_nothing() -> None:
    machine = Machine("SRV1")
    send(machine, b"x" * 50, offset=0)
    with machine.files.open(PATH, {"read"}, share={"read"}), pytest.raises(ScriptFault):
        send(machine, b"x" * 10, offset=50)
    assert machine.files.read(PATH) == b"x" * 50


def directory(base: str, wanted: str) -> object:
    machine = Machine("DC1", domain="CORP", dns_domain="corp.example", is_controller=True)
    machine.notes["directory"] = [
        make_computer_entry(name, "Windows 11 Pro", domain="corp.example") for name in ("PC1", "PC2")
    ]
    return directory_computers(machine, {"base_dn": base, "filter": wanted, "attributes": [], "page_size": 9}, b"")[
        "count"
    ]


def test_a_controller_answers_what_the_filter_lets_pass_below_the_base() -> None:
    assert directory("DC=corp,DC=example", "(sAMAccountName=PC1$)") == 1
    assert directory("DC=corp,DC=example", "(objectClass=printQueue)") == 0
    assert directory("C=example", "(objectClass=computer)") == 0


def test_a_filter_that_makes_no_sense_fails_the_script() -> None:
    with pytest.raises(ScriptFault, match="filter"):
        directory("DC=corp,DC=example", "(objectClass=computer")


def test_configurations_are_compared_with_the_case_of_their_base64() -> None:
    # "G" and "a" as a third byte differ there in case alone; -eq would leave the old configuration in place.
    one, other = (base64.b64encode(text).decode() for text in (b"12G", b"12a"))
    assert one != other
    assert one.lower() == other.lower()
    assert "-ceq [string]$Parameters.config" in read_text(load("agent-install").name)


def test_a_prelude_that_is_not_ours_runs_nothing_and_is_a_violation() -> None:
    machine = Machine("SRV1")
    texts = (read_text("prelude") + "\n# another", load("identify").text, "{}")
    assert read_request(machine, [base64.b64encode(text.encode()) for text in texts]) is None
    assert machine.violations


def test_an_agent_that_its_failure_action_has_started_again_counts_as_started() -> None:
    machine = Machine("SRV1")
    machine.files.write(r"C:\agent.exe", b"MZ")
    machine.services.register(Service("Agent", r"C:\agent.exe", start_s=3))
    machine.services.start("Agent")
    start_agent(machine, "Agent")
    found = machine.services.find("Agent")
    assert found is not None
    assert found.state == "running"
