"""NTLM at a stand-in directory: proven by pyspnego's acceptor, counted by the accounts of the estate, then sealed.

pyspnego reads its user file by an environment variable of the process: give a directory that takes NTLM a process of
its own, or use NTLM nowhere else in this one at the same moment.
"""

from __future__ import annotations

import hashlib
import struct

import spnego
import spnego.channel_bindings
import spnego.exceptions
from attrs import field, frozen
from spnego._ntlm_raw.crypto import ntowfv1
from spnego._ntlm_raw.messages import Authenticate

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.wsman import _user_file as user_file

_LENGTH_BYTES = 4
_MOST_BYTES = 10 * 1024 * 1024
# As Windows seals: no frame longer than this.
_FRAME_BYTES = 64 * 1024


@frozen
class Logon:
    """What became of a logon; without an account it was refused, ``refusal`` says why as a sub-code."""

    name: str
    account: Account | None
    refusal: str
    context: spnego.ContextProxy = field(repr=False)

    @property
    def protected(self) -> bool:
        """True if signing or sealing was agreed."""
        return bool(self.context.context_attr & (spnego.ContextReq.integrity | spnego.ContextReq.confidentiality))


class NtlmLogon:
    """One hand-shake.

    Args:
        certificate_der: What the client must have bound to; None demands nothing.
    """

    def __init__(self, certificate_der: bytes | None) -> None:
        bindings = None
        if certificate_der is not None:
            digest = hashlib.sha256(certificate_der).digest()
            bindings = spnego.channel_bindings.GssChannelBindings(application_data=b"tls-server-end-point:" + digest)
        with user_file(None):
            self._context = spnego.server(
                protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm, channel_bindings=bindings
            )

    def challenge(self, token: bytes) -> bytes:
        """The answer to the first message.

        Raises:
            ValueError: It is none.
        """
        try:
            with user_file(None):
                return self._context.step(token) or b""
        except spnego.exceptions.SpnegoError as error:
            raise ValueError("no first message of NTLM") from error

    def finish(self, token: bytes, accounts: Accounts, where: str) -> Logon:
        """Judge the last message."""
        try:
            claimed = Authenticate.unpack(token)
        except (ValueError, struct.error) as error:
            raise ValueError("no last message of NTLM") from error
        domain, username = claimed.domain_name or "", claimed.user_name or ""
        name = f"{domain}\\{username}" if domain else username
        account = accounts.find(username, domain or None) if domain else accounts.find(username)
        if account is None:
            return Logon(name, None, "525", self._context)
        line = f"{name}:1:{'0' * 32}:{ntowfv1(account.password).hex().upper()}:[U]:LCT-0\n"
        right = True
        try:
            with user_file(line):
                self._context.step(token)
        except spnego.exceptions.BadBindingsError:
            return Logon(name, None, "80090346", self._context)
        except spnego.exceptions.SpnegoError:
            right = False
        refused = accounts.judge(account, right=right, where=where)
        if refused is not None:
            return Logon(name, None, f"{refused:x}", self._context)
        return Logon(name, account, "", self._context)


class SealedStream:
    """What a client and a controller say after a logon that agreed to seal: frames of a length and a wrapped piece."""

    def __init__(self, context: spnego.ContextProxy) -> None:
        self._context = context
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What came in, unwrapped as far as it is complete.

        Raises:
            ValueError: It was not sealed by the other side.
        """
        self._buffer += data
        plain = bytearray()
        while len(self._buffer) >= _LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if size > _MOST_BYTES:
                raise ValueError("too long a frame")
            if len(self._buffer) < _LENGTH_BYTES + size:
                break
            frame = bytes(self._buffer[_LENGTH_BYTES : _LENGTH_BYTES + size])
            del self._buffer[: _LENGTH_BYTES + size]
            try:
                plain += self._context.unwrap(frame).data
            except spnego.exceptions.SpnegoError as error:
                raise ValueError("a frame that was not sealed by the other side") from error
        return bytes(plain)

    def seal(self, data: bytes) -> bytes:
        """Wrap what goes out."""
        frames = []
        for at in range(0, len(data), _FRAME_BYTES):
            wrapped = self._context.wrap(data[at : at + _FRAME_BYTES]).data
            frames.append(len(wrapped).to_bytes(_LENGTH_BYTES, "big") + wrapped)
        return b"".join(frames)
