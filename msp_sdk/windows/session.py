"""One host, worked with from one thread at a time: the way there, a process there, scripts, and what they answered.

Which machine it is stands in every envelope and is compared in every one; and the host itself, told which one is meant,
runs nothing when it is another.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping

from attrs import frozen

from msp_sdk.errors import (
    MspError,
    NotAuthorisedHereError,
    ScriptFailedError,
    UnreachableError,
    WrongHostError,
)
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.windows import faults
from msp_sdk.windows.envelope import (
    Envelope,
    Stdin,
    check_parameters,
    check_value,
    encode_input,
    parse_envelope,
)
from msp_sdk.windows.identity import HostIdentity, check_identity
from msp_sdk.windows.link import HostLink, PausedLogonError, ShellOptions
from msp_sdk.windows.process import HostProcess, MessageSizes, Run
from msp_sdk.windows.scripts import Script

_REFUSALS: Mapping[str, type[MspError]] = {
    "wrong-host": WrongHostError,
    "needs-local-administrator": NotAuthorisedHereError,
}


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
        sizes: MessageSizes | None = None,
    ) -> None:
        self._target = target
        self._options = options
        self._link = link
        self._process = HostProcess(self._link, options, sizes or MessageSizes(options.most_chunk_bytes))
        self._name = self._link.name
        self._lock = threading.Lock()
        self._closed = False
        self.cancelled = self._link.cancelled

    def open(self) -> None:
        """Connect, log on, and have a process there.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        with self._lock:
            self._link.check_place()
            try:
                self._process.open(time.monotonic() + self._options.identify_s)
            except BaseException:
                self._end()
                raise

    def run(
        self,
        script: Script,
        parameters: Mapping[str, object],
        payload: bytes,
        deadline: float,
        run_id: str | None = None,
    ) -> Answer:
        """Run a script; ``deadline`` is by ``time.monotonic``."""
        check_parameters(script, parameters)
        run = Run(script, uuid.uuid4().hex if run_id is None else run_id, deadline)
        data = encode_input(script, parameters, run.id, payload, target=self._target)
        with self._lock:
            if self._closed:
                raise UnreachableError(f"the shell on {self._name} is closed.", code="connection-lost")
            envelope = self._envelope(run, data)
        if not envelope.ok or envelope.host is None:
            error = _REFUSALS.get(envelope.code, ScriptFailedError)
            raise error(
                f"the script {script.name} failed on {self._name}: {envelope.detail}",
                code=envelope.code or "script-failed",
                context={"hostname": self._name, "script": script.name},
                remedy=remedy_of(envelope.code),
            )
        check_value(script, envelope.value)
        return Answer(envelope.value, envelope.host)

    def close(self) -> None:
        """Delete the shell and end the connection; waits for a script that is running."""
        with self._lock:
            self._end()

    def abort(self) -> None:
        """End the connection from another thread, when nothing else ends a call."""
        self._link.abort()

    def _end(self) -> None:
        self._closed = True
        self._process.close()
        self._link.close()

    def _envelope(self, run: Run, data: Stdin) -> Envelope:
        """The envelope of a run. One whose answer was lost is asked for once more.

        It goes out whole again, with the same id. A script that reads is run again; one that writes is run by the host
        if it never began, and else the host gives the envelope of its first run, for which it waits.
        """
        try:
            return self._once(run, data)
        except MspError as error:
            lost = error.code == ("outcome-unknown" if run.script.writes else "connection-lost") and run.sent
            late = self.cancelled.is_set() or time.monotonic() >= run.deadline
            if not lost or late:
                raise
            try:
                return self._once(run, data)
            except PausedLogonError:
                raise
            except MspError:
                raise error from None

    def _once(self, run: Run, data: Stdin) -> Envelope:
        try:
            self._process.feed(run, data)
            output = self._process.collect(run)
            stderr = faults.error_text(output.stderr)
            envelope = parse_envelope(output.stdout, run.id, script=run.script.name, stderr=stderr)
            if envelope.host is not None:
                check_identity(self._target, envelope.host)
        except BaseException as error:
            self._process.give_up(run)
            if isinstance(error, MspError) and not isinstance(error, PausedLogonError):
                judged = self._judged(run, error)
                if judged is not error:
                    raise judged from error
            raise
        return envelope

    def _judged(self, run: Run, error: MspError) -> MspError:
        """What an error means once the script may have run."""
        if not run.sent or isinstance(error, WrongHostError):
            return error
        if not run.script.writes:
            if isinstance(error, UnreachableError):
                message = f"the connection to {self._name} broke while {run.script.name} ran."
                return UnreachableError(message, code=error.code)
            return error
        if error.code in ("outcome-unknown", "language-restricted", "unsupported-os"):
            return error
        return ScriptFailedError(
            f"whether the script {run.script.name} did its work on {self._name} is not known: {error.detail}",
            code="outcome-unknown",
            context={"hostname": self._name, "script": run.script.name},
        )
