"""A virtual Windows machine against every order of what programs, services, installers and an antivirus do to it."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.products import REBOOT_REQUIRED, SUCCESS, UNINSTALL, UNKNOWN_PRODUCT, MsiPackage
from msp_sdk.testing.machine.services import FailureAction, Service
from msp_sdk.testing.windows_host import Machine

CAPACITY = 4000
FOLDER = r"C:\Program Files\Agent"
NAMES = st.sampled_from(["agent.exe", "AGENT.EXE", "Agent.exe.new", "agent.EXE.NEW", "config.json", "virus.exe"])
PATHS = NAMES.map(lambda name: rf"{FOLDER}\{name}")
CONTENTS = st.integers(1, 900).map(lambda size: b"x" * size)
SERVICES = st.sampled_from(["Agent", "Other"])
ACCESS = st.sets(st.sampled_from(["read", "write", "delete"]), min_size=1)
SHARE = st.sets(st.sampled_from(["read", "write", "delete"]))
PACKAGES = [
    MsiPackage("Agent", "1.0", {rf"{FOLDER}\agent.exe": b"1" * 200}, {"Agent": rf"{FOLDER}\agent.exe"}),
    MsiPackage("Agent", "2.0", {rf"{FOLDER}\agent.exe": b"2" * 300}, {"Agent": rf"{FOLDER}\AGENT.exe"}),
    MsiPackage("Agent", "3.0", {rf"{FOLDER}\Agent.exe": b"3" * 300}, failure="a custom action failed."),
    MsiPackage("Tool", "1.0", {rf"{FOLDER}\config.json": b"4" * 100}, is_64_bit=False),
    MsiPackage("Big", "1.0", {rf"{FOLDER}\agent.exe": b"5" * 100, rf"{FOLDER}\big.bin": b"6" * 5000}),
]


class Windows(RuleBasedStateMachine):
    """Whatever is done, refused or not: the machine stays one that could be."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine("SRV1", disk_free_bytes=CAPACITY)
        self.machine.antivirus.blocked_names.add("virus.exe")
        self.machine.files.make_folder(FOLDER)
        self.program = self.machine.program()
        self.open: list[Any] = []
        self.guarded: dict[Any, tuple[Any, str, bytes]] = {}

    # Programs and their files.

    @rule(path=PATHS, content=CONTENTS)
    def write(self, path, content):
        with contextlib.suppress(WindowsFault):
            self.program.write(path, content)

    @rule(path=PATHS, access=ACCESS, share=SHARE)
    def open_file(self, path, access, share):
        with contextlib.suppress(WindowsFault):
            handle = self.machine.files.open(path, access, share=share, who="administrator")
            self.open.append(handle)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), content=CONTENTS)
    def write_through_handle(self, data, content):
        handle = data.draw(st.sampled_from(self.open))
        with contextlib.suppress(WindowsFault):
            handle.write(content)
            # Whoever opened it for writing may: the others let it.
            self.guarded = {}

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_file(self, data):
        self.open.remove(handle := data.draw(st.sampled_from(self.open)))
        handle.close()

    @rule(path=PATHS)
    def delete(self, path):
        with contextlib.suppress(WindowsFault):
            self.program.delete(path)

    @rule(source=PATHS, place=PATHS)
    def move(self, source, place):
        with contextlib.suppress(WindowsFault):
            self.program.move(source, place)

    @rule(new=PATHS, path=PATHS, previous=st.none() | PATHS)
    def replace(self, new, path, previous):
        before = self.machine.files.under(FOLDER)
        try:
            self.program.replace(new, path, previous)
        except WindowsFault:
            assert self.machine.files.under(FOLDER) == before

    # Services.

    @rule(name=SERVICES, path=PATHS, start_s=st.sampled_from([0.0, 5.0, 40.0]), stop_s=st.sampled_from([0.0, 5.0]))
    def register(self, name, path, start_s, stop_s):
        restart = (FailureAction("restart", 3.0), FailureAction("none"))
        with contextlib.suppress(WindowsFault):
            self.machine.services.register(
                Service(name, path, start_s=start_s, stop_s=stop_s, failure_actions=restart, linger_s=1.0)
            )

    @rule(name=SERVICES, verb=st.sampled_from(["start", "start_and_wait", "stop", "stop_and_wait", "crash", "delete"]))
    def control(self, name, verb):
        with contextlib.suppress(WindowsFault):
            getattr(self.machine.services, verb)(name)

    # Windows Installer.

    @rule(package=st.sampled_from(PACKAGES))
    def install(self, package):
        shelf = r"C:\shelf.msi"
        before, owed = self.state(), self.machine.pending_reboot.renames()
        self.machine.disk_free_bytes += (size := len(package.content()))
        self.machine.files.write(shelf, package.content())
        code = self.machine.installer.install(shelf)
        self.machine.files.delete(shelf)
        self.machine.disk_free_bytes -= size
        if code in {SUCCESS, REBOOT_REQUIRED}:
            assert package.product_code in {entry.product_code for entry in self.machine.installer.products()}
        else:
            assert (self.state(), self.machine.pending_reboot.renames()) == (before, owed)

    @rule(package=st.sampled_from(PACKAGES))
    def uninstall(self, package):
        known = package in self.machine.installer.products()
        code = self.machine.installer.remove(package.product_code)
        assert (code == UNKNOWN_PRODUCT) == (not known)

    def state(self):
        """Files of products and what is listed; a refused installation leaves it as it was."""
        products = {entry.product_code for entry in self.machine.installer.products()}
        files = ((entry.path.upper(), entry.content) for entry in self.machine.files.under(FOLDER))
        # Time passes while it waits, and the antivirus takes that one away.
        return [entry for entry in files if not entry[0].endswith("VIRUS.EXE")], products

    # Time, antivirus, power.

    @rule(seconds=st.sampled_from([1.0, 4.0, 31.0]))
    def pass_time(self, seconds):
        self.machine.clock.advance(seconds)

    @rule(scan_s=st.sampled_from([0.0, 2.0, 10.0]), quarantines=st.booleans())
    def set_antivirus(self, scan_s, quarantines):
        self.machine.antivirus.scan_s, self.machine.antivirus.quarantines = scan_s, quarantines

    @rule(source=PATHS, place=st.none() | PATHS)
    def put_off(self, source, place):
        self.machine.pending_reboot.rename(source, place)

    @rule()
    def reboot(self):
        self.machine.reboot()
        self.open.clear()
        self.guarded = {}
        assert self.machine.pending_reboot.reasons() == ()
        assert {service.state for service in self.machine.services.all()} <= {"running", "stopped"}
        assert not [service for service in self.machine.services.all() if service.marked_for_deletion]

    @invariant()
    def free_space_and_sizes_are_constant(self):
        files = self.machine.files
        assert files.free_bytes + files.size_bytes == CAPACITY
        assert files.free_bytes >= 0

    @invariant()
    def case_never_makes_two_files(self):
        paths = [entry.path.upper() for entry in self.machine.files.under("C:")]
        assert len(paths) == len(set(paths))

    @invariant()
    def locked_file_is_never_changed_moved_or_gone(self):
        for handle, (node, path, content) in self.guarded.items():
            if handle.is_open:
                assert "write" in handle.share or node.content == content
                assert "delete" in handle.share or self.machine.files.node(path) is node
        nodes = self.machine.files.nodes_under("C:")
        self.guarded = {handle: (node, node.path, node.content) for node in nodes for handle in node.handles}

    @invariant()
    def service_that_runs_has_its_program(self):
        for service in self.machine.services.all():
            if service.state == "running":
                assert service.image is not None
                assert self.machine.files.node(service.image.path) is service.image
                with contextlib.suppress(WindowsFault):
                    self.program.write(service.image.path, b"other")
                    raise AssertionError("a running program was written")

    @invariant()
    def products_and_uninstall_keys_agree(self):
        registry = self.machine.registry
        for view in (32, 64):
            listed = {
                (code, registry.get(f"{UNINSTALL}\\{code}", "DisplayVersion", view=view))
                for code in registry.keys_in(UNINSTALL, view=view)
            }
            products = self.machine.installer.products()
            assert listed == {(entry.product_code, entry.version) for entry in products if entry.view == view}


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
