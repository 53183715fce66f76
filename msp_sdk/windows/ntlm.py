"""NTLM for WinRM, by name: the handshake with channel binding, and sealing (pyspnego). It is never negotiated."""

from __future__ import annotations

import logging
import struct
from typing import Any

import spnego
import spnego.channel_bindings
import spnego.exceptions
from spnego._ntlm_raw.crypto import ntowfv1

from msp_sdk.errors import EncryptionRefusedError, WindowsError
from msp_sdk.secret import Secret
from msp_sdk.windows.sealing import binding_of

_SIGNATURE_BYTES = 16
_NO_HASH = "0" * 32

# What a challenge must agree to (MS-NLMP 2.2.2.5): SIGN, SEAL, EXTENDED_SESSIONSECURITY, 128, KEY_EXCH. Without them
# signatures are constants and the key is one of 40 bits; whoever sits in between could have taken them out.
_FLAGS_NEEDED = 0x00000010 | 0x00000020 | 0x00080000 | 0x20000000 | 0x40000000
_FLAGS_AT = 20


class NtlmLogon:
    r"""One logon on one connection: two tokens, then sealing. It is never used on a second connection.

    Args:
        username: UPN, ``DOMAIN\user`` or ``.\user``.
        hostname: The host's name.
        certificate: The server's certificate (DER) over TLS, to bind the logon to; None without TLS.
    """

    def __init__(self, username: str, hostname: str, certificate: bytes | None) -> None:
        # At its debug level pyspnego logs the tokens, from which a weak password can be guessed.
        logging.getLogger("spnego._ntlm").setLevel(logging.INFO)
        try:
            self._context: Any = spnego.client(
                # The hash comes with the answer to a challenge. Given a password, pyspnego would also make the LM hash,
                # which NTLMv2 has no use for.
                spnego.NTLMHash(username=username, nt_hash=_NO_HASH),
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

    def check(self, challenge: bytes) -> None:
        """See whether a challenge can be answered at all, before a password is opened for it.

        Raises:
            EncryptionRefusedError: It does not agree to strong keys.
        """
        flags = int.from_bytes(challenge[_FLAGS_AT : _FLAGS_AT + 4], "little")
        if flags & _FLAGS_NEEDED != _FLAGS_NEEDED:
            raise EncryptionRefusedError("the host's challenge does not agree to sealing with strong keys.")

    def second(self, challenge: bytes, password: Secret) -> bytes:
        """The token that answers the challenge: sending it is the logon.

        Raises:
            EncryptionRefusedError: The challenge does not agree to strong keys. Nothing of the password was used.
            WindowsError: It is no challenge.
        """
        self.check(challenge)
        self._context._credential.nt_hash = ntowfv1(password.reveal())  # noqa: SLF001 (pyspnego offers no other way)
        try:
            return self._step(challenge)
        finally:
            # As good as the password; a connection may stand for long.
            self._context._credential = None  # noqa: SLF001 (the same)

    def _step(self, token: bytes | None) -> bytes:
        try:
            return bytes(self._context.step(token) or b"")
        except Exception as error:  # noqa: BLE001 (what a stranger's token makes of pyspnego's parser is open)
            raise _failed(error) from None

    def seal(self, message: bytes) -> tuple[bytes, bytes, int]:
        """A message's signature and its sealed content; nothing is padded."""
        try:
            sealed = bytes(self._context.wrap(message, encrypt=True).data)
        except spnego.exceptions.SpnegoError as error:
            raise _failed(error) from None
        return sealed[:_SIGNATURE_BYTES], sealed[_SIGNATURE_BYTES:], 0

    def unseal(self, signature: bytes, data: bytes) -> bytes:
        """A message of the host's.

        Raises:
            EncryptionRefusedError: It was not sealed by the host that we logged on to.
        """
        if len(signature) != _SIGNATURE_BYTES:
            raise EncryptionRefusedError("the host's answer was not sealed as it should be.")
        try:
            return bytes(self._context.unwrap(signature + data).data)
        except (spnego.exceptions.SpnegoError, ValueError, struct.error) as error:
            raise EncryptionRefusedError(
                "the host's answer was not sealed by the host that we logged on to."
            ) from error


def _bindings(certificate: bytes) -> spnego.channel_bindings.GssChannelBindings:
    return spnego.channel_bindings.GssChannelBindings(application_data=binding_of(certificate))


def _failed(error: Exception) -> WindowsError:
    # Not chained: what pyspnego holds in its frames is the password.
    return WindowsError(f"the NTLM handshake broke off ({type(error).__name__}).", code="logon-failed")
