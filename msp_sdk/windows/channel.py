"""One connection to one door of a host: TCP, TLS and HTTP. It never reconnects and never follows anything.

A logon belongs to its TCP connection, so a connection that ends is the end of a logon, and whoever wants another one
asks the logon ledger. The certificate is checked before anything is said: it must lead to a trusted CA, or be listed
itself, and hold one of the host's names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from attrs import field, frozen
from cryptography import x509
from cryptography.x509.oid import NameOID

from msp_sdk.errors import ConfigError, EncryptionRefusedError, MspError, UnreachableError, WindowsError, WrongHostError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import reason
from msp_sdk.models.target import Target
from msp_sdk.network.host_pins import pin_of
from msp_sdk.windows.doors import Door, HostPolicy, names_match
from msp_sdk.windows.identity import is_address

PATH = "/wsman"
# We ask for envelopes of at most 150 kB; what is far longer comes from something else.
MAX_BODY_BYTES = 4 * 2**20
# http.sys closes a quiet connection after two minutes.
IDLE_LIMIT_S = 100.0


@frozen
class Trust:
    """Which certificates are believed: CAs as PEM, and digests of listed certificates (lower-case hex).

    Attributes:
        pinned_sha256: What a person has pinned for this very host; None where nobody has.
    """

    cas: tuple[str, ...] = ()
    listed_sha256: frozenset[str] = frozenset()
    pinned_sha256: str | None = None


def trust_of(target: Target, credential: Credential | None, policy: HostPolicy) -> Trust:
    """Whose certificate is believed at a host: what the site trusts, what came listed with the credential, the pin."""
    listed = () if credential is None else credential.trusted_certificates
    return Trust(
        (*policy.trusted_cas, *(entry.ca_pem for entry in listed if entry.ca_pem)),
        frozenset(entry.sha256.lower() for entry in listed if entry.sha256),
        pin_of(policy.pins, (target.fqdn or "", target.hostname)),
    )


@frozen
class Place:
    """Where to connect, and what the host there is called."""

    address: str
    door: Door
    hostname: str
    certificate_names: tuple[str, ...]
    trust: Trust = Trust()


@frozen
class Reply:
    """An HTTP answer."""

    status: int
    content_type: str
    challenges: tuple[str, ...]
    body: bytes = field(repr=False)

    def token(self, scheme: str) -> bytes | None:
        """The token that the host sent with an authentication scheme; None when there is none."""
        for challenge in self.challenges:
            name, _, value = challenge.partition(" ")
            if name.casefold() == scheme.casefold() and value.strip():
                with suppress(ValueError):
                    return base64.b64decode(value.strip(), validate=True)
        return None

    def offers(self, scheme: str) -> bool:
        """True when the host offers an authentication scheme."""
        return any(challenge.partition(" ")[0].casefold() == scheme.casefold() for challenge in self.challenges)


class Channel:
    """A connection. Use :meth:`connect`."""

    def __init__(self, place: Place, sock: socket.socket, certificate: bytes | None) -> None:
        self.place = place
        self.certificate = certificate
        self._socket = sock
        # The Host header takes the address: a name out of a directory is a stranger's text.
        self._http = http.client.HTTPConnection(place.address.partition("%")[0], place.door.port)
        self._http.auto_open = 0  # A closed connection stays closed.
        self._timed = _TimedSocket(sock)
        self._http.sock = cast("socket.socket", self._timed)
        self._used_at = time.monotonic()
        self._closed = False

    @classmethod
    def connect(cls, place: Place, timeout_s: float) -> Channel:
        """Connect, and check the certificate where the door speaks TLS. Nothing of a credential is involved.

        Raises:
            UnreachableError: ``winrm-closed`` when refused, ``no-answer`` when silent. Retryable.
            WindowsError: ``certificate-untrusted``, ``certificate-expired`` or ``certificate-weak``;
                ``certificate-changed`` where another one was pinned.
            WrongHostError: The certificate is another host's.
            EncryptionRefusedError: What answered speaks no TLS that we accept.
            ConfigError: A trusted CA is no PEM certificate.
        """
        sock = _connect(place, timeout_s)
        try:
            if not place.door.tls:
                return cls(place, sock, None)
            refusal: ssl.SSLCertVerificationError | None = None
            try:
                sock = tls = _handshake(place, sock, _context(place.trust.cas))
            except ssl.SSLCertVerificationError as error:
                # Look at what it shows, to say what is wrong or to find it listed. Nothing has been said yet.
                refusal = error
                sock.close()
                sock = _connect(place, timeout_s)
                sock = tls = _handshake(place, sock, _context(None))
            certificate = _certificate(tls)
            _check_certificate(place, certificate, refusal)
            return cls(place, tls, certificate)
        except MspError:
            sock.close()
            raise
        except TimeoutError as error:
            sock.close()
            raise UnreachableError(f"{place.hostname} did not finish the TLS handshake.") from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            # As a reset: http.sys does so where no certificate is bound to the port.
            sock.close()
            raise UnreachableError(f"{place.hostname} broke off the TLS handshake.", code="connection-lost") from error
        except ssl.SSLError as error:
            sock.close()
            raise EncryptionRefusedError(
                f"{place.hostname} speaks no TLS that we accept on port {place.door.port}:"
                f" {error.reason or 'no reason given'}."
            ) from error
        except OSError as error:
            sock.close()
            raise UnreachableError(f"{place.hostname} broke off the TLS handshake.", code="connection-lost") from error

    @property
    def usable(self) -> bool:
        """False once the connection is closed, was quiet for too long, or the host has closed its side."""
        if self._closed or time.monotonic() - self._used_at > IDLE_LIMIT_S:
            return False
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        try:
            self._socket.setblocking(False)
            # Between requests nothing is due: what can be read is the end, or nonsense.
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.read(1)
            else:
                self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def post(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """Send one request and wait for its answer.

        Raises:
            UnreachableError: ``connection-lost``, or ``no-answer`` in time: whether the host has read the request is
                not known. Retryable.
        """
        if self._closed:
            raise UnreachableError(f"the connection to {self.place.hostname} is closed.", code="connection-lost")
        try:
            self._timed.ends_at = time.monotonic() + max(timeout_s, 0.1)
            self._http.request(
                "POST",
                PATH,
                body=body,
                headers={"Connection": "Keep-Alive", "User-Agent": "msp-sdk", **headers},
            )
            answer = self._http.getresponse()
            content = answer.read(MAX_BODY_BYTES + 1)
            if answer.length and len(content) <= MAX_BODY_BYTES:
                # ``http.client`` takes a body that was cut off for a whole one when it is asked for so many bytes.
                raise http.client.IncompleteRead(content, answer.length)
            will_close = answer.will_close
            reply = Reply(
                answer.status,
                answer.headers.get("Content-Type", ""),
                tuple(
                    part.strip()
                    for value in answer.headers.get_all("WWW-Authenticate", [])
                    for part in value.split(",")
                ),
                content,
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            code = "no-answer" if isinstance(error, TimeoutError) else "connection-lost"
            raise UnreachableError(f"the connection to {self.place.hostname} broke.", code=code) from error
        self._used_at = time.monotonic()
        if will_close or len(content) > MAX_BODY_BYTES:
            self.close()
        if len(content) > MAX_BODY_BYTES:
            raise WindowsError(f"the answer of {self.place.hostname} was too long.")
        return reply

    def abort(self) -> None:
        """End the connection from another thread; a call that waits on it ends at once."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        with suppress(OSError):
            self._http.close()
            self._socket.close()


class _TimedSocket:
    """As much of a socket as ``http.client`` uses, with one end for a whole request and its answer.

    A socket's own timeout begins anew with each byte, and so would let a host hold us for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.ends_at = 0.0
        self._socket = sock

    def _begin(self) -> None:
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)

    def sendall(self, data: bytes) -> None:
        self._begin()
        self._socket.sendall(data)

    def recv_into(self, buffer: memoryview) -> int:
        self._begin()
        return self._socket.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self), 65536)

    def close(self) -> None:
        """Nothing: ``http.client`` does this before it reads an answer after which the host hangs up."""


class _Incoming(io.RawIOBase):
    """The reading end of a :class:`_TimedSocket`."""

    def __init__(self, source: _TimedSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.recv_into(memoryview(buffer))


def _connect(place: Place, timeout_s: float) -> socket.socket:
    try:
        sock = socket.create_connection((place.address, place.door.port), timeout=max(timeout_s, 0.1))
        # Head and body go out one after the other; without this each body waits 40 ms for the head's receipt.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except ConnectionRefusedError as error:
        raise UnreachableError(
            f"{place.hostname} refused a connection to port {place.door.port}.",
            code="winrm-closed",
            remedy=reason("winrm-closed").remedy,
        ) from error
    except (OSError, UnicodeError) as error:
        raise UnreachableError(
            f"{place.hostname} did not answer on port {place.door.port}.", remedy=reason("no-answer").remedy
        ) from error
    return sock


@functools.lru_cache(maxsize=64)
def _context(cas: tuple[str, ...] | None) -> ssl.SSLContext:
    """A TLS context for these CAs alone; for None one that believes nobody and checks nothing, only to look."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The names are compared by us: a host may be known by several, and a wrong one is an error of its own.
    context.check_hostname = False
    if cas is None:
        context.verify_mode = ssl.CERT_NONE
    elif cas:
        try:
            context.load_verify_locations(cadata="\n".join(cas))
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError("a trusted CA of the site is no PEM certificate.", code="bad-trusted-ca") from error
    return context


def _handshake(place: Place, sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(sock, server_hostname=_server_name(place.certificate_names[0]))


def _server_name(name: str) -> str | None:
    """The name for the host to choose a certificate by; None where it is none that DNS could hold."""
    try:
        encoded = name.encode("idna")
    except UnicodeError:
        return None
    return None if not encoded or encoded.startswith(b".") else name


def _certificate(sock: ssl.SSLSocket) -> bytes:
    der = sock.getpeercert(binary_form=True)
    if der is None:
        raise EncryptionRefusedError("the host showed no certificate.")
    return der


# OpenSSL's numbers (x509_vfy.h) where they say more than that no trusted CA signed it.
_UNBELIEVED = {
    9: "certificate-expired",  # CERT_NOT_YET_VALID
    10: "certificate-expired",  # CERT_HAS_EXPIRED
    66: "certificate-weak",  # EE_KEY_TOO_SMALL
    67: "certificate-weak",  # CA_KEY_TOO_SMALL
    68: "certificate-weak",  # CA_MD_TOO_WEAK
}
CERTIFICATE_REASONS = frozenset({"certificate-untrusted", *_UNBELIEVED.values()})
"""The codes of a certificate that is not believed; one for another name is ``wrong-host``."""


def _check_certificate(place: Place, certificate: bytes, refusal: ssl.SSLCertVerificationError | None) -> None:
    """Believe a certificate or not; ``refusal`` is what OpenSSL had against it, None when a trusted CA signed it."""
    digest = hashlib.sha256(certificate).hexdigest()
    listed = digest in place.trust.listed_sha256
    found = names_in(certificate)
    if digest == place.trust.pinned_sha256:
        # A person has said that this very host shows this very certificate: that is more than a name in it.
        return
    if refusal is not None and not listed and place.trust.pinned_sha256 is not None:
        raise WindowsError(
            f"{place.hostname} shows another certificate than the one that was pinned for it.",
            code="certificate-changed",
            remedy=reason("certificate-changed").remedy,
            context={
                "hostname": place.hostname,
                "sha256": digest,
                "pinned": place.trust.pinned_sha256,
                "names": list(found),
            },
        )
    if refusal is not None and not listed:
        code = _UNBELIEVED.get(refusal.verify_code, "certificate-untrusted")
        raise WindowsError(
            f"the certificate of {place.hostname} is not believed: {refusal.verify_message}.",
            code=code,
            remedy=reason(code).remedy,
            context={"hostname": place.hostname, "sha256": digest, "names": list(found)},
        )
    if listed and all(is_address(name) for name in place.certificate_names):
        # We know no name of it, and this very certificate was listed for it: that is more than a name.
        return
    if not names_match(place.certificate_names, found):
        raise WrongHostError(
            f"the certificate at the address of {place.hostname} is for {', '.join(found[:3]) or 'nobody'}.",
            context={"hostname": place.hostname, "names": list(found)},
        )


def names_in(certificate: bytes) -> tuple[str, ...]:
    """The DNS names and addresses of a certificate (DER); the common name where it has none (old self-made ones)."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        try:
            alternative = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            dns = alternative.get_values_for_type(x509.DNSName)
            found = [*dns, *(str(address) for address in alternative.get_values_for_type(x509.IPAddress))]
        except x509.ExtensionNotFound:
            found = []
        if not found:
            found = [str(entry.value) for entry in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion) as error:
        raise EncryptionRefusedError("the host's certificate cannot be read.") from error
    return tuple(found)
