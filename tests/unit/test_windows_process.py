"""One process for all scripts of a shell: how many requests, what ends it, and runs that are repeated by their id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import evolve

from msp_sdk import errors
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.powershell import Command, PowerShell, User, run_script
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.contract import parse_contract
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND, encode_input, parse_envelope
from msp_sdk.windows.scripts import Script, load
from msp_sdk.windows.shell import ShellOptions, WindowsShells
from tests.unit.echo_scripts import ECHO, WRITE

OPTIONS = {"WINRS_SKIP_CMD_SHELL": "TRUE", "WINRS_CONSOLEMODE_STDIN": "FALSE"}


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


@pytest.fixture
def host(lab: HostLab) -> WsmanHost:
    return lab.host(https=False)


async def run(lab: HostLab, host: WsmanHost, shells: WindowsShells, script: Script, **options: object) -> object:
    """Open, run, close; what the script returned, or the code of its error."""
    async with shells.open(lab.target(host), lab.local_credential()) as shell:
        try:
            return (await shell.run(script, {}, **{"deadline_s": 10, **options})).value
        except errors.MspError as error:
            return error.code


def stdin(*scripts: Script) -> bytes:
    pieces = (piece for script in scripts for piece, _ in encode_input(script, {}, "r1").pieces(10**6))
    return b"".join(pieces)


def process(data: bytes, *, end: bool = True) -> tuple[int, bytes, Machine]:
    """What a process does with this stdin: its exit code and its output."""
    machine = Machine("SRV1")

    async def go() -> tuple[int, bytes]:
        command = Command("1", COMMAND, ARGUMENTS, User("x"), OPTIONS)
        command.stdin += data
        if end:
            command.stdin_ended.set()
        code = await PowerShell(machine, script_delay_s=lambda: 0.0, stdout=lambda: None).run(command)
        return code, b"".join(command.stdout)

    return *asyncio.run(go()), machine


def test_first_script_costs_five_operations_and_each_more_two(lab: HostLab, host: WsmanHost) -> None:
    # Lesson 38; with the logon's two or three requests that is at most eight.
    with HostsThread([host]):
        lab.run(lab.target(host), lab.local_credential(), ECHO)
        assert host.operations == ["Create", "Command", "Send", "Receive", "Delete"]
        host.operations.clear()
        lab.run(lab.target(host), lab.local_credential(), ECHO, WRITE, ECHO)
    assert host.operations == ["Create", "Command", *["Send", "Receive"] * 3, "Delete"]


def test_process_a_script_is_there_for_hosts_that_surprise_us(lab: HostLab, host: WsmanHost) -> None:
    options = ShellOptions(threads=2, one_process=False)
    with HostsThread([host]):
        results = lab.run(lab.target(host), lab.local_credential(), ECHO, WRITE, options=options)
    assert len(results) == 2
    assert host.operations == ["Create", *["Command", "Send", "Receive", "Signal"] * 2, "Delete"]


def test_script_that_hangs_is_ended_with_its_process_and_the_next_one_gets_another(
    lab: HostLab, host: WsmanHost
) -> None:
    async def go() -> None:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            host.faults.script_delay_s = 60
            with pytest.raises(errors.ScriptFailedError) as caught:
                await shell.run(ECHO, {}, deadline_s=1.1)
            assert caught.value.code == "deadline-exceeded"
            host.faults.script_delay_s = 0
            assert (await shell.run(ECHO, {}, deadline_s=10)).value["parameters"] == {}
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())
    assert (host.operations.count("Create"), host.operations.count("Command")) == (1, 2)
    assert host.operations.count("Signal") == 1


def test_whoever_sends_one_script_and_ends_stdin_gets_one_envelope_and_exit_code_0() -> None:
    code, stdout, machine = process(stdin(ECHO))
    assert code == 0
    assert parse_envelope(stdout, "r1", script="x").ok
    assert machine.violations == []


def test_two_scripts_in_one_stdin_are_two_envelopes() -> None:
    code, stdout, machine = process(stdin(ECHO, WRITE))
    assert (code, stdout.count(b"MSP1-ENVELOPE")) == (0, 2)
    assert [call.script for call in machine.calls] == ["test-echo", "test-write"]


@pytest.mark.parametrize("cut", [1, 2, 3, 40])
def test_script_that_was_cut_off_in_stdin_is_never_run(cut: int) -> None:
    data = stdin(WRITE)[:-cut]
    code, stdout, machine = process(data)
    if cut == 1:  # Only the newline after the dot.
        assert (code, len(machine.calls)) == (0, 1)
    else:
        assert (code, stdout, machine.calls) == (4, b"", [])


def test_host_itself_runs_nothing_when_another_was_meant(lab: HostLab) -> None:
    # Lesson 54.
    other = lab.host("OTHER", https=False)
    credential = lab.local_credential(type="winrm", username=r"CORP\svc")
    with HostsThread([other]), pytest.raises(errors.WrongHostError):
        lab.run(lab.target(other, name="SRV1"), credential, WRITE)
    assert other.machine.calls == []


def test_host_itself_runs_nothing_for_who_is_no_administrator_unless_the_script_needs_none() -> None:
    machine, plain = Machine("SRV1"), User(r"CORP\plain", is_administrator=False)
    data = run_script(machine, stdin(ECHO), plain)
    assert parse_envelope(data, "r1", script="x").code == "needs-local-administrator"
    assert machine.calls == []
    assert parse_envelope(
        run_script(machine, stdin(evolve(ECHO, needs_administrator=False)), plain), "r1", script="x"
    ).ok


def test_parameters_that_do_not_fit_are_never_sent(lab: HostLab, host: WsmanHost) -> None:
    async def go() -> errors.MspError:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            with pytest.raises(errors.WindowsError) as caught:
                await shell.run(load("agent-state"), {"service_name": 5}, deadline_s=10)
        await shells.aclose()
        return caught.value

    with HostsThread([host]):
        error = asyncio.run(go())
    assert error.code == "bad-parameters"
    assert "service_name: is no string" in error.detail
    assert "Send" not in host.operations


def test_value_that_does_not_fit_is_a_failure_that_names_the_place(lab: HostLab, host: WsmanHost) -> None:
    document = {
        "input": {},
        "output": {"payload_bytes": "string"},
        "example": {"input": {}, "output": {"payload_bytes": ""}},
        "harmless": True,
        "provenance": "written by us",
    }
    with HostsThread([host]), pytest.raises(errors.ScriptFailedError, match="payload_bytes: is no string"):
        lab.run(lab.target(host), lab.local_credential(), evolve(ECHO, contract=parse_contract(document)))


def test_message_that_is_too_large_is_stepped_back_from_and_remembered(lab: HostLab, host: WsmanHost) -> None:
    host.shells.quotas.max_envelope_bytes = 300 * 1024
    payload = bytes(range(256)) * 4096

    async def go() -> None:
        shells = lab.shells()
        for _ in range(2):
            assert await run(lab, host, shells, ECHO, payload=payload) == {
                "parameters": {},
                "payload_bytes": len(payload),
                "sum": sum(payload),
            }
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())
    # The message that was refused cost one logon, in the first opening alone.
    assert host.logon_count == 3


# Runs by their id.


def test_two_clients_with_one_id_run_a_writing_script_once(lab: HostLab, host: WsmanHost) -> None:
    async def go() -> list[object]:
        shells = lab.shells()
        host.faults.script_delay_s = 0.3
        try:
            return await asyncio.gather(*(run(lab, host, shells, WRITE, run_id="job-1") for _ in range(2)))
        finally:
            await shells.aclose()

    with HostsThread([host]):
        assert asyncio.run(go()) == [{"written": 1}] * 2
    assert host.machine.notes["written"] == 1


def test_run_that_was_done_is_answered_again_and_another_id_runs_again(lab: HostLab, host: WsmanHost) -> None:
    async def go() -> list[object]:
        shells = lab.shells()
        try:
            return [await run(lab, host, shells, WRITE, run_id=run_id) for run_id in ("job-1", "job-1", "job-2")]
        finally:
            await shells.aclose()

    with HostsThread([host]):
        assert asyncio.run(go()) == [{"written": 1}, {"written": 1}, {"written": 2}]


def test_run_that_was_killed_in_the_midst_is_never_run_again_by_its_id(lab: HostLab, host: WsmanHost) -> None:
    async def go() -> list[object]:
        shells = lab.shells()
        host.faults.script_delay_s = 60
        found = [await run(lab, host, shells, WRITE, run_id="job-1", deadline_s=1.1)]
        host.faults.script_delay_s = 0
        found += [await run(lab, host, shells, WRITE, run_id=run_id) for run_id in ("job-1", "job-2")]
        await shells.aclose()
        return found

    with HostsThread([host]):
        assert asyncio.run(go()) == ["outcome-unknown", "outcome-unknown", {"written": 1}]


@pytest.mark.parametrize(
    ("operation", "when"), [("Send", "before"), ("Send", "after"), ("Receive", "before"), ("Receive", "after")]
)
def test_writing_script_is_done_once_wherever_the_connection_is_cut(
    lab: HostLab, host: WsmanHost, operation: str, when: str
) -> None:
    async def go() -> object:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            (host.faults.drop_before if when == "before" else host.faults.drop_after).append(operation)
            value = (await shell.run(WRITE, {}, deadline_s=10)).value
        await shells.aclose()
        return value

    with HostsThread([host]):
        assert asyncio.run(go()) == {"written": 1}
        assert host.shells.shells == {}
    assert host.machine.notes["written"] == 1
    assert host.machine.violations == []


def test_script_that_is_at_work_when_the_connection_breaks_is_waited_for_and_not_killed(
    lab: HostLab, host: WsmanHost
) -> None:
    async def go() -> object:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            host.faults.script_delay_s = 0.5
            host.faults.drop_before.append("Receive")
            value = (await shell.run(WRITE, {}, deadline_s=10)).value
        await shells.aclose()
        return value

    with HostsThread([host]):
        assert asyncio.run(go()) == {"written": 1}
    assert (host.operations.count("Create"), host.operations.count("Signal")) == (1, 0)


def test_reading_script_whose_answer_was_lost_is_run_again(lab: HostLab, host: WsmanHost) -> None:
    async def go() -> object:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            host.faults.drop_after.append("Receive")
            value = (await shell.run(ECHO, {}, deadline_s=10)).value
        await shells.aclose()
        return value

    with HostsThread([host]):
        assert asyncio.run(go())
    assert [call.script for call in host.machine.calls] == ["test-echo"] * 2


@pytest.mark.parametrize("trouble", ["refused", "lost"])
def test_lost_answer_is_not_asked_for_when_the_logon_for_it_did_not_come_about(
    lab: HostLab, host: WsmanHost, trouble: str
) -> None:
    # Lesson 32: the second logon is one more try of the ledger, and there is no third.
    async def go() -> object:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            host.faults.drop_after.append("Send")
            if trouble == "refused":
                host.faults.refuse_logons = True
            else:
                host.faults.drop_logons = 1
            with pytest.raises(errors.ScriptFailedError) as caught:
                await shell.run(WRITE, {}, deadline_s=10)
        await shells.aclose()
        return caught.value.code

    with HostsThread([host]):
        assert asyncio.run(go()) == "outcome-unknown"
    assert host.logon_count == 2
