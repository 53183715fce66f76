"""One host, worked with from one thread at a time: connect, log on by the ledger, keep one shell, run scripts.

The order of an opening: rules about the place, then TCP and TLS with the certificate's check, then the rule about the
mechanism, then the ledger, then the logon, then a shell and the read-only ``identify``. Whatever fails before the
logon's last message leaves no strike. A connection that ends takes its logon with it; the next one is another entry
of the ledger.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from attrs import frozen

from msp_sdk.errors import (
    LogonError,
    LogonNotAllowedError,
    LogonRejectedError,
    MspError,
    NotAuthorisedHereError,
    ScriptFailedError,
    UnreachableError,
)
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonAttempt, LogonLedger, LogonPlace
from msp_sdk.windows import doors, faults
from msp_sdk.windows.channel import Channel, Place, Trust
from msp_sdk.windows.doors import HostPolicy
from msp_sdk.windows.envelope import Stdin, encode_input, parse_envelope
from msp_sdk.windows.identity import HostIdentity, check_identity
from msp_sdk.windows.ntlm import Mechanism, NtlmLogon
from msp_sdk.windows.scripts import Script, load
from msp_sdk.windows.transport import Output, Wsman, WsmanFaultError

_CLEANUP_S = 2.0
_RECONNECTS = 2
_BROKEN = ("connection-lost", "no-answer")
_OUTPUT_MAX_BYTES = 32 * 2**20


@frozen
class ShellOptions:
    """Limits and times.

    Attributes:
        threads: How many hosts are worked with at once.
        connect_s: For TCP, and for TLS, each.
        quiet_s: How long one Receive waits; a cancelled run ends within it.
        identify_s: The deadline of the first script.
        commands_per_shell: A shell is renewed after so many; Windows counts operations for a shell's whole life.
        chunk_bytes: Of stdin a message; fits the smallest envelope that Windows allows by default (150 kB).
        mechanism: How to log on. Kerberos is not in this version.
    """

    threads: int = 64
    connect_s: float = 5.0
    quiet_s: float = 4.0
    identify_s: float = 30.0
    commands_per_shell: int = 100
    chunk_bytes: int = 100_000
    mechanism: Mechanism = "ntlm"


class PausedLogonError(LogonError):
    """A host refused a proven credential; it has to be proven at a controller again. Never leaves this package."""

    default_code = "credential-paused"


class LogonInterruptedError(UnreachableError):
    """The connection broke while the logon was answered. It may have been a strike, so it is not repeated by us."""


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
        credential: Credential,
        ledger: LogonLedger,
        *,
        policy: HostPolicy,
        options: ShellOptions,
    ) -> None:
        self._target = target
        self._credential = credential
        self._ledger = ledger
        self._policy = policy
        self._options = options
        self._name = doors.name_of(target)
        self._wsman: Wsman | None = None
        self._channel: Channel | None = None
        self._shell_id: str | None = None
        self._commands = 0
        self._identified = False
        self._all_sent = False
        self._lock = threading.Lock()
        self._closed = False
        self.cancelled = threading.Event()

    def open(self) -> HostIdentity:
        """Connect, log on, and find out which machine this is.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        with self._lock:
            doors.check_logon_place(self._target, self._credential, self._policy)
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
        channel = self._channel
        if channel is not None:
            channel.abort()

    def _end(self) -> None:
        self._closed = True
        self._delete_shell()
        if self._channel is not None:
            self._channel.close()

    # Getting there.

    def _connect(self) -> Channel:
        """The first door of the first address that opens. What is silent or closed is passed by; what lies is not."""
        trust = Trust(
            (
                *self._policy.trusted_cas,
                *(entry.ca_pem for entry in self._credential.trusted_certificates if entry.ca_pem),
            ),
            frozenset(entry.sha256.lower() for entry in self._credential.trusted_certificates if entry.sha256),
        )
        names = doors.certificate_names(self._target)
        refused: UnreachableError | None = None
        silent: UnreachableError | None = None
        for address in doors.addresses(self._target):
            for door in doors.doors(self._target):
                self._check_cancelled()
                place = Place(address, door, self._name, names, trust)
                try:
                    return Channel.connect(place, self._options.connect_s)
                except UnreachableError as error:
                    if error.code == "winrm-closed":
                        refused = refused or error
                    else:
                        silent = silent or error
        # A refusal says more than silence: the host is on.
        failure = refused or silent
        assert failure is not None  # noqa: S101 (there is at least one address and one door)
        raise failure

    def _check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise UnreachableError(f"the work on {self._name} was cancelled.", code="connection-lost")

    def _log_on(self) -> Wsman:
        known = self._ledger.state(self._credential)
        if known.state == "refused":
            code = known.code or "wrong-password"
            raise LogonNotAllowedError(
                f"{self._credential.username} was refused before and is not shown to {self._name}.",
                code=code,
                remedy=remedy_of(code),
            )
        try:
            wsman, scheme = self._prepare()
            with self._ledger.attempt(
                self._credential, place=self._place(known), host=self._name, cancelled=self.cancelled
            ) as attempt:
                return self._attempt(wsman, scheme, attempt)
        except BaseException:
            if self._channel is not None:
                self._channel.close()
            raise

    def _place(self, known: CredentialState) -> LogonPlace:
        """As what this host counts in the ledger.

        Where LDAP is closed, a controller's own shell is the first to see its administrator, and that proves it. Once
        it is proven, a controller is a host like any other: a refusal may be about that machine alone. An account that
        is kept out is judged by LDAP and the KDC, which say why; here it would look like a wrong password.
        """
        admin = self._credential.type == "domain_admin" and self._target.role == "domain_controller"
        return "controller" if admin and known.state == "unproven" and known.code is None else "host"

    def _prepare(self) -> tuple[Wsman, str]:
        """A connection that is ready for a logon, and the scheme's name there. Nothing of a credential is involved."""
        if self._channel is not None:
            self._channel.close()
        channel = self._channel = self._connect()
        doors.check_mechanism(self._target, self._credential, self._policy, tls=channel.place.door.tls)
        wsman = Wsman(channel)
        wsman.transport.timeout_s = self._options.connect_s + _CLEANUP_S
        return wsman, wsman.transport.scheme()

    def _attempt(self, wsman: Wsman, scheme: str, attempt: LogonAttempt) -> Wsman:
        """One logon. Until the last message goes out, the attempt counts as never made."""
        try:
            self._check_cancelled()
            if not wsman.channel.usable:
                # It waited for its turn for so long that the host hung up.
                wsman, scheme = self._prepare()
            transport = wsman.transport
            channel = wsman.channel
            logon = NtlmLogon(
                doors.logon_name(self._credential), self._credential.open(), self._name, channel.certificate
            )
            token = logon.second(transport.challenge(logon, scheme))
        except BaseException:
            attempt.not_sent()
            raise
        try:
            transport.authenticate(logon, scheme, token)
        except LogonRejectedError as error:
            raise self._refused(attempt) from error
        except UnreachableError as error:
            raise LogonInterruptedError(error.detail, code=error.code) from error
        attempt.succeeded()
        self._wsman = wsman
        self._identified = False
        return wsman

    def _refused(self, attempt: LogonAttempt) -> LogonError:
        verdict = attempt.refused("wrong-password")
        who = self._credential.username
        context = {"hostname": self._name}
        if verdict == "refused":
            return LogonRejectedError(f"{self._name} refused {who}.", context=context)
        if verdict == "paused":
            return PausedLogonError(f"{self._name} refused {who}, which was proven before.", context=context)
        return NotAuthorisedHereError(f"{self._name} refused {who}, which is right elsewhere.", context=context)

    # The shell.

    def _ready(self, deadline: float) -> tuple[Wsman, str]:
        """A logged-on connection with a shell."""
        wsman = self._wsman
        if wsman is None or not wsman.channel.usable:
            if wsman is not None:
                wsman.channel.close()
            wsman = self._log_on()
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
        if shell_id is not None and self._wsman is not None and self._wsman.channel.usable:
            with suppress(MspError):
                self._wsman.delete(shell_id, _CLEANUP_S)

    def _step_s(self, deadline: float) -> float:
        return max(1.0, min(self._options.quiet_s, deadline - time.monotonic()))

    # A script.

    def _run(self, script: Script, parameters: Mapping[str, object], payload: bytes, deadline: float) -> Answer:
        run_id = uuid.uuid4().hex
        data = encode_input(script, parameters, run_id, payload)
        if script.name != "identify" and not (self._identified and self._wsman and self._wsman.channel.usable):
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
            self._identified = True
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
        assert self._wsman is not None  # noqa: S101 (it was started through it)
        while True:
            try:
                wsman, shell_id = self._wsman, self._shell_id
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
            self._log_on()
        except LogonError:
            raise
        except MspError as error:
            raise self._unknown(script, error) from error

    def _terminate(self, command_id: str) -> None:
        if self._wsman is not None and self._shell_id is not None and self._wsman.channel.usable:
            with suppress(MspError):
                self._wsman.terminate(self._shell_id, command_id, _CLEANUP_S)

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
