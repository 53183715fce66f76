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

from collections.abc import Callable, Mapping

from attrs import Factory, field, frozen, mutable

from msp_sdk.testing.agent_file import read_agent
from msp_sdk.testing.machine.antivirus import Antivirus
from msp_sdk.testing.machine.clock import Clock
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import FileEntry, Files
from msp_sdk.testing.machine.firewall import Firewall
from msp_sdk.testing.machine.names import make_sid
from msp_sdk.testing.machine.products import Installer
from msp_sdk.testing.machine.program import Program
from msp_sdk.testing.machine.reboot import PendingReboot
from msp_sdk.testing.machine.registry import Registry
from msp_sdk.testing.machine.rights import CLOSED, Who
from msp_sdk.testing.machine.services import Service, Services

__all__ = [
    "Defender",
    "FileEntry",
    "Files",
    "Handler",
    "Machine",
    "RegisteredHandler",
    "Registry",
    "ScriptCall",
    "ScriptFault",
    "Service",
    "Services",
    "answers",
    "handler_of",
    "handlers",
    "text_parameter",
]


class ScriptFault(Exception):  # noqa: N818 (it is what a script says, not an error of ours)
    """A script ends with a reason code, as ``Stop-Script`` does on Windows."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


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


def _account_sid(machine: Machine) -> str:
    """The SID of a computer account; in a workgroup, of the machine itself."""
    if machine.dns_domain is None:
        return make_sid(f"{machine.domain} {machine.name} {machine.seed}")
    return make_sid(f"domain {machine.dns_domain}", f"{machine.name} {machine.seed}")


@mutable(eq=False)
class Machine:
    """One Windows machine.

    Attributes:
        name: NetBIOS name, as the machine itself spells it.
        domain: NetBIOS name of its domain, or its workgroup.
        dns_domain: None in a workgroup.
        seed: Tells machines of the same name apart: another seed, another SID.
        sid: Of its computer account (in a workgroup: of the machine). The same for the same name, domain and seed.
        mutexes: Names of mutexes that other programs hold.
        execution_policy: Of scripts in files, as ``Get-ExecutionPolicy`` has it; ours come on stdin.
        clock: Its time; ``clock.skew`` is what it is wrong by.
        firewall: Profile to on or off, and which ports come through.
        on_power_off: Called when its power goes, for a reboot too: whoever carries its connections cuts them here.
        boot_count: How often it came up again.
        notes: Free for handlers: facts that outlive a call, by name.
        violations: What must never happen, such as an unknown script or an envelope in clear. A test fails on any.
    """

    name: str
    domain: str = "WORKGROUP"
    dns_domain: str | None = None
    seed: int = field(default=0, kw_only=True)
    sid: str | None = Factory(_account_sid, takes_self=True)
    is_controller: bool = False
    os_name: str = "Windows Server 2019 Standard"
    os_version: str = "10.0.17763.0"
    powershell_version: str = "5.1.17763.5830"
    language_mode: str = "FullLanguage"
    _disk_free_bytes: int = 20 * 2**30
    execution_policy: str = "RemoteSigned"
    clock: Clock = field(factory=Clock)
    files: Files = field(init=False)
    services: Services = field(init=False)
    registry: Registry = field(factory=Registry)
    antivirus: Antivirus = field(init=False)
    installer: Installer = field(init=False)
    pending_reboot: PendingReboot = field(init=False)
    defender: Defender = field(factory=Defender)
    firewall: Firewall = field(factory=Firewall)
    on_power_off: list[Callable[[], None]] = field(factory=list)
    boot_count: int = 0
    mutexes: set[str] = field(factory=set)
    notes: dict[str, object] = field(factory=dict)
    calls: list[ScriptCall] = field(factory=list)
    violations: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.files = Files(self._disk_free_bytes, self.clock)
        self.services = Services(self.files, self.clock)
        self.antivirus = Antivirus(self.files, self.services, self.clock)
        self.installer = Installer(self.files, self.services, self.registry, self.clock)
        self.pending_reboot = PendingReboot(self.registry)
        self.antivirus.watches = lambda: self.defender.real_time_protection or bool(self.notes.get("other_antivirus"))
        self.files.is_image = self.services.runs_from
        self.antivirus.knows = _is_flagged_agent
        self.services.judge = _why_it_does_not_run
        self.services.reboot = self.reboot
        self.installer.reboot = self.reboot

    @property
    def disk_free_bytes(self) -> int:
        """What is left on its disk. Setting it makes the disk larger or smaller around what is there."""
        return self.files.free_bytes

    @disk_free_bytes.setter
    def disk_free_bytes(self, value: int) -> None:
        self.files.capacity_bytes += value - self.files.free_bytes
        self.files.free_bytes = value

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

    def program(self, who: Who = "administrator") -> Program:
        """The disk as a program sees it that runs on somebody's behalf."""
        return Program(self.files, who)

    def stop_service(self, name: str) -> None:
        """Stop a service and let time pass until it stands; nothing happens when it is not there.

        Raises:
            ScriptFault: ``install-failed``: it does not stop within 30 seconds.
        """
        if not self.services.stop_and_wait(name):
            raise ScriptFault("install-failed", f"the service {name} did not stop in time.")

    def power_off(self) -> None:
        """The power goes: connections, processes and open files with it. Nothing comes up by itself."""
        for cut in tuple(self.on_power_off):
            cut()
        self.antivirus.power_off()
        self.files.forget_handles()
        self.services.power_off()
        self.mutexes.clear()
        self.installer.busy = False
        self.clock.forget()

    def reboot(self) -> None:
        """Go down and come up: what was put off until now is done, and services start that start by themselves."""
        self.power_off()
        self.pending_reboot.settle(self.files)
        self.boot_count += 1
        self.antivirus.boot()
        self.services.boot()


def _is_flagged_agent(content: bytes) -> bool:
    traits = read_agent(content)
    return traits is not None and traits.flagged


def _why_it_does_not_run(service: Service, content: bytes) -> str | None:
    """A made-up agent itself says whether it can run."""
    traits = read_agent(content)
    return service.start_failure or (traits.start_failure if traits else None)


def close_folder(program: Program, path: str) -> None:
    """What ``New-ClosedFolder`` of the prelude does: a folder for administrators alone.

    Raises:
        ScriptFault: It is a link, or somebody else made it: what lies in it would keep that person's rights.
    """
    folder = program.files.folder(path)
    if folder is not None and folder.link:
        raise ScriptFault("script-failed", f"{path} is a link; it is not written to.")
    if folder is not None and folder.owner == "user":
        raise ScriptFault("script-failed", f"{path} belongs to a user; it is not written to.")
    program.make_folder(path, CLOSED)


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

    Write the digest as a literal: when the script changes, the handler must be looked at again. What Windows refuses
    and the handler does not catch ends the script with ``script-failed``, as the prelude has it.
    """

    def register(handler: Handler) -> Handler:
        def answer(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
            try:
                return handler(machine, parameters, payload)
            except WindowsFault as fault:
                raise ScriptFault("script-failed", fault.detail) from fault

        _HANDLERS[sha256] = RegisteredHandler(script, sha256, answer)
        return handler

    return register


def handler_of(sha256: str) -> RegisteredHandler | None:
    """Who answers the script with this digest; None when nobody does."""
    return _HANDLERS.get(sha256)


def handlers() -> tuple[RegisteredHandler, ...]:
    """All registered handlers, by script."""
    return tuple(sorted(_HANDLERS.values(), key=lambda entry: entry.script))


def text_parameter(parameters: Mapping[str, object], name: str) -> str:
    """A parameter that is text.

    Raises:
        ScriptFault: It is not there, or something else.
    """
    value = parameters.get(name)
    if not isinstance(value, str):
        raise ScriptFault("script-failed", f"the parameter {name} is missing.")
    return value


@answers("identify", sha256="1d4f2ea41fc3039e285f2127efb93ecb1d7c8551d2acc7d6b811b90fbce9eb56")
def _identify(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    del machine, parameters, payload
    return {"identified": True}


@answers("execution-policy", sha256="aa58f206b34dce1fdc08e92d51f8060a85915735c82d085f3e8956a289541016")
def _execution_policy(machine: Machine, parameters: dict[str, object], payload: bytes) -> Mapping[str, object]:
    """One policy for each scope that is asked for; the note ``group_execution_policy`` is what Group Policy sets."""
    del parameters, payload
    policies = {
        "MachinePolicy": machine.notes.get("group_execution_policy", "Undefined"),
        "UserPolicy": "Undefined",
        "CurrentUser": "Undefined",
        "LocalMachine": machine.execution_policy,
    }
    return {"policies": [{"scope": scope, "policy": policy} for scope, policy in policies.items()]}
