"""The way to one host: its address, its door, the certificate's check, and one logon.

The order: rules about the place, then TCP and TLS with the certificate's check, then the mechanism, then the ledger,
then the logon. Kerberos comes first where it can apply: its ticket costs the account nothing, so no ledger is asked for
a host. NTLM follows only where nobody refused Kerberos, and each is one entry of the ledger. Whatever fails before the
logon's last message leaves no strike. A connection that ends takes its logon with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from attrs import field, frozen

from msp_sdk.errors import (
    EncryptionRefusedError,
    LogonError,
    LogonNotAllowedError,
    LogonRejectedError,
    NotAuthorisedHereError,
    UnreachableError,
    WindowsError,
    WrongHostError,
)
from msp_sdk.models.credential import Credential, CredentialState
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.network.kdcs import Kdc, Kdcs
from msp_sdk.network.kerberos_account import ServiceTicket
from msp_sdk.network.kerberos_tickets import KerberosTickets, NotApplicable
from msp_sdk.network.logons import LogonAttempt, LogonLedger, LogonPlace
from msp_sdk.network.passwords import open_password
from msp_sdk.windows import doors, ticket_logon
from msp_sdk.windows.basic import BasicLogon
from msp_sdk.windows.channel import CERTIFICATE_REASONS, Channel, Place, trust_of
from msp_sdk.windows.doors import Door, HostPolicy, Mechanism
from msp_sdk.windows.ntlm import NtlmLogon
from msp_sdk.windows.transport import BASIC, Wsman
from msp_sdk.windows.ways import PassedDoor, Way, WayMemory

_LOGON_S = 2.0
_OK = 200
_NO_SERVICE = "no-service-principal"
# What a failed door says of a host: the higher, the less.
_SAYS_LITTLE = {"winrm-closed": 1, "connection-lost": 2, "no-answer": 3}


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
        remember_s: For how long the way that worked at a host is tried first.
    """

    threads: int = 64
    connect_s: float = 5.0
    quiet_s: float = 4.0
    identify_s: float = 30.0
    commands_per_shell: int = 100
    one_process: bool = True
    chunk_bytes: int = 100_000
    most_chunk_bytes: int = 370_000
    remember_s: float = 600.0


@frozen
class LogonTools:
    """What all hosts' logons share.

    Attributes:
        kdcs: Knows the KDCs of a credential's domain; None where nobody does.
    """

    ledger: LogonLedger
    tickets: KerberosTickets
    ways: WayMemory
    kdcs: Kdcs | None = None


@frozen
class _Challenged:
    """A connection whose host waits for the answer to its challenge; without a logon of NTLM it waits for Basic."""

    wsman: Wsman
    scheme: str
    logon: NtlmLogon | None = None
    challenge: bytes = field(default=b"", repr=False)


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
        way: How it was logged on to; None before.
        passed_by: The doors that were passed by on that way although they opened.
        cancelled: Ends waiting early.
    """

    def __init__(
        self,
        target: Target,
        credential: Credential,
        tools: LogonTools,
        *,
        policy: HostPolicy,
        options: ShellOptions,
    ) -> None:
        self._target = target
        self._credential = credential
        self._tools = tools
        self._policy = policy
        self._options = options
        self._channel: Channel | None = None
        self.name = doors.name_of(target)
        self.wsman: Wsman | None = None
        self.way: Way | None = None
        self.passed_by: tuple[PassedDoor, ...] = ()
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
        """End the connection and all waiting from another thread, when nothing else ends a call."""
        self.cancelled.set()
        channel = self._channel
        if channel is not None:
            channel.abort()

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()

    def _connect(self, mechanism: Mechanism) -> Channel:
        """The first door of the first address that opens. What is silent or closed is passed by; what lies is not."""
        if self._channel is not None:
            self._channel.close()
        trust = trust_of(self._target, self._credential, self._policy)
        names = doors.certificate_names(self._target)
        self.passed_by = ()
        failures: list[WindowsError] = []
        for address, door in self._places(mechanism):
            self.check_cancelled()
            try:
                channel = Channel.connect(Place(address, door, self.name, names, trust), self._options.connect_s)
            except WindowsError as error:
                if error.code in CERTIFICATE_REASONS and doors.passes_by(self._target, mechanism, door):
                    self._check_names(names, error)
                    self.passed_by += (PassedDoor(address, door.port, error.code, error.detail),)
                elif not isinstance(error, UnreachableError):
                    raise
                failures.append(error)
            else:
                self._channel = channel
                return channel
        # A certificate that nobody believes says more than a refused connection, and that more than silence.
        raise min(failures, key=lambda error: _SAYS_LITTLE.get(error.code, 0))

    def _check_names(self, names: tuple[str, ...], error: WindowsError) -> None:
        """Of a certificate that nobody believes: for another name it is no door to pass by, but another machine."""
        told = error.context.get("names")
        found = tuple(str(name) for name in told) if isinstance(told, list | tuple) else ()
        if found and not doors.names_match(names, found):
            raise WrongHostError(
                f"the certificate at the address of {self.name} is for {', '.join(found[:3])}.",
                context={"hostname": self.name, "names": list(found)},
            ) from error

    def _places(self, mechanism: Mechanism) -> Iterator[tuple[str, Door]]:
        """Where to knock, in order: first where it worked a short while ago."""
        wanted = [(address, door) for address in doors.addresses(self._target) for door in doors.doors(self._target)]
        known = self._tools.ways.get(self._target, self._credential)
        if known is not None and known.mechanism == mechanism and (known.address, known.door) in wanted:
            yield known.address, known.door
            self._tools.ways.forget(self._target, self._credential)
            wanted.remove((known.address, known.door))
        yield from wanted

    def check_cancelled(self) -> None:
        """Raise ``UnreachableError`` when the work was cancelled."""
        if self.cancelled.is_set():
            raise UnreachableError(f"the work on {self.name} was cancelled.", code="connection-lost")

    def log_on(self) -> Wsman:
        """Connect and log on, once.

        Raises:
            MspError: See :class:`msp_sdk.windows.shell.WindowsShells`.
        """
        known = self._tools.ledger.state(self._credential)
        if known.state == "refused":
            self._tools.tickets.end(self._credential)
            code = known.code or "wrong-password"
            raise LogonNotAllowedError(
                f"{self._credential.username} was refused before and is not shown to {self.name}.",
                code=code,
                remedy=remedy_of(code),
            )
        try:
            way = self._by_kerberos()
            if isinstance(way, NotApplicable):
                way = self._by_password(known, way.code)
        except BaseException:
            self._tools.ways.forget(self._target, self._credential)
            if self._channel is not None:
                self._channel.close()
            raise
        self.way = way
        self._tools.ways.keep(self._target, self._credential, way)
        assert self.wsman is not None  # noqa: S101 (both ways set it)
        return self.wsman

    # Kerberos.

    def _by_kerberos(self) -> Way | NotApplicable:
        """Log on with a ticket; or why that cannot be, where nobody has refused it."""
        kdcs = tuple(self._tools.kdcs(self._credential)) if self._tools.kdcs and self._credential.is_domain else ()
        barred = doors.kerberos_bar(self._target, self._credential, is_kdc_known=bool(kdcs))
        known = self._tools.ways.get(self._target, self._credential)
        if barred is None and known is not None and known.barred == _NO_SERVICE:
            # Nothing but a change in the directory makes another answer of it.
            barred = known.barred
        barred = barred or self._tools.tickets.bar(kdcs)
        if barred is not None:
            return NotApplicable(barred)
        first = [known.service] if known is not None and known.service else []
        return self._by_ticket(kdcs, tuple(dict.fromkeys([*first, *doors.SERVICES])))

    def _by_ticket(self, kdcs: Sequence[Kdc], services: Sequence[str]) -> Way | NotApplicable:
        channel = self._connect("kerberos")
        for scheme in ticket_logon.SCHEMES:
            ticket = self._ticket(channel, kdcs, services)
            if not isinstance(ticket, NotApplicable) and not channel.usable:
                # It waited for its account's ticket for so long that the host hung up; or said no and hung up.
                ticket.drop()
                channel = self._connect("kerberos")
                ticket = self._ticket(channel, kdcs, services)
            if isinstance(ticket, NotApplicable):
                return ticket
            wsman = self._wsman(channel)
            try:
                logon = ticket_logon.log_on(wsman.transport, scheme, ticket, self.name, self._credential.username)
            finally:
                ticket.drop()
            if logon is not None:
                wsman.transport.begin(scheme, logon)
                self.wsman = wsman
                return Way(channel.place.address, channel.place.door, "kerberos", ticket.service)
        raise EncryptionRefusedError(f"{self.name} offers no logon mechanism that we speak.")

    def _ticket(self, channel: Channel, kdcs: Sequence[Kdc], services: Sequence[str]) -> ServiceTicket | NotApplicable:
        self.check_cancelled()
        host = doors.service_host(self._target)
        assert host is not None  # noqa: S101 (else Kerberos is barred)
        binding = ticket_logon.binding_of_channel(channel)
        return self._tools.tickets.begin(
            self._credential, kdcs, services, host, binding=binding, cancelled=self.cancelled
        )

    # NTLM, or Basic where a site asks for it.

    def _by_password(self, known: CredentialState, why: str) -> Way:
        """Log on by NTLM, where Kerberos does not apply for the reason ``why``."""
        # A host is waited for before the ledger is asked: few logons may be in flight.
        ready = self._prepare(why)
        with self._tools.ledger.attempt(
            self._credential, place=self._place(known), host=self.name, cancelled=self.cancelled
        ) as attempt:
            ready = self._attempt(ready, attempt, why)
        place = ready.wsman.channel.place
        return Way(place.address, place.door, "ntlm" if ready.logon else "basic", barred=why)

    def _place(self, known: CredentialState) -> LogonPlace:
        """As what this host counts in the ledger.

        Where LDAP is closed, a controller's own shell is the first to see its administrator, and that proves it. Once
        it is proven, a controller is a host like any other: a refusal may be about that machine alone. An account that
        is kept out is judged by LDAP and the KDC, which say why; here it would look like a wrong password.
        """
        admin = self._credential.type == "domain_admin" and self._target.role == "domain_controller"
        return "controller" if admin and known.state == "unproven" and known.code is None else "host"

    def _wsman(self, channel: Channel) -> Wsman:
        wsman = Wsman(channel)
        wsman.transport.timeout_s = self._options.connect_s + _LOGON_S
        return wsman

    def _prepare(self, why: str) -> _Challenged:
        """A connection that only waits for the answer to its challenge. Nothing of a credential is involved."""
        try:
            channel = self._connect("ntlm")
        except WindowsError as error:
            if self._credential.is_domain:
                error.context["kerberos"] = why
            raise
        doors.check_ntlm(self._target, self._credential, self._policy, tls=channel.place.door.tls, why=why)
        wsman = self._wsman(channel)
        begun: list[NtlmLogon] = []

        def first() -> bytes:
            logon = NtlmLogon(doors.logon_name(self._credential), self.name, channel.certificate)
            begun.append(logon)
            return logon.first()

        try:
            scheme, challenge = wsman.transport.ask_challenge(first)
        except EncryptionRefusedError as error:
            offered = error.context.get("offers")
            names = offered if isinstance(offered, tuple) else ()
            if not doors.basic_applies(self._credential, self._policy, tls=channel.place.door.tls, offered=names):
                raise
            return _Challenged(wsman, BASIC)
        begun[-1].check(challenge)
        return _Challenged(wsman, scheme, begun[-1], challenge)

    def _attempt(self, ready: _Challenged, attempt: LogonAttempt, why: str) -> _Challenged:
        """One logon. Until the last message goes out, the attempt counts as never made."""
        try:
            self.check_cancelled()
            if not ready.wsman.channel.usable:
                # It waited for its turn for so long that the host hung up.
                ready = self._prepare(why)
        except BaseException:
            attempt.not_sent()
            raise
        password = open_password(self._credential, attempt)
        logon: NtlmLogon | BasicLogon
        try:
            if ready.logon is None:
                logon = BasicLogon(self._credential.username, password)
                token = logon.token()
            else:
                logon = ready.logon
                token = logon.second(ready.challenge, password)
        except BaseException:
            attempt.not_sent()
            raise
        transport = ready.wsman.transport
        try:
            reply = transport.present(ready.scheme, token)
        except UnreachableError as error:
            raise LogonInterruptedError(error.detail, code=error.code) from error
        if reply.status != _OK:
            raise self._refused(attempt)
        attempt.succeeded()
        transport.begin(ready.scheme, logon)
        self.wsman = ready.wsman
        return ready

    def _refused(self, attempt: LogonAttempt) -> LogonError:
        verdict = attempt.refused("wrong-password")
        who = self._credential.username
        context = {"hostname": self.name}
        if verdict == "refused":
            return LogonRejectedError(f"{self.name} refused {who}.", context=context)
        if verdict == "paused":
            return PausedLogonError(f"{self.name} refused {who}, which was proven before.", context=context)
        return NotAuthorisedHereError(f"{self.name} refused {who}, which is right elsewhere.", context=context)
