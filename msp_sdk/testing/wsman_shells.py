"""The operations of a remote shell as Windows answers them: Create, Command, Send, Receive, Signal, Delete.

Below HTTP and encryption. What it does not know is a fault, never a friendly default. Commands are run by
:mod:`msp_sdk.testing.powershell`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import uuid
from collections.abc import Callable
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from attrs import field, mutable

from msp_sdk.testing.powershell import Command, PowerShell, Runner, User
from msp_sdk.testing.windows_host import Machine

_NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
}
_SHELL_URI = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd"
_TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
_SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/"
_ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
_OPTIONS = frozenset(
    {
        "WINRS_NOPROFILE",
        "WINRS_CODEPAGE",
        "WINRS_CONSOLEMODE_STDIN",
        "WINRS_SKIP_CMD_SHELL",
        "WSMAN_CMDSHELL_OPTION_KEEPALIVE",
    }
)
_DURATION = re.compile(r"PT(\d+(?:\.\d+)?)S")

ACCESS_DENIED = 5
STDIN_CLOSED = 1460
TIMED_OUT = 2150858793
INVALID_SELECTORS = 2150858843
SCHEMA = 2150858817
UNSUPPORTED_ACTION = 2150858753
MAX_SHELLS = 2150859173
MAX_OPERATIONS = 2150859174

_SUBCODES = {
    ACCESS_DENIED: ("Sender", "w:AccessDenied", "Access is denied."),
    TIMED_OUT: (
        "Receiver",
        "w:TimedOut",
        "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.  ",
    ),
    INVALID_SELECTORS: (
        "Sender",
        "w:InvalidSelectors",
        "The request for the Windows Remote Shell with ShellId failed because the shell was not found on the server.",
    ),
    SCHEMA: ("Sender", "w:SchemaValidationError", "The SOAP XML in the message does not match the schema."),
    UNSUPPORTED_ACTION: ("Sender", "a:ActionNotSupported", "The action is not supported by the service."),
    MAX_SHELLS: ("Sender", "w:QuotaLimit", "The maximum number of concurrent shells for this user has been exceeded."),
    MAX_OPERATIONS: ("Sender", "w:QuotaLimit", "The maximum number of concurrent operations has been exceeded."),
    STDIN_CLOSED: ("Receiver", "w:InternalError", "This operation returned because the timeout period expired."),
}


class Refusal(Exception):  # noqa: N818 (a fault of the protocol, not of ours)
    """A WS-Man fault."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@mutable(eq=False)
class Shell:
    """A remote shell."""

    id: str
    owner: str
    commands: dict[str, Command] = field(factory=dict)
    operations: int = 0


@mutable
class Quotas:
    """Windows' limits, small enough to be met in a test."""

    shells_per_user: int = 30
    operations_per_shell: int = 1500
    max_envelope_bytes: int = 500 * 1024


class ShellService:
    """All shells of one machine.

    Args:
        machine: Whose they are; violations go to its list.
        script_delay_s: How long a script takes; asked each time.
        stdout: Replaces what the next script writes; asked each time.
        runner: Runs a command line instead of the bootstrap's; for replaying recordings.
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
        relates_to = ""
        try:
            root = _parse(request)
            relates_to = root.findtext("s:Header/a:MessageID", "", _NS)
            return 200, await self._dispatch(root, relates_to, user)
        except Refusal as refusal:
            return 500, _fault(refusal.code, relates_to, self.machine.name)

    def refuse(self, code: int) -> tuple[int, bytes]:
        """A fault, as :meth:`answer` gives one."""
        return 500, _fault(code, "", self.machine.name)

    async def _dispatch(self, root: ET.Element, relates_to: str, user: User) -> bytes:
        action = root.findtext("s:Header/a:Action", "", _NS)
        if root.findtext("s:Header/w:ResourceURI", "", _NS) != _SHELL_URI:
            raise Refusal(SCHEMA)
        options = {
            entry.get("Name", ""): entry.text or "" for entry in root.iterfind("s:Header/w:OptionSet/w:Option", _NS)
        }
        if not set(options) <= _OPTIONS:
            raise Refusal(SCHEMA)
        body = root.find("s:Body", _NS)
        if body is None:
            raise Refusal(SCHEMA)
        if action == _TRANSFER + "Create":
            return _envelope("transfer/Create", relates_to, self._create(root, body, user))
        shell = self._shell(root, user)
        if action == _TRANSFER + "Delete":
            self._drop(shell)
            return _envelope("transfer/Delete", relates_to, "")
        if action == _SHELL + "Receive":
            timeout = _DURATION.fullmatch(root.findtext("s:Header/w:OperationTimeout", "PT60.000S", _NS))
            if timeout is None:
                raise Refusal(SCHEMA)
            return _envelope("shell/Receive", relates_to, await self._receive(shell, body, float(timeout[1])))
        return _envelope(*self._shell_operation(action, shell, body, options, user, relates_to))

    def _shell_operation(
        self, action: str, shell: Shell, body: ET.Element, options: dict[str, str], user: User, relates_to: str
    ) -> tuple[str, str, str]:
        if action == _SHELL + "Command":
            return "shell/Command", relates_to, self._command(shell, body, options, user)
        if action == _SHELL + "Send":
            return "shell/Send", relates_to, self._send(shell, body)
        if action == _SHELL + "Signal":
            return "shell/Signal", relates_to, self._signal(shell, body)
        raise Refusal(UNSUPPORTED_ACTION)

    # Shells.

    def _create(self, root: ET.Element, body: ET.Element, user: User) -> str:
        wanted = body.find("rsp:Shell", _NS)
        if wanted is None or wanted.findtext("rsp:InputStreams", "", _NS) != "stdin":
            raise Refusal(SCHEMA)
        if not user.is_administrator:
            raise Refusal(ACCESS_DENIED)
        if sum(shell.owner == user.name for shell in self.shells.values()) >= self.quotas.shells_per_user:
            raise Refusal(MAX_SHELLS)
        idle = wanted.findtext("rsp:IdleTimeOut", "PT7200.000S", _NS)
        if not _DURATION.fullmatch(idle):
            raise Refusal(SCHEMA)
        shell = Shell(str(uuid.uuid4()).upper(), user.name)
        self.shells[shell.id] = shell
        folder = wanted.findtext("rsp:WorkingDirectory", None, _NS)
        echoed = f"<rsp:WorkingDirectory>{escape(folder)}</rsp:WorkingDirectory>" if folder else ""
        to = escape(root.findtext("s:Header/a:To", "", _NS))
        return (
            f"<x:ResourceCreated><a:Address>{to}</a:Address><a:ReferenceParameters><w:ResourceURI>{_SHELL_URI}"
            f'</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">{shell.id}</w:Selector></w:SelectorSet>'
            f'</a:ReferenceParameters></x:ResourceCreated><rsp:Shell xmlns:rsp="{_NS["rsp"]}">'
            f"<rsp:ShellId>{shell.id}</rsp:ShellId><rsp:ResourceUri>{_SHELL_URI}</rsp:ResourceUri>"
            f"<rsp:Owner>{escape(user.name)}</rsp:Owner><rsp:ClientIP>127.0.0.1</rsp:ClientIP>{echoed}"
            f"<rsp:IdleTimeOut>{idle}</rsp:IdleTimeOut><rsp:InputStreams>stdin</rsp:InputStreams>"
            "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams><rsp:ShellRunTime>P0DT0H0M0S</rsp:ShellRunTime>"
            "<rsp:ShellInactivity>P0DT0H0M0S</rsp:ShellInactivity></rsp:Shell>"
        )

    def _shell(self, root: ET.Element, user: User) -> Shell:
        for selector in root.iterfind("s:Header/w:SelectorSet/w:Selector", _NS):
            if selector.get("Name") == "ShellId":
                shell = self.shells.get((selector.text or "").upper())
                if shell is not None and shell.owner == user.name:
                    return shell
        raise Refusal(INVALID_SELECTORS)

    def _drop(self, shell: Shell) -> None:
        self.shells.pop(shell.id, None)
        for command in shell.commands.values():
            _end(command, -1)

    # Commands.

    def _command(self, shell: Shell, body: ET.Element, options: dict[str, str], user: User) -> str:
        line = body.find("rsp:CommandLine", _NS)
        if line is None or not line.findtext("rsp:Command", "", _NS):
            raise Refusal(SCHEMA)
        shell.operations += 1
        if shell.operations > self.quotas.operations_per_shell:
            raise Refusal(MAX_OPERATIONS)
        arguments = tuple(entry.text or "" for entry in line.iterfind("rsp:Arguments", _NS))
        command = Command(str(uuid.uuid4()).upper(), line.findtext("rsp:Command", "", _NS), arguments, user, options)
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
        command = shell.commands.get((node.get("CommandId", "") if node is not None else "").upper())
        if command is None:
            raise Refusal(INVALID_SELECTORS)
        return command

    def _send(self, shell: Shell, body: ET.Element) -> str:
        streams = body.findall("rsp:Send/rsp:Stream", _NS)
        if not streams:
            raise Refusal(SCHEMA)
        for stream in streams:
            command = self._find(shell, stream)
            if stream.get("Name") != "stdin":
                raise Refusal(SCHEMA)
            if command.exit_code is not None or command.stdin_ended.is_set():
                raise Refusal(STDIN_CLOSED)
            try:
                command.stdin += base64.b64decode(stream.text or "", validate=True)
            except binascii.Error:
                raise Refusal(SCHEMA) from None
            if stream.get("End", "").lower() == "true":
                command.stdin_ended.set()
        return "<rsp:SendResponse/>"

    async def _receive(self, shell: Shell, body: ET.Element, timeout_s: float) -> str:
        command = self._find(shell, body.find("rsp:Receive/rsp:DesiredStream", _NS))
        if not command.stdout and not command.stderr and command.exit_code is None:
            try:
                await asyncio.wait_for(command.changed.wait(), timeout_s)
            except TimeoutError:
                raise Refusal(TIMED_OUT) from None
        command.changed.clear()
        parts = [("stdout", piece) for piece in command.stdout] + [("stderr", piece) for piece in command.stderr]
        command.stdout, command.stderr = [], []
        text = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{command.id}">{base64.b64encode(piece).decode()}</rsp:Stream>'
            for name, piece in parts
        )
        if command.exit_code is None:
            state = (
                f'<rsp:CommandState CommandId="{command.id}" State="{_SHELL}CommandState/Running"></rsp:CommandState>'
            )
        else:
            text += "".join(
                f'<rsp:Stream Name="{name}" CommandId="{command.id}" End="true"></rsp:Stream>'
                for name in ("stdout", "stderr")
            )
            state = (
                f'<rsp:CommandState CommandId="{command.id}" State="{_SHELL}CommandState/Done">'
                f"<rsp:ExitCode>{command.exit_code}</rsp:ExitCode></rsp:CommandState>"
            )
        return f"<rsp:ReceiveResponse>{text}{state}</rsp:ReceiveResponse>"

    def _signal(self, shell: Shell, body: ET.Element) -> str:
        signal = body.find("rsp:Signal", _NS)
        command = self._find(shell, signal)
        code = signal.findtext("rsp:Code", "", _NS) if signal is not None else ""
        if code not in (_SHELL + "signal/terminate", _SHELL + "signal/ctrl_c"):
            raise Refusal(SCHEMA)
        if code.endswith("terminate"):
            shell.commands.pop(command.id, None)
            _end(command, -1)
        return "<rsp:SignalResponse/>"


def _end(command: Command, code: int) -> None:
    if command.exit_code is None:
        command.exit_code = code
    command.changed.set()
    if command.task is not None and command.task is not asyncio.current_task():
        command.task.cancel()


def _parse(request: bytes) -> ET.Element:
    try:
        root = ET.fromstring(request)  # noqa: S314 (it comes from a test)
    except ET.ParseError:
        raise Refusal(SCHEMA) from None
    if root.tag != f"{{{_NS['s']}}}Envelope":
        raise Refusal(SCHEMA)
    return root


def _envelope(action: str, relates_to: str, body: str) -> bytes:
    family, name = action.split("/")
    uri = (_TRANSFER if family == "transfer" else _SHELL) + name + "Response"
    return (
        f'<s:Envelope xml:lang="en-US" xmlns:s="{_NS["s"]}" xmlns:a="{_NS["a"]}"'
        f' xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="{_NS["w"]}" xmlns:rsp="{_NS["rsp"]}"'
        ' xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd">'
        f"<s:Header><a:Action>{uri}</a:Action><a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
        f"<a:To>{_ANONYMOUS}</a:To><a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header>"
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def _fault(code: int, relates_to: str, machine: str) -> bytes:
    side, subcode, text = _SUBCODES[code]
    extra = ""
    if code == INVALID_SELECTORS:
        extra = (
            "<w:FaultDetail>http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/UnexpectedSelectors</w:FaultDetail>"
        )
    return (
        f'<s:Envelope xml:lang="en-US" xmlns:s="{_NS["s"]}" xmlns:a="{_NS["a"]}" xmlns:w="{_NS["w"]}">'
        "<s:Header><a:Action>http://schemas.dmtf.org/wbem/wsman/1/wsman/fault</a:Action>"
        f"<a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID><a:To>{_ANONYMOUS}</a:To>"
        f"<a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header><s:Body><s:Fault><s:Code><s:Value>s:{side}</s:Value>"
        f"<s:Subcode><s:Value>{subcode}</s:Value></s:Subcode></s:Code><s:Reason>"
        f'<s:Text xml:lang="en-US">{text}</s:Text></s:Reason><s:Detail>{extra}<f:WSManFault'
        f' xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="{code}" Machine="{escape(machine)}">'
        f"<f:Message>{text}</f:Message></f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>"
    ).encode()
