"""What stands for PowerShell in a remote shell: it knows the SDK's bootstrap and its registered scripts, nothing else.

A command line that is not the bootstrap runs nothing: it is a violation of the machine, as is a script that nobody
answers for. It proves how scripts are carried and what we make of their answers, not what PowerShell does with them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import field, frozen, mutable

from msp_sdk.testing.windows_host import Machine, ScriptCall, ScriptFault, handler_of
from msp_sdk.windows import envelope as contract


@frozen
class User:
    """Who is logged on to a connection."""

    name: str
    is_administrator: bool = True


@mutable(eq=False)
class Command:
    """A process in a shell. ``options`` are those of the request that started it."""

    id: str
    command: str
    arguments: tuple[str, ...]
    user: User
    options: Mapping[str, str] = field(factory=dict)
    stdin: bytearray = field(factory=bytearray)
    stdin_ended: asyncio.Event = field(factory=asyncio.Event)
    changed: asyncio.Event = field(factory=asyncio.Event)
    stdout: list[bytes] = field(factory=list)
    stderr: list[bytes] = field(factory=list)
    exit_code: int | None = None
    task: asyncio.Task[None] | None = None


Runner = Callable[[Command], Awaitable[int]]

# What cmd.exe takes; it starts the program unless WINRS_SKIP_CMD_SHELL says otherwise (MS-WSMV).
_CMD_LINE_MAX = 8191


class PowerShell:
    """Runs the commands of one machine.

    Args:
        machine: Whose scripts answer; violations go to its list.
        script_delay_s: How long a script takes; asked each time.
        stdout: Replaces what the next script writes; asked each time.
    """

    def __init__(
        self, machine: Machine, *, script_delay_s: Callable[[], float], stdout: Callable[[], bytes | None]
    ) -> None:
        self.machine = machine
        self._delay = script_delay_s
        self._stdout = stdout

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
            return 3
        if int(machine.powershell_version.split(".")[0]) < 5:  # noqa: PLR2004 (as the bootstrap has it)
            command.stdout.append(f"{contract.VERSION_MARKER} {machine.powershell_version}\r\n".encode())
            return 3
        await command.stdin_ended.wait()
        await asyncio.sleep(self._delay())
        replaced = self._stdout()
        if replaced is not None:
            command.stdout.append(replaced)
            return 0
        command.stdout.append(run_script(machine, bytes(command.stdin), command.user))
        return 0


def run_script(machine: Machine, stdin: bytes, user: User) -> bytes:
    """What the prelude writes for this stdin; nothing, and a violation, for what it does not know."""
    lines = stdin.split(b"\n")
    if lines[-1] != contract.END_LINE:
        machine.violations.append("stdin was cut off.")
        return b""
    try:
        prelude, script, raw = (base64.b64decode(line, validate=True).decode() for line in lines[:3])
        payload = b"".join(base64.b64decode(line, validate=True) for line in lines[3:-1])
        parameters: dict[str, Any] = json.loads(raw)
    except (ValueError, TypeError) as error:
        machine.violations.append(f"stdin makes no sense: {error}")
        return b""
    digest = hashlib.sha256(script.encode()).hexdigest()
    found = handler_of(digest)
    if prelude != contract.prelude() or found is None:
        first = script.splitlines()[:1]
        machine.violations.append(f"an unregistered script: {digest} {first}")
        return b""
    run_id = parameters.pop("run_id", None)
    document: dict[str, object] = {
        "run_id": run_id,
        "ok": False,
        "value": None,
        "error": None,
        "host": machine.identity(is_administrator=user.is_administrator),
    }
    try:
        document["value"] = dict(found.handler(machine, parameters, payload))
        document["ok"] = True
    except ScriptFault as fault:
        document["error"] = {"code": fault.code, "detail": fault.detail}
    except Exception as error:  # noqa: BLE001 (a handler with a defect must be loud, and must not hang its client)
        machine.violations.append(f"the handler of {found.script} failed: {error!r}")
        document["error"] = {"code": "script-failed", "detail": repr(error)}
    machine.calls.append(ScriptCall(found.script, parameters, ok=document["ok"] is True, user=user.name))
    data = base64.b64encode(json.dumps(document).encode())
    return contract.MARKER.encode() + b"\r\n" + data + b"\r\n"
