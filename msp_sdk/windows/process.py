"""One remote shell of a host, and the PowerShell process in it that serves one script after the other.

A process is used on only while each of its scripts was answered to its end. After anything else (a script that hangs,
a message that was lost in the midst of a script's stdin) it is ended, and the next script gets a new one: what it may
still do or say belongs to nobody.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from attrs import field, frozen, mutable

from msp_sdk.errors import MspError, ScriptFailedError, UnreachableError
from msp_sdk.windows.envelope import Stdin, envelope_ended
from msp_sdk.windows.link import HostLink, LogonInterruptedError, ShellOptions
from msp_sdk.windows.scripts import Script
from msp_sdk.windows.transport import Wsman, WsmanFaultError

_CLEANUP_S = 2.0
_OUTPUT_MAX_BYTES = 32 * 2**20
_HOSTS_REMEMBERED = 10_000
# Refusals after which a message has certainly not arrived.
_NOT_TAKEN = ("shell-lost", "quota")


class MessageSizes:
    """How much of a payload each host takes in one message, as far as it was learnt. For many threads.

    Args:
        most: Bytes to try at a host that is not known.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}
        self._limits: dict[str, int] = {}
        self._lock = threading.Lock()

    def range(self, host: str, least: int) -> tuple[int, int]:
        """The piece to begin with, and what to grow to; neither is below ``least``."""
        with self._lock:
            most = max(least, self._limits.get(host, self._most))
            return min(most, max(least, self._taken.get(host, 0))), most

    def taken(self, host: str, size: int) -> None:
        """A piece of ``size`` bytes arrived."""
        with self._lock:
            if size > self._taken.get(host, 0):
                self._forget_many()
                self._taken[host] = size

    def refused(self, host: str, size: int) -> None:
        """A piece of ``size`` bytes was too large."""
        with self._lock:
            self._forget_many()
            self._taken.pop(host, None)
            self._limits[host] = size // 2

    def _forget_many(self) -> None:
        for known in (self._taken, self._limits):
            if len(known) >= _HOSTS_REMEMBERED:
                known.clear()


@mutable
class Run:
    """A script on its way. ``deadline`` is by ``time.monotonic``; ``sent`` once its last piece may have arrived."""

    script: Script
    id: str
    deadline: float
    sent: bool = False


@frozen
class Output:
    """What a process wrote for one run."""

    stdout: bytes
    stderr: bytes = field(default=b"")


class HostProcess:
    """See the module. One thread at a time."""

    def __init__(self, link: HostLink, options: ShellOptions, sizes: MessageSizes) -> None:
        self._link = link
        self._options = options
        self._sizes = sizes
        self._shell_id: str | None = None
        self._command_id: str | None = None
        self._scripts = 0
        self._served = False
        self._sending = 0
        # Processes of ours that could not be ended when their connection had broken.
        self._leftovers: list[str] = []

    def open(self, deadline: float) -> None:
        """Log on, and have a shell with a process in it.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        for again in (True, False):
            try:
                self._ready(deadline)
            except WsmanFaultError as error:
                self.close()
                if not again:
                    raise error.as_error() from error
            except UnreachableError as error:
                if not again or error.code != "connection-lost" or isinstance(error, LogonInterruptedError):
                    raise
            else:
                return

    def close(self) -> None:
        """Delete the shell, and with it what runs in it."""
        self._command_id = None
        self._leftovers.clear()
        shell_id, self._shell_id = self._shell_id, None
        if shell_id is not None and self._link.wsman is not None and self._link.usable:
            with suppress(MspError):
                self._link.wsman.delete(shell_id, _CLEANUP_S)

    def discard(self) -> None:
        """End the process; the next script gets a new one."""
        command_id, self._command_id = self._command_id, None
        if command_id is not None and self._shell_id is not None:
            self._leftovers.append(command_id)
        self._clean_up()

    def give_up(self, run: Run) -> None:
        """End the process, unless a script that writes may be at work in it and its record can still be asked for."""
        late = self._link.cancelled.is_set() or time.monotonic() >= run.deadline
        if run.script.writes and run.sent and not late:
            # Killed in the midst it would leave nobody who knows what it did. It ends with its shell.
            self._command_id = None
        else:
            self.discard()

    def _clean_up(self) -> None:
        if self._link.wsman is None or self._shell_id is None or not self._link.usable:
            return
        while self._leftovers and self._link.usable:
            with suppress(MspError):
                self._link.wsman.terminate(self._shell_id, self._leftovers[-1], _CLEANUP_S)
            self._leftovers.pop()

    def _ready(self, deadline: float) -> tuple[Wsman, str, str]:
        """A logged-on connection, a shell and a process in it."""
        wsman = self._link.wsman
        if wsman is None or not self._link.usable:
            wsman = self._link.log_on()
        if self._scripts >= self._options.commands_per_shell:
            self.close()
        self._clean_up()
        if self._shell_id is None:
            self._shell_id = wsman.create(self._step_s(deadline))
            self._scripts = 0
        if self._command_id is None:
            self._command_id = wsman.command(self._shell_id, self._step_s(deadline))
            self._served = False
        return wsman, self._shell_id, self._command_id

    def _step_s(self, deadline: float) -> float:
        return max(1.0, min(self._options.quiet_s, deadline - time.monotonic()))

    def feed(self, run: Run, data: Stdin) -> None:
        """Give a process all of a script's stdin.

        Until the last piece is under way nothing has run, so the whole is begun once more where there is a cure.

        Raises:
            MspError: ``run.sent`` says whether the script may have run.
        """
        for again in (True, False):
            failure: MspError
            before = run.sent
            try:
                self._send(run, data)
            except WsmanFaultError as error:
                if error.kind == "process-ended" and self._command_id is not None and not self._served:
                    # It ended before it had read all: what it wrote says why.
                    return
                cure, failure = self._cure_fault(run, error, before=before), error.as_error()
            except MspError as error:
                self.give_up(run)
                cure, failure = self._cure_loss(run, error), error
            else:
                self._served = True
                return
            if not (cure and again):
                raise failure

    def _cure_fault(self, run: Run, error: WsmanFaultError, *, before: bool) -> bool:
        """Give up what a fault was about; True when the script can be begun again."""
        if run.sent and error.kind not in (*_NOT_TAKEN, "process-ended"):
            return False
        if error.kind in _NOT_TAKEN:
            run.sent = before
        if error.kind == "process-ended" and self._served:
            self.discard()
        else:
            self.close()
        return True

    def _cure_loss(self, run: Run, error: MspError) -> bool:
        """True when the script can be begun again after its message did not get through."""
        if isinstance(error, UnreachableError):
            # A script that writes and may have arrived is asked for by its record, not begun again here.
            return not run.sent and error.code == "connection-lost" and not isinstance(error, LogonInterruptedError)
        if error.code != "too-large" or self._sending <= self._options.chunk_bytes:
            return False
        self._sizes.refused(self._link.name, self._sending)
        return True

    def _send(self, run: Run, data: Stdin) -> None:
        wsman, shell_id, command_id = self._ready(run.deadline)
        self._scripts += 1
        self._sending = 0
        for piece, last in data.pieces(*self._sizes.range(self._link.name, self._options.chunk_bytes)):
            self.check_time(run)
            self._sending = len(piece)
            run.sent = run.sent or last
            end = last and not self._options.one_process
            wsman.send(shell_id, command_id, piece, end=end, timeout_s=self._step_s(run.deadline))
            if self._sending > self._options.chunk_bytes:
                self._sizes.taken(self._link.name, self._sending)

    def collect(self, run: Run) -> Output:
        """What the process writes, to the end of an envelope or its own.

        Output whose message was lost does not come again, so it is not asked for on another connection.

        Raises:
            MspError: It did not come; what the script did is not known.
        """
        stdout, stderr = bytearray(), bytearray()
        while True:
            self.check_time(run)
            wsman = self._link.wsman
            if wsman is None or self._shell_id is None or self._command_id is None:
                raise UnreachableError("the shell went away.", code="connection-lost")
            try:
                output = wsman.receive(self._shell_id, self._command_id, self._step_s(run.deadline))
            except WsmanFaultError as error:
                raise error.as_error() from error
            if output is None:
                continue
            stdout += output.stdout
            stderr += output.stderr
            if len(stdout) + len(stderr) > _OUTPUT_MAX_BYTES:
                raise ScriptFailedError(f"the script {run.script.name} wrote too much on {self._link.name}.")
            if output.done or (b"\n" in output.stdout and envelope_ended(stdout)):
                if output.done or not self._options.one_process:
                    self.discard()
                return Output(bytes(stdout), bytes(stderr))

    def check_time(self, run: Run) -> None:
        """Raise when a run's time is over, or it was cancelled."""
        if self._link.cancelled.is_set() or time.monotonic() >= run.deadline:
            unknown = run.script.writes and run.sent
            raise ScriptFailedError(
                f"the script {run.script.name} did not end in time on {self._link.name}.",
                code="outcome-unknown" if unknown else "deadline-exceeded",
                retryable=not unknown,
                context={"hostname": self._link.name, "script": run.script.name},
            )
