"""Running scripts on a host: what comes back, what is lost, deadlines, shells; against the WinRM endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msp_sdk import errors
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_refusals import ACCESS_DENIED, INVALID_SELECTORS, MAX_OPERATIONS, STDIN_CLOSED
from msp_sdk.windows.scripts import Script, load
from msp_sdk.windows.shell import ShellOptions
from tests.unit.echo_scripts import ECHO, WRITE


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def run_after(lab: HostLab, host: WsmanHost, script: Script, trouble: Callable[[WsmanHost], None], **run: Any) -> Any:
    """Open, make trouble, run; what the script returned."""

    async def go() -> object:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                trouble(host)
                return (await shell.run(script, {}, **{"deadline_s": 10, **run})).value
        finally:
            await shells.aclose()

    return asyncio.run(asyncio.wait_for(go(), 20))


def test_deadline_ends_a_script_its_process_and_its_shell(lab: HostLab) -> None:
    host = lab.host(https=False)

    async def go() -> str:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                host.faults.script_delay_s = 60
                with pytest.raises(errors.ScriptFailedError) as caught:
                    await shell.run(ECHO, {}, deadline_s=1.5)
                return caught.value.code
        finally:
            await shells.aclose()

    with HostsThread([host]):
        assert asyncio.run(asyncio.wait_for(go(), 10)) == "deadline-exceeded"
        assert host.shells.shells == {}


def test_silent_host_does_not_hold_a_run_beyond_its_deadline(lab: HostLab) -> None:
    # Lesson 37.
    host = lab.host(https=False)
    host.faults.silent = True
    with HostsThread([host]), pytest.raises(errors.UnreachableError) as caught:
        lab.run(lab.target(host), lab.local_credential(), ECHO)
    assert caught.value.code == "no-answer"
    assert lab.ledger.state(lab.local_credential()).state == "unproven"


def test_cancelled_run_closes_its_shell(lab: HostLab) -> None:
    host = lab.host(https=False)

    async def go() -> None:
        shells = lab.shells()

        async def work() -> None:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                host.faults.script_delay_s = 60
                await shell.run(ECHO, {}, deadline_s=60)

        task = asyncio.create_task(work())
        while "Receive" not in host.operations:  # noqa: ASYNC110 (the host is in another loop)
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(asyncio.wait_for(go(), 15))
        assert host.shells.shells == {}


def test_parameters_with_quotes_dollars_backticks_newlines_and_unicode_arrive_intact(lab: HostLab) -> None:
    # Lesson 40: parameters are JSON on stdin, never spliced.
    host = lab.host(https=False)
    nasty = {"p": "a'b\"c$(exit 1)`n\r\n\t;|&<>%PATH% こんにちは 😀 \\", "list": ["one"], "none": None}
    with HostsThread([host]):
        (result,) = lab.run(lab.target(host), lab.local_credential(), ECHO, parameters=nasty)
    assert result.value["parameters"] == nasty


@pytest.mark.parametrize("stdout", [b"", b"done\r\n", b"MSP1-ENVELOPE\r\n", b"MSP1-ENVELOPE\r\ne30=\r\n"])
def test_silence_and_other_talk_are_failures(lab: HostLab, stdout: bytes) -> None:
    # Lesson 39: success is our envelope with the run's id, nothing else.
    host = lab.host(https=False)
    host.faults.stdout = stdout
    with HostsThread([host]), pytest.raises(errors.ScriptFailedError):
        lab.run(lab.target(host), lab.local_credential(), ECHO)


def test_host_that_lets_another_one_answer_is_the_wrong_host(lab: HostLab) -> None:
    # Lesson 54: what is meant travels with the request, and what comes back is compared all the same.
    host = lab.host(https=False)
    identity = {**host.machine.identity(), "computer_name": "SRV9", "sid": "S-1-5-21-9-9-9-1009"}
    document = {"run_id": "run-1", "ok": True, "value": {"identified": True}, "error": None, "host": identity}
    data = base64.b64encode(json.dumps(document).encode())
    host.faults.stdout = b"MSP1-ENVELOPE\r\n" + data + b"\r\n"

    async def go() -> None:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                await shell.run(load("identify"), {}, deadline_s=10, run_id="run-1")
        finally:
            await shells.aclose()

    with HostsThread([host]), pytest.raises(errors.WrongHostError):
        asyncio.run(go())


def test_unregistered_script_fails_closed(lab: HostLab) -> None:
    # Lesson 47: the stand-in never agrees with what it does not know.
    host = lab.host(https=False)
    unknown = Script("test-unknown", 1, "param($Parameters)\n@{}\n", "0" * 64, writes=False)
    with HostsThread([host]), pytest.raises(errors.ScriptFailedError):
        lab.run(lab.target(host), lab.local_credential(), unknown)
    assert any("unregistered script" in violation for violation in host.machine.violations)


def test_one_shell_is_reused_and_renewed_after_its_share_of_commands(lab: HostLab) -> None:
    # Lesson 38.
    host = lab.host(https=False)
    options = ShellOptions(threads=2, commands_per_shell=3)
    with HostsThread([host]):
        lab.run(lab.target(host), lab.local_credential(), *[ECHO] * 5, options=options)
        assert host.operations.count("Create") == 2
        assert host.operations.count("Delete") == 2
    assert host.logon_count == 1


def test_used_up_operations_are_cured_by_a_new_shell(lab: HostLab) -> None:
    # Lesson 38.
    host = lab.host(https=False)
    host.shells.quotas.operations_per_shell = 2
    options = ShellOptions(threads=2, one_process=False)
    with HostsThread([host]):
        assert len(lab.run(lab.target(host), lab.local_credential(), *[WRITE] * 3, options=options)) == 3
    assert host.machine.notes["written"] == 3


def test_lost_receive_is_asked_for_again_and_nothing_runs_twice(lab: HostLab) -> None:
    host = lab.host(https=False)

    async def go() -> None:
        shells = lab.shells()
        async with shells.open(lab.target(host), lab.local_credential()) as shell:
            host.faults.drop_before.append("Receive")
            assert (await shell.run(WRITE, {}, deadline_s=10)).value == {"written": 1}
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())
    assert host.machine.notes["written"] == 1
    assert host.logon_count == 2


def test_lost_answer_of_a_writing_script_is_asked_for_by_its_run_and_the_script_is_not_repeated(lab: HostLab) -> None:
    host = lab.host(https=False)

    def lose(host: WsmanHost) -> None:
        host.faults.drop_after.append("Send")

    with HostsThread([host]):
        assert run_after(lab, host, WRITE, lose) == {"written": 1}
    assert host.machine.notes["written"] == 1
    assert host.logon_count == 2


def test_lost_command_is_begun_again_since_nothing_has_run(lab: HostLab) -> None:
    host = lab.host(https=False)
    host.faults.drop_after.append("Command")
    with HostsThread([host]):
        lab.run(lab.target(host), lab.local_credential(), WRITE)
    assert host.machine.notes["written"] == 1


@pytest.mark.parametrize("code", [STDIN_CLOSED, INVALID_SELECTORS, MAX_OPERATIONS])
def test_refused_command_is_begun_once_more_and_a_second_refusal_is_an_error_of_ours(lab: HostLab, code: int) -> None:
    host = lab.host(https=False)

    async def go() -> None:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), lab.local_credential()) as shell:
                host.faults.refuse_with["Command"] = code
                assert (await shell.run(WRITE, {}, deadline_s=10)).value == {"written": 1}
        finally:
            await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())
    assert host.machine.notes["written"] == 1


@pytest.mark.parametrize("operation", ["Send", "Receive"])
def test_refusal_in_the_midst_of_a_run_is_cured_for_a_writing_script_and_an_error_for_a_reading_one(
    lab: HostLab, operation: str
) -> None:
    # Whatever the refusal means, the script may have done its work: its record on the host says.
    host = lab.host(https=False)

    def refuse(host: WsmanHost) -> None:
        host.faults.refuse_with[operation] = ACCESS_DENIED

    with HostsThread([host]):
        assert run_after(lab, host, WRITE, refuse) == {"written": 1}
        with pytest.raises(errors.MspError) as caught:
            run_after(lab, host, ECHO, refuse)
    assert caught.value.code == "needs-local-administrator"
    assert host.machine.notes["written"] == 1


@pytest.mark.parametrize(
    ("machine", "code"),
    [
        ({"language_mode": "ConstrainedLanguage"}, "language-restricted"),
        ({"powershell_version": "2.0"}, "unsupported-os"),
    ],
)
def test_restricted_language_and_old_powershell_are_named(lab: HostLab, machine, code: str) -> None:
    host = lab.host(https=False)
    for name, value in machine.items():
        setattr(host.machine, name, value)
    with HostsThread([host]), pytest.raises(errors.ScriptFailedError) as caught:
        lab.run(lab.target(host), lab.local_credential(), ECHO)
    assert caught.value.code == code
    assert lab.ledger.state(lab.local_credential()).state == "proven"


def test_identify_tells_which_machine_it_is(lab: HostLab) -> None:
    host = lab.host()
    with HostsThread([host]):
        (result,) = lab.run(lab.target(host, sid=host.machine.sid), lab.local_credential(), load("identify"))
    assert (result.host.domain, result.host.dns_domain, result.host.sid) == ("CORP", "corp.example", host.machine.sid)


def test_forty_hosts_are_worked_with_at_once_by_one_proven_credential(lab: HostLab) -> None:
    hosts = [lab.host(f"PC{number}", http=False) for number in range(40)]
    credential = lab.domain_credential()
    lab.prove(credential)

    async def go() -> list[str]:
        shells = lab.shells(options=ShellOptions(threads=32))

        async def one(host) -> str:
            async with shells.open(lab.target(host), credential) as shell:
                return (await shell.run(ECHO, {}, deadline_s=30, payload=b"x" * 200_000)).host.computer_name

        try:
            return await asyncio.gather(*(one(host) for host in hosts))
        finally:
            await shells.aclose()

    with HostsThread(hosts):
        assert asyncio.run(go()) == [host.machine.name for host in hosts]
        assert [host.shells.shells for host in hosts] == [{}] * 40
    assert [host.machine.violations for host in hosts] == [[]] * 40
    assert lab.service.bad_password_count == 0
    assert len(lab.service.attempts) == 40
