"""Logging on: the doors in their order, the certificate before the password, exactly one logon through the ledger.

* The doors: Kerberos sealed, TLS by either way, NTLM sealed where it is allowed. Each is named; nothing negotiates.
* A password is sent only over TLS, and only after the certificate of *that* connection was verified by a given CA
  (with the host's name) or found listed by its digest. Without TLS no password is sent, only proofs of it.
* Every logon goes through the logon ledger. A refused password ends it: no other door sees it. A door that failed
  before the password was looked at gives way to the next one. NTLM never follows a KDC that said no, be it another
  controller's.
* Where the end of a logon is not known, no other door and no other controller is tried.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence

from msp_sdk.directory import ber
from msp_sdk.directory.connection import UNREACHABLE, DirectoryOptions, Link, broken, connect, encode_simple_bind
from msp_sdk.directory.doors import Door, SkippedDoor
from msp_sdk.directory.logon_codes import judge_refusal
from msp_sdk.directory.refusal import refused, sending_the_password, user_name
from msp_sdk.errors import BindRejectedError, DirectoryError, WireError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController
from msp_sdk.models.reason import reason
from msp_sdk.network.logons import LogonAttempt, LogonLedger
from msp_sdk.network.passwords import open_password
from msp_sdk.network.pins import Trust, digest_of_der, seeing_context, verifying_context
from msp_sdk.network.turns import cancelled_error

_SUCCESS = 0
# The higher, the less it tells a person: what a controller said itself comes first.
_SAYS_LITTLE = {
    "certificate-untrusted": 1,
    "directory-failed": 2,
    "no-tls": 3,
    UNREACHABLE: 4,
    "no-service-principal": 5,
    "other-domain-account": 5,
    "netbios-unknown": 5,
    "kdc-unreachable": 6,
    "kerberos-settings": 7,
    "kerberos-missing": 8,
}
# After these NTLM may follow: Kerberos did not apply. After anything else a KDC has said no, or nobody knows whose the
# account is.
KERBEROS_DOES_NOT_APPLY = frozenset(
    {
        "kerberos-missing",
        "kerberos-settings",
        "kdc-unreachable",
        "no-service-principal",
        "other-domain-account",
        UNREACHABLE,
    }
)


class LogonWalk:
    """One logon on its way over doors and controllers: what it has learnt, and whether anybody still waits for it.

    Attributes:
        cancelled: Set by whoever waits no longer; after that no door is opened and no password sent.
        kdc_said_no: A KDC (or a controller, to its ticket) had a reason that NTLM must not go around, or it is not
            known which KDC to ask.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.kdc_said_no = False
        self._closed: dict[tuple[str, int], DirectoryError] = {}

    def check(self, door: Door) -> None:
        """See whether a door is worth a try.

        Raises:
            UnreachableError: The logon was cancelled.
            DirectoryError: Another way in by the same port found that nobody takes a connection there.
        """
        if self.cancelled.is_set():
            raise cancelled_error()
        if (known := self._closed.get((door.host, door.port))) is not None:
            raise known

    def learn(self, door: Door, error: DirectoryError) -> None:
        """Remember why a door was passed over."""
        if error.context.get("connected") is False:
            self._closed[door.host, door.port] = error
        if door.kind == "kerberos" and error.code not in KERBEROS_DOES_NOT_APPLY:
            self.kdc_said_no = True


class Skipped:
    """The doors that were passed over, and what to say when none is left."""

    def __init__(self, controller: DomainController) -> None:
        self.controller = controller
        self.doors: list[SkippedDoor] = []
        self._errors: list[DirectoryError] = []

    def add(self, door: Door, error: DirectoryError) -> None:
        """Note a door and why it was passed over."""
        self.doors.append(SkippedDoor(self.controller.fqdn, door.kind, error.code, error.detail))
        self._errors.append(error)

    @property
    def telling(self) -> DirectoryError:
        """The error that says most: a refused certificate before a silent port."""
        no_door = DirectoryError(f"{self.controller.fqdn} has no door that may be used.", code="directory-failed")
        return min(self._errors, key=lambda error: _SAYS_LITTLE.get(error.code, 0), default=no_door)


def first_open(controller: DomainController, ways: Sequence[Door], open_door: Callable[[Door], Link]) -> Link:
    """The first door that opens.

    Raises:
        DirectoryError: None did.
    """
    skipped = Skipped(controller)
    for door in ways:
        try:
            return open_door(door)
        except DirectoryError as error:
            skipped.add(door, error)
    raise skipped.telling


def log_on(
    controller: DomainController,
    credential: Credential,
    ways: Sequence[Door],
    *,
    ledger: LogonLedger,
    options: DirectoryOptions,
    walk: LogonWalk,
) -> tuple[Link, tuple[SkippedDoor, ...]]:
    """Log on through the first door that takes us; also returns those that did not.

    Raises:
        BindRejectedError, LogonError, DirectoryError, UnreachableError, ConfigError: As
            :func:`msp_sdk.directory.session.open_session`.
    """
    trust = Trust.of(credential.trusted_certificates, ca_pems=options.ca_pems)
    skipped = Skipped(controller)
    for door in ways:
        if door.kind == "ntlm" and (walk.kdc_said_no or not options.allow_ntlm):
            continue
        try:
            walk.check(door)
            link, bind = _approach(controller, door, credential, trust, options)
        except DirectoryError as error:
            skipped.add(door, error)
            walk.learn(door, error)
            continue
        try:
            with ledger.attempt(
                credential, place="controller", host=controller.fqdn, cancelled=walk.cancelled
            ) as attempt:
                bind(attempt)
        except BindRejectedError as error:
            # The password was not refused; another door may do.
            link.close()
            skipped.add(door, error)
            walk.learn(door, error)
        except BaseException:
            link.close()
            raise
        else:
            return link, tuple(skipped.doors)
    told = skipped.telling
    told.context = {**told.context, "doors": {entry.door: entry.code for entry in skipped.doors}}
    raise told


def _approach(
    controller: DomainController, door: Door, credential: Credential, trust: Trust, options: DirectoryOptions
) -> tuple[Link, Callable[[LogonAttempt], None]]:
    """Everything before the password: a connection through the door, and the bind to make on it.

    Raises:
        DirectoryError: The door does not open, or does not apply. Nothing was sent.
    """
    if door.kind in ("kerberos", "ntlm"):
        return _approach_sealed(controller, door, credential, options)
    link = open_trusted(controller, door, trust, options)
    return link, lambda attempt: bind_simple(link, credential, attempt)


def _approach_sealed(
    controller: DomainController, door: Door, credential: Credential, options: DirectoryOptions
) -> tuple[Link, Callable[[LogonAttempt], None]]:
    # Loading these takes longer than reading a rootDSE, which needs none of them.
    from msp_sdk.directory import sealed_logon  # noqa: PLC0415 (as said)

    if door.kind == "kerberos":
        principal = sealed_logon.kerberos_principal(controller, door, credential)
        # First the port that the other ways in share: where nobody is, one wait tells it for all of them.
        link = connect(controller, door, None, options)
        try:
            sealed_logon.find_kdc(controller, door, options)
        except DirectoryError:
            link.close()
            raise
        return link, lambda attempt: sealed_logon.bind_kerberos(link, credential, principal, attempt, options)
    link = connect(controller, door, None, options)
    return link, lambda attempt: sealed_logon.bind_ntlm(link, credential, attempt)


def open_trusted(controller: DomainController, door: Door, trust: Trust, options: DirectoryOptions) -> Link:
    """A connection that may carry a password: listed by digest, or verified by a CA for the controller's name.

    Raises:
        BindRejectedError: The certificate is neither. Nothing was sent.
        DirectoryError: The door does not open.
    """
    seen: str | None = None
    if trust.digests or not trust.ca_pems:
        link = connect(controller, door, seeing_context(), options)
        certificate = link.certificate or b""
        if trust.lists(certificate):
            return link
        seen = digest_of_der(certificate)
        link.close()
    cause: Exception | None = None
    if trust.ca_pems:
        try:
            return connect(controller, door, verifying_context(trust.ca_pems), options)
        except DirectoryError as error:
            if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise
            cause = error.__cause__
            if seen is None:
                link = connect(controller, door, seeing_context(), options)
                seen = digest_of_der(link.certificate or b"")
                link.close()
    known = reason("certificate-untrusted")
    detail = f": {cause.verify_message}" if isinstance(cause, ssl.SSLCertVerificationError) else ""
    raise BindRejectedError(
        f"the certificate of {controller.fqdn} (SHA-256 {seen}) is neither verified nor listed{detail}."
        " No password was sent.",
        code=known.code,
        remedy=known.remedy,
        context={"controller": controller.fqdn, "sha256": seen},
    ) from cause


def bind_simple(link: Link, credential: Credential, attempt: LogonAttempt) -> None:
    """One simple bind. Whatever it ends with is told to the ledger; silence counts as unknown.

    Raises:
        LogonError, BindRejectedError, DirectoryError: As :func:`msp_sdk.directory.refusal.refused`.
    """
    secret = open_password(credential, attempt)
    if link.closed or link.certificate is None or not isinstance(link.stream, ssl.SSLSocket):
        attempt.not_sent()
        raise broken(link, "it is closed")
    request = encode_simple_bind(user_name(credential), secret.reveal().encode())
    del secret
    with sending_the_password(link, credential):
        message = link.ask(request)
        del request
        try:
            result = ber.read_result(message)
            if message.tag != ber.BIND_RESPONSE:
                raise WireError("a bind was not answered as one.")  # noqa: TRY301 (said below, with the rest)
        except WireError as error:
            raise link.nonsense(error) from error
    if result.code == _SUCCESS:
        attempt.succeeded()
        return
    refused(link, credential, attempt, judge_refusal(result.code, result.text), result.described)
