"""NTLM at a stand-in directory: proven, counted by the accounts of the estate, then sealed. Pure but for pyspnego."""

from __future__ import annotations

import spnego
import spnego.exceptions
from attrs import field, frozen

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.ntlm import NtlmAcceptor, WrongBindingError, read_claim

_LENGTH_BYTES = 4
_MOST_BYTES = 10 * 1024 * 1024
# As Windows seals: no frame longer than this.
_FRAME_BYTES = 64 * 1024
_WRONG_BINDING, _NO_SUCH_USER = "80090346", "525"


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


def judge_logon(acceptor: NtlmAcceptor, token: bytes, accounts: Accounts, where: str) -> Logon:
    """Judge the last message of a hand-shake.

    Raises:
        ValueError: It is none.
    """
    claim = read_claim(token)
    account = accounts.find(claim.username, claim.domain or None)
    if account is None:
        return Logon(claim.name, None, _NO_SUCH_USER, acceptor.context)
    try:
        right = acceptor.proves(claim, account, token)
    except WrongBindingError:
        return Logon(claim.name, None, _WRONG_BINDING, acceptor.context)
    refused = accounts.judge(account, right=right, where=where)
    if refused is not None:
        return Logon(claim.name, None, f"{refused:x}", acceptor.context)
    return Logon(claim.name, account, "", acceptor.context)


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
