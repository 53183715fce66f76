"""How WinRM wraps a sealed message (``multipart/encrypted``), and what a logon is bound to over TLS. No I/O.

A sealed message is a clear length, then the length of a signature, the signature, and the sealed content. What it is
called follows the scheme of the logon: ``HTTP-SPNEGO`` for ``Negotiate``, whatever mechanism that carried, and
``HTTP-Kerberos`` for ``Kerberos``. Source: MS-WSMV 2.2.9.1; as pywinrm and pypsrp send it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Protocol

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from msp_sdk.errors import EncryptionRefusedError

_PROTOCOLS = {
    "negotiate": "application/HTTP-SPNEGO-session-encrypted",
    "ntlm": "application/HTTP-SPNEGO-session-encrypted",
    "kerberos": "application/HTTP-Kerberos-session-encrypted",
}
_BOUNDARY = b"--Encrypted Boundary"
_OCTETS = b"\tContent-Type: application/octet-stream\r\n"
_LENGTH_BYTES = 4
_SIGNATURE_MAX = 1024
_WEAK_DIGESTS = frozenset({"md5", "sha1"})


class HostLogon(Protocol):
    """A logon on one connection that stands, and seals its messages. Never used on a second connection."""

    @property
    def complete(self) -> bool:
        """True once messages may go."""

    def seal(self, message: bytes) -> tuple[bytes, bytes, int]:
        """A message's signature, its sealed content, and by how much padding made that longer."""

    def unseal(self, signature: bytes, data: bytes) -> bytes:
        """A message of the host's.

        Raises:
            EncryptionRefusedError: It was not sealed by the host that we logged on to.
        """


@frozen
class Sealed:
    """The parts of a sealed message."""

    signature: bytes = field(repr=False)
    data: bytes = field(repr=False)
    length: int


def sealed_type(scheme: str) -> str:
    """The ``Content-Type`` of sealed messages after a logon by this scheme."""
    return f'multipart/encrypted;protocol="{_PROTOCOLS[scheme.casefold()]}";boundary="Encrypted Boundary"'


def frame(scheme: str, sealed: Sealed) -> bytes:
    """The body of a request."""
    return b"".join(
        (
            _BOUNDARY,
            b"\r\n\tContent-Type: ",
            _PROTOCOLS[scheme.casefold()].encode(),
            b"\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=",
            str(sealed.length).encode(),
            b"\r\n",
            _BOUNDARY,
            b"\r\n",
            _OCTETS,
            struct.pack("<i", len(sealed.signature)),
            sealed.signature,
            sealed.data,
            _BOUNDARY,
            b"--\r\n",
        )
    )


def unframe(body: bytes) -> Sealed:
    """The parts in the body of an answer.

    Raises:
        EncryptionRefusedError: It is no sealed message.
    """
    head, marker, rest = body.partition(_OCTETS)
    end = rest.rfind(_BOUNDARY + b"--")
    length = head.rpartition(b"Length=")[2].split(b"\r\n")[0]
    size = int.from_bytes(rest[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + size
    if not marker or end < begin or not 0 < size <= _SIGNATURE_MAX or not length.isdigit():
        raise EncryptionRefusedError("the host's answer was not sealed as it should be.")
    return Sealed(rest[_LENGTH_BYTES:begin], rest[begin:end], int(length))


def binding_of(certificate: bytes) -> bytes:
    """What a logon over TLS is bound to: ``tls-server-end-point`` of the server's certificate (DER).

    Raises:
        EncryptionRefusedError: The certificate is signed in a way that we cannot bind to.

    Source: RFC 5929 section 4.1.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
        name = "sha256" if algorithm is None or algorithm.name in _WEAK_DIGESTS else algorithm.name
        digest = hashlib.new(name.replace("-", "_"), certificate).digest()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise EncryptionRefusedError("the host's certificate is signed in a way that we cannot bind to.") from error
    return b"tls-server-end-point:" + digest
