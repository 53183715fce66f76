"""Traffic that a real Windows recorded: our side reads what Windows says, and the stand-in answers as Windows does."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from msp_sdk.testing.powershell import Command, User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_shells import ShellService
from msp_sdk.windows import faults

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
NAMES = ("noprofile", "operation_timeout", "send", "standard", "stderr_rc", "unicode")
RSP = "{http://schemas.microsoft.com/wbem/wsman/1/windows/shell}"
USER = User("vagrant")
# Windows 10 and later add it to some answers and not to others.
OPTIONAL = {"ActivityId"}

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings of real Windows are not here")


def exchanges(name: str) -> list[tuple[str, str]]:
    document = yaml.safe_load((RECORDINGS / f"winrs_{name}.yml").read_text(encoding="utf-8"))
    return [(entry["request"], entry["response"]) for entry in document["messages"]]


def shape(node: ET.Element) -> tuple[object, ...]:
    """Names of elements and attributes, without values."""
    local = node.tag.rpartition("}")[2]
    attributes = tuple(sorted(key.rpartition("}")[2] for key in node.attrib))
    children = tuple(shape(child) for child in node if child.tag.rpartition("}")[2] not in OPTIONAL)
    return (local, attributes, children)


def test_faults_are_read_as_windows_says_them() -> None:
    answers = [response for name in NAMES for _, response in exchanges(name) if "Fault" in response]
    assert answers
    for answer in answers:
        fault = faults.parse_fault(500, answer.encode())
        assert fault.code == faults.OPERATION_TIMEOUT
        assert faults.kind_of(fault) == "operation-timeout"
        assert fault.subcode == "w:TimedOut"
        assert fault.reason.startswith("The WS-Management service")


def test_answers_without_a_fault_are_not_taken_for_one() -> None:
    for name in NAMES:
        for _, response in exchanges(name):
            if "Fault" not in response:
                assert faults.parse_fault(200, response.encode()) == faults.Fault(200)


@pytest.mark.parametrize("name", NAMES)
def test_stand_in_answers_each_request_in_the_shape_of_windows(name: str) -> None:
    recorded = exchanges(name)
    asyncio.run(replay(recorded))


def written(answer: ET.Element) -> tuple[list[tuple[str, bytes]], int | None]:
    """What the command wrote by a recorded answer, and its exit code when it had ended."""
    nodes = [node for node in answer.iter(f"{RSP}Stream") if node.text]
    code = answer.findtext(f".//{RSP}ExitCode")
    streams = [(node.get("Name", ""), base64.b64decode(node.text or "")) for node in nodes]
    return streams, None if code is None else int(code)


def translated(wanted: ET.Element, got: ET.Element) -> dict[str, str]:
    """Windows' ids and ours for the same things."""
    pairs = ((wanted.findtext(f".//{RSP}{tag}"), got.findtext(f".//{RSP}{tag}")) for tag in ("ShellId", "CommandId"))
    return {theirs: ours for theirs, ours in pairs if theirs and ours}


async def replay(recorded: list[tuple[str, str]]) -> None:
    """Send the recorded requests, with our ids for Windows' ids; what commands wrote comes from the recording."""
    ids: dict[str, str] = {}
    pieces = asyncio.Queue[tuple[list[tuple[str, bytes]], int | None]]()

    async def play(command: Command) -> int:
        while True:
            streams, code = await pieces.get()
            for stream, data in streams:
                (command.stdout if stream == "stdout" else command.stderr).append(data)
            if code is not None:
                return code
            command.changed.set()

    service = ShellService(Machine("RECORDED"), runner=play)
    for request, response in recorded:
        for theirs, ours in ids.items():
            request = request.replace(theirs, ours)  # noqa: PLW2901 (ids become ours)
        wanted = ET.fromstring(response)  # noqa: S314 (a recording)
        timed_out = "TimedOut" in response
        if timed_out:
            request = re.sub(r"PT20S|PT\d+S", "PT0.05S", request)  # noqa: PLW2901 (twenty seconds are long)
        if "ReceiveResponse" in response:
            pieces.put_nowait(written(wanted))
            await asyncio.sleep(0.01)
        status, answer = await service.answer(request.encode(), USER)
        got = ET.fromstring(answer)  # noqa: S314 (the stand-in's)
        assert status == (500 if timed_out else 200)
        assert shape(got) == shape(wanted)
        ids.update(translated(wanted, got))
    service.close()
