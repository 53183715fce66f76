"""A look at one door of a host: what TLS shows, and what answers an HTTP request. The talker of the doctor.

Nobody is believed and nothing is said: no name of an account, no token, one request with an empty body. Whether the
certificate is good enough to work with is judged where the work judges it (:mod:`msp_sdk.windows.channel`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from msp_sdk.errors import EncryptionRefusedError
from msp_sdk.windows.channel import PATH, names_in
from msp_sdk.windows.doors import Door

_HEAD_BYTES_MAX = 64 * 1024

Silence = Literal["no-connection", "silent", "closed", "no-tls", "no-http"]
"""Why there is no HTTP answer: no TCP connection; nothing came; hung up; no TLS; what came is no HTTP."""


@frozen
class CertificateLook:
    """What a certificate says of itself. Instants are aware; names in the order of the certificate."""

    sha256: str
    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    self_signed: bool
    signature: str | None
    key: str


@frozen
class DoorLook:
    """What one door showed.

    Attributes:
        tls_version: As OpenSSL names it; None where no TLS is spoken or it did not come about.
        certificate: None where there is none, or it cannot be read.
        silence: Why there is no answer; None when there is one.
        detail: OpenSSL's or the system's word for a failure, or the first bytes of what is no HTTP.
        status: Of the answer to a request without a logon.
        schemes: Of ``WWW-Authenticate``, as the host spells them, in its order.
        date: Of the answer, by the host's clock.
        asked_at: By our clock, when the answer came.
    """

    door: Door
    tls_version: str | None = None
    certificate: CertificateLook | None = None
    silence: Silence | None = None
    detail: str = ""
    status: int | None = None
    schemes: tuple[str, ...] = ()
    server: str = ""
    via: str = ""
    date: datetime | None = None
    asked_at: datetime = field(factory=lambda: datetime.now(UTC))


async def look_at_door(address: str, door: Door, server_name: str | None, timeout_s: float) -> DoorLook:
    """Connect, look, and hang up.

    Args:
        address: An IP address.
        door: The port, and whether TLS is spoken there.
        server_name: For the host to choose a certificate by; None for none.
        timeout_s: For all of it; what was seen until then is told.
    """
    seen: list[DoorLook] = [DoorLook(door, silence="no-connection")]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await _look(address, door, server_name, seen)
    return seen[-1]


async def _look(address: str, door: Door, server_name: str | None, seen: list[DoorLook]) -> None:
    try:
        reader, writer = await asyncio.open_connection(address, door.port, limit=_HEAD_BYTES_MAX)
    except OSError as error:
        seen.append(DoorLook(door, silence="no-connection", detail=_word(error)))
        return
    try:
        # Until something comes, silence is what there is to tell.
        seen.append(DoorLook(door, silence="silent"))
        version: str | None = None
        certificate: CertificateLook | None = None
        if door.tls:
            try:
                await writer.start_tls(_context(), server_hostname=server_name)
            except ssl.SSLError as error:
                seen.append(DoorLook(door, silence="no-tls", detail=_word(error)))
                return
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            version, certificate = tls.version(), _read_certificate(tls.getpeercert(binary_form=True))
            seen.append(DoorLook(door, version, certificate, silence="silent"))
        writer.write(_request(address))
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(_read_head(head, DoorLook(door, version, certificate, silence="no-http")))
    except asyncio.IncompleteReadError as error:
        last = seen[-1]
        silence: Silence = "no-http" if error.partial else "closed"
        seen.append(
            DoorLook(door, last.tls_version, last.certificate, silence=silence, detail=_printable(error.partial))
        )
    except asyncio.LimitOverrunError:
        seen.append(DoorLook(door, seen[-1].tls_version, seen[-1].certificate, silence="no-http"))
    except OSError as error:
        last = seen[-1]
        seen.append(DoorLook(door, last.tls_version, last.certificate, silence="closed", detail=_word(error)))
    finally:
        writer.transport.abort()


def _context() -> ssl.SSLContext:
    """One that believes nobody and speaks even what nobody should: it only looks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _request(address: str) -> bytes:
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: msp-sdk\r\nConnection: close\r\n"
        "Content-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: 0\r\n\r\n"
    ).encode("ascii")


def _read_head(head: bytes, look: DoorLook) -> DoorLook:
    """The answer's status and headers; a look without an answer where they are none."""
    line, *rows = head.decode("latin-1").split("\r\n")
    protocol, _, rest = line.partition(" ")
    status = rest[:3]
    if not protocol.startswith("HTTP/1.") or not status.isdigit():
        return DoorLook(look.door, look.tls_version, look.certificate, silence="no-http", detail=_printable(head))
    headers: dict[str, list[str]] = {}
    for row in rows:
        name, colon, value = row.partition(":")
        if colon:
            headers.setdefault(name.strip().casefold(), []).append(value.strip())
    challenges = [part.strip() for value in headers.get("www-authenticate", []) for part in value.split(",")]
    schemes = [part.partition(" ")[0] for part in challenges if part and "=" not in part.partition(" ")[0]]
    return DoorLook(
        look.door,
        look.tls_version,
        look.certificate,
        status=int(status),
        schemes=tuple(dict.fromkeys(schemes)),
        server=", ".join(headers.get("server", ())),
        via=", ".join(headers.get("via", ()) or headers.get("proxy-authenticate", ())),
        date=_read_date(headers.get("date", [""])[0]),
    )


def _read_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return date.astimezone(UTC) if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _read_certificate(der: bytes | None) -> CertificateLook | None:
    if der is None:
        return None
    try:
        parsed = x509.load_der_x509_certificate(der)
        signature = parsed.signature_hash_algorithm
        return CertificateLook(
            sha256=hashlib.sha256(der).hexdigest(),
            names=names_in(der),
            subject=parsed.subject.rfc4514_string(),
            issuer=parsed.issuer.rfc4514_string(),
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            self_signed=parsed.issuer == parsed.subject,
            signature=None if signature is None else signature.name,
            key=_key(parsed),
        )
    except (ValueError, UnsupportedAlgorithm, EncryptionRefusedError):
        return None


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.key_size}"
    return f"DSA {key.key_size}" if isinstance(key, dsa.DSAPublicKey) else "other"


def _word(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or type(error).__name__


def _printable(data: bytes) -> str:
    """The first bytes of a stranger's text, for a person."""
    return "".join(letter if letter.isprintable() else "?" for letter in data[:60].decode("latin-1"))
