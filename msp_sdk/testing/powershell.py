"""What stands for PowerShell in a remote shell: it knows the SDK's bootstrap and its registered scripts, nothing else.

It does what ``bootstrap.ps1`` and ``prelude.ps1`` do: it reads lines to one that is a dot, answers that script with one
envelope, and reads on; it refuses where it is not the machine that was meant, and keeps a record of each run that
writes. A command line that is not the bootstrap runs nothing: it is a violation of the machine, as is a script that
nobody answers for. It proves how scripts are carried and what we make of their answers, not what PowerShell does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from attrs import field, frozen, mutable

from msp_sdk.testing.windows_host import Machine, ScriptCall, ScriptFault, handler_of
from msp_sdk.windows import envelope as contract

_OLD_POWERSHELL = 3
_CUT_OFF = 4
_LEAST_VERSION = 5


@frozen
class User:
    """Who is logged on to a connection."""

    name: str
    is_administrator: bool = True


class Inlet(bytearray):
    """The stdin of a process: bytes that are added to it wake who waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()

    def __iadd__(self, data: Any) -> Self:  # type: ignore[misc]  # (what adds to it in another way wakes nobody)
        super().__iadd__(data)
        self.arrived.set()
        return self


@mutable(eq=False)
class Command:
    """A process in a shell. ``options`` are those of the request that started it."""

    id: str
    command: str
    arguments: tuple[str, ...]
    user: User
    options: Mapping[str, str] = field(factory=dict)
    stdin: bytearray = field(factory=Inlet)
    stdin_ended: asyncio.Event = field(factory=asyncio.Event)
    changed: asyncio.Event = field(factory=asyncio.Event)
    stdout: list[bytes] = field(factory=list)
    stderr: list[bytes] = field(factory=list)
    exit_code: int | None = None
    task: asyncio.Task[None] | None = None


Runner = Callable[[Command], Awaitable[int]]

# What cmd.exe takes; it starts the program unless WINRS_SKIP_CMD_SHELL says otherwise (MS-WSMV).
_CMD_LINE_MAX = 8191


@frozen
class Request:
    """What the prelude reads."""

    script: str
    request: Mapping[str, Any]
    payload: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Of the script's text."""
        return hashlib.sha256(self.script.encode()).hexdigest()


class PowerShell:
    """Runs the commands of one machine.

    Args:
        machine: Whose scripts answer; violations go to its list, and the records of runs to its note ``runs``.
        script_delay_s: How long a script takes; asked each time.
        stdout: Replaces what the next script writes, after which the process ends; asked each time.
    """

    def __init__(
        self, machine: Machine, *, script_delay_s: Callable[[], float], stdout: Callable[[], bytes | None]
    ) -> None:
        self.machine = machine
        self._delay = script_delay_s
        self._stdout = stdout
        self._mutexes: dict[str, asyncio.Lock] = {}

    async def run(self, command: Command) -> int:
        """Run a command line to its end; its exit code."""
        machine = self.machine
        if command.options.get("WINRS_CONSOLEMODE_STDIN", "FALSE").upper() != "FALSE":
            machine.violations.append("stdin was to pass through a console, which keeps some of it for itself")
        if (
            command.options.get("WINRS_SKIP_CMD_SHELL", "FALSE").upper() != "TRUE"
            and len(" ".join((command.command, *command.arguments))) > _CMD_LINE_MAX
        ):
            command.stderr.append(b"The command line is too long.\r\n")
            return 1
        given = (command.command, " ".join(command.arguments))
        if given != (contract.COMMAND, " ".join(contract.ARGUMENTS)):
            machine.violations.append(f"an unknown command line: {command.command[:80]}")
            command.stderr.append(b"unknown command line\r\n")
            return 255
        if machine.language_mode != "FullLanguage":
            command.stdout.append(f"{contract.LANGUAGE_MARKER} {machine.language_mode}\r\n".encode())
            return _OLD_POWERSHELL
        if int(machine.powershell_version.split(".")[0]) < _LEAST_VERSION:
            command.stdout.append(f"{contract.VERSION_MARKER} {machine.powershell_version}\r\n".encode())
            return _OLD_POWERSHELL
        return await self._loop(command)

    async def _loop(self, command: Command) -> int:
        """The bootstrap: a script, its envelope, the next script."""
        lines: list[bytes] = []
        while True:
            line = await _read_line(command)
            if line is None:
                return _CUT_OFF if lines else 0
            if line != contract.END_LINE:
                lines.append(line)
                continue
            request = read_request(self.machine, lines)
            lines.clear()
            if request is None:
                return 1
            data = await self._serve(request, command.user)
            replaced = self._stdout()
            if replaced is not None:
                command.stdout.append(replaced)
                return 0
            command.stdout.append(_envelope(data))
            command.changed.set()

    async def _serve(self, request: Request, user: User) -> bytes:
        """The prelude: the refusals, the record, the script. What is killed while it waits leaves its record begun."""
        run = request.request
        refused = refusal(self.machine, run, user)
        if refused is not None or not run["writes"]:
            await asyncio.sleep(self._delay())
            return answer(self.machine, request, user)
        records = self.machine.notes.setdefault("runs", {})
        assert isinstance(records, dict)  # noqa: S101 (it is this file's note)
        name = f"{run['run_id']}-{run['script']}"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._mutexes.setdefault(name, asyncio.Lock()))
            if name in records:
                stored: bytes | None = records[name]
                cut = ScriptFault("outcome-unknown", "an earlier run with this id was cut off.")
                return stored if stored is not None else _render(self.machine, run, user, fault=cut)
            records[name] = None
            await asyncio.sleep(self._delay())
            data = records[name] = answer(self.machine, request, user)
            return data


async def _read_line(command: Command) -> bytes | None:
    """The next line of stdin; None at its end."""
    inlet = command.stdin
    assert isinstance(inlet, Inlet)  # noqa: S101 (a Command is made with one)
    begun = 0
    while (end := inlet.find(b"\n", begun)) < 0:
        begun = len(inlet)
        if command.stdin_ended.is_set():
            # What has no newline at its end is a line, too.
            line = bytes(inlet) or None
            inlet.clear()
            return line
        inlet.arrived.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (inlet.arrived, command.stdin_ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
    line = bytes(inlet[:end])
    del inlet[: end + 1]
    return line


def read_request(machine: Machine, lines: Sequence[bytes]) -> Request | None:
    """The script in these lines; None, and a violation, for what makes no sense or is not registered."""
    try:
        prelude, script, raw = (base64.b64decode(line, validate=True).decode() for line in lines[:3])
        payload = b"".join(base64.b64decode(line, validate=True) for line in lines[3:])
        request = Request(script, json.loads(raw), payload)
    except (ValueError, TypeError) as error:
        machine.violations.append(f"stdin makes no sense: {error}")
        return None
    if prelude != contract.prelude() or handler_of(request.sha256) is None:
        machine.violations.append(f"an unregistered script: {request.sha256} {script.splitlines()[:1]}")
        return None
    return request


def refusal(machine: Machine, request: Mapping[str, Any], user: User) -> ScriptFault | None:
    """Why the prelude does not run a script here; None when it does."""
    meant = request["meant"]
    why = ""
    if meant["sid"] and machine.sid:
        why = "" if meant["sid"].casefold() == machine.sid.casefold() else "its computer account is another one."
    elif meant["names"] and machine.name.casefold() not in meant["names"]:
        why = "its name is another one."
    elif meant["domain"] and machine.dns_domain:
        if machine.dns_domain.rstrip(".").casefold() != meant["domain"].casefold():
            why = f"it belongs to the domain {machine.dns_domain}."
    elif meant["domain"] and meant["in_directory"]:
        why = f"it belongs to no domain, and {meant['domain']} was meant."
    if why:
        return ScriptFault("wrong-host", why)
    if request["needs_administrator"] and not user.is_administrator:
        return ScriptFault("needs-local-administrator", "the account is no administrator of this host.")
    return None


def answer(machine: Machine, request: Request, user: User) -> bytes:
    """The envelope of a script, as the line that holds it."""
    run = request.request
    fault, value = refusal(machine, run, user), None
    found = handler_of(request.sha256)
    assert found is not None  # noqa: S101 (see read_request)
    if fault is None:
        try:
            value = dict(found.handler(machine, dict(run["parameters"]), request.payload))
        except ScriptFault as error:
            fault = error
        except Exception as error:  # noqa: BLE001 (a handler with a defect must be loud, and must not hang its client)
            machine.violations.append(f"the handler of {found.script} failed: {error!r}")
            fault = ScriptFault("script-failed", repr(error))
        machine.calls.append(ScriptCall(found.script, run["parameters"], ok=fault is None, user=user.name))
    return _render(machine, run, user, value=value, fault=fault)


def _render(
    machine: Machine,
    run: Mapping[str, Any],
    user: User,
    *,
    value: Mapping[str, object] | None = None,
    fault: ScriptFault | None = None,
) -> bytes:
    document = {
        "run_id": run.get("run_id"),
        "ok": fault is None,
        "value": value,
        "error": {"code": fault.code, "detail": fault.detail} if fault else None,
        "host": machine.identity(is_administrator=user.is_administrator),
    }
    return base64.b64encode(json.dumps(document).encode())


def _envelope(data: bytes) -> bytes:
    return contract.MARKER.encode() + b"\r\n" + data + b"\r\n"


def run_script(machine: Machine, stdin: bytes, user: User) -> bytes:
    """What a process writes for one script on stdin; nothing, and a violation, for what it does not know."""
    *lines, end, rest = [b"", b"", *stdin.split(b"\n")]
    if end != contract.END_LINE or rest:
        machine.violations.append("stdin was cut off.")
        return b""
    request = read_request(machine, lines[2:])
    return b"" if request is None else _envelope(answer(machine, request, user))
