r"""A virtual Windows machine: what it has, what it runs, and who answers the scripts that are sent to it.

It is no PowerShell. It answers **registered** scripts by the SHA-256 of their text through Python handlers that state
what the script does, and fails closed on any other text: a changed script has to have its handler looked at. So it
proves our orchestration, not PowerShell.

Example:
    >>> machine = Machine(name="SRV1", domain="CORP", dns_domain="corp.example")
    >>> machine.files.write(r"C:\Program Files\Agent\agent.exe", b"MZ")
    >>> machine.files.exists(r"c:\program files\agent\AGENT.EXE")
    True
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Literal

from attrs import Factory, field, frozen, mutable

ServiceState = Literal["running", "stopped"]
ServiceStart = Literal["auto", "manual", "disabled"]


class ScriptFault(Exception):  # noqa: N818 (it is what a script says, not an error of ours)
    """A script ends with a reason code, as ``Stop-Script`` does on Windows."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class FileLocked(Exception):  # noqa: N818
    """The file is open in a running program."""


@frozen
class FileEntry:
    """A file: its path as it was first written, and its content."""

    path: str
    content: bytes

    @property
    def sha256(self) -> str:
        """Lower-case hex."""
        return hashlib.sha256(self.content).hexdigest()


class Files:
    r"""A file system without case, in which ``/`` is ``\``. What the antivirus knows vanishes as it is written."""

    def __init__(self) -> None:
        self._entries: dict[str, FileEntry] = {}
        self.blocked_sha256: set[str] = set()
        self.blocked_names: set[str] = set()

    @staticmethod
    def _key(path: str) -> str:
        return path.replace("/", "\\").rstrip("\\").casefold()

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file. It is gone again at once where the antivirus knows its name or digest."""
        key = self._key(path)
        entry = FileEntry(path.replace("/", "\\"), content)
        if entry.sha256 in self.blocked_sha256 or key.rsplit("\\", 1)[-1] in self.blocked_names:
            self._entries.pop(key, None)
            return
        self._entries[key] = entry

    def read(self, path: str) -> bytes | None:
        """The content, or None when there is no such file."""
        entry = self._entries.get(self._key(path))
        return entry.content if entry else None

    def entry(self, path: str) -> FileEntry | None:
        """The file, or None."""
        return self._entries.get(self._key(path))

    def exists(self, path: str) -> bool:
        """True when the file is there."""
        return self._key(path) in self._entries

    def delete(self, path: str) -> bool:
        """Remove a file; False when it was not there."""
        return self._entries.pop(self._key(path), None) is not None

    def move(self, source: str, target: str) -> bool:
        """Rename a file over another; False when it was not there."""
        entry = self._entries.pop(self._key(source), None)
        if entry is None:
            return False
        self.write(target, entry.content)
        return True

    def under(self, folder: str) -> tuple[FileEntry, ...]:
        """All files below a folder, by path."""
        prefix = self._key(folder) + "\\"
        return tuple(entry for key, entry in sorted(self._entries.items()) if key.startswith(prefix))

    @property
    def size_bytes(self) -> int:
        """What all files take."""
        return sum(len(entry.content) for entry in self._entries.values())


@mutable
class Service:
    """A service. ``start_failure`` is why it stops at once when it is started; None when it runs."""

    name: str
    binary: str
    display_name: str = ""
    start: ServiceStart = "auto"
    state: ServiceState = "stopped"
    start_failure: str | None = None
    account: str = "LocalSystem"


class Services:
    """The services of a machine, by name without case."""

    def __init__(self) -> None:
        self._entries: dict[str, Service] = {}
        # A service whose binary has this digest fails to start, with this detail.
        self.failing: dict[str, str] = {}

    def find(self, name: str) -> Service | None:
        """The service, or None."""
        return self._entries.get(name.casefold())

    def create(self, service: Service) -> None:
        """Add or replace a service."""
        self._entries[service.name.casefold()] = service

    def delete(self, name: str) -> bool:
        """Remove a service; False when it was not there."""
        return self._entries.pop(name.casefold(), None) is not None

    def all(self) -> tuple[Service, ...]:
        """All services, by name."""
        return tuple(service for _, service in sorted(self._entries.items()))


class Registry:
    """Values by key and name, without case."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], object] = {}

    def set(self, key: str, name: str, value: object) -> None:
        """Write a value."""
        self._values[key.casefold(), name.casefold()] = value

    def get(self, key: str, name: str) -> object | None:
        """The value, or None."""
        return self._values.get((key.casefold(), name.casefold()))

    def delete(self, key: str, name: str) -> None:
        """Remove a value; nothing happens when it was not there."""
        self._values.pop((key.casefold(), name.casefold()), None)


@mutable
class Defender:
    """Microsoft Defender as ``Get-MpComputerStatus`` tells it. Not present on some servers."""

    present: bool = True
    antivirus_enabled: bool = True
    real_time_protection: bool = True
    signature_age_days: int = 0
    tamper_protection: bool = True


@frozen
class ScriptCall:
    """A script that a machine answered. ``parameters`` hold no payload."""

    script: str
    parameters: Mapping[str, object]
    ok: bool
    user: str = ""


def _domain_sid() -> str:
    parts = "-".join(str(secrets.randbelow(2**32)) for _ in range(3))
    return f"S-1-5-21-{parts}-{1000 + secrets.randbelow(9000)}"


@mutable(eq=False)
class Machine:
    """One Windows machine.

    Attributes:
        name: NetBIOS name, as the machine itself spells it.
        domain: NetBIOS name of its domain, or its workgroup.
        dns_domain: None in a workgroup.
        sid: Of its computer account (in a workgroup: of the machine).
        firewall: Profile to on or off.
        notes: Free for handlers: facts that outlive a call, by name.
        violations: What must never happen, such as an unknown script or an envelope in clear. A test fails on any.
    """

    name: str
    domain: str = "WORKGROUP"
    dns_domain: str | None = None
    sid: str | None = Factory(_domain_sid)
    is_controller: bool = False
    os_name: str = "Windows Server 2019 Standard"
    os_version: str = "10.0.17763.0"
    powershell_version: str = "5.1.17763.5830"
    language_mode: str = "FullLanguage"
    disk_free_bytes: int = 20 * 2**30
    files: Files = field(factory=Files)
    services: Services = field(factory=Services)
    registry: Registry = field(factory=Registry)
    defender: Defender = field(factory=Defender)
    firewall: dict[str, bool] = field(factory=lambda: {"Domain": True, "Private": True, "Public": True})
    notes: dict[str, object] = field(factory=dict)
    calls: list[ScriptCall] = field(factory=list)
    violations: list[str] = field(factory=list)

    def identity(self, *, is_administrator: bool = True) -> dict[str, object]:
        """What the envelope says of the machine."""
        return {
            "computer_name": self.name,
            "domain": self.domain,
            "dns_domain": self.dns_domain,
            "sid": self.sid,
            "os_version": self.os_version,
            "powershell_version": self.powershell_version,
            "language_mode": self.language_mode,
            "is_administrator": is_administrator,
        }

    def start_service(self, name: str) -> None:
        """Start a service as the service manager does.

        Raises:
            ScriptFault: ``install-failed``: it is not there, its file is gone, or it stops at once.
        """
        service = self.services.find(name)
        if service is None:
            raise ScriptFault("install-failed", f"there is no service {name}.")
        entry = self.files.entry(service.binary)
        if entry is None:
            raise ScriptFault("install-failed", f"the file of the service {name} is not there.")
        failure = service.start_failure or self.services.failing.get(entry.sha256)
        if failure is not None:
            service.state = "stopped"
            raise ScriptFault("install-failed", failure)
        service.state = "running"

    def stop_service(self, name: str) -> None:
        """Stop a service; nothing happens when it is not there."""
        service = self.services.find(name)
        if service is not None:
            service.state = "stopped"


Handler = Callable[[Machine, dict[str, object], bytes], Mapping[str, object]]


@frozen
class RegisteredHandler:
    """Who answers a script."""

    script: str
    sha256: str
    handler: Handler


_HANDLERS: dict[str, RegisteredHandler] = {}


def answers(script: str, *, sha256: str) -> Callable[[Handler], Handler]:
    """Register the handler of a script, for exactly the text with this digest.

    Write the digest as a literal: when the script changes, the handler must be looked at again.
    """

    def register(handler: Handler) -> Handler:
        _HANDLERS[sha256] = RegisteredHandler(script, sha256, handler)
        return handler

    return register


def handler_of(sha256: str) -> RegisteredHandler | None:
    """Who answers the script with this digest; None when nobody does."""
    return _HANDLERS.get(sha256)


def handlers() -> tuple[RegisteredHandler, ...]:
    """All registered handlers, by script."""
    return tuple(sorted(_HANDLERS.values(), key=lambda entry: entry.script))


@answers("identify", sha256="1d4f2ea41fc3039e285f2127efb93ecb1d7c8551d2acc7d6b811b90fbce9eb56")
def _identify(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    del machine, parameters, payload
    return {"identified": True}
