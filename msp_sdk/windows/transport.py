"""WS-Man over one logged-on connection. The only file that knows pywinrm.

pywinrm's own transport sends the SOAP text in clear when a first attempt on the same object failed, when it is shared
by threads and after a reconnect (lesson 34). So it is fenced: pywinrm builds and reads the messages, and hands each to
:class:`FencedTransport`, which owns one :class:`Channel` and one logon, seals every message where there is no TLS, and
has no way to send before the logon is complete, to reconnect, or to log on again. Use one object for one connection.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from attrs import frozen
from winrm.exceptions import WinRMOperationTimeoutError, WinRMTransportError, WSManFaultError
from winrm.protocol import Protocol
from winrm.transport import Transport

from msp_sdk.errors import EncryptionRefusedError, LogonRejectedError, MspError, WindowsError
from msp_sdk.windows import faults
from msp_sdk.windows.channel import Channel, Reply
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND
from msp_sdk.windows.faults import Fault
from msp_sdk.windows.ntlm import CONTENT_TYPE, NtlmLogon

T = TypeVar("T")

_HTTP_OK = 200
_HTTP_UNAUTHORISED = 401
_SOAP = "application/soap+xml;charset=UTF-8"
_SCHEMES = ("NTLM", "Negotiate")
_MESSAGE_ID = re.compile(rb"MessageID[^>]*>\s*([^<\s]+)")
_RELATES_TO = re.compile(rb"RelatesTo[^>]*>\s*([^<\s]+)")
_UTF8_CODEPAGE = 65001
# A shell that we lost, or were killed over, frees its place on the host after half an hour instead of two.
_SHELL_IDLE = "PT1800S"
# What an answer may take beyond the time that we gave the host for the operation.
_ANSWER_GRACE_S = 8.0


class FencedTransport(Transport):
    """Carries pywinrm's messages over one channel with one logon; sends nothing in clear, ever."""

    def __init__(self, channel: Channel) -> None:  # its parent's 19 settings are what is fenced off
        self._channel = channel
        self._logon: NtlmLogon | None = None
        self._logged_on = False
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

    def scheme(self) -> str:
        """Ask without any token which scheme takes NTLM here. Nothing of a credential is involved.

        Raises:
            EncryptionRefusedError: The host offers none.
            UnreachableError: There is no WinRM behind the door, or the connection broke.
        """
        reply = self._channel.post(b"", {"Content-Type": _SOAP}, self.timeout_s)
        host = self._channel.place.hostname
        if reply.status != _HTTP_UNAUTHORISED:
            if reply.status == _HTTP_OK:
                raise EncryptionRefusedError(f"{host} answers without a logon; it is no WinRM that we trust.")
            raise faults.error_of(Fault(reply.status), host)
        for scheme in _SCHEMES:
            if reply.offers(scheme):
                return scheme
        raise EncryptionRefusedError(f"{host} offers no logon mechanism that we speak.")

    def challenge(self, logon: NtlmLogon, scheme: str) -> bytes:
        """Get the host's challenge. Nothing of the password is sent.

        Raises:
            UnreachableError: The connection broke.
            EncryptionRefusedError: The host sends no challenge.
        """
        token = self._post_token(scheme, logon.first()).token(scheme)
        if token is None:
            raise EncryptionRefusedError(f"{self._channel.place.hostname} sent no challenge.")
        return token

    def authenticate(self, logon: NtlmLogon, scheme: str, token: bytes) -> None:
        """Send the answer to the challenge: this is the logon, and it happens once.

        Raises:
            LogonRejectedError: The host said no.
            UnreachableError: The connection broke; what became of the logon is not known.
            WindowsError: The host said something else; the same.
        """
        reply = self._post_token(scheme, token)
        host = self._channel.place.hostname
        if reply.status == _HTTP_UNAUTHORISED:
            raise LogonRejectedError(f"{host} refused the logon.")
        if reply.status != _HTTP_OK:
            raise faults.error_of(Fault(reply.status), host)
        self._logon = logon
        self._logged_on = logon.complete

    def _post_token(self, scheme: str, token: bytes) -> Reply:
        value = f"{scheme} {base64.b64encode(token).decode('ascii')}"
        return self._channel.post(b"", {"Content-Type": _SOAP, "Authorization": value}, self.timeout_s)

    def send_message(self, message: str | bytes) -> bytes:
        """Send one envelope over TLS or sealed, and return the host's.

        Raises:
            EncryptionRefusedError: It could not be sent or was not answered under cover; nothing went out in clear.
        """
        data = message.encode() if isinstance(message, str) else message
        if self._logon is None or not self._logged_on:
            raise EncryptionRefusedError("a message was to be sent before the logon was complete.")
        if self._channel.place.door.tls:
            reply = self._channel.post(data, {"Content-Type": _SOAP}, self.timeout_s)
        else:
            reply = self._channel.post(self._logon.seal(data), {"Content-Type": CONTENT_TYPE}, self.timeout_s)
        body = reply.body
        if "multipart/encrypted" in reply.content_type.lower():
            body = self._logon.unseal(body)
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


class Wsman:
    """The operations of a remote shell. Synchronous: call it in a thread.

    Every method raises ``UnreachableError`` (``connection-lost``) when the connection broke, :class:`WsmanFaultError`
    for the refusals that have a cure, and other children of ``MspError`` for the rest.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.transport = FencedTransport(channel)
        self._host = channel.place.hostname
        # The names are placeholders: pywinrm keeps what it is given, and it is given nothing.
        self._protocol: Any = Protocol("http://fenced.invalid/wsman", transport="ntlm", username="-", password="-")  # noqa: S106 (as said)
        self._protocol.transport = self.transport

    def create(self, timeout_s: float) -> str:
        """Make a shell and return its id."""
        return self._call(
            timeout_s,
            lambda: str(self._protocol.open_shell(codepage=_UTF8_CODEPAGE, idle_timeout=_SHELL_IDLE)),
        )

    def command(self, shell_id: str, timeout_s: float) -> str:
        """Start the bootstrap, which waits for its stdin, and return the command's id."""

        def call() -> str:
            return str(
                self._protocol.run_command(shell_id, COMMAND, ARGUMENTS, console_mode_stdin=False, skip_cmd_shell=True)
            )

        return self._call(timeout_s, call)

    def send(self, shell_id: str, command_id: str, data: bytes, *, end: bool, timeout_s: float) -> None:
        """Write to the command's stdin."""
        self._call(timeout_s, lambda: self._protocol.send_command_input(shell_id, command_id, data, end=end))

    def receive(self, shell_id: str, command_id: str, timeout_s: float) -> Output | None:
        """Wait for output; None when there was none in time."""
        try:
            stdout, stderr, code, done = self._call(
                timeout_s, lambda: self._protocol.get_command_output_raw(shell_id, command_id)
            )
        except WsmanFaultError as error:
            if error.kind == "operation-timeout":
                return None
            raise
        return Output(stdout, stderr, bool(done), int(code))

    def terminate(self, shell_id: str, command_id: str, timeout_s: float) -> None:
        """End a command, and free what the host keeps for it."""
        self._call(timeout_s, lambda: self._protocol.cleanup_command(shell_id, command_id))

    def delete(self, shell_id: str, timeout_s: float) -> None:
        """Close a shell; what runs in it ends."""
        self._call(timeout_s, lambda: self._protocol.close_shell(shell_id, close_session=False))

    def _call(self, timeout_s: float, operation: Callable[[], T]) -> T:
        seconds = max(timeout_s, 1.0)
        self._protocol.operation_timeout_sec = math.ceil(seconds)
        self.transport.timeout_s = seconds + _ANSWER_GRACE_S
        try:
            return operation()
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
            # What a stranger's answer makes of pywinrm's reader is open.
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
