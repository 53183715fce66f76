"""The messages to a remote shell, as pywinrm writes them. No I/O.

pywinrm writes each kind once, with marks in the places of what changes; from then on only those are filled in. To have
it write every message anew would be most of what a script costs us in processor time.

Example:
    >>> b"PT4S" in render("receive", 4, "SHELL-1", "COMMAND-1")
    True
"""

from __future__ import annotations

import base64
import functools
import re
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NoReturn
from xml.sax.saxutils import escape

from winrm.protocol import Protocol
from winrm.transport import Transport

from msp_sdk.windows.envelope import ARGUMENTS, COMMAND

Operation = Literal["create", "command", "send", "end", "receive", "terminate", "delete"]

_UTF8_CODEPAGE = 65001
# A shell that we lost, or were killed over, frees its place on the host after half an hour instead of two.
_SHELL_IDLE = "PT1800S"
# Marks: none of them is anywhere else in a message.
_SHELL, _COMMAND, _SECONDS, _DATA = "-msp-shell-", "-msp-command-", 864_209_753, b"-msp-data-"
_MESSAGE_ID = re.compile(r"uuid:[0-9a-f-]{36}")


class _Written(Exception):  # noqa: N818 (it carries a message out of pywinrm)
    pass


class _Recorder(Transport):
    """Takes a message from pywinrm and sends nothing."""

    def __init__(self) -> None:  # its parent's settings are for connections
        pass

    def send_message(self, message: str | bytes) -> NoReturn:
        raise _Written(message)


class _Writer(Protocol):
    def __init__(self) -> None:
        self.transport = _Recorder()
        self.operation_timeout_sec = _SECONDS


_WRITE: Mapping[Operation, Callable[[Any], object]] = MappingProxyType(
    {
        "create": lambda writer: writer.open_shell(codepage=_UTF8_CODEPAGE, idle_timeout=_SHELL_IDLE),
        "command": lambda writer: writer.run_command(
            _SHELL, COMMAND, ARGUMENTS, console_mode_stdin=False, skip_cmd_shell=True
        ),
        "send": lambda writer: writer.send_command_input(_SHELL, _COMMAND, _DATA, end=False),
        "end": lambda writer: writer.send_command_input(_SHELL, _COMMAND, _DATA, end=True),
        "receive": lambda writer: writer.get_command_output_raw(_SHELL, _COMMAND),
        "terminate": lambda writer: writer.cleanup_command(_SHELL, _COMMAND),
        "delete": lambda writer: writer.close_shell(_SHELL, close_session=False),
    }
)


@functools.cache
def _template(operation: Operation) -> tuple[str, str]:
    """A message with marks: what is before the data and what is after them; without data, all of it is before."""
    try:
        _WRITE[operation](_Writer())
    except _Written as written:
        head, _, tail = str(written.args[0]).partition(base64.b64encode(_DATA).decode("ascii"))
        return head, tail
    raise AssertionError  # pragma: no cover (pywinrm sends what it writes)


def render(operation: Operation, seconds: int, shell_id: str = "", command_id: str = "", data: bytes = b"") -> bytes:
    """A message.

    Args:
        operation: Its kind; ``end`` is the ``send`` that ends stdin. A command is always the bootstrap.
        seconds: How long the host may take over it.
        shell_id: As the host gave it.
        command_id: As the host gave it.
        data: For stdin.
    """
    head, tail = _template(operation)
    # Ids are a stranger's text.
    quotes = {'"': "&quot;"}
    head = head.replace(_SHELL, escape(shell_id, quotes)).replace(_COMMAND, escape(command_id, quotes))
    head = head.replace(str(_SECONDS), str(seconds), 1)
    head = _MESSAGE_ID.sub(f"uuid:{uuid.uuid4()}", head, count=1)
    return head.encode() + (base64.b64encode(data) + tail.encode() if tail else b"")
