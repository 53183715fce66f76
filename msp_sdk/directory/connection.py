"""One connection with a controller: connect, TLS, its certificate, requests out, messages in. The only file with ldap3.

ldap3 connects and encodes filters and requests. What the controller sends is read by
:mod:`msp_sdk.directory.ber` alone. ldap3's own ``bind`` and ``search`` are not used: they open a lost connection anew,
unverified and without TLS, and would send a password there; this one is never opened twice.

* Connecting has a deadline, and so has each message, however slowly its bytes trickle in, and each wait for an
  answer, whatever else comes meanwhile. What waits to be read is bounded.
* Several requests may be under way; each message goes to the request whose number it carries, and one that nobody
  sent for ends the connection.
* Every foreign exception becomes one of ``msp_sdk.errors``; after any of them the connection is closed.

All of it blocks, and one thread uses it at a time.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from attrs import field, frozen
from ldap3 import ANONYMOUS, BASE, DEREF_NEVER, NONE, SIMPLE, SUBTREE, SYNC, Connection, Server
from ldap3.core.exceptions import LDAPException
from ldap3.operation.bind import bind_operation
from ldap3.operation.search import search_operation
from ldap3.utils.asn1 import encode as encode_pyasn1

from msp_sdk.directory import ber
from msp_sdk.directory.ber import Control, Framer, Message
from msp_sdk.directory.doors import LDAPS_PORT, LOGON_DOORS, Door, DoorKind
from msp_sdk.errors import ConfigError, DirectoryError, WireError
from msp_sdk.models.domain import DomainController
from msp_sdk.models.reason import reason

UNREACHABLE = "unreachable-controller"
_RECEIVE_BYTES = 262_144
# More than this is not waiting to be read, however large the pages are: it is a controller that means us harm.
_WAITING_BYTES = 128 * 1024 * 1024
_GOOD_BYE_S = 1.0
_GLANCE_S = 0.001


@frozen
class DirectoryOptions:
    """How patient a session is, how much it asks for at once, and where LDAPS is when StartTLS is not to be had.

    Attributes:
        receive_timeout_s: How long one message may take.
        answer_timeout_s: How long a whole answer may take, a page for instance; over a slow line that is minutes.
        ca_pems: CAs that are trusted beside those of the credential (a site's ``trusted_cas``).
        allow_ntlm: NTLM, sealed, where Kerberos and TLS do not apply.
        doors: Which ways in a logon may use at all.
    """

    connect_timeout_s: float = 5.0
    receive_timeout_s: float = 30.0
    answer_timeout_s: float = 600.0
    page_size: int = 1000
    ldaps_port: int = LDAPS_PORT
    ca_pems: tuple[str, ...] = ()
    allow_ntlm: bool = False
    doors: tuple[DoorKind, ...] = LOGON_DOORS


@frozen
class SearchRequest:
    """A search, encoded; its controls may differ from page to page."""

    operation: bytes = field(repr=False)


class Stream(Protocol):
    """What a connection needs of a socket; a sealed layer over one will do."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""

    def recv(self, size: int, /) -> bytes:
        """Receive up to so many bytes; none when the peer has closed."""

    def settimeout(self, value: float | None, /) -> None:
        """How long one call may wait."""

    def close(self) -> None:
        """Close it."""


class Link:
    """A connection through one door; :func:`connect` makes it.

    Attributes:
        controller: Whom we talk to.
        door: How.
        stream: The socket; a logon that seals puts its layer in its place.
        certificate: The peer's certificate (DER) on this very connection; None without TLS.
        answer_timeout_s: How long a whole answer may take.
    """

    def __init__(self, controller: DomainController, door: Door, stream: Stream, options: DirectoryOptions) -> None:
        self.controller = controller
        self.door = door
        self.stream = stream
        self.certificate: bytes | None = None
        self.closed = False
        self.answer_timeout_s = options.answer_timeout_s
        self._patience_s = options.receive_timeout_s
        self._framer = Framer()
        self._last_id = 0
        # What came for requests that are under way; those whose answers nobody waits for.
        self._inbox: dict[int, list[Message]] = {}
        self._waiting_bytes = 0
        self._abandoned: set[int] = set()

    @property
    def name(self) -> str:
        """Controller and door, such as ``dc1.corp.example ldaps``."""
        return f"{self.controller.fqdn} {self.door.kind}"

    def send(self, operation: bytes, controls: Sequence[Control] = ()) -> int:
        """Send a request and return its number.

        Raises:
            DirectoryError: The connection is or was broken. Retryable.
        """
        if self.closed:
            raise broken(self, "it is closed")
        self._last_id += 1
        try:
            self.stream.settimeout(self._patience_s)
            self.stream.sendall(ber.encode_message(self._last_id, operation, controls))
        except Exception as error:
            self.close()
            raise translate(error, self.controller, self.door) from error
        self._inbox[self._last_id] = []
        return self._last_id

    def receive(self, message_id: int) -> list[Message]:
        """Wait for messages of one request and return those that are there: at least one.

        Raises:
            DirectoryError: The connection broke, nothing came in time, or what came is no LDAP.
        """
        waiting = self._inbox.get(message_id)
        if waiting is None:
            raise broken(self, "nothing is under way")
        deadline = time.monotonic() + self.answer_timeout_s
        while not waiting:
            if time.monotonic() > deadline:
                self.close()
                raise broken(self, "it sends everything but the answer")
            self._fill()
        self._inbox[message_id] = []
        self._waiting_bytes -= _size_of(waiting)
        return waiting

    def done(self, message_id: int) -> None:
        """Forget a request whose last message came."""
        self._forget(message_id)

    def abandon(self, message_id: int) -> None:
        """Wait no longer for a request; what still comes of it is passed over. It never raises."""
        if not self._forget(message_id) or self.closed:
            return
        self._abandoned.add(message_id)
        with contextlib.suppress(DirectoryError):
            self._forget(self.send(ber.encode_abandon(message_id)))

    def _forget(self, message_id: int) -> bool:
        waiting = self._inbox.pop(message_id, None)
        self._waiting_bytes -= _size_of(waiting or ())
        return waiting is not None

    def ask(self, operation: bytes, controls: Sequence[Control] = ()) -> Message:
        """Send a request that is answered by one message, and return that.

        Raises:
            DirectoryError: As :meth:`send` and :meth:`receive`.
        """
        message_id = self.send(operation, controls)
        messages = self.receive(message_id)
        self.done(message_id)
        if len(messages) != 1:
            raise self.nonsense(WireError("one answer was due and several came."))
        return messages[0]

    def nonsense(self, error: WireError) -> DirectoryError:
        """Close it, since the peer speaks no LDAP, and return the error to raise."""
        self.close()
        return translate(error, self.controller, self.door)

    @property
    def drained(self) -> bool:
        """True when nothing that came is left unread: the moment for a new layer."""
        return self._framer.empty and not any(self._inbox.values())

    def close(self) -> None:
        """Say good-bye and close; whatever happens then no longer matters."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(Exception):
                self.stream.settimeout(_GOOD_BYE_S)
                self.stream.sendall(ber.encode_message(self._last_id + 1, ber.encode_unbind()))
        self._inbox.clear()
        with contextlib.suppress(Exception):
            self.stream.close()

    def _fill(self) -> None:
        """Read until at least one message is complete, and give each to its request."""
        if self.closed:
            raise broken(self, "it is closed")
        deadline = time.monotonic() + self._patience_s
        try:
            messages: list[Message] = []
            while not messages:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError  # noqa: TRY301 (as the socket would)
                self.stream.settimeout(left_s)
                data = self.stream.recv(_RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError  # noqa: TRY301 (the peer hung up in the middle of an answer)
                messages = self._framer.feed(data)
            self._sort(messages)
        except DirectoryError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise translate(error, self.controller, self.door) from error

    def look(self) -> None:
        """Notice that the controller ended the connection while nothing was under way; it never raises."""
        if self.closed or self._inbox:
            return
        try:
            self.stream.settimeout(_GLANCE_S)
            data = self.stream.recv(_RECEIVE_BYTES)
            if not data:
                self.close()
            self._sort(self._framer.feed(data))
        except TimeoutError:
            # It is silent: alive, as far as anybody knows.
            return
        except Exception:  # noqa: BLE001 (whatever it is, it is broken)
            self.close()

    def _sort(self, messages: Sequence[Message]) -> None:
        """Give each message to its request."""
        for message in messages:
            waiting = self._inbox.get(message.message_id)
            if waiting is not None:
                waiting.append(message)
                self._waiting_bytes += len(message.data)
                if self._waiting_bytes > _WAITING_BYTES:
                    raise WireError("more came than anybody asked for.")
            elif message.message_id not in self._abandoned:
                self._unexpected(message)

    def _unexpected(self, message: Message) -> None:
        if message.message_id != ber.UNSOLICITED_ID:
            raise WireError("an answer came that nobody had asked for.")
        result = ber.read_result(message)
        if result.name == ber.NOTICE_OF_DISCONNECTION:
            raise broken(self, f"the controller ended it: {result.described}")


def connect(
    controller: DomainController, door: Door, context: ssl.SSLContext | None, options: DirectoryOptions
) -> Link:
    """Connect through a door.

    Args:
        controller: Whose name is asked for in TLS.
        door: Where; ``ldaps`` and ``starttls`` need a context.
        context: How certificates are looked at; None is no TLS.
        options: Patience.

    Raises:
        DirectoryError: Nobody answers (retryable), or not as a directory does.
        ConfigError: The door is no address.
    """
    try:
        server = Server(door.host, port=door.port, get_info=NONE, connect_timeout=options.connect_timeout_s)
        opener = Connection(server, client_strategy=SYNC, authentication=ANONYMOUS)
    except LDAPException as error:
        raise ConfigError(f"{door} is no address of a directory.") from error
    try:
        opener.open(read_server_info=False)
    except Exception as error:
        _close_quietly(opener.socket)
        raise translate(error, controller, door) from error
    link = Link(controller, door, opener.socket, options)
    if context is None:
        return link
    if door.kind == "starttls":
        _ask_for_tls(link)
    try:
        link.stream.settimeout(options.receive_timeout_s)
        secured = context.wrap_socket(opener.socket, server_hostname=controller.fqdn)
    except (OSError, ValueError) as error:
        _close_quietly(opener.socket)
        link.closed = True
        raise translate(error, controller, door) from error
    link.stream = secured
    link.certificate = secured.getpeercert(binary_form=True)
    if link.certificate is None:
        link.close()
        raise DirectoryError(f"{link.name} showed no certificate.", code="directory-failed")
    return link


def _ask_for_tls(link: Link) -> None:
    message = link.ask(ber.encode_extended(ber.START_TLS))
    try:
        result = ber.read_result(message)
    except WireError as error:
        raise link.nonsense(error) from error
    if message.tag == ber.EXTENDED_RESPONSE and result.code == 0 and link.drained:
        return
    link.close()
    # Bytes that follow the answer came in clear and would be taken for protected ones.
    raise _no_tls(link.controller, link.door)


def encode_search(
    base: str, filter_text: str, attributes: Sequence[str], *, one: bool = False, types_only: bool = False
) -> SearchRequest:
    """Encode a search.

    Args:
        base: A distinguished name; empty is the rootDSE.
        filter_text: An LDAP filter; values in it must be escaped.
        attributes: Which attributes to read.
        one: Read the base alone, not all below it.
        types_only: Names of attributes without their values.

    Raises:
        ConfigError: The filter is none.
    """
    try:
        request = search_operation(
            base,
            filter_text,
            BASE if one else SUBTREE,
            DEREF_NEVER,
            list(attributes),
            size_limit=0,
            time_limit=0,
            types_only=types_only,
            auto_escape=True,
            auto_encode=True,
            schema=None,
            check_names=False,
        )
        return SearchRequest(encode_pyasn1(request))
    except Exception as error:
        raise ConfigError(f"{filter_text!r} is no LDAP filter.", code="bad-filter") from error


def encode_simple_bind(name: str, password: bytes) -> bytes:
    """Encode a simple bind. Bytes, since ldap3 would normalise text by SASLprep: Windows does not."""
    return bytes(encode_pyasn1(bind_operation(3, SIMPLE, name, password, auto_encode=False)))


def translate(error: BaseException, controller: DomainController, door: Door) -> DirectoryError:
    """What a socket, TLS or a decoder said, as ours; the text of foreign errors stays in the cause."""
    code, text = UNREACHABLE, f"cannot be reached ({type(error).__name__})"
    if isinstance(error, ssl.SSLCertVerificationError):
        code, text = "certificate-untrusted", "showed a certificate that does not verify"
    elif isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
        return _no_tls(controller, door)
    elif isinstance(error, TimeoutError):
        text = "did not answer in time"
    elif isinstance(error, WireError):
        code, text = "directory-failed", f"does not speak as a directory: {error.detail}"
    elif not isinstance(error, OSError | LDAPException):
        code, text = "directory-failed", f"did not answer as a directory should ({type(error).__name__})"
    # One that talks nonsense is passed over for the next controller, as one that is silent is.
    return _error(controller, door, code, text, retryable=code == UNREACHABLE or isinstance(error, WireError))


def broken(link: Link, how: str) -> DirectoryError:
    """The error for a connection that is no more. Retryable."""
    return _error(link.controller, link.door, UNREACHABLE, f"broke the connection ({how})", retryable=True)


def _no_tls(controller: DomainController, door: Door) -> DirectoryError:
    text = "came to no terms on TLS; a controller without a certificate does that"
    return _error(controller, door, "no-tls", text, retryable=True)


def _error(controller: DomainController, door: Door, code: str, text: str, *, retryable: bool) -> DirectoryError:
    return DirectoryError(
        f"{controller.fqdn} at {door} {text}.",
        code=code,
        retryable=retryable,
        remedy=reason(code).remedy,
        context={"controller": controller.fqdn, "door": f"{door.kind} {door}"},
    )


def _size_of(messages: Iterable[Message]) -> int:
    return sum(len(message.data) for message in messages)


def _close_quietly(stream: Any) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
