"""A session with a directory: connect, see or verify the certificate, bind, search. The only file that uses ldap3.

Its invariants:

* A password is sent only over TLS, and only after the certificate of *that* connection was verified by a given CA
  (with the host's name) or found listed by its digest. ldap3's own ``bind`` is not used: it opens a lost
  connection anew, unverified and without TLS, and would send the password there.
* Every bind with a password goes through the logon ledger.
* Connecting and receiving have deadlines. Every foreign exception becomes one of ``msp_sdk.errors``.
* A search that stops half-way is :class:`~msp_sdk.errors.PartialResultError`, never a short list.

All of it blocks: call it in a worker thread.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from attrs import frozen
from ldap3 import ANONYMOUS, BASE, DEREF_NEVER, NONE, SIMPLE, SUBTREE, SYNC, Connection, Server
from ldap3.core.exceptions import LDAPCommunicationError, LDAPException, LDAPResponseTimeoutError, LDAPStartTLSError
from ldap3.core.tls import Tls
from ldap3.operation.bind import bind_operation

from msp_sdk.directory.doors import LDAPS_PORT, Door, doors
from msp_sdk.directory.entry import Entry
from msp_sdk.directory.logon_codes import judge_refusal
from msp_sdk.directory.root_dse import ROOT_DSE_ATTRIBUTES, RootDse, parse_root_dse
from msp_sdk.errors import (
    BindRejectedError,
    ConfigError,
    DirectoryError,
    LogonRejectedError,
    MspError,
    PartialResultError,
)
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController, SeenCertificate
from msp_sdk.models.reason import reason
from msp_sdk.network.logons import LogonAttempt, LogonLedger
from msp_sdk.network.pins import Trust, digest_of_der, seeing_context, verifying_context

_PAGED_RESULTS = "1.2.840.113556.1.4.319"
_UNREACHABLE = "unreachable-controller"
_SUCCESS = 0
_NO_SUCH_OBJECT = 32
# The answer was cut short: time, size or an administrator's limit.
_CUT_SHORT = frozenset({3, 4, 11})


@frozen
class DirectoryOptions:
    """How patient a session is, how much it asks for at once, and where LDAPS is when StartTLS is not to be had.

    Attributes:
        ca_pems: CAs that are trusted beside those of the credential (a site's ``trusted_cas``).
    """

    connect_timeout_s: float = 5.0
    receive_timeout_s: float = 30.0
    page_size: int = 1000
    ldaps_port: int = LDAPS_PORT
    ca_pems: tuple[str, ...] = ()


@frozen
class Page:
    """A page of entries; an empty cookie says that it was the last."""

    entries: tuple[Entry, ...]
    cookie: bytes = b""


class _CheckedTls(Tls):  # type: ignore[misc]
    """ldap3's TLS with our context: it keeps what went wrong, since ldap3 turns every cause into text."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__()
        self.context = context
        self.server_name = server_name
        self.failure: Exception | None = None

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 (ldap3's shape)
        """Wrap ldap3's socket; the hand-shake runs at once and within the socket's deadline."""
        try:
            connection.socket = self.context.wrap_socket(connection.socket, server_hostname=self.server_name)
        except (OSError, ValueError) as error:
            self.failure = error
            raise


class _Link:
    """One connection through one door: opens it, names it, closes it."""

    def __init__(
        self, controller: DomainController, door: Door, context: ssl.SSLContext | None, options: DirectoryOptions
    ) -> None:
        self.controller = controller
        self.door = door
        tls = None if context is None else _CheckedTls(context, controller.fqdn)
        try:
            server = Server(
                door.host,
                port=door.port,
                use_ssl=door.kind == "ldaps",
                get_info=NONE,
                connect_timeout=options.connect_timeout_s,
                tls=tls,
            )
            self.connection = Connection(
                server,
                client_strategy=SYNC,
                authentication=ANONYMOUS,
                auto_referrals=False,
                check_names=False,
                auto_range=False,
                return_empty_attributes=False,
                # ldap3 packs it as whole seconds.
                receive_timeout=max(1, math.ceil(options.receive_timeout_s)),
            )
        except LDAPException as error:
            raise ConfigError(f"{door} is no address of a directory.") from error
        try:
            self.connection.open(read_server_info=False)
            if door.kind == "starttls":
                self.connection.start_tls(read_server_info=False)
        except Exception as error:  # noqa: BLE001 (ldap3's decoder raises anything on nonsense)
            self.close()
            failure = tls.failure if tls is not None and tls.failure is not None else error
            raise _translate(failure, controller, door) from failure
        if context is not None and not isinstance(self.connection.socket, ssl.SSLSocket):
            self.close()
            raise DirectoryError(f"{self.name} did not start TLS.", code="directory-failed")

    @property
    def name(self) -> str:
        return f"{self.controller.fqdn} {self.door.kind}"

    @property
    def certificate(self) -> bytes:
        """The peer's certificate (DER) on this very connection."""
        der = self.connection.socket.getpeercert(binary_form=True)
        if der is None:
            raise DirectoryError(f"{self.name} showed no certificate.", code="directory-failed")
        return bytes(der)

    def close(self) -> None:
        """Close it; whatever happens then no longer matters."""
        raw = self.connection.socket
        with contextlib.suppress(Exception):
            self.connection.unbind()
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.close()


class DirectorySession:
    """A bound (or anonymous) session. Make one with :func:`open_session` or :func:`open_anonymous`."""

    def __init__(self, link: _Link, options: DirectoryOptions) -> None:
        self._link = link
        self._options = options

    @property
    def source(self) -> str:
        """Controller and door, such as ``dc1.corp.example ldaps``."""
        return self._link.name

    @property
    def closed(self) -> bool:
        """True once it was closed, or broke."""
        return bool(self._link.connection.closed)

    @property
    def certificate_sha256(self) -> str:
        """Digest of the certificate that this session runs under."""
        return digest_of_der(self._link.certificate)

    def close(self) -> None:
        """End the session; it never raises."""
        self._link.close()

    def page(
        self,
        base: str,
        filter_text: str,
        attributes: Sequence[str],
        *,
        cookie: bytes = b"",
        paged: bool = True,
    ) -> Page:
        """Read one page of a search below ``base``; referrals to other directories are passed over.

        Args:
            base: A distinguished name.
            filter_text: An LDAP filter; values in it must be escaped.
            attributes: Which attributes to read.
            cookie: Of the page before; empty for the first.
            paged: False asks for everything at once; a directory that limits answers then cuts it short.

        Raises:
            PartialResultError: The answer was cut short or the connection broke after a part of it. ``received``
                holds what came of this page.
            DirectoryError: The directory refused, or sent nonsense; retryable when the connection broke.
        """
        entries, result = self._search(base, filter_text, SUBTREE, attributes, cookie if paged else None)
        code = result.get("result")
        if code in _CUT_SHORT or (code != _SUCCESS and (entries or cookie)):
            raise PartialResultError(
                f"{self.source} stopped after a part of the answer: {_describe(result)}.", received=entries
            )
        if code != _SUCCESS:
            raise DirectoryError(f"{self.source} refused the search: {_describe(result)}.", code="directory-failed")
        control = (result.get("controls") or {}).get(_PAGED_RESULTS, {})
        return Page(entries, bytes(control.get("value", {}).get("cookie") or b"") if paged else b"")

    def pages(self, base: str, filter_text: str, attributes: Sequence[str]) -> Iterator[Page]:
        """All pages, one after the other; raises as :meth:`page`, also while iterating."""
        cookie = b""
        while True:
            page = self.page(base, filter_text, attributes, cookie=cookie)
            yield page
            cookie = page.cookie
            if not cookie:
                return

    def read(self, dn: str, attributes: Sequence[str]) -> Entry | None:
        """Read one entry; None when there is none.

        Raises:
            DirectoryError: As :meth:`page`.
        """
        entries, result = self._search(dn, "(objectClass=*)", BASE, attributes, None)
        if result.get("result") == _NO_SUCH_OBJECT:
            return None
        if result.get("result") != _SUCCESS:
            raise DirectoryError(f"{self.source} refused to read: {_describe(result)}.", code="directory-failed")
        return entries[0] if entries else None

    def root_dse(self) -> RootDse:
        """Read what the controller says of itself.

        Raises:
            DirectoryError: It says nothing, or not as it should.
        """
        entry = self.read("", ROOT_DSE_ATTRIBUTES)
        if entry is None:
            raise DirectoryError(f"{self.source} has no rootDSE.", code="directory-failed")
        return parse_root_dse(entry)

    def _search(
        self, base: str, filter_text: str, scope: str, attributes: Sequence[str], cookie: bytes | None
    ) -> tuple[tuple[Entry, ...], dict[str, Any]]:
        connection = self._link.connection
        if connection.closed:
            # ldap3 would answer with the result of the search before.
            raise _broken(self._link.controller, self._link.door, "it is closed", partial=bool(cookie))
        try:
            connection.search(
                base,
                filter_text,
                search_scope=scope,
                dereference_aliases=DEREF_NEVER,
                attributes=list(attributes),
                paged_size=self._options.page_size if cookie is not None else None,
                paged_criticality=True,
                paged_cookie=cookie or None,
            )
            response, result = connection.response or [], dict(connection.result or {})
            entries = tuple(_entry(item) for item in response if item.get("type") == "searchResEntry")
        except Exception as error:
            self.close()
            if cookie:
                raise _broken(self._link.controller, self._link.door, type(error).__name__, partial=True) from error
            raise _translate(error, self._link.controller, self._link.door) from error
        return entries, result


def open_anonymous(controller: DomainController, options: DirectoryOptions) -> DirectorySession:
    """Connect without a name and without TLS where that is possible: for the rootDSE alone.

    Raises:
        DirectoryError: No address of the controller answered. Retryable.
    """

    def open_door(door: Door) -> _Link:
        return _Link(controller, door, seeing_context() if door.kind == "ldaps" else None, options)

    return DirectorySession(
        _first_open(doors(controller, first="plain", ldaps_port=options.ldaps_port), open_door), options
    )


def read_root_dse(controller: DomainController, options: DirectoryOptions) -> RootDse:
    """Connect, read the rootDSE, disconnect.

    Raises:
        DirectoryError: No address answered, or not as a directory should.
    """
    session = open_anonymous(controller, options)
    try:
        return session.root_dse()
    finally:
        session.close()


def see_certificate(controller: DomainController, options: DirectoryOptions) -> SeenCertificate:
    """Look at a controller's certificate without trusting it; nothing is sent that is secret.

    Raises:
        DirectoryError: The controller cannot be reached or has no certificate.
    """
    link = _first_open(
        doors(controller, first="starttls", ldaps_port=options.ldaps_port),
        lambda door: _Link(controller, door, seeing_context(), options),
    )
    try:
        return SeenCertificate(controller.fqdn, digest_of_der(link.certificate))
    finally:
        link.close()


def open_session(
    controller: DomainController, credential: Credential, *, ledger: LogonLedger, options: DirectoryOptions
) -> DirectorySession:
    """Connect by TLS, check the certificate, and bind with exactly one logon.

    Args:
        controller: Where; its addresses are tried in order, StartTLS on its port first, then LDAPS.
        credential: Whose secret is opened after the ledger has allowed the attempt.
        ledger: Counts the logon.
        options: Patience, CAs.

    Raises:
        BindRejectedError: The certificate is neither verified nor listed (nothing was sent), or the controller
            demands another kind of bind. The context holds the certificate's digest.
        LogonRejectedError: The password or the account was refused; the code says why. Never try again.
        LogonNotAllowedError: The ledger said no; nothing was sent.
        DirectoryError: The controller cannot be reached (retryable) or fails.
        ConfigError: The credential's list of certificates or its secret is unusable.
    """
    trust = Trust.of(credential.trusted_certificates, ca_pems=options.ca_pems)
    link = _first_open(
        doors(controller, first="starttls", ldaps_port=options.ldaps_port),
        lambda door: _open_trusted(controller, door, trust, options),
    )
    try:
        with ledger.attempt(credential, place="controller", host=controller.fqdn) as attempt:
            _bind(link, credential, attempt)
    except BaseException:
        link.close()
        raise
    return DirectorySession(link, options)


def _first_open(ways: Sequence[Door], open_door: Callable[[Door], _Link]) -> _Link:
    """The first door that opens; else the error that says most: a refused certificate before a silent port."""
    errors: list[MspError] = []
    for door in ways:
        try:
            return open_door(door)
        except DirectoryError as error:
            errors.append(error)
    told = sorted(errors, key=lambda error: (not isinstance(error, BindRejectedError), error.code == _UNREACHABLE))
    raise told[0]


def _open_trusted(controller: DomainController, door: Door, trust: Trust, options: DirectoryOptions) -> _Link:
    """A connection that may carry a password: listed by digest, or verified by a CA for the controller's name."""
    seen: str | None = None
    if trust.digests or not trust.ca_pems:
        link = _Link(controller, door, seeing_context(), options)
        if trust.lists(link.certificate):
            return link
        seen = digest_of_der(link.certificate)
        link.close()
    cause: Exception | None = None
    if trust.ca_pems:
        try:
            return _Link(controller, door, verifying_context(trust.ca_pems), options)
        except DirectoryError as error:
            if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise
            cause = error.__cause__
            if seen is None:
                link = _Link(controller, door, seeing_context(), options)
                seen = digest_of_der(link.certificate)
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


def _user_name(credential: Credential) -> str:
    name = credential.username
    if "@" in name or "\\" in name or not credential.domain_name:
        return name
    return f"{name}@{credential.domain_name}"


def _bind_request(link: _Link, credential: Credential) -> Any:
    secret = credential.open()
    if not secret:
        # An empty password would be an anonymous bind that "succeeds".
        raise ConfigError(f"the password of {credential.username} is empty.", code="no-password")
    if link.connection.closed or not isinstance(link.connection.socket, ssl.SSLSocket):
        raise _broken(link.controller, link.door, "it is closed")
    # Bytes, since ldap3 would normalise text by SASLprep: Windows does not, and the password would be wrong.
    return bind_operation(3, SIMPLE, _user_name(credential), secret.reveal().encode(), auto_encode=False)


def _bind(link: _Link, credential: Credential, attempt: LogonAttempt) -> None:
    """One simple bind. Whatever it ends with is told to the ledger; silence counts as unknown."""
    connection = link.connection
    try:
        request = _bind_request(link, credential)
    except BaseException:
        attempt.not_sent()
        raise
    try:
        # The strategy sends on this socket or fails; unlike Connection.bind it never opens another one.
        connection.post_send_single_response(connection.strategy.send("bindRequest", request, None))
        result = dict(connection.result or {})
    except Exception as error:
        raise _translate(error, link.controller, link.door) from error
    finally:
        connection.request = None
        with contextlib.suppress(AttributeError):
            connection.strategy._outstanding.clear()  # noqa: SLF001 (ldap3 keeps the request, password and all)
    if result.get("result") == _SUCCESS:
        connection.bound = True
        attempt.succeeded()
        return
    _refused(link, credential, attempt, result)


def _refused(link: _Link, credential: Credential, attempt: LogonAttempt, result: dict[str, Any]) -> NoReturn:
    refusal = judge_refusal(int(result.get("result", -1)), str(result.get("message") or ""))
    who = f"{link.controller.fqdn} refused {credential.username}"
    if refusal.password_judged and refusal.code is not None:
        attempt.refused(refusal.code)
        known = reason(refusal.code)
        raise LogonRejectedError(
            f"{who}: {known.title}", code=known.code, remedy=known.remedy, context={"controller": link.controller.fqdn}
        )
    if refusal.password_judged is False:
        attempt.not_sent()
    if refusal.code is not None:
        known = reason(refusal.code)
        raise BindRejectedError(f"{who}: {known.title}", code=known.code, remedy=known.remedy)
    raise DirectoryError(f"{who}: {_describe(result)}.", code="directory-failed", retryable=True)


def _entry(item: dict[str, Any]) -> Entry:
    raw = item["raw_attributes"]
    return Entry(str(item["dn"]), {name.lower(): tuple(values) for name, values in raw.items()})


def _describe(result: dict[str, Any]) -> str:
    """The result in words; the directory's own text is a stranger's, so it is cut and cleaned."""
    message = "".join(character for character in str(result.get("message") or "") if character.isprintable())
    return f"{result.get('description', 'no result')} {message[:200]}".strip()


def _translate(error: BaseException, controller: DomainController, door: Door) -> DirectoryError:
    """What ldap3 or the socket said, as ours; the text of foreign errors stays in the cause."""
    code, text = _UNREACHABLE, f"cannot be reached ({type(error).__name__})"
    if isinstance(error, ssl.SSLCertVerificationError):
        code, text = "certificate-untrusted", "showed a certificate that does not verify"
    elif isinstance(error, ssl.SSLError | LDAPStartTLSError):
        code, text = "no-tls", "came to no terms on TLS; a controller without a certificate does that"
    elif isinstance(error, TimeoutError):
        text = "did not answer in time"
    elif not isinstance(error, OSError | LDAPCommunicationError | LDAPResponseTimeoutError):
        code, text = "directory-failed", f"did not answer as a directory should ({type(error).__name__})"
    return DirectoryError(
        f"{controller.fqdn} at {door} {text}.",
        code=code,
        retryable=code in (_UNREACHABLE, "no-tls"),
        remedy=reason(code).remedy,
        context={"controller": controller.fqdn, "door": f"{door.kind} {door}"},
    )


def _broken(controller: DomainController, door: Door, how: str, *, partial: bool = False) -> DirectoryError:
    text = f"the connection to {controller.fqdn} at {door} broke ({how})"
    if partial:
        return PartialResultError(f"{text} after a part of the answer.")
    return DirectoryError(f"{text}.", code=_UNREACHABLE, retryable=True)
