"""NTLM as a server takes it, over LDAP and WS-Man alike: proven by pyspnego, for accounts of an estate.

pyspnego reads its user file by an environment variable of the process: give an estate a process of its own, or use
NTLM nowhere else in this one at the same moment.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import spnego
import spnego.channel_bindings
import spnego.exceptions
from attrs import frozen
from spnego._ntlm_raw.crypto import ntowfv1
from spnego._ntlm_raw.messages import Authenticate, AvId, NTClientChallengeV2
from spnego._spnego import unpack_token

from msp_sdk.testing.accounts import Account

NTLM = b"NTLMSSP\0"
# The proof before what it proves; without that it is one of NTLM's first version.
_PROOF_BYTES, _OLD_PROOF_BYTES = 16, 24
# What pyspnego raises on bytes that are none of its messages.
_UNREADABLE = (ValueError, LookupError, struct.error, spnego.exceptions.SpnegoError)


class WrongBindingError(Exception):
    """The client has bound to no channel, or to another one."""


@frozen
class Claim:
    """Who a client says it is, before that is proven, and whether it has bound to any channel."""

    domain: str
    username: str
    bound: bool = False

    @property
    def name(self) -> str:
        r"""``DOMAIN\user``, or ``user`` alone."""
        return f"{self.domain}\\{self.username}" if self.domain else self.username


class NtlmAcceptor:
    """One hand-shake: :meth:`challenge`, then :func:`read_claim`, then :meth:`proves`.

    Args:
        certificate_der: What the client must have bound to; None demands nothing.
        wrapped: The messages come in tokens of SPNEGO.

    Attributes:
        answer: What is said to who has proven itself; empty but for SPNEGO.
    """

    def __init__(self, certificate_der: bytes | None, *, wrapped: bool = False) -> None:
        self.answer = b""
        bindings = None
        if certificate_der is not None:
            digest = hashlib.sha256(certificate_der).digest()
            bindings = spnego.channel_bindings.GssChannelBindings(application_data=b"tls-server-end-point:" + digest)
        self._demands_binding = bindings is not None
        with _user_file(""):
            # Of pyspnego's own code, both.
            options = spnego.NegotiateOptions.use_negotiate if wrapped else spnego.NegotiateOptions.use_ntlm
            self.context = spnego.server(
                protocol="negotiate" if wrapped else "ntlm", options=options, channel_bindings=bindings
            )

    def challenge(self, token: bytes) -> bytes:
        """The answer to the first message.

        Raises:
            ValueError: It is none.
        """
        try:
            with _user_file(""):
                return self.context.step(token) or b""
        except _UNREADABLE as error:
            raise ValueError("no first message of NTLM") from error

    def proves(self, claim: Claim, account: Account, token: bytes) -> bool:
        """True if the last message was made with the account's password. Asked once.

        Raises:
            WrongBindingError: The channel is not the one that was bound to.
        """
        if self._demands_binding and not claim.bound:
            # pyspnego would take sixteen zero bytes for a binding.
            raise WrongBindingError
        try:
            with _user_file(f"{claim.name}:1:{'0' * 32}:{ntowfv1(account.password).hex().upper()}:[U]:LCT-0\n"):
                self.answer = self.context.step(token) or b""
        except spnego.exceptions.BadBindingsError as error:
            raise WrongBindingError from error
        except spnego.exceptions.SpnegoError:
            return False
        return True


def ntlm_in(token: bytes) -> bytes:
    """The message of NTLM in a token of SPNEGO, or the token itself where it is one; empty where there is none."""
    if token.startswith(NTLM):
        return token
    try:
        opened = unpack_token(token)
    except _UNREADABLE:
        return b""
    inner = getattr(opened, "mech_token", None) or getattr(opened, "response_token", None) or b""
    return bytes(inner) if inner.startswith(NTLM) else b""


def read_claim(token: bytes) -> Claim:
    """Who the last message says that it is from.

    Raises:
        ValueError: It is no last message.
    """
    try:
        claimed = Authenticate.unpack(token)
        proof = claimed.nt_challenge_response or b""
        bound = len(proof) > _OLD_PROOF_BYTES and any(
            NTClientChallengeV2.unpack(proof[_PROOF_BYTES:]).av_pairs.get(AvId.channel_bindings, b"")
        )
    except _UNREADABLE as error:
        raise ValueError("no last message of NTLM") from error
    return Claim(claimed.domain_name or "", claimed.user_name or "", bound)


@contextmanager
def _user_file(line: str) -> Iterator[None]:
    """Give pyspnego its user file for one step; it holds one account's hash, and no step awaits anything."""
    before = os.environ.get("NTLM_USER_FILE")
    with tempfile.NamedTemporaryFile(prefix="msp-ntlm-") as file:
        file.write(line.encode())
        file.flush()
        os.environ["NTLM_USER_FILE"] = file.name
        try:
            yield
        finally:
            if before is None:
                del os.environ["NTLM_USER_FILE"]
            else:
                os.environ["NTLM_USER_FILE"] = before
