"""NTLM for WinRM, by name: the handshake with channel binding, and sealed messages (pyspnego).

It is never negotiated, and Kerberos is not in this version: a :class:`Mechanism` of another name is one more case.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from typing import Any, Literal

import spnego
import spnego.channel_bindings
import spnego.exceptions
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from msp_sdk.errors import EncryptionRefusedError, WindowsError
from msp_sdk.secret import Secret

Mechanism = Literal["ntlm"]

_SEALED_TYPE = "application/HTTP-SPNEGO-session-encrypted"
CONTENT_TYPE = f'multipart/encrypted;protocol="{_SEALED_TYPE}";boundary="Encrypted Boundary"'
_BOUNDARY = b"--Encrypted Boundary"
_OCTETS = b"\tContent-Type: application/octet-stream\r\n"
_SIGNATURE_LENGTH = struct.pack("<i", 16)
_WEAK_DIGESTS = frozenset({"md5", "sha1"})

# What a challenge must agree to (MS-NLMP 2.2.2.5): SIGN, SEAL, EXTENDED_SESSIONSECURITY, 128, KEY_EXCH. Without them
# signatures are constants and the key is one of 40 bits; whoever sits in between could have taken them out.
_FLAGS_NEEDED = 0x00000010 | 0x00000020 | 0x00080000 | 0x20000000 | 0x40000000
_FLAGS_AT = 20


class NtlmLogon:
    r"""One logon on one connection: two tokens, then sealing. It is never used on a second connection.

    Args:
        username: UPN, ``DOMAIN\user`` or ``.\user``.
        password: Opened here, at the moment of use.
        hostname: The host's name.
        certificate: The server's certificate (DER) over TLS, to bind the logon to; None without TLS.
    """

    def __init__(self, username: str, password: Secret, hostname: str, certificate: bytes | None) -> None:
        # At its debug level pyspnego logs the tokens, from which a weak password can be guessed.
        logging.getLogger("spnego._ntlm").setLevel(logging.INFO)
        try:
            self._context: Any = spnego.client(
                username,
                password.reveal(),
                hostname=hostname,
                service="http",
                protocol="ntlm",
                channel_bindings=None if certificate is None else _bindings(certificate),
                options=spnego.NegotiateOptions.use_ntlm,
            )
        except (spnego.exceptions.SpnegoError, ValueError) as error:
            raise _failed(error) from None

    @property
    def complete(self) -> bool:
        """True once both tokens are made."""
        return bool(self._context.complete)

    def first(self) -> bytes:
        """The token that asks for a challenge; it holds nothing of the password."""
        return self._step(None)

    def second(self, challenge: bytes) -> bytes:
        """The token that answers the challenge: sending it is the logon.

        Raises:
            EncryptionRefusedError: The challenge does not agree to strong keys. Nothing of the password was used.
            WindowsError: It is no challenge.
        """
        flags = int.from_bytes(challenge[_FLAGS_AT : _FLAGS_AT + 4], "little")
        if flags & _FLAGS_NEEDED != _FLAGS_NEEDED:
            raise EncryptionRefusedError("the host's challenge does not agree to sealing with strong keys.")
        return self._step(challenge)

    def _step(self, token: bytes | None) -> bytes:
        try:
            return bytes(self._context.step(token) or b"")
        except Exception as error:  # noqa: BLE001 (what a stranger's token makes of pyspnego's parser is open)
            raise _failed(error) from None

    def seal(self, message: bytes) -> bytes:
        """A message as the body of a ``multipart/encrypted`` request."""
        try:
            sealed = bytes(self._context.wrap(message, encrypt=True).data)
        except spnego.exceptions.SpnegoError as error:
            raise _failed(error) from None
        return b"".join(
            (
                _BOUNDARY,
                b"\r\n\tContent-Type: ",
                _SEALED_TYPE.encode(),
                b"\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=",
                str(len(message)).encode(),
                b"\r\n",
                _BOUNDARY,
                b"\r\n",
                _OCTETS,
                _SIGNATURE_LENGTH,
                sealed,
                _BOUNDARY,
                b"--\r\n",
            )
        )

    def unseal(self, body: bytes) -> bytes:
        """The message in the body of a ``multipart/encrypted`` answer.

        Raises:
            EncryptionRefusedError: It was not sealed by the host that we logged on to.
        """
        head, marker, rest = body.partition(_OCTETS)
        end = rest.rfind(_BOUNDARY + b"--")
        length = head.rpartition(b"Length=")[2].split(b"\r\n")[0]
        if not marker or rest[:4] != _SIGNATURE_LENGTH or end < 0:
            raise EncryptionRefusedError("the host's answer was not sealed as it should be.")
        try:
            clear = bytes(self._context.unwrap(rest[4:end]).data)
        except (spnego.exceptions.SpnegoError, ValueError, struct.error) as error:
            raise EncryptionRefusedError(
                "the host's answer was not sealed by the host that we logged on to."
            ) from error
        if str(len(clear)).encode() != length:
            raise EncryptionRefusedError("the host's answer has another length than it says.")
        return clear


def _bindings(certificate: bytes) -> spnego.channel_bindings.GssChannelBindings:
    """``tls-server-end-point``. Source: RFC 5929 section 4.1."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
        name = "sha256" if algorithm is None or algorithm.name in _WEAK_DIGESTS else algorithm.name
        digest = hashlib.new(name.replace("-", "_"), certificate).digest()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise EncryptionRefusedError("the host's certificate is signed in a way that we cannot bind to.") from error
    return spnego.channel_bindings.GssChannelBindings(application_data=b"tls-server-end-point:" + digest)


def _failed(error: Exception) -> WindowsError:
    # Not chained: what pyspnego holds in its frames is the password.
    return WindowsError(f"the NTLM handshake broke off ({type(error).__name__}).", code="logon-failed")
