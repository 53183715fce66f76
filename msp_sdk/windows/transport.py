"""WS-Man over one logged-on connection. With :mod:`msp_sdk.windows.messages` all that knows pywinrm.

pywinrm's own transport sends the SOAP text in clear when a first attempt on the same object failed, when it is shared
by threads and after a reconnect (lesson 34). So it is fenced: pywinrm writes the messages and reads the faults, and
each goes through :class:`FencedTransport`, which owns one :class:`Channel` and one logon, seals every message where
there is no TLS, and has no way to send before the logon is complete, to reconnect, or to log on again. Use one object
for one connection.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar
from xml.etree import ElementTree as ET

from attrs import frozen
from winrm.exceptions import WinRMOperationTimeoutError, WinRMTransportError, WSManFaultError
from winrm.protocol import Protocol
from winrm.transport import Transport

from msp_sdk.errors import EncryptionRefusedError, MspError, WindowsError
from msp_sdk.windows import faults
from msp_sdk.windows.channel import Channel, Reply
from msp_sdk.windows.faults import Fault
from msp_sdk.windows.messages import Operation, render
from msp_sdk.windows.sealing import HostLogon, Sealed, frame, sealed_type, unframe

T = TypeVar("T")

_HTTP_OK = 200
_HTTP_UNAUTHORISED = 401
_SOAP = "application/soap+xml;charset=UTF-8"
# Windows takes NTLM's own tokens under both; under the first it has taken them for as long as there is WinRM.
_SCHEMES = ("Negotiate", "NTLM")
_MESSAGE_ID = re.compile(rb"MessageID[^>]*>\s*([^<\s]+)")
_RELATES_TO = re.compile(rb"RelatesTo[^>]*>\s*([^<\s]+)")
# A cipher's block.
_PADDING_MAX = 16
# What an answer may take beyond the time that we gave the host for the operation.
_ANSWER_GRACE_S = 8.0


class FencedTransport(Transport):
    """Carries pywinrm's messages over one channel with one logon; sends nothing in clear, ever."""

    def __init__(self, channel: Channel) -> None:  # its parent's 19 settings are what is fenced off
        self._channel = channel
        self._logon: HostLogon | None = None
        self._scheme = ""
        self.timeout_s = 30.0

    def build_session(self) -> NoReturn:
        """There is none: pywinrm must not open connections of its own."""
        raise EncryptionRefusedError("a connection besides the fenced one was asked for.")

    def setup_encryption(self, session: object) -> NoReturn:  # noqa: ARG002 (pywinrm's signature)
        """See :meth:`build_session`."""
        raise EncryptionRefusedError("a connection besides the fenced one was asked for.")

    def close_session(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ask_challenge(self, make_first: Callable[[], bytes]) -> tuple[str, bytes]:
        """Get the host's challenge to NTLM's first message, which holds nothing of a credential.

        Args:
            make_first: Makes that message; called again where the host takes it by another scheme.

        Returns:
            The scheme that took it, and the challenge.

        Raises:
            EncryptionRefusedError: The host offers no such mechanism, or lets anybody in.
            UnreachableError: There is no WinRM behind the door, or the connection broke.
        """
        for scheme in _SCHEMES:
            reply = self.present(scheme, make_first())
            token = reply.token(scheme)
            if reply.status == _HTTP_UNAUTHORISED and token is not None:
                return scheme, token
            if reply.status == _HTTP_OK:
                raise EncryptionRefusedError(f"{self._host} answers without a logon; it is no WinRM that we trust.")
            if not any(reply.offers(other) for other in _SCHEMES if other != scheme):
                break
        raise EncryptionRefusedError(f"{self._host} offers no logon mechanism that we speak.")

    def present(self, scheme: str, token: bytes) -> Reply:
        """Send a token without a body; returns the host's answer, which is 200 or 401.

        Raises:
            UnreachableError: The connection broke. What became of a logon is not known then.
            WindowsError: The host said something else; the same.
        """
        value = f"{scheme} {base64.b64encode(token).decode('ascii')}"
        reply = self._channel.post(b"", {"Content-Type": _SOAP, "Authorization": value}, self.timeout_s)
        if reply.status not in (_HTTP_OK, _HTTP_UNAUTHORISED):
            raise faults.error_of(Fault(reply.status), self._host)
        return reply

    def begin(self, scheme: str, logon: HostLogon) -> None:
        """The host has taken this logon by this scheme: messages may go from now on."""
        self._scheme, self._logon = scheme, logon

    @property
    def _host(self) -> str:
        return self._channel.place.hostname

    def send_message(self, message: str | bytes) -> bytes:
        """Send one envelope over TLS or sealed, and return the host's.

        Raises:
            EncryptionRefusedError: It could not be sent or was not answered under cover; nothing went out in clear.
        """
        data = message.encode() if isinstance(message, str) else message
        if self._logon is None or not self._logon.complete:
            raise EncryptionRefusedError("a message was to be sent before the logon was complete.")
        if self._channel.place.door.tls:
            reply = self._channel.post(data, {"Content-Type": _SOAP}, self.timeout_s)
        else:
            signature, sealed, padding = self._logon.seal(data)
            content = frame(self._scheme, Sealed(signature, sealed, len(data) + padding))
            reply = self._channel.post(content, {"Content-Type": sealed_type(self._scheme)}, self.timeout_s)
        body = reply.body
        if "multipart/encrypted" in reply.content_type.lower():
            body = _open(self._logon, unframe(body))
        elif body and not self._channel.place.door.tls:
            # Anybody on the way could have written it.
            body = b""
            if reply.status == _HTTP_OK:
                self._channel.close()
                raise EncryptionRefusedError(f"{self._channel.place.hostname} answered in clear.")
        if not _belongs(data, body):
            self._channel.close()
            raise WindowsError(f"{self._channel.place.hostname} answered another request than ours.")
        if reply.status != _HTTP_OK:
            raise WinRMTransportError("http", reply.status, body.decode("utf-8", errors="replace"))
        return body


def _open(logon: HostLogon, sealed: Sealed) -> bytes:
    """The message in an answer.

    Raises:
        EncryptionRefusedError: It was not sealed by the host that we logged on to, or is of another length.
    """
    clear = logon.unseal(sealed.signature, sealed.data)
    # Old ciphers pad: the length said is that of the padded message.
    if not 0 <= sealed.length - len(clear) <= _PADDING_MAX:
        raise EncryptionRefusedError("the host's answer has another length than it says.")
    return clear


def _belongs(request: bytes, answer: bytes) -> bool:
    """False when an answer says that it is one to another request."""
    asked, told = _MESSAGE_ID.search(request), _RELATES_TO.search(answer)
    return asked is None or told is None or asked[1].lower() == told[1].lower()


@frozen
class Output:
    """A piece of a command's output."""

    stdout: bytes
    stderr: bytes
    done: bool
    exit_code: int


class _FencedProtocol(Protocol):
    """pywinrm's reader of faults, over one fenced transport."""

    def __init__(self, transport: FencedTransport) -> None:  # its parent's settings are for connections of its own
        self.transport = transport


def _read_nothing(root: ET.Element) -> None:
    del root


def _read_shell_id(root: ET.Element) -> str:
    return next(node.text for node in root.iter() if node.get("Name") == "ShellId" and node.text)


def _read_command_id(root: ET.Element) -> str:
    return next(node.text for node in root.iter() if node.tag.endswith("}CommandId") and node.text)


def _read_output(root: ET.Element) -> Output:
    streams: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    done, exit_code = False, -1
    for node in root.iter():
        if node.tag.endswith("}Stream") and node.text:
            streams[node.attrib["Name"]].append(base64.b64decode(node.text))
        elif node.get("State", "").endswith("CommandState/Done"):
            done = True
        elif node.tag.endswith("}ExitCode"):
            exit_code = int(node.text or -1)
    return Output(b"".join(streams["stdout"]), b"".join(streams["stderr"]), done, exit_code)


class Wsman:
    """The operations of a remote shell. Synchronous: call it in a thread.

    Every method raises ``UnreachableError`` (``connection-lost``) when the connection broke, :class:`WsmanFaultError`
    for the refusals that have a cure, and other children of ``MspError`` for the rest.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.transport = FencedTransport(channel)
        self._host = channel.place.hostname
        self._protocol: Any = _FencedProtocol(self.transport)

    def create(self, timeout_s: float) -> str:
        """Make a shell and return its id."""
        return self._call(timeout_s, "create", read=_read_shell_id)

    def command(self, shell_id: str, timeout_s: float) -> str:
        """Start the bootstrap, which waits for its stdin, and return the command's id."""
        return self._call(timeout_s, "command", shell_id, read=_read_command_id)

    def send(self, shell_id: str, command_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """Write to the command's stdin."""
        self._call(timeout_s, "end" if end else "send", shell_id, command_id, data, read=_read_nothing)

    def receive(self, shell_id: str, command_id: str, timeout_s: float) -> Output | None:
        """Wait for output; None when there was none in time."""
        try:
            return self._call(timeout_s, "receive", shell_id, command_id, read=_read_output)
        except WsmanFaultError as error:
            if error.kind == "operation-timeout":
                return None
            raise

    def terminate(self, shell_id: str, command_id: str, timeout_s: float) -> None:
        """End a command, and free what the host keeps for it."""
        self._call(timeout_s, "terminate", shell_id, command_id, read=_read_nothing)

    def delete(self, shell_id: str, timeout_s: float) -> None:
        """Close a shell; what runs in it ends."""
        self._call(timeout_s, "delete", shell_id, read=_read_nothing)

    def _call(
        self,
        timeout_s: float,
        operation: Operation,
        *parts: Any,
        read: Callable[[ET.Element], T],
    ) -> T:
        seconds = max(timeout_s, 1.0)
        self.transport.timeout_s = seconds + _ANSWER_GRACE_S
        try:
            answer = self._protocol.send_message(render(operation, math.ceil(seconds), *parts))
            return read(ET.fromstring(answer))  # noqa: S314 (expat of today bounds entity expansion; the channel the size)
        except WinRMOperationTimeoutError as error:
            raise WsmanFaultError(Fault(500, faults.OPERATION_TIMEOUT), self._host) from error
        except WSManFaultError as error:
            raise self._fault(
                Fault(error.code, error.wsman_fault_code, error.fault_subcode, error.reason or "")
            ) from error
        except WinRMTransportError as error:
            self.channel.close()
            raise faults.error_of(Fault(error.code), self._host) from error
        except MspError:
            raise
        except Exception as error:
            # What a stranger's answer makes of a reader is open.
            raise WindowsError(f"{self._host} answered with what is no WS-Man.") from error

    def _fault(self, fault: Fault) -> MspError:
        if faults.kind_of(fault) == "error":
            return faults.error_of(fault, self._host)
        return WsmanFaultError(fault, self._host)


class WsmanFaultError(WindowsError):
    """A refusal that may have a cure; ``kind`` says which."""

    def __init__(self, fault: Fault, host: str) -> None:
        error = faults.error_of(fault, host)
        super().__init__(
            error.detail, code=error.code, remedy=error.remedy, retryable=error.retryable, context=error.context
        )
        self.fault = fault
        self.kind = faults.kind_of(fault)

    def as_error(self) -> MspError:
        """The error for a caller, when there was no cure."""
        return faults.error_of(self.fault, str(self.context.get("hostname", "")))
