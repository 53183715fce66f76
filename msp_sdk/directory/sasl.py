"""Sealed logons on a connection without TLS: SASL binds by a named mechanism, and the layer that comes after them.

* Kerberos goes by ``GSSAPI`` (RFC 4752), which names Kerberos alone and ends with both sides agreeing on encryption in
  so many words; NTLM goes by ``GSS-SPNEGO`` with its own tokens, unwrapped. Neither is ever negotiated, so that a
  refusal of one never turns into a try with the other.
* After the bind each side sends frames: four bytes of length, then what the security context made (RFC 4422, 3.7).
  :class:`SealedSocket` looks like a socket, so that reading goes on as without it. A frame in clear is an error.
"""

from __future__ import annotations

import importlib
import logging
import struct
import time
from collections.abc import Callable
from typing import Any

import spnego
from attrs import field, frozen

from msp_sdk.directory import ber
from msp_sdk.directory.connection import Link, Stream
from msp_sdk.errors import DirectoryError, WireError
from msp_sdk.models.reason import reason
from msp_sdk.secret import Secret

KERBEROS_MECHANISM = "GSSAPI"
NTLM_MECHANISM = "GSS-SPNEGO"
BIND_IN_PROGRESS = 14
MAX_FRAME_BYTES = 16 * 1024 * 1024
# What we say that we take at once: all that three bytes can say.
_OUR_BUFFER_BYTES = 0xFFFFFF
# NTLM agrees on no size; a search with a hundred names in its filter is far below this.
_NTLM_CHUNK_BYTES = 60_000
# A token of Kerberos adds less to its content.
_WRAPPING_BYTES = 1024
_CONFIDENTIALITY = 4
_OFFER_BYTES = 4
_RECEIVE_BYTES = 262_144

# What a challenge must agree to (MS-NLMP 2.2.2.5): SIGN, SEAL, EXTENDED_SESSIONSECURITY, 128, KEY_EXCH. Without them
# the key is one of 40 bits or the signatures are constants; whoever sits in between could have taken them out.
_FLAGS_NEEDED = 0x00000010 | 0x00000020 | 0x00080000 | 0x20000000 | 0x40000000
_FLAGS_AT = 20


@frozen
class Sealer:
    """A security context that stands, as two functions.

    Attributes:
        wrap: Encrypts and signs.
        unwrap: Checks and decrypts; raises WireError on anything that is not encrypted, in its order and whole.
        chunk_bytes: At most so many bytes of content go into one frame.
    """

    wrap: Callable[[bytes], bytes] = field(repr=False)
    unwrap: Callable[[bytes], bytes] = field(repr=False)
    chunk_bytes: int


class SealedSocket:
    """A socket whose content goes sealed.

    Args:
        inner: The socket below.
        sealer: Seals and opens.
    """

    def __init__(self, inner: Stream, sealer: Sealer) -> None:
        self._inner = inner
        self._sealer = sealer
        self._timeout_s: float | None = None
        self._received = bytearray()
        self._opened = bytearray()

    def sendall(self, data: bytes, /) -> None:
        """Send all of it, sealed, in as many frames as it needs."""
        frames = []
        for start in range(0, len(data), self._sealer.chunk_bytes):
            sealed = self._sealer.wrap(data[start : start + self._sealer.chunk_bytes])
            frames.append(struct.pack(">I", len(sealed)) + sealed)
        self._inner.sendall(b"".join(frames))

    def recv(self, size: int, /) -> bytes:
        """Receive up to so many bytes of content; none when the peer has closed between two frames.

        Raises:
            TimeoutError: No whole frame came in time.
            WireError: A frame is too long, or does not open.
            ConnectionResetError: The peer closed in the middle of a frame.
        """
        until = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._opened:
            if until is not None:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                self._inner.settimeout(left_s)
            data = self._inner.recv(_RECEIVE_BYTES)
            if not data:
                if self._received:
                    raise ConnectionResetError
                return b""
            self._received += data
            self._open_frames()
        given = bytes(self._opened[:size])
        del self._opened[:size]
        return given

    def settimeout(self, value: float | None, /) -> None:
        """How long one call may wait, however its bytes trickle in."""
        self._timeout_s = value
        self._inner.settimeout(value)

    def close(self) -> None:
        """Close it."""
        self._inner.close()

    def _open_frames(self) -> None:
        at = 0
        have = len(self._received)
        while have - at >= 4:  # noqa: PLR2004 (the length of a length)
            length = int.from_bytes(self._received[at : at + 4], "big")
            if not 0 < length <= MAX_FRAME_BYTES:
                raise WireError(f"a sealed frame says that it has {length} bytes.")
            if have - at - 4 < length:
                break
            self._opened += self._sealer.unwrap(bytes(self._received[at + 4 : at + 4 + length]))
            at += 4 + length
        del self._received[:at]


def sasl_step(link: Link, mechanism: str, token: bytes) -> ber.Result:
    """Send a token in a bind and return how the controller answers.

    Raises:
        DirectoryError: The connection broke, or no bind's answer came.
    """
    message = link.ask(ber.encode_sasl_bind(mechanism, token))
    try:
        if message.tag != ber.BIND_RESPONSE:
            raise WireError("a bind was not answered as one.")  # noqa: TRY301 (said below, with the rest)
        return ber.read_result(message)
    except WireError as error:
        raise link.nonsense(error) from error


def seal(link: Link, sealer: Sealer) -> None:
    """Put the layer under a connection whose bind succeeded.

    Raises:
        DirectoryError: Bytes came in clear after the bind: they would be taken for sealed ones.
    """
    if not link.drained:
        raise link.nonsense(WireError("something came in clear after the bind."))
    link.stream = SealedSocket(link.stream, sealer)


class KerberosLayer:
    """A security context that a worker made, taken over by its exported bytes.

    Raises:
        DirectoryError: It cannot be taken over.
    """

    def __init__(self, exported: bytes) -> None:
        # Absent without the extra; the worker has shown that it is there.
        gssapi: Any = importlib.import_module("gssapi")
        self._failure: type[Exception] = gssapi.exceptions.GSSError
        self._expired: type[Exception] = gssapi.exceptions.ExpiredContextError
        try:
            self._context: Any = gssapi.SecurityContext(token=exported)
        except self._failure as error:
            raise _no_layer("the security context cannot be taken over") from error

    def agree(self, offer: bytes) -> tuple[Sealer, bytes]:
        """Answer the controller's offer: the last step of ``GSSAPI`` (RFC 4752, 3.1), where encryption is demanded.

        Returns:
            The layer, and our answer to send.

        Raises:
            DirectoryError: It offers no encryption, or nothing that opens.
        """
        try:
            content = bytes(self._context.unwrap(offer).message)
            choice = bytes([_CONFIDENTIALITY]) + _OUR_BUFFER_BYTES.to_bytes(3, "big")
            answer = bytes(self._context.wrap(choice, False).message)
        except self._failure as error:
            raise _no_layer("the controller's offer does not open") from error
        theirs = read_offer(content)
        return Sealer(self._wrap, self._unwrap, theirs - _WRAPPING_BYTES), answer

    def _wrap(self, data: bytes) -> bytes:
        try:
            sealed = self._context.wrap(data, True)
        except self._failure as error:
            raise ConnectionAbortedError("the security context has ended") from error
        if not sealed.encrypted:
            raise WireError("the security context does not encrypt.")
        return bytes(sealed.message)

    def _unwrap(self, data: bytes) -> bytes:
        try:
            opened = self._context.unwrap(data)
        except self._expired as error:
            raise ConnectionAbortedError("the security context has ended") from error
        except self._failure as error:
            raise WireError("a sealed frame does not open.") from error
        if not opened.encrypted:
            raise WireError("a frame was signed but not encrypted.")
        return bytes(opened.message)


def read_offer(content: bytes) -> int:
    """How many bytes the controller takes at once, from the content of its offer.

    Raises:
        DirectoryError: It offers no encryption.
    """
    if len(content) != _OFFER_BYTES or not content[0] & _CONFIDENTIALITY:
        raise _no_layer("the controller offers no encryption")
    theirs = int.from_bytes(content[1:], "big")
    if theirs <= _WRAPPING_BYTES:
        raise _no_layer("the controller takes no messages")
    return theirs


class NtlmLogon:
    r"""One NTLM logon: two tokens, then sealing.

    Args:
        username: UPN or ``DOMAIN\user``.
        password: Opened here, at the moment of use.
        hostname: The controller's name.
    """

    def __init__(self, username: str, password: Secret, hostname: str) -> None:
        # At its debug level pyspnego logs the tokens, from which a weak password can be guessed.
        logging.getLogger("spnego._ntlm").setLevel(logging.INFO)
        need = spnego.ContextReq
        try:
            self._context: Any = spnego.client(
                username,
                password.reveal(),
                hostname=hostname,
                service="ldap",
                protocol="ntlm",
                context_req=need.integrity | need.confidentiality | need.replay_detect | need.sequence_detect,
                options=spnego.NegotiateOptions.use_ntlm,
            )
        except Exception as error:  # noqa: BLE001 (its text may hold what it was given)
            raise _no_layer(f"NTLM cannot begin ({type(error).__name__})") from None

    def first(self) -> bytes:
        """The token that asks for a challenge; it holds nothing of the password."""
        return self._step(None)

    def second(self, challenge: bytes) -> bytes:
        """The token that answers the challenge: sending it is the logon.

        Raises:
            DirectoryError: The challenge does not agree to strong keys, or is none. Nothing of the password was used.
        """
        flags = int.from_bytes(challenge[_FLAGS_AT : _FLAGS_AT + 4], "little")
        if flags & _FLAGS_NEEDED != _FLAGS_NEEDED:
            raise _no_layer("the controller's challenge does not agree to sealing with strong keys")
        answer = self._step(challenge)
        # What the password is made into is as good as the password; a connection may stand for days.
        self._context._credential = None  # noqa: SLF001 (pyspnego offers no other way)
        return answer

    def sealer(self) -> Sealer:
        """The layer, once both tokens are made."""
        return Sealer(self._wrap, self._unwrap, _NTLM_CHUNK_BYTES)

    def _wrap(self, data: bytes) -> bytes:
        return bytes(self._context.wrap(data, encrypt=True).data)

    def _unwrap(self, data: bytes) -> bytes:
        try:
            return bytes(self._context.unwrap(data).data)
        except Exception as error:
            # What a stranger's bytes make of pyspnego's parser is open.
            raise WireError("a sealed frame does not open.") from error

    def _step(self, token: bytes | None) -> bytes:
        try:
            return bytes(self._context.step(token) or b"")
        except Exception as error:  # noqa: BLE001 (the same)
            raise _no_layer(f"NTLM came to no terms ({type(error).__name__})") from None


def _no_layer(what: str) -> DirectoryError:
    known = reason("encryption-refused")
    return DirectoryError(f"{what}.", code=known.code, remedy="Give the controller a certificate, so that LDAPS works.")
