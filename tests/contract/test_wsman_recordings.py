"""Traffic that a real Windows recorded: our side reads what Windows says, and the stand-in answers as Windows does."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from msp_sdk.errors import WindowsError
from msp_sdk.network.kerberos_tickets import KerberosTickets
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.powershell import Command, User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.testing.wsman_messages import message_id_of, operation_of
from msp_sdk.testing.wsman_shells import ShellService
from msp_sdk.windows import faults
from msp_sdk.windows.doors import HostPolicy
from msp_sdk.windows.link import HostLink, LogonTools, ShellOptions
from msp_sdk.windows.transport import Wsman
from msp_sdk.windows.ways import WayMemory

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
NAMES = ("noprofile", "operation_timeout", "send", "standard", "stderr_rc", "unicode")
RSP = "{http://schemas.microsoft.com/wbem/wsman/1/windows/shell}"
USER = User("vagrant")
# Windows 10 and later add it to some answers and not to others.
OPTIONAL = {"ActivityId"}
# What is another value each time, or on each host.
VARIES = {"MessageID", "RelatesTo", "ShellId", "CommandId", "ClientIP", "Address", "Selector", "Machine"}

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings of real Windows are not here")


def exchanges(name: str) -> list[tuple[str, str]]:
    document = yaml.safe_load((RECORDINGS / f"winrs_{name}.yml").read_text(encoding="utf-8"))
    return [(entry["request"], entry["response"]) for entry in document["messages"]]


def local(name: str) -> str:
    return name.rpartition("}")[2]


def shape(node: ET.Element) -> tuple[object, ...]:
    """An element with its namespace, attributes, text and children, but for what is another value each time."""
    text = "" if local(node.tag) in VARIES else (node.text or "")
    attributes = {key: "" if local(key) in VARIES else value for key, value in node.attrib.items()}
    children = tuple(shape(child) for child in node if local(child.tag) not in OPTIONAL)
    return (node.tag, tuple(sorted(attributes.items())), text, children)


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
        assert faults.parse_fault(status, answer) == faults.parse_fault(status, response.encode())
        assert message_id_of(request.encode()) in answer.decode()
        ids.update(translated(wanted, got))
    service.close()


# The other way round: Windows' recorded answers, over TLS and a real logon, to our client.


class RecordedShells(ShellService):
    """Answers with what Windows answered, in order; what is asked must be what was asked then."""

    def __init__(self, machine: Machine, recorded: list[tuple[str, str]]) -> None:
        super().__init__(machine)
        self.left = list(recorded)

    async def answer(self, request: bytes, user: User) -> tuple[int, bytes]:
        del user
        asked, response = self.left.pop(0)
        assert operation_of(request) == operation_of(asked.encode())
        relates_to = f"<a:RelatesTo>{message_id_of(request)}</a:RelatesTo>"
        answer = re.sub("<a:RelatesTo>.*?</a:RelatesTo>", relates_to, response)
        return (500 if "<s:Fault>" in response else 200), answer.encode()


@contextmanager
def client_of(lab: HostLab, recorded: list[tuple[str, str]]) -> Iterator[Wsman]:
    """Our client, logged on to a host that answers as recorded."""
    host = lab.host(http=False)
    shells = host.shells = RecordedShells(host.machine, recorded)
    policy = HostPolicy(trusted_cas=(lab.ca.pem.decode(),))
    tools = LogonTools(lab.ledger, KerberosTickets(lab.ledger), WayMemory(0))
    link = HostLink(lab.target(host), lab.local_credential(), tools, policy=policy, options=ShellOptions())
    with HostsThread([host]):
        try:
            yield link.log_on()
        finally:
            link.close()
    assert shells.left == []


@pytest.mark.parametrize("name", NAMES)
def test_our_client_reads_each_recorded_answer(tmp_path: Path, name: str) -> None:
    recorded = exchanges(name)
    shell_id = command_id = ""
    with client_of(HostLab(tmp_path), list(recorded)) as wsman:
        for request, response in recorded:
            wanted = ET.fromstring(response)  # noqa: S314 (a recording)
            operation = operation_of(request.encode())
            if operation == "Create":
                shell_id = wsman.create(5)
                assert shell_id == wanted.findtext(f".//{RSP}ShellId")
            elif operation == "Command":
                command_id = wsman.command(shell_id, 5)
                assert command_id == wanted.findtext(f".//{RSP}CommandId")
            elif operation == "Send":
                wsman.send(shell_id, command_id, b"some", end=False, timeout_s=5)
            elif operation == "Receive":
                check_output(wsman, shell_id, command_id, response)
            elif operation == "Signal":
                wsman.terminate(shell_id, command_id, 5)
            else:
                wsman.delete(shell_id, 5)


def check_output(wsman: Wsman, shell_id: str, command_id: str, response: str) -> None:
    """Our client has read what a recorded Receive says; silence is no output and no error."""
    output = wsman.receive(shell_id, command_id, 5)
    if "TimedOut" in response:
        assert output is None
        return
    assert output is not None
    streams, code = written(ET.fromstring(response))  # noqa: S314 (a recording)
    assert output.stdout == b"".join(data for stream, data in streams if stream == "stdout")
    assert output.stderr == b"".join(data for stream, data in streams if stream == "stderr")
    assert output.done is (code is not None)
    if code is not None:
        assert output.exit_code == code


def test_half_of_a_recorded_answer_is_an_error_of_ours_and_never_an_answer(tmp_path: Path) -> None:
    (asked, response), *_ = exchanges("standard")
    for index, end in enumerate((0, 1, len(response) // 2, len(response) - 1)):
        folder = tmp_path / str(index)
        folder.mkdir()
        with client_of(HostLab(folder), [(asked, response[:end])]) as wsman, pytest.raises(WindowsError):
            wsman.create(5)
