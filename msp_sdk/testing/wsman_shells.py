"""The operations of a remote shell as Windows answers them: Create, Command, Send, Receive, Signal, Delete.

Below HTTP and encryption. What it does not know is a fault, never a friendly default. Commands are run by
:mod:`msp_sdk.testing.powershell`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import uuid
from collections.abc import Callable
from contextlib import suppress
from xml.etree import ElementTree as ET

from attrs import field, mutable

from msp_sdk.testing.powershell import Command, PowerShell, Runner, User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_messages import (
    NS,
    SHELL,
    Message,
    message_id_of,
    read_duration,
    read_message,
    render_answer,
    render_shell,
)
from msp_sdk.testing.wsman_refusals import (
    ABORTED,
    ACCESS_DENIED,
    ENVELOPE_TOO_SMALL,
    FILE_NOT_FOUND,
    INVALID_PARAMETER,
    INVALID_SELECTORS,
    MAX_OPERATIONS,
    MAX_SHELL_USERS,
    MAX_SHELLS,
    NO_COMMAND,
    NOT_ENOUGH_QUOTA,
    SCHEMA,
    STDIN_CLOSED,
    TIMED_OUT,
    Refusal,
)

# Of an answer's envelope, besides what a command wrote.
_FRAME_BYTES = 2048
_ENVELOPE_MIN_BYTES = 8192
# What a process that ends by Ctrl-C ends with (0xC000013A).
_CONTROL_C_EXIT = 3221225786


@mutable(eq=False)
class Shell:
    """A remote shell. Times are of the event loop's clock."""

    id: str
    owner: str
    made_at: float
    used_at: float
    idle_s: float
    run_s: float
    commands: dict[str, Command] = field(factory=dict)
    operations: int = 0
    busy: int = 0

    def has_ended(self, now: float) -> bool:
        """True when its time is over, or it was idle for too long."""
        return now - self.made_at > self.run_s or (self.busy == 0 and now - self.used_at > self.idle_s)


@mutable
class Quotas:
    """Windows' limits; make them small enough to be met in a test.

    Attributes:
        shells_per_user: At one time (MaxShellsPerUser).
        operations_per_user: Commands in all shells of a user that still exist. A command that has ended counts on: text
            shells give nothing back (MaxConcurrentOperationsPerUser; MS-WSMV, note 118).
        operations_per_shell: The same for one shell; Windows has this one for PowerShell's own shells alone.
        processes_per_shell: That run at one time (MaxProcessesPerShell).
        users: With shells, at one time (MaxConcurrentUsers).
        max_envelope_bytes: Of a request (MaxEnvelopeSizekb); larger answers are never made either.
        shell_idle_s: A shell without an operation for so long ends; a client may ask for less (IdleTimeout).
        shell_run_s: A shell ends after so long, whatever it does (MaxShellRunTime).
    """

    shells_per_user: int = 30
    operations_per_user: int = 1500
    operations_per_shell: int = 1500
    processes_per_shell: int = 25
    users: int = 10
    max_envelope_bytes: int = 500 * 1024
    shell_idle_s: float = 7200.0
    shell_run_s: float = math.inf


class ShellService:
    """All shells of one machine.

    Args:
        machine: Whose they are; violations go to its list.
        script_delay_s: How long a script takes; asked each time.
        stdout: Replaces what the next script writes; asked each time.
        runner: Runs a command line instead of the bootstrap's; for replaying recordings.

    Attributes:
        quotas: Its limits; may be changed at any time.
        shells: Those that exist, by id.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        quotas: Quotas | None = None,
        script_delay_s: Callable[[], float] = lambda: 0.0,
        stdout: Callable[[], bytes | None] = lambda: None,
        runner: Runner | None = None,
    ) -> None:
        self.machine = machine
        self.quotas = quotas or Quotas()
        self.shells: dict[str, Shell] = {}
        self._runner = runner or PowerShell(machine, script_delay_s=script_delay_s, stdout=stdout).run

    def close(self) -> None:
        """End all processes."""
        for shell in list(self.shells.values()):
            self._drop(shell)

    async def answer(self, request: bytes, user: User) -> tuple[int, bytes]:
        """Answer one envelope.

        Returns:
            The HTTP status and the answering envelope.
        """
        try:
            message = read_message(request)
            body = await self._dispatch(message, user)
        except Refusal as refusal:
            return 500, refusal.render(message_id_of(request), self.machine.name)
        return 200, render_answer(message.operation, message.message_id, body)

    def refuse(self, code: int, request: bytes = b"") -> tuple[int, bytes]:
        """A fault that answers ``request``, as :meth:`answer` gives one.

        A process whose stdin is closed has ended: where that is the fault, it ends.
        """
        if code == STDIN_CLOSED and request:
            self._end_reader(request)
        return 500, Refusal(code).render(message_id_of(request), self.machine.name)

    def _end_reader(self, request: bytes) -> None:
        with suppress(Refusal):
            message = read_message(request)
            shell = self.shells.get(message.shell_id)
            if shell is not None and message.operation == "Send":
                _end(self._find(shell, message.element.find("rsp:Stream", NS)), 1)

    async def _dispatch(self, message: Message, user: User) -> str:
        now = asyncio.get_running_loop().time()
        for shell in list(self.shells.values()):
            if shell.has_ended(now):
                self._drop(shell)
        if message.operation == "Create":
            return self._create(message, user, now)
        shell = self._shell(message, user)
        shell.used_at = now
        shell.busy += 1
        try:
            if message.operation == "Receive":
                return await self._receive(shell, message)
            if message.operation == "Command":
                return self._command(shell, message, user)
            if message.operation == "Send":
                return self._send(shell, message.element)
            if message.operation == "Signal":
                return self._signal(shell, message.element)
            self._drop(shell)
            return ""
        finally:
            shell.busy -= 1
            shell.used_at = asyncio.get_running_loop().time()

    # Shells.

    def _create(self, message: Message, user: User, now: float) -> str:
        wanted = message.element
        if wanted.findtext("rsp:InputStreams", "", NS) != "stdin" or set(
            wanted.findtext("rsp:OutputStreams", "", NS).split()
        ) != {"stdout", "stderr"}:
            raise Refusal(SCHEMA)
        if not user.is_administrator:
            raise Refusal(ACCESS_DENIED)
        idle_s = read_duration(wanted.findtext("rsp:IdleTimeOut", f"PT{self.quotas.shell_idle_s:.3f}S", NS))
        run_s = read_duration(wanted.findtext("rsp:Lifetime", "PT0S", NS))
        if idle_s is None or run_s is None:
            raise Refusal(SCHEMA)
        owners = [shell.owner for shell in self.shells.values()]
        if user.name not in owners and len(set(owners)) >= self.quotas.users:
            raise Refusal(MAX_SHELL_USERS)
        if owners.count(user.name) >= self.quotas.shells_per_user:
            raise Refusal(MAX_SHELLS, limit=self.quotas.shells_per_user)
        idle_s = min(idle_s, self.quotas.shell_idle_s)
        run_s = min(run_s or math.inf, self.quotas.shell_run_s)
        shell = Shell(str(uuid.uuid4()).upper(), user.name, now, now, idle_s, run_s)
        self.shells[shell.id] = shell
        variables = {
            entry.get("Name", ""): entry.text or "" for entry in wanted.iterfind("rsp:Environment/rsp:Variable", NS)
        }
        folder = wanted.findtext("rsp:WorkingDirectory", "", NS)
        return render_shell(message.to, shell.id, user.name, folder, variables, idle_s)

    def _shell(self, message: Message, user: User) -> Shell:
        shell = self.shells.get(message.shell_id)
        if shell is None or shell.owner != user.name:
            raise Refusal(INVALID_SELECTORS, shell=message.shell_id)
        return shell

    def _drop(self, shell: Shell) -> None:
        self.shells.pop(shell.id, None)
        for command in shell.commands.values():
            _end(command, -1)
        shell.commands.clear()

    # Commands.

    def _command(self, shell: Shell, message: Message, user: User) -> str:
        line = message.element
        program = line.findtext("rsp:Command", "", NS)
        if not program:
            raise Refusal(SCHEMA)
        if message.options.get("WINRS_SKIP_CMD_SHELL", "").lower() == "true" and ":\\" not in program:
            # Nobody but cmd.exe looks for programs (recorded).
            raise Refusal(FILE_NOT_FOUND)
        used = sum(other.operations for other in self.shells.values() if other.owner == shell.owner)
        if used >= self.quotas.operations_per_user:
            raise Refusal(MAX_OPERATIONS, limit=self.quotas.operations_per_user)
        if shell.operations >= self.quotas.operations_per_shell:
            raise Refusal(MAX_OPERATIONS, limit=self.quotas.operations_per_shell)
        if sum(command.exit_code is None for command in shell.commands.values()) >= self.quotas.processes_per_shell:
            raise Refusal(NOT_ENOUGH_QUOTA)
        shell.operations += 1
        arguments = tuple(entry.text or "" for entry in line.iterfind("rsp:Arguments", NS))
        command = Command(str(uuid.uuid4()).upper(), program, arguments, user, message.options)
        shell.commands[command.id] = command
        command.task = asyncio.ensure_future(self._run(command))
        return f"<rsp:CommandResponse><rsp:CommandId>{command.id}</rsp:CommandId></rsp:CommandResponse>"

    async def _run(self, command: Command) -> None:
        try:
            code = await self._runner(command)
        except asyncio.CancelledError:
            code = -1
        _end(command, code)

    def _find(self, shell: Shell, node: ET.Element | None) -> Command:
        wanted = node.get("CommandId", "") if node is not None else ""
        if not wanted:
            raise Refusal(INVALID_PARAMETER)
        command = shell.commands.get(wanted.upper())
        if command is None:
            raise Refusal(INVALID_SELECTORS, NO_COMMAND)
        return command

    def _send(self, shell: Shell, element: ET.Element) -> str:
        streams = element.findall("rsp:Stream", NS)
        if not streams:
            raise Refusal(SCHEMA)
        for stream in streams:
            command = self._find(shell, stream)
            if stream.get("Name") != "stdin":
                raise Refusal(INVALID_PARAMETER)
            if command.exit_code is not None or command.stdin_ended.is_set():
                raise Refusal(STDIN_CLOSED)
            try:
                command.stdin += base64.b64decode(stream.text or "", validate=True)
            except binascii.Error:
                raise Refusal(SCHEMA) from None
            if stream.get("End", "").lower() == "true":
                command.stdin_ended.set()
        return "<rsp:SendResponse/>"

    async def _receive(self, shell: Shell, message: Message) -> str:
        command = self._find(shell, message.element.find("rsp:DesiredStream", NS))
        room = min(message.envelope_bytes, self.quotas.max_envelope_bytes)
        if message.envelope_bytes < _ENVELOPE_MIN_BYTES:
            raise Refusal(ENVELOPE_TOO_SMALL)
        if not command.stdout and not command.stderr and command.exit_code is None:
            try:
                await asyncio.wait_for(command.changed.wait(), message.timeout_s)
            except TimeoutError:
                raise Refusal(TIMED_OUT) from None
            if command.id not in shell.commands:
                raise Refusal(ABORTED)
        command.changed.clear()
        parts = _take(command, (room - _FRAME_BYTES) * 3 // 4)
        return _render_output(command, parts)

    def _signal(self, shell: Shell, element: ET.Element) -> str:
        command = self._find(shell, element)
        # In any case of letters: pywinrm says "terminate", pypsrp "Terminate", and Windows takes both.
        code = element.findtext("rsp:Code", "", NS).removeprefix(SHELL + "signal/").lower()
        if code == "terminate":
            shell.commands.pop(command.id, None)
            _end(command, -1)
        elif code in ("ctrl_c", "ctrl_break"):
            _end(command, _CONTROL_C_EXIT)
        else:
            raise Refusal(INVALID_PARAMETER)
        return "<rsp:SignalResponse/>"


def _take(command: Command, size: int) -> list[tuple[str, bytes]]:
    """Output of at most ``size`` bytes, taken from what the command wrote. What does not fit stays."""
    parts: list[tuple[str, bytes]] = []
    for name, pieces in (("stdout", command.stdout), ("stderr", command.stderr)):
        while pieces and size > 0:
            piece = pieces.pop(0)
            if len(piece) > size:
                pieces.insert(0, piece[size:])
                piece = piece[:size]
            parts.append((name, piece))
            # Each piece has its own frame in the envelope.
            size -= len(piece) + 128
    return parts


def _render_output(command: Command, parts: list[tuple[str, bytes]]) -> str:
    text = "".join(
        f'<rsp:Stream Name="{name}" CommandId="{command.id}">{base64.b64encode(piece).decode()}</rsp:Stream>'
        for name, piece in parts
    )
    if command.exit_code is None or command.stdout or command.stderr:
        state = f'<rsp:CommandState CommandId="{command.id}" State="{SHELL}CommandState/Running"></rsp:CommandState>'
        return f"<rsp:ReceiveResponse>{text}{state}</rsp:ReceiveResponse>"
    text += "".join(
        f'<rsp:Stream Name="{name}" CommandId="{command.id}" End="true"></rsp:Stream>' for name in ("stdout", "stderr")
    )
    return (
        f'<rsp:ReceiveResponse>{text}<rsp:CommandState CommandId="{command.id}" State="{SHELL}CommandState/Done">'
        f"<rsp:ExitCode>{command.exit_code}</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>"
    )


def _end(command: Command, code: int) -> None:
    if command.exit_code is None:
        command.exit_code = code
    command.changed.set()
    if command.task is not None and command.task is not asyncio.current_task():
        command.task.cancel()
