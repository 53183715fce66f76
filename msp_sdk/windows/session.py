"""One host, worked with from one thread at a time: the way there (:mod:`msp_sdk.windows.link`), one shell, scripts.

An opening is the logon, then a shell and the read-only ``identify``.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from attrs import frozen

from msp_sdk.errors import LogonError, MspError, ScriptFailedError, UnreachableError
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.windows import faults
from msp_sdk.windows.envelope import Stdin, encode_input, parse_envelope
from msp_sdk.windows.identity import HostIdentity, check_identity
from msp_sdk.windows.link import HostLink, LogonInterruptedError, PausedLogonError, ShellOptions
from msp_sdk.windows.scripts import Script, load
from msp_sdk.windows.transport import Output, Wsman, WsmanFaultError

_CLEANUP_S = 2.0
_RECONNECTS = 2
_BROKEN = ("connection-lost", "no-answer")
_OUTPUT_MAX_BYTES = 32 * 2**20


@frozen
class Answer:
    """What a script returned, and where it ran."""

    value: Mapping[str, object]
    host: HostIdentity


class HostSession:
    """See the module. ``cancelled`` makes a running script end early."""

    def __init__(
        self,
        target: Target,
        link: HostLink,
        *,
        options: ShellOptions,
    ) -> None:
        self._target = target
        self._options = options
        self._link = link
        self._name = self._link.name
        self._shell_id: str | None = None
        self._commands = 0
        self._identified: Wsman | None = None
        self._all_sent = False
        self._lock = threading.Lock()
        self._closed = False
        self.cancelled = self._link.cancelled

    def open(self) -> HostIdentity:
        """Connect, log on, and find out which machine this is.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        with self._lock:
            self._link.check_place()
            deadline = time.monotonic() + self._options.identify_s
            try:
                return self._run(load("identify"), {}, b"", deadline).host
            except BaseException:
                self._end()
                raise

    def run(self, script: Script, parameters: Mapping[str, object], payload: bytes, deadline: float) -> Answer:
        """Run a script; ``deadline`` is by ``time.monotonic``."""
        with self._lock:
            if self._closed:
                raise UnreachableError(f"the shell on {self._name} is closed.", code="connection-lost")
            return self._run(script, parameters, payload, deadline)

    def close(self) -> None:
        """Delete the shell and end the connection; waits for a script that is running."""
        with self._lock:
            self._end()

    def abort(self) -> None:
        """End the connection from another thread, when nothing else ends a call."""
        self._link.abort()

    def _end(self) -> None:
        self._closed = True
        self._delete_shell()
        self._link.close()

    # The shell.

    def _ready(self, deadline: float) -> tuple[Wsman, str]:
        """A logged-on connection with a shell."""
        wsman = self._link.wsman
        if wsman is None or not self._link.usable:
            wsman = self._link.log_on()
        if self._commands >= self._options.commands_per_shell:
            self._delete_shell()
        if self._shell_id is None:
            try:
                self._shell_id = wsman.create(self._step_s(deadline))
            except WsmanFaultError as error:
                raise error.as_error() from error
            self._commands = 0
        return wsman, self._shell_id

    def _delete_shell(self) -> None:
        shell_id, self._shell_id = self._shell_id, None
        if shell_id is not None and self._link.wsman is not None and self._link.usable:
            with suppress(MspError):
                self._link.wsman.delete(shell_id, _CLEANUP_S)

    def _step_s(self, deadline: float) -> float:
        return max(1.0, min(self._options.quiet_s, deadline - time.monotonic()))

    # A script.

    def _run(self, script: Script, parameters: Mapping[str, object], payload: bytes, deadline: float) -> Answer:
        run_id = uuid.uuid4().hex
        data = encode_input(script, parameters, run_id, payload)
        if script.name != "identify" and not (self._link.usable and self._identified is self._link.wsman):
            # Another connection may have led to another machine: look before anything is done there.
            self._run(load("identify"), {}, b"", min(deadline, time.monotonic() + self._options.identify_s))
        self._all_sent = False
        try:
            command_id = self._start(data, script, deadline)
            output = self._collect(command_id, script, deadline)
        except PausedLogonError:
            raise
        except MspError as error:
            if script.writes and self._all_sent and error.code != "outcome-unknown":
                # Whatever broke, the script may have done its work.
                raise self._unknown(script, error) from error
            raise
        envelope = parse_envelope(output.stdout, run_id, script=script.name, stderr=faults.error_text(output.stderr))
        if envelope.host is not None:
            check_identity(self._target, envelope.host)
            self._identified = self._link.wsman
        if not envelope.ok or envelope.host is None:
            raise ScriptFailedError(
                f"the script {script.name} failed on {self._name}: {envelope.detail}",
                code=envelope.code or "script-failed",
                context={"hostname": self._name, "script": script.name},
                remedy=remedy_of(envelope.code),
            )
        return Answer(envelope.value, envelope.host)

    def _start(self, data: Stdin, script: Script, deadline: float) -> str:
        """Start the bootstrap and give it all of its stdin.

        Until the last piece is under way nothing has run, so the whole is begun once more where there is a cure.
        """
        for again in (True, False):
            command_id = ""
            try:
                wsman, shell_id = self._ready(deadline)
                command_id = wsman.command(shell_id, self._step_s(deadline))
                self._commands += 1
                for piece, end in data.pieces(self._options.chunk_bytes):
                    self._check_time(script, deadline, started=False)
                    self._all_sent = end
                    wsman.send(shell_id, command_id, piece, end=end, timeout_s=self._step_s(deadline))
            except WsmanFaultError as error:
                if command_id and (error.kind == "process-ended" or self._all_sent):
                    # It ended before it had read all: what it wrote says why.
                    return command_id
                self._forget_shell(error)
                if not again:
                    raise error.as_error() from error
            except UnreachableError as error:
                if self._all_sent:
                    raise self._unknown(script, error) from error
                if not again or error.code != "connection-lost" or isinstance(error, LogonInterruptedError):
                    raise
            else:
                return command_id
        raise AssertionError  # pragma: no cover (the second turn returns or raises)

    def _forget_shell(self, error: WsmanFaultError) -> None:
        if error.kind == "shell-lost":
            self._shell_id = None
        else:
            self._delete_shell()

    def _collect(self, command_id: str, script: Script, deadline: float) -> Output:
        """All output of a command. After a lost connection it is asked for again with the old ids, never run again."""
        stdout: list[bytes] = []
        stderr: list[bytes] = []
        reconnects = 0
        assert self._link.wsman is not None  # noqa: S101 (it was started through it)
        while True:
            try:
                wsman, shell_id = self._link.wsman, self._shell_id
                if shell_id is None:
                    raise self._unknown(script, None)
                self._check_time(script, deadline, started=True)
                output = wsman.receive(shell_id, command_id, self._step_s(deadline))
            except UnreachableError as error:
                reconnects += 1
                if error.code not in _BROKEN or reconnects > _RECONNECTS or self.cancelled.is_set():
                    raise self._unknown(script, error) from error
                self._again(script)
                continue
            except WsmanFaultError as error:
                raise self._unknown(script, error) from error
            except ScriptFailedError:
                self._terminate(command_id)
                raise
            if output is None:
                continue
            stdout.append(output.stdout)
            stderr.append(output.stderr)
            if sum(map(len, stdout)) + sum(map(len, stderr)) > _OUTPUT_MAX_BYTES:
                self._terminate(command_id)
                raise ScriptFailedError(f"the script {script.name} wrote too much on {self._name}.")
            if output.done:
                self._terminate(command_id)
                return Output(b"".join(stdout), b"".join(stderr), done=True, exit_code=output.exit_code)

    def _again(self, script: Script) -> None:
        try:
            self._link.log_on()
        except LogonError:
            raise
        except MspError as error:
            raise self._unknown(script, error) from error

    def _terminate(self, command_id: str) -> None:
        if self._link.wsman is not None and self._shell_id is not None and self._link.usable:
            with suppress(MspError):
                self._link.wsman.terminate(self._shell_id, command_id, _CLEANUP_S)

    def _check_time(self, script: Script, deadline: float, *, started: bool) -> None:
        if self.cancelled.is_set() or time.monotonic() >= deadline:
            raise ScriptFailedError(
                f"the script {script.name} did not end in time on {self._name}.",
                code="outcome-unknown" if script.writes and started else "deadline-exceeded",
                retryable=not (script.writes and started),
                context={"hostname": self._name, "script": script.name},
            )

    def _unknown(self, script: Script, error: MspError | None) -> MspError:
        """The connection or shell went away after the script had started."""
        if not script.writes:
            return UnreachableError(
                f"the connection to {self._name} broke while {script.name} ran.", code="connection-lost"
            )
        why = error.detail if error is not None else "the shell went away."
        return ScriptFailedError(
            f"whether the script {script.name} did its work on {self._name} is not known: {why}",
            code="outcome-unknown",
            context={"hostname": self._name, "script": script.name},
        )
