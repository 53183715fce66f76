"""The parts of the virtual Windows machine: what each of them refuses, takes its time for, and leaves behind."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from datetime import timedelta

import pytest

import msp_sdk.testing.machine
from msp_sdk.testing.builders import build_agent_package
from msp_sdk.testing.machine import faults, products
from msp_sdk.testing.machine.clock import Clock
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.firewall import FirewallRule
from msp_sdk.testing.machine.products import MsiPackage
from msp_sdk.testing.machine.reboot import COMPONENT_SERVICING, WINDOWS_UPDATE
from msp_sdk.testing.machine.registry import Registry
from msp_sdk.testing.machine.rights import CLOSED
from msp_sdk.testing.machine.services import FailureAction, Service
from msp_sdk.testing.windows_host import Machine

EXE = r"C:\Program Files\Agent\agent.exe"


@pytest.fixture
def machine() -> Machine:
    machine = Machine("SRV1")
    machine.files.write(EXE, b"MZ1")
    machine.services.register(Service("Agent", EXE))
    return machine


def refusal(work, *arguments, **options) -> int:
    with pytest.raises(WindowsFault) as caught:
        work(*arguments, **options)
    return caught.value.number


PARTS = [part.name for part in pkgutil.iter_modules(msp_sdk.testing.machine.__path__)]


@pytest.mark.parametrize("part", [f"machine.{name}" for name in PARTS] + ["windows_host", "agent_file", "builders"])
def test_examples_of_the_parts_say_the_truth(part):
    module = importlib.import_module(f"msp_sdk.testing.{part}")
    names = ("Clock", "Files", "Machine", "Program", "Registry", "Services")
    sources = [importlib.import_module(f"msp_sdk.testing.machine.{name}") for name in PARTS]
    sources.append(importlib.import_module("msp_sdk.testing.windows_host"))
    shared = {name: getattr(source, name) for source in sources for name in names if hasattr(source, name)}
    assert doctest.testmod(module, extraglobs=shared).failed == 0


def test_same_name_and_seed_give_the_same_identity_and_another_seed_another_one():
    assert Machine("SRV1").sid == Machine("srv1").sid
    assert Machine("SRV1").sid != Machine("SRV1", seed=2).sid
    first, second = (Machine(name, domain="CORP", dns_domain="corp.example").sid for name in ("SRV1", "SRV2"))
    assert first is not None
    assert second is not None
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
    assert first != second


# Files.


def test_file_that_is_open_keeps_others_out_until_it_is_closed(machine: Machine):
    program = machine.program()
    with machine.files.open(EXE, {"read"}, share={"read"}):
        assert program.read(EXE) == b"MZ1"
        assert refusal(program.write, EXE, b"x") == faults.SHARING_VIOLATION
        assert refusal(program.delete, EXE) == faults.SHARING_VIOLATION
        assert refusal(program.move, EXE, r"C:\Program Files\b") == faults.SHARING_VIOLATION
    program.write(EXE, b"x")
    assert machine.files.read(EXE.upper()) == b"x"


def test_reader_that_shares_nothing_is_refused_while_another_reads(machine: Machine):
    with machine.files.open(EXE, {"read"}, share={"read", "write", "delete"}):
        assert refusal(machine.files.open, EXE, {"read"}, share=set()) == faults.SHARING_VIOLATION


def test_file_deleted_while_open_is_gone_with_its_last_handle(machine: Machine):
    with machine.files.open(EXE, {"read"}, share={"read", "delete"}) as handle:
        assert machine.program().delete(EXE)
        assert refusal(machine.program().read, EXE) == faults.ACCESS_DENIED
        assert handle.read() == b"MZ1"
    assert not machine.files.exists(EXE)


def test_running_program_is_neither_written_nor_deleted_but_renamed(machine: Machine):
    # Lesson 42.
    machine.services.start("Agent")
    program = machine.program("system")
    assert refusal(program.write, EXE, b"x") == faults.SHARING_VIOLATION
    assert refusal(program.delete, EXE) == faults.ACCESS_DENIED
    program.move(EXE, f"{EXE}.old")
    program.write(EXE, b"new")
    assert refusal(program.write, f"{EXE}.old", b"x") == faults.SHARING_VIOLATION
    machine.services.stop("Agent")
    assert program.delete(f"{EXE}.old")


def test_folder_hands_its_rights_down_until_one_says_otherwise(machine: Machine):
    user, administrator = machine.program("user"), machine.program("administrator")
    assert refusal(user.write, EXE, b"x") == faults.ACCESS_DENIED
    assert refusal(user.make_folder, r"C:\Program Files\Mine") == faults.ACCESS_DENIED
    # Anybody may put something into ProgramData, and change what is his own.
    user.make_folder(r"C:\ProgramData\msp")
    user.write(r"C:\ProgramData\msp\own", b"1")
    user.write(r"C:\ProgramData\msp\own", b"2")
    administrator.write(r"C:\ProgramData\msp\ours", b"1")
    assert refusal(user.write, r"C:\ProgramData\msp\ours", b"2") == faults.ACCESS_DENIED
    administrator.make_folder(r"C:\ProgramData\msp", CLOSED)
    administrator.make_folder(r"C:\ProgramData\msp\stage")
    administrator.write(r"C:\ProgramData\msp\stage\agent.exe", b"MZ")
    assert refusal(user.read, r"C:\ProgramData\msp\stage\agent.exe") == faults.ACCESS_DENIED


def test_full_disk_refuses_a_write_and_a_deletion_makes_room(machine: Machine):
    machine.disk_free_bytes = 10
    program = machine.program()
    assert refusal(program.write, r"C:\Program Files\big", b"x" * 11) == faults.DISK_FULL
    program.write(r"C:\Program Files\big", b"x" * 10)
    assert machine.disk_free_bytes == 0
    program.delete(r"C:\Program Files\big")
    assert machine.disk_free_bytes == 10


def test_file_taken_away_under_its_writer_takes_no_room(machine: Machine):
    before = machine.disk_free_bytes
    with machine.files.open(EXE, {"write"}, share=set()) as handle:
        machine.files.delete(EXE)
        handle.write(b"x" * 100)
    assert machine.disk_free_bytes == before + len(b"MZ1")
    assert not machine.files.exists(EXE)


def test_slow_disk_takes_the_time_of_the_machine(machine: Machine):
    machine.files.bytes_per_s = 100.0
    machine.program().write(r"C:\Program Files\big", b"x" * 500)
    assert machine.clock.elapsed_s == 5.0


# Services.


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"start": "disabled"}, faults.SERVICE_DISABLED),
        ({"binary": r"C:\gone.exe"}, faults.FILE_NOT_FOUND),
        ({"start_s": 31.0}, faults.SERVICE_REQUEST_TIMEOUT),
        ({"start_failure": "it ended with code 5."}, faults.PROCESS_ABORTED),
        ({"dependencies": ("Missing",)}, faults.SERVICE_DEPENDENCY_FAIL),
        ({"dependencies": ("Agent",)}, faults.SERVICE_DEPENDENCY_FAIL),
        ({"marked_for_deletion": True}, faults.SERVICE_MARKED_FOR_DELETE),
        ({"state": "running"}, faults.SERVICE_ALREADY_RUNNING),
    ],
)
def test_service_that_cannot_start_says_why_and_stays_stopped(machine: Machine, change, number):
    service = machine.services.find("Agent")
    assert service is not None
    for name, value in change.items():
        setattr(service, name, value)
    assert refusal(machine.services.start_and_wait, "agent") == number
    assert service.state == change.get("state", "stopped")


def test_unknown_service_is_its_own_refusal(machine: Machine):
    assert refusal(machine.services.start, "Nobody") == faults.SERVICE_DOES_NOT_EXIST
    assert refusal(machine.services.stop, "Agent") == faults.SERVICE_NOT_ACTIVE
    assert refusal(machine.services.register, Service("AGENT", EXE)) == faults.SERVICE_EXISTS


def test_service_starts_and_stops_in_its_own_time(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.start_s, service.stop_s = 5.0, 40.0
    machine.services.start("Agent")
    assert service.state == "start pending"
    assert refusal(machine.services.stop, "Agent") == faults.SERVICE_CANNOT_ACCEPT_CTRL
    machine.clock.advance(5)
    assert service.state == "running"
    assert not machine.services.stop_and_wait("Agent")
    assert service.state == "stop pending"
    assert machine.services.stop_and_wait("Agent")
    assert machine.clock.elapsed_s == 45.0


def test_dependencies_are_started_first_and_hold_the_stop_back(machine: Machine):
    machine.services.register(Service("Helper", EXE, dependencies=("Agent",)))
    machine.services.start_and_wait("Helper")
    assert {service.state for service in machine.services.all()} == {"running"}
    assert refusal(machine.services.stop, "Agent", force=False) == faults.DEPENDENT_SERVICES_RUNNING
    machine.services.stop("Agent")
    assert {service.state for service in machine.services.all()} == {"stopped"}


def test_service_that_crashes_is_restarted_as_often_as_its_failure_actions_say(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.failure_actions = (FailureAction("restart", 5), FailureAction("restart", 60), FailureAction("none"))
    machine.services.start("Agent")
    for delay_s in (5, 60):
        machine.services.crash("Agent")
        machine.clock.advance(delay_s - 1)
        assert service.state == "stopped"
        machine.clock.advance(1)
        assert service.state == "running"
    machine.services.crash("Agent")
    machine.clock.advance(1000)
    assert (service.state, service.failure_count, service.exit_code) == ("stopped", 3, faults.PROCESS_ABORTED)


def test_failures_are_forgotten_after_a_long_time_without_one(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.failure_actions, service.reset_s = (FailureAction("restart"), FailureAction("none")), 100.0
    machine.services.start("Agent")
    machine.services.crash("Agent")
    machine.clock.advance(100)
    machine.services.crash("Agent")
    assert (service.state, service.failure_count) == ("running", 1)


def test_stopped_service_is_not_restarted(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.failure_actions = (FailureAction("restart", 5),)
    machine.services.start("Agent")
    machine.services.stop("Agent")
    machine.clock.advance(100)
    assert (service.state, service.failure_count) == ("stopped", 0)


def test_service_that_somebody_holds_is_only_marked_for_deletion(machine: Machine):
    with machine.services.hold("Agent"):
        assert machine.services.delete("Agent")
        assert refusal(machine.services.delete, "Agent") == faults.SERVICE_MARKED_FOR_DELETE
        assert refusal(machine.services.register, Service("Agent", EXE)) == faults.SERVICE_MARKED_FOR_DELETE
        assert refusal(machine.services.start, "Agent") == faults.SERVICE_MARKED_FOR_DELETE
    assert machine.services.find("Agent") is None
    machine.services.register(Service("Agent", EXE))


def test_process_may_hold_its_file_a_little_longer_than_its_service_runs(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.linger_s = 2.0
    machine.services.start("Agent")
    machine.services.stop("Agent")
    assert service.state == "stopped"
    assert refusal(machine.program().write, EXE, b"x") == faults.SHARING_VIOLATION
    machine.clock.advance(2)
    machine.program().write(EXE, b"x")


# Antivirus.


def test_antivirus_holds_a_file_then_takes_the_bad_one_and_lets_the_good_one_go(machine: Machine):
    machine.antivirus.scan_s = 3.0
    machine.antivirus.blocked_names.add("bad.exe")
    program = machine.program()
    program.write(r"C:\Program Files\bad.exe", b"1")
    program.write(r"C:\Program Files\good.exe", b"1")
    assert refusal(program.read, r"C:\Program Files\bad.exe") == faults.VIRUS_INFECTED
    assert refusal(program.delete, r"C:\Program Files\good.exe") == faults.SHARING_VIOLATION
    assert program.read(r"C:\Program Files\good.exe") == b"1"
    machine.clock.advance(3)
    assert [entry.path for entry in machine.antivirus.found] == [r"C:\Program Files\bad.exe"]
    assert not program.exists(r"C:\Program Files\bad.exe")
    assert program.delete(r"C:\Program Files\good.exe")


def test_antivirus_ends_the_service_before_it_takes_its_program(machine: Machine):
    machine.antivirus.scan_s = 10.0
    _, content = build_agent_package("1.0.0", flagged=True, size_bytes=500)
    # Known, but only looked at when the service runs already.
    machine.antivirus.knows = lambda _: False
    machine.files.write(EXE, content)
    machine.services.start("Agent")
    machine.antivirus.blocked_names.add("agent.exe")
    machine.clock.advance(10)
    service = machine.services.find("Agent")
    assert service is not None
    assert (service.state, machine.files.exists(EXE)) == ("stopped", False)


def test_file_given_back_from_quarantine_is_left_alone_from_then_on(machine: Machine):
    machine.antivirus.quarantines = True
    machine.antivirus.blocked_names.add("bad.exe")
    machine.program().write(r"C:\Program Files\bad.exe", b"1")
    machine.antivirus.give_back(machine.antivirus.found[0])
    assert machine.files.read(r"C:\Program Files\bad.exe") == b"1"


def test_antivirus_that_is_off_takes_nothing(machine: Machine):
    machine.antivirus.blocked_names.add("bad.exe")
    machine.defender.real_time_protection = False
    machine.files.write(r"C:\bad.exe", b"1")
    assert machine.files.exists(r"C:\bad.exe")


# Registry.


def test_32_bit_programs_have_a_software_key_of_their_own():
    registry = Registry()
    registry.set(r"HKEY_LOCAL_MACHINE\Software\A", "x", 1)
    registry.set(r"HKLM\SOFTWARE\A", "x", 2, view=32)
    assert [registry.get(r"hklm\software\a", "X", view=view) for view in (64, 32)] == [1, 2]
    registry.set(r"HKLM\SYSTEM\A", "x", 3, view=32)
    assert registry.get(r"HKLM\SYSTEM\A", "x") == 3
    assert registry.delete_key(r"HKLM\SOFTWARE\A", view=32)
    assert registry.get(r"HKLM\SOFTWARE\A", "x") == 1


@pytest.mark.parametrize(("data", "kind"), [("a", "REG_DWORD"), (2**32, "REG_DWORD"), (1, "REG_SZ"), (True, None)])
def test_value_that_does_not_fit_its_kind_is_refused(data, kind):
    with pytest.raises(TypeError):
        Registry().set(r"HKLM\A", "x", data, kind=kind)


def test_kind_follows_from_the_data():
    registry = Registry()
    found = []
    for data in ("a", 1, 2**40, [""], b""):
        registry.set(r"HKLM\A", "x", data)
        value = registry.value(r"HKLM\A", "x")
        found.append(value.kind if value else None)
    assert found == ["REG_SZ", "REG_DWORD", "REG_QWORD", "REG_MULTI_SZ", "REG_BINARY"]


# Windows Installer.

FIRST = MsiPackage("Agent", "1.0.0", {EXE: b"MZ-msi-1"}, {"Agent": EXE})
SECOND = MsiPackage("Agent", "1.1.0", {EXE: b"MZ-msi-2"}, {"Agent": EXE})


def install(machine: Machine, package: MsiPackage | bytes, **options) -> int:
    content = package if isinstance(package, bytes) else package.content()
    machine.files.write(r"C:\package.msi", content)
    return machine.installer.install(r"C:\package.msi", **options)


def test_package_brings_files_service_and_entry_and_takes_them_away_again():
    machine = Machine("SRV1")
    assert install(machine, FIRST) == products.SUCCESS
    service = machine.services.find("Agent")
    assert service is not None
    assert (service.state, machine.files.read(EXE)) == ("running", b"MZ-msi-1")
    key = f"{products.UNINSTALL}\\{FIRST.product_code}"
    assert machine.registry.get(key, "DisplayVersion") == "1.0.0"
    assert machine.installer.remove(FIRST.product_code) == products.SUCCESS
    assert (machine.services.find("Agent"), machine.files.read(EXE)) == (None, None)
    assert not machine.registry.has_key(key)


def test_upgrade_replaces_the_version_before_and_the_service_runs():
    machine = Machine("SRV1")
    install(machine, FIRST)
    assert install(machine, SECOND) == products.SUCCESS
    assert machine.installer.products() == (SECOND,)
    service = machine.services.find("Agent")
    assert service is not None
    assert (service.state, machine.files.read(EXE)) == ("running", b"MZ-msi-2")
    # What is older is refused, what is there is only looked at.
    assert install(machine, FIRST) == products.INSTALL_FAILURE
    assert install(machine, SECOND) == products.SUCCESS


def test_upgrade_that_fails_leaves_the_version_before_running():
    machine = Machine("SRV1")
    install(machine, FIRST)
    _, broken = build_agent_package("1.1.0", start_failure="it ended.", size_bytes=500)
    assert install(machine, MsiPackage("Agent", "1.1.0", {EXE: broken}, {"Agent": EXE})) == products.INSTALL_FAILURE
    assert machine.installer.products() == (FIRST,)
    service = machine.services.find("Agent")
    assert service is not None
    assert (service.state, machine.files.read(EXE)) == ("running", b"MZ-msi-1")


def test_exit_codes_of_what_was_never_begun():
    machine = Machine("SRV1")
    assert machine.installer.install(r"C:\none.msi") == products.PACKAGE_OPEN_FAILED
    assert install(machine, FIRST.content()[:-20]) == products.PACKAGE_INVALID
    assert machine.installer.remove(FIRST.product_code) == products.UNKNOWN_PRODUCT
    machine.installer.busy = True
    assert install(machine, FIRST) == products.ALREADY_RUNNING
    machine.installer.busy = False
    assert install(machine, FIRST, who="user") == products.INSTALL_FAILURE
    install(machine, FIRST)
    same_code = MsiPackage("Agent", "1.0.1", product_code=FIRST.product_code)
    assert install(machine, same_code) == products.PRODUCT_VERSION
    with machine.files.open(r"C:\package.msi", {"write"}, share=set()):
        assert machine.installer.install(r"C:\package.msi") == products.PACKAGE_OPEN_FAILED


def test_file_in_use_is_replaced_at_the_reboot_that_is_owed_from_then_on():
    machine = Machine("SRV1")
    machine.files.write(r"C:\Tool\tool.dll", b"old")
    with machine.files.open(r"C:\Tool\tool.dll", {"read"}, share={"read"}):
        assert install(machine, MsiPackage("Tool", "1.0", {r"C:\Tool\tool.dll": b"new"})) == products.REBOOT_REQUIRED
    assert machine.files.read(r"C:\Tool\tool.dll") == b"old"
    assert machine.pending_reboot.reasons() == ("file-renames",)
    machine.reboot()
    assert machine.files.read(r"C:\Tool\tool.dll") == b"new"
    assert machine.pending_reboot.reasons() == ()


@pytest.mark.parametrize(("may_reboot", "code", "boots"), [(False, 3010, 0), (True, 1641, 1)])
def test_package_that_wants_a_reboot_gets_it_only_where_it_may(may_reboot, code, boots):
    machine = Machine("SRV1")
    assert install(machine, MsiPackage("Tool", "1.0", wants_reboot=True), may_reboot=may_reboot) == code
    assert machine.boot_count == boots


# Power, time, firewall.


def test_reboot_settles_what_is_owed_cuts_connections_and_starts_what_starts_by_itself(machine: Machine):
    cut = []
    machine.on_power_off.append(lambda: cut.append("connections"))
    machine.services.register(Service("ByHand", EXE, start="manual"))
    machine.services.start("ByHand")
    for place in (COMPONENT_SERVICING, WINDOWS_UPDATE):
        machine.pending_reboot.require(place)
    machine.pending_reboot.rename(r"C:\gone.tmp", None)
    assert machine.pending_reboot.reasons() == ("component-servicing", "file-renames", "windows-update")
    handle = machine.files.open(EXE, {"read"}, share={"read"})
    machine.reboot()
    assert (cut, handle.is_open, machine.pending_reboot.reasons()) == (["connections"], False, ())
    assert {service.name: service.state for service in machine.services.all()} == {
        "Agent": "running",
        "ByHand": "stopped",
    }


def test_failure_action_reboots_the_machine(machine: Machine):
    service = machine.services.find("Agent")
    assert service is not None
    service.failure_actions = (FailureAction("reboot", 60),)
    machine.services.start("Agent")
    machine.services.crash("Agent")
    machine.clock.advance(60)
    assert (machine.boot_count, service.state) == (1, "running")


def test_clock_is_wrong_by_its_skew_alone():
    right, wrong = Clock(), Clock(skew=timedelta(minutes=-7))
    right.advance(10)
    wrong.advance(10)
    assert right.now() - wrong.now() == timedelta(minutes=7)


def test_firewall_lets_in_what_a_rule_lets_in_and_a_block_comes_first(machine: Machine):
    firewall = machine.firewall
    firewall.rules.append(FirewallRule("SMB", 445, remote=("10.0.0.0/8",)))
    assert (firewall.allows(445, remote="10.1.2.3"), firewall.allows(445, remote="192.0.2.1")) == (True, False)
    firewall.rules.append(FirewallRule("No WinRM", 5985, frozenset({"Public"}), blocks=True))
    assert firewall.allows(5985)
    firewall.current = "Public"
    assert not firewall.allows(5985)
    firewall["Public"] = False
    assert firewall.allows(5985)
