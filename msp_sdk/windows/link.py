"""The way to one host: its address, its door, the certificate's check, and one logon by the ledger.

The order: rules about the place, then TCP and TLS with the certificate's check, then the rule about the mechanism, then
the ledger, then the logon. Whatever fails before the logon's last message leaves no strike. A connection that ends
takes its logon with it; the next one is another entry of the ledger.
"""

from __future__ import annotations

import threading

from attrs import frozen

from msp_sdk.errors import (
    LogonError,
    LogonNotAllowedError,
    LogonRejectedError,
    NotAuthorisedHereError,
    UnreachableError,
)
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonAttempt, LogonLedger, LogonPlace
from msp_sdk.windows import doors
from msp_sdk.windows.channel import Channel, Place, Trust
from msp_sdk.windows.doors import HostPolicy
from msp_sdk.windows.ntlm import Mechanism, NtlmLogon
from msp_sdk.windows.transport import Wsman

_LOGON_S = 2.0


@frozen
class ShellOptions:
    """Limits and times.

    Attributes:
        threads: How many hosts are worked with at once.
        connect_s: For TCP, and for TLS, each.
        quiet_s: How long one Receive waits; a cancelled run ends within it.
        identify_s: How long an opening may take from the logon to the first process; and the script ``identify``.
        commands_per_shell: A shell is renewed after so many scripts; Windows counts operations for its whole life.
        one_process: One PowerShell serves all scripts of a shell, two requests each. False starts one a script, for
            hosts on which that fails; it is unproven on Windows (see :mod:`msp_sdk.windows.envelope`).
        chunk_bytes: Of stdin a message; fits the smallest envelope that Windows allows by default (150 kB).
        most_chunk_bytes: What a message may grow to while a long payload is sent; fits Windows' 500 kB.
        mechanism: How to log on. Kerberos is not in this version.
    """

    threads: int = 64
    connect_s: float = 5.0
    quiet_s: float = 4.0
    identify_s: float = 30.0
    commands_per_shell: int = 100
    one_process: bool = True
    chunk_bytes: int = 100_000
    most_chunk_bytes: int = 370_000
    mechanism: Mechanism = "ntlm"


class PausedLogonError(LogonError):
    """A host refused a proven credential; it has to be proven at a controller again. Never leaves this package."""

    default_code = "credential-paused"


class LogonInterruptedError(UnreachableError):
    """The connection broke while the logon was answered. It may have been a strike, so it is not repeated by us."""


class HostLink:
    """See the module. One thread at a time; :meth:`abort` and ``cancelled`` are for others.

    Attributes:
        name: For authentication, certificates and messages.
        wsman: The operations over the connection that is logged on; None before, and it may have ended since.
        cancelled: Ends waiting early.
    """

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
        self._channel: Channel | None = None
        self.name = doors.name_of(target)
        self.wsman: Wsman | None = None
        self.cancelled = threading.Event()

    @property
    def usable(self) -> bool:
        """True while there is a connection that is logged on."""
        return self.wsman is not None and self.wsman.channel.usable

    def check_place(self) -> None:
        """Whether this credential may be shown to this host at all.

        Raises:
            LogonNotAllowedError: It may not; nothing was sent.
        """
        doors.check_logon_place(self._target, self._credential, self._policy)

    def abort(self) -> None:
        """End the connection from another thread, when nothing else ends a call."""
        channel = self._channel
        if channel is not None:
            channel.abort()

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()

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
                self.check_cancelled()
                place = Place(address, door, self.name, names, trust)
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

    def check_cancelled(self) -> None:
        """Raise ``UnreachableError`` when the work was cancelled."""
        if self.cancelled.is_set():
            raise UnreachableError(f"the work on {self.name} was cancelled.", code="connection-lost")

    def log_on(self) -> Wsman:
        """Connect and log on, once.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        known = self._ledger.state(self._credential)
        if known.state == "refused":
            code = known.code or "wrong-password"
            raise LogonNotAllowedError(
                f"{self._credential.username} was refused before and is not shown to {self.name}.",
                code=code,
                remedy=remedy_of(code),
            )
        try:
            wsman, scheme = self._prepare()
            with self._ledger.attempt(
                self._credential, place=self._place(known), host=self.name, cancelled=self.cancelled
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
        wsman.transport.timeout_s = self._options.connect_s + _LOGON_S
        return wsman, wsman.transport.scheme()

    def _attempt(self, wsman: Wsman, scheme: str, attempt: LogonAttempt) -> Wsman:
        """One logon. Until the last message goes out, the attempt counts as never made."""
        try:
            self.check_cancelled()
            if not wsman.channel.usable:
                # It waited for its turn for so long that the host hung up.
                wsman, scheme = self._prepare()
            transport = wsman.transport
            channel = wsman.channel
            logon = NtlmLogon(
                doors.logon_name(self._credential), self._credential.open(), self.name, channel.certificate
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
        self.wsman = wsman
        return wsman

    def _refused(self, attempt: LogonAttempt) -> LogonError:
        verdict = attempt.refused("wrong-password")
        who = self._credential.username
        context = {"hostname": self.name}
        if verdict == "refused":
            return LogonRejectedError(f"{self.name} refused {who}.", context=context)
        if verdict == "paused":
            return PausedLogonError(f"{self.name} refused {who}, which was proven before.", context=context)
        return NotAuthorisedHereError(f"{self.name} refused {who}, which is right elsewhere.", context=context)
