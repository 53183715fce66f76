r"""Windows Installer: packages, what is installed, and the exit codes of ``msiexec``.

A package is a value that is written to the virtual disk as a file (:meth:`MsiPackage.content`); it is no real MSI.
An installation is one transaction: it happens, or everything is as it was (1603).

Example:
    >>> machine = Machine(name="SRV1")
    >>> package = MsiPackage("Agent", "1.0.0", files={r"C:\Program Files\Agent\agent.exe": b"MZ"})
    >>> machine.files.write(r"C:\agent.msi", package.content())
    >>> machine.installer.install(r"C:\agent.msi")
    0
    >>> [product.version for product in machine.installer.products()]
    ['1.0.0']
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import asdict, evolve, field, frozen

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.clock import Clock
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import Files
from msp_sdk.testing.machine.names import key, make_guid, parent
from msp_sdk.testing.machine.program import Program
from msp_sdk.testing.machine.reboot import PendingReboot
from msp_sdk.testing.machine.registry import Registry, View
from msp_sdk.testing.machine.rights import Who
from msp_sdk.testing.machine.services import Service, Services

#: Exit codes of ``msiexec``.
SUCCESS = 0
INSTALL_FAILURE = 1603
UNKNOWN_PRODUCT = 1605
ALREADY_RUNNING = 1618
PACKAGE_OPEN_FAILED = 1619
PACKAGE_INVALID = 1620
PRODUCT_VERSION = 1638
REBOOT_INITIATED = 1641
REBOOT_REQUIRED = 3010

UNINSTALL = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall"

_PATIENCE_S = 60.0
_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
_MARK = b"\nMSP-DEMO-MSI "


@frozen
class MsiPackage:
    """A package.

    Attributes:
        name: As the list of installed programs shows it.
        version: Dotted numbers.
        files: Path to content.
        services: Name to the path of its program; registered as automatic and started.
        publisher: As that list shows it.
        is_64_bit: Where its entry in the registry is.
        failure: What goes wrong after everything was done; None when nothing does.
        wants_reboot: Its author asks for a reboot at its end.
        upgrade_code: What all versions of the product have in common; made of the name when empty.
        product_code: Of this version; made of name and version when empty.
    """

    name: str
    version: str
    files: Mapping[str, bytes] = field(factory=dict)
    services: Mapping[str, str] = field(factory=dict)
    publisher: str = "Example Ltd"
    is_64_bit: bool = True
    failure: str | None = None
    wants_reboot: bool = False
    upgrade_code: str = ""
    product_code: str = ""

    def __attrs_post_init__(self) -> None:
        if not self.upgrade_code:
            object.__setattr__(self, "upgrade_code", make_guid(f"upgrade {self.name}"))
        if not self.product_code:
            object.__setattr__(self, "product_code", make_guid(f"product {self.name} {self.version}"))

    @property
    def view(self) -> View:
        """The view of the registry in which its entry is."""
        return 64 if self.is_64_bit else 32

    def content(self) -> bytes:
        """The package as a file."""
        document = asdict(evolve(self, files={}))
        document["files"] = {path: base64.b64encode(data).decode() for path, data in self.files.items()}
        return _MAGIC + _MARK + json.dumps(document, sort_keys=True).encode()


def read_msi(content: bytes) -> MsiPackage | None:
    """The package in a file; None when it is none, or is cut off."""
    begin = content.find(_MARK)
    if not content.startswith(_MAGIC) or begin < 0:
        return None
    try:
        document: dict[str, Any] = json.loads(content[begin + len(_MARK) :])
        contents = {path: base64.b64decode(data) for path, data in document.pop("files").items()}
        return MsiPackage(**document, files=contents)
    except (ValueError, TypeError, KeyError):
        return None


class Installer:
    """Windows Installer of a machine.

    Attributes:
        busy: Another installation is under way: 1618.
        reboot: What happens when a package's author asks for a reboot and nobody said that it may not.
    """

    def __init__(self, files: Files, services: Services, registry: Registry, clock: Clock) -> None:
        self.busy = False
        self.reboot: Callable[[], None] = lambda: None
        self._files = files
        self._services = services
        self._registry = registry
        self._clock = clock
        self._pending = PendingReboot(registry)
        self._products: dict[str, MsiPackage] = {}

    def products(self) -> tuple[MsiPackage, ...]:
        """What is installed, by name and version."""
        return tuple(sorted(self._products.values(), key=lambda entry: (entry.name, _number(entry.version))))

    def install(self, path: str, *, who: Who = "system", may_reboot: bool = False) -> int:
        """``msiexec /i PATH /qn``, with ``/norestart`` unless the machine ``may_reboot``.

        Returns:
            The exit code: 0, 3010 or 1641 when it is installed; 1603 when everything is as it was; 1618, 1619, 1620
            or 1638 when nothing was begun.
        """
        if self.busy:
            return ALREADY_RUNNING
        try:
            package = read_msi(Program(self._files, who).read(path))
        except WindowsFault:
            return PACKAGE_OPEN_FAILED
        if package is None:
            return PACKAGE_INVALID
        related = [entry for entry in self._products.values() if entry.upgrade_code == package.upgrade_code]
        ready = self._look_before(package, related, who)
        if ready is not None:
            return ready
        return self._end(_Transaction(self).exchange(related, package), package, may_reboot=may_reboot)

    def _look_before(self, package: MsiPackage, related: list[MsiPackage], who: Who) -> int | None:
        """The exit code of an installation that has nothing to do or may not begin; None when it may."""
        same = self._products.get(package.product_code)
        if same is not None:
            # The same product again is only looked at; another version under the same code has to be an upgrade.
            return SUCCESS if same.version == package.version else PRODUCT_VERSION
        newer = any(_number(entry.version) > _number(package.version) for entry in related)
        return INSTALL_FAILURE if newer or who == "user" else None

    def remove(self, product_code: str, *, who: Who = "system", may_reboot: bool = False) -> int:
        """``msiexec /x CODE /qn``; 1605 when there is no such product."""
        if self.busy:
            return ALREADY_RUNNING
        package = self._products.get(product_code)
        if package is None:
            return UNKNOWN_PRODUCT
        if who == "user":
            return INSTALL_FAILURE
        return self._end(_Transaction(self).exchange([package], None), package, may_reboot=may_reboot)

    def _end(self, code: int, package: MsiPackage, *, may_reboot: bool) -> int:
        if code == SUCCESS and package.wants_reboot:
            code = REBOOT_REQUIRED
        if code == REBOOT_REQUIRED and may_reboot:
            self.reboot()
            return REBOOT_INITIATED
        return code


class _Transaction:
    """One installation, upgrade or removal; each step leaves behind how it is undone."""

    def __init__(self, installer: Installer) -> None:
        self._files = installer._files  # noqa: SLF001 (one thing in two classes)
        self._services = installer._services  # noqa: SLF001 (as above)
        self._registry = installer._registry  # noqa: SLF001 (as above)
        self._pending = installer._pending  # noqa: SLF001 (as above)
        self._products = installer._products  # noqa: SLF001 (as above)
        self._clock = installer._clock  # noqa: SLF001 (as above)
        self._program = Program(self._files, "system")
        self._undo: list[Callable[[], object]] = []
        self._needs_reboot = False

    def exchange(self, old: list[MsiPackage], new: MsiPackage | None) -> int:
        """Take the old ones away and bring the new one; 1603, and nothing happened, when a step fails."""
        try:
            for name in (name for entry in (*old, *filter(None, [new])) for name in entry.services):
                self._stop(name)
            for entry in old:
                self._take_away(entry, new)
            if new is not None:
                self._bring(new)
        except WindowsFault:
            for step in reversed(self._undo):
                with contextlib.suppress(WindowsFault):
                    step()
            return INSTALL_FAILURE
        return REBOOT_REQUIRED if self._needs_reboot else SUCCESS

    def _take_away(self, old: MsiPackage, new: MsiPackage | None) -> None:
        """Remove what the new one does not have as well."""
        kept = {name.casefold() for name in new.services} if new else set()
        for name in old.services:
            if name.casefold() not in kept:
                self._delete_service(name)
        files = {key(path) for path in new.files} if new else set()
        for path in old.files:
            if key(path) not in files:
                self._delete_file(path)
        self._forget(old)

    def _bring(self, new: MsiPackage) -> None:
        for path, content in new.files.items():
            self._write_file(path, content)
        for name, binary in new.services.items():
            self._register(Service(name, binary, new.name))
        if new.failure is not None:
            raise WindowsFault(faults.PROCESS_ABORTED, new.failure)
        self._list(new)

    def _stop(self, name: str) -> None:
        service = self._services.find(name)
        if service is None or service.state == "stopped":
            return
        if not self._services.stop_and_wait(name):
            raise WindowsFault(faults.SERVICE_REQUEST_TIMEOUT, f"the service {name} does not stop.")
        self._undo.append(lambda: self._try_start(name))

    def _try_start(self, name: str) -> None:
        service = self._services.find(name)
        if service is not None and service.state == "stopped":
            self._services.start(name)

    def _delete_service(self, name: str) -> None:
        service = self._services.find(name)
        if service is not None:
            self._services.delete(name)
            if self._services.find(name) is None:
                self._undo.append(lambda: self._services.create(service))
            self._undo.append(lambda: setattr(service, "marked_for_deletion", False))

    def _register(self, service: Service) -> None:
        before = self._services.find(service.name)
        if before is not None and not before.marked_for_deletion:
            for name, value in (("binary", service.binary), ("start", "auto")):
                self._undo.append(functools.partial(setattr, before, name, getattr(before, name)))
                setattr(before, name, value)
        else:
            self._services.register(service)
            self._undo.append(lambda: self._services.delete(service.name))
        self._undo.append(lambda: self._services.stop_and_wait(service.name))
        self._services.start_and_wait(service.name)

    def _write_file(self, path: str, content: bytes) -> None:
        before = self._files.read(path)
        self._program.make_folder(parent(path))
        try:
            self._program.write(path, content)
        except WindowsFault as fault:
            self._restore_later(path, before)
            if fault.number != faults.SHARING_VIOLATION:
                raise
            # Somebody has it open: the new one waits beside it for the next boot.
            places = (f"{path}.{number}.rbf" for number in itertools.count())
            beside = next(place for place in places if not self._files.exists(place))
            self._undo.append(lambda: self._patiently(lambda: self._program.delete(beside)))
            self._program.write(beside, content)
            self._owe(beside, path)
            return
        self._restore_later(path, before)

    def _delete_file(self, path: str) -> None:
        node = self._files.node(path)
        if node is None:
            return
        try:
            self._program.delete(path)
        except WindowsFault as fault:
            # Open elsewhere, or a running program of somebody else.
            if fault.number not in {faults.SHARING_VIOLATION, faults.ACCESS_DENIED}:
                raise
            self._owe(path, None)
            return
        self._restore_later(path, node.content)
        self._undo.append(lambda: setattr(node, "delete_pending", False))

    def _owe(self, source: str, target: str | None) -> None:
        self._needs_reboot = True
        self._undo.append(functools.partial(self._pending.put, self._pending.renames()))
        self._pending.rename(source, target)

    def _restore_later(self, path: str, before: bytes | None) -> None:
        def restore() -> None:
            if before is None:
                self._program.delete(path)
            elif self._files.read(path) != before:
                self._program.write(path, before)

        self._undo.append(lambda: self._patiently(restore))

    def _patiently(self, work: Callable[[], object]) -> None:
        """Do it when the antivirus has let go of what was just written."""

        def done() -> bool:
            try:
                work()
            except WindowsFault as fault:
                if fault.number not in {faults.SHARING_VIOLATION, faults.VIRUS_INFECTED}:
                    raise
                return False
            return True

        self._clock.wait(done, timeout_s=_PATIENCE_S)

    def _list(self, package: MsiPackage) -> None:
        entry = f"{UNINSTALL}\\{package.product_code}"
        values: dict[str, object] = {
            "DisplayName": package.name,
            "DisplayVersion": package.version,
            "Publisher": package.publisher,
            "InstallDate": f"{self._clock.now():%Y%m%d}",
            "UninstallString": f"MsiExec.exe /X{package.product_code}",
            "WindowsInstaller": 1,
        }
        for name, value in values.items():
            self._registry.set(entry, name, value, view=package.view)
        self._products[package.product_code] = package

    def _forget(self, package: MsiPackage) -> None:
        self._registry.delete_key(f"{UNINSTALL}\\{package.product_code}", view=package.view)
        del self._products[package.product_code]
        self._undo.append(lambda: self._list(package))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
