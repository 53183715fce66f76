r"""How a WinRM endpoint of the stand-in takes logons: each mechanism is one :class:`Acceptor`, made for one connection.

NTLM passwords are proven by :mod:`msp_sdk.testing.ntlm` and judged by :class:`Accounts`, so that wrong ones are
counted over LDAP and WinRM together. Basic is offered only where a test asks for it, and inside TLS alone.
"""

from __future__ import annotations

import base64
import struct
from typing import Protocol

import spnego.exceptions
from attrs import field, mutable

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.ntlm import NtlmAcceptor, WrongBindingError, ntlm_in, read_claim
from msp_sdk.testing.powershell import User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_kerberos import KerberosAcceptor, KerberosKeys

BOUNDARY = b"--Encrypted Boundary"
OCTETS = b"\tContent-Type: application/octet-stream\r\n"
_SPNEGO_SEALED = "application/HTTP-SPNEGO-session-encrypted"
_SEALED = {"negotiate": _SPNEGO_SEALED, "kerberos": "application/HTTP-Kerberos-session-encrypted"}
# The head of a token of GSS-API: Kerberos' own, or one of SPNEGO around it.
_GSS_TOKEN = b"\x60"
_TYPE_END = 12


class Acceptor(Protocol):
    """One hand-shake of one connection, then the sealing of its messages."""

    @property
    def sealed_type(self) -> str:
        """What sealed messages are called on the wire."""

    @property
    def answer(self) -> bytes:
        """The last token for the client, for mechanisms that have one; may be empty."""

    def is_last(self, token: bytes) -> bool:
        """True for the token that is judged; the others are answered by :meth:`challenge`."""

    def challenge(self, token: bytes) -> bytes:
        """The answer to a token that is not the last; ValueError when it is none of this mechanism's."""

    def judge(self, token: bytes) -> User | None:
        """Who logged on; None for a refusal. Counts."""

    def wrap(self, message: bytes) -> tuple[bytes, bytes, int]:
        """A sealed message: its signature, its content, and by how much padding made it longer."""

    def unwrap(self, signature: bytes, data: bytes) -> bytes:
        """A message that was sealed; ValueError when it does not open."""


@mutable
class Logons:
    """What one machine takes.

    Attributes:
        certificate: What clients must bind to over TLS.
        offers_basic: Basic, inside TLS alone.
        kerberos: Its keys; None for a host that takes no tickets.
        schemes: What is offered besides Basic.
    """

    machine: Machine
    accounts: Accounts
    certificate: IssuedCertificate | None = field(default=None, repr=False)
    offers_basic: bool = False
    kerberos: KerberosKeys | None = None
    schemes: tuple[str, ...] = ("Negotiate", "Kerberos")

    def challenges(self, *, tls: bool) -> tuple[str, ...]:
        """The schemes that a 401 offers."""
        return (*self.schemes, *(['Basic realm="WSMAN"'] if tls and self.offers_basic else []))

    def acceptor(self, scheme: str, token: bytes, before: Acceptor | None, *, tls: bool) -> Acceptor | None:
        """Who takes a token; ``before`` is the connection's hand-shake so far. None where nobody does."""
        scheme = scheme.casefold()
        if scheme == "basic" and tls and self.offers_basic:
            return _Basic(self)
        if scheme not in (name.casefold() for name in self.schemes):
            return None
        ntlm = ntlm_in(token)
        if self.kerberos is not None and not ntlm and token.startswith(_GSS_TOKEN):
            kind = _SEALED[scheme]
            return KerberosAcceptor(self.kerberos, self.machine, self.accounts, self.bound_to(tls=tls), kind)
        if scheme == "negotiate" and len(ntlm) >= _TYPE_END:
            begins = ntlm[8:_TYPE_END] == struct.pack("<I", 1)
            return _Ntlm(self, self.bound_to(tls=tls), wrapped=ntlm is not token) if begins else before
        return None

    def bound_to(self, *, tls: bool) -> bytes | None:
        """The certificate that a client must have bound to, as DER; None without TLS."""
        return self.certificate.der if tls and self.certificate is not None else None

    def account(self, domain: str, username: str) -> Account | None:
        """The account that a client names, as far as this machine knows it: its own, or one of its domain."""
        account = self.accounts.find(username, domain, host=self.machine.name)
        if account is not None and account.dns_domain and account.dns_domain != self.machine.dns_domain:
            return None
        return account

    def user(self, account: Account) -> User:
        """An account that was let in, as the machine sees it."""
        administers = {name.casefold() for name in account.administers}
        return User(f"{account.domain}\\{account.username}", bool(administers & {"*", self.machine.name.casefold()}))


class _Ntlm:
    sealed_type = _SPNEGO_SEALED

    def __init__(self, logons: Logons, bound_to: bytes | None, *, wrapped: bool) -> None:
        self._logons = logons
        self._acceptor = NtlmAcceptor(bound_to, wrapped=wrapped)

    @property
    def answer(self) -> bytes:
        return self._acceptor.answer

    def is_last(self, token: bytes) -> bool:
        return ntlm_in(token)[8:_TYPE_END] != struct.pack("<I", 1)

    def challenge(self, token: bytes) -> bytes:
        return self._acceptor.challenge(token)

    def judge(self, token: bytes) -> User | None:
        try:
            claim = read_claim(ntlm_in(token))
        except ValueError:
            return None
        account = self._logons.account(claim.domain, claim.username)
        if account is None:
            return None
        try:
            right = self._acceptor.proves(claim, account, token)
        except WrongBindingError:
            self._logons.machine.notes["bad_bindings"] = True
            return None
        if self._logons.accounts.judge(account, right=right, where=self._logons.machine.name) is not None:
            return None
        return self._logons.user(account)

    def wrap(self, message: bytes) -> tuple[bytes, bytes, int]:
        sealed = bytes(self._acceptor.context.wrap(message, encrypt=True).data)
        return sealed[:16], sealed[16:], 0

    def unwrap(self, signature: bytes, data: bytes) -> bytes:
        try:
            return bytes(self._acceptor.context.unwrap(signature + data).data)
        except spnego.exceptions.SpnegoError as error:
            raise ValueError("it does not open") from error


class _Basic:
    sealed_type = ""
    answer = b""

    def __init__(self, logons: Logons) -> None:
        self._logons = logons

    def is_last(self, token: bytes) -> bool:  # noqa: ARG002 (there is one)
        return True

    def challenge(self, token: bytes) -> bytes:  # noqa: ARG002 (the acceptors' shape; so below)
        raise ValueError("Basic has one message")

    def judge(self, token: bytes) -> User | None:
        name, _, password = token.decode("utf-8", errors="replace").partition(":")
        account = self._logons.account("", name)
        where = self._logons.machine.name
        if account is None or self._logons.accounts.check(account, password, where) is not None:
            return None
        return self._logons.user(account)

    def wrap(self, message: bytes) -> tuple[bytes, bytes, int]:  # noqa: ARG002
        raise ValueError("Basic seals nothing")

    def unwrap(self, signature: bytes, data: bytes) -> bytes:  # noqa: ARG002
        raise ValueError("Basic seals nothing")


def read_header(header: str) -> tuple[str, bytes]:
    """The scheme and the token of an ``Authorization`` header; an empty token where there is none."""
    scheme, _, text = header.partition(" ")
    try:
        return scheme, base64.b64decode(text, validate=True)
    except ValueError:
        return scheme, b""


def sealed_content_type(acceptor: Acceptor) -> str:
    """The ``Content-Type`` of a sealed message."""
    return f'multipart/encrypted;protocol="{acceptor.sealed_type}";boundary="Encrypted Boundary"'


def unseal(acceptor: Acceptor | None, body: bytes) -> bytes | None:
    """The envelope in a sealed message; None when nobody has logged on, or it does not open."""
    _, marker, rest = body.partition(OCTETS)
    end = rest.rfind(BOUNDARY + b"--")
    if not marker or end < 0 or acceptor is None:
        return None
    length = int.from_bytes(rest[:4], "little")
    try:
        return acceptor.unwrap(rest[4 : 4 + length], rest[4 + length : end])
    except ValueError:
        return None


def seal(acceptor: Acceptor | None, message: bytes) -> bytes:
    """A message as the body of a sealed answer."""
    assert acceptor is not None  # noqa: S101 (only who logged on is answered so)
    signature, data, padding = acceptor.wrap(message)
    parts = (
        BOUNDARY,
        f"\r\n\tContent-Type: {acceptor.sealed_type}\r\n".encode(),
        f"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={len(message) + padding}\r\n".encode(),
        BOUNDARY,
        b"\r\n",
        OCTETS,
        struct.pack("<i", len(signature)),
        signature,
        data,
        BOUNDARY,
        b"--\r\n",
    )
    return b"".join(parts)
