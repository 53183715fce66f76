"""The scripts of deployment, as their handlers state them, on a machine with trouble in it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.testing.agent_file import build_agent_file
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.machine.rights import CLOSED
from msp_sdk.testing.machine.services import Service
from msp_sdk.testing.windows_host import Machine, ScriptFault, handler_of
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.windows.scripts import load

FOLDER = r"C:\Program Files\Agent"
EXE = rf"{FOLDER}\agent.exe"
STAGE = r"C:\ProgramData\msp\stage"
OLD, NEW = (build_agent_file(version, size_bytes=2000) for version in ("1.0.0", "1.1.0"))
PLACE = {
    "service_name": "Agent",
    "display_name": "Agent",
    "install_folder": r"%ProgramFiles%\Agent",
    "file_name": "agent.exe",
    "config_name": "config.json",
    "stage_id": "run-1",
}


def run(machine: Machine, script: str, payload: bytes = b"", **parameters: object) -> Mapping[str, object]:
    handler = handler_of(load(script).sha256)
    assert handler is not None
    return handler.handler(machine, {**PLACE, **parameters}, payload)


def stage(machine: Machine, content: bytes = NEW) -> Mapping[str, object]:
    return run(machine, "agent-stage", content, size_bytes=len(content))


def install(machine: Machine, content: bytes = NEW) -> Mapping[str, object]:
    known = [hashlib.sha256(known).hexdigest() for known in (OLD, NEW)]
    digest = hashlib.sha256(content).hexdigest()
    return run(machine, "agent-install", sha256=digest, config=base64.b64encode(b"{}").decode(), known_sha256=known)


def failure(work, *arguments: object) -> ScriptFault:
    with pytest.raises(ScriptFault) as caught:
        work(*arguments)
    return caught.value


@pytest.fixture
def machine() -> Machine:
    """One on which the old version runs and the new one is staged."""
    machine = Machine("SRV1")
    stage(machine, OLD)
    install(machine, OLD)
    stage(machine)
    return machine


def agent(machine: Machine) -> Service:
    service = machine.services.find("Agent")
    assert service is not None
    return service


def assert_old_one_runs(machine: Machine) -> None:
    assert (machine.files.read(EXE), agent(machine).state) == (OLD, "running")
    assert sorted(entry.path for entry in machine.files.under(FOLDER)) == [EXE, rf"{FOLDER}\config.json"]


def test_process_that_ends_later_than_its_service_is_waited_for(machine: Machine):
    # Lesson 42: the running file was locked.
    agent(machine).linger_s = 10.0
    assert install(machine)["changed"]
    assert (machine.files.read(EXE), agent(machine).state) == (NEW, "running")


def test_file_that_stays_open_elsewhere_is_named_and_the_old_one_runs_again(machine: Machine):
    # Lesson 42.
    with machine.files.open(EXE, {"read"}, share={"read"}):
        fault = failure(install, machine)
    assert (fault.code, "open elsewhere" in fault.detail) == ("install-failed", True)
    assert machine.files.read(EXE) == OLD


def test_antivirus_that_only_looks_is_waited_for(machine: Machine):
    machine.antivirus.scan_s = 4.0
    stage(machine)
    assert install(machine)["changed"]
    assert agent(machine).state == "running"


def test_antivirus_that_takes_the_staged_file_after_a_while_is_named(machine: Machine):
    machine.antivirus.scan_s = 2.0
    stage(machine)
    machine.antivirus.blocked_sha256.add(hashlib.sha256(NEW).hexdigest())
    assert failure(install, machine).code == "blocked-by-antivirus"
    machine.clock.advance(5)
    assert failure(install, machine).code == "blocked-by-antivirus"
    assert_old_one_runs(machine)


def test_antivirus_that_takes_the_new_file_in_its_place_is_named_and_the_old_one_runs_again(machine: Machine):
    machine.antivirus.blocked_names.add("agent.exe.new")
    assert failure(install, machine).code == "install-failed"
    assert_old_one_runs(machine)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [({"start_s": 45.0}, "in time that it runs"), ({"dependencies": ("Missing",)}, "depends on Missing")],
)
def test_service_that_does_not_start_is_told_with_its_reason(machine: Machine, trouble, said):
    for name, value in trouble.items():
        setattr(agent(machine), name, value)
    fault = failure(install, machine)
    assert fault.code == "install-failed"
    assert said in fault.detail
    # It would not start with the old file either, and that is said.
    assert "rolling back failed" in fault.detail
    assert machine.files.read(EXE) == OLD


def test_service_that_hangs_while_it_stops_leaves_the_file_alone(machine: Machine):
    agent(machine).stop_s = float("inf")
    for _ in range(2):
        assert failure(install, machine).code == "install-failed"
        assert (machine.files.read(EXE), agent(machine).state) == (OLD, "stop pending")
    machine.reboot()
    agent(machine).stop_s = 0.0
    assert install(machine)["changed"]
    assert (machine.files.read(EXE), agent(machine).state) == (NEW, "running")


def test_disk_that_fills_up_between_staging_and_installing_is_named_and_the_old_one_runs_again(machine: Machine):
    machine.disk_free_bytes = 100
    assert failure(install, machine).code == "disk-full"
    assert_old_one_runs(machine)


def test_service_that_a_console_holds_cannot_be_removed_twice_and_goes_when_it_is_closed(machine: Machine):
    with machine.services.hold("Agent"):
        assert run(machine, "agent-remove")["removed"]
        assert failure(run, machine, "agent-remove").code == "install-failed"
        stage(machine)
        assert failure(install, machine).code == "install-failed"
    stage(machine)
    assert install(machine)["changed"]
    assert agent(machine).state == "running"


def test_other_deployment_is_waited_for_and_then_named(machine: Machine):
    # Lesson 42: two deployments wrote one file.
    name = r"Global\msp-agent-Agent"
    machine.mutexes.add(name)
    machine.clock.call_later(30, lambda: machine.mutexes.discard(name))
    assert install(machine)["changed"]
    machine.mutexes.add(name)
    assert failure(install, machine).code == "script-failed"
    assert failure(run, machine, "agent-remove").code == "script-failed"


def test_staging_folder_that_a_user_made_or_that_is_a_link_is_refused():
    machine = Machine("SRV1")
    machine.program("user").make_folder(r"C:\ProgramData\msp\stage")
    # Files that already lie there keep that user's rights, whatever rights the folder gets.
    assert "belongs to a user" in failure(stage, machine).detail
    machine = Machine("SRV2")
    stage(machine)
    assert machine.files.rights_of(rf"{STAGE}\run-1") == CLOSED
    machine.files.make_folder(STAGE).link = True
    assert "link" in failure(stage, machine).detail


def test_staging_folders_of_runs_that_were_given_up_are_taken_away_after_a_week(machine: Machine):
    machine.clock.advance(6 * 86400)
    run(machine, "agent-stage", NEW, size_bytes=len(NEW), stage_id="run-2")
    assert len(machine.files.folders_in(STAGE)) == 2
    machine.clock.advance(2 * 86400)
    run(machine, "agent-stage", NEW, size_bytes=len(NEW), stage_id="run-3")
    assert [folder.path for folder in machine.files.folders_in(STAGE)] == [rf"{STAGE}\run-2", rf"{STAGE}\run-3"]


@pytest.mark.parametrize("stage_id", ["", "..", r"a\b", "a" * 65])
def test_staging_name_that_is_a_path_is_refused(stage_id):
    machine = Machine("SRV1")
    with pytest.raises(ScriptFault):
        run(machine, "agent-stage", NEW, size_bytes=len(NEW), stage_id=stage_id)
    assert machine.files.size_bytes == 0


def test_state_of_a_file_that_nobody_may_read_now_is_an_error_and_no_empty_answer(machine: Machine):
    machine.services.stop("Agent")
    with machine.files.open(EXE, {"write"}, share=set()):
        assert failure(run, machine, "agent-state").code == "script-failed"
    assert run(machine, "agent-state")["file_sha256"] == hashlib.sha256(OLD).hexdigest()


def test_reboot_cuts_connections_and_shells_and_the_next_script_finds_the_machine_up_again(tmp_path: Path):
    lab = HostLab(tmp_path)
    host = lab.host("SRV1", https=False)
    credential = lab.local_credential()

    async def go() -> int:
        shells = lab.shells()
        try:
            async with shells.open(lab.target(host), credential) as shell:
                await shell.identify()
                host.machine.reboot()
                await asyncio.sleep(0.1)
                left = len(host.shells.shells)
                assert (await shell.identify()).computer_name == "SRV1"
                return left
        finally:
            await shells.aclose()

    with HostsThread([host]):
        left = asyncio.run(go())
    assert (left, host.machine.boot_count, host.machine.violations) == (0, 1, [])
    assert host.machine.on_power_off == []
