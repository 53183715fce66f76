"""Kerberos as a WinRM host takes it: MIT's acceptor with a keytab, strict channel binding, sealing. Needs the extra.

The keys are those of a real KDC (:mod:`msp_sdk.testing.kdc`). It does not prove a PAC, Windows' own checks of names,
or what Windows answers to a ticket that it does not take.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from attrs import field, mutable

from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.powershell import User
from msp_sdk.testing.windows_host import Machine


@mutable
class KerberosKeys:
    """What a host needs for taking tickets.

    Attributes:
        keytab: Its keys, a private file.
        refuses: Every ticket is refused, as by a host whose account in the domain was reset.
        error: Refused with this error of the protocol, such as 37 for a clock that differs.
        proof: Sent instead of the answer that proves the host, as by one that has not its keys.
        taken: Each ticket that was taken: who, and by which of the host's names.
    """

    keytab: Path
    refuses: bool = False
    error: int | None = None
    proof: bytes | None = None
    taken: list[tuple[str, str]] = field(factory=list)


class KerberosAcceptor:
    """One hand-shake: one token, whose answer proves the host.

    Args:
        keys: The host's.
        machine: The host.
        accounts: Whom a client principal means.
        bound_to: The certificate (DER) that the client must have bound to; None without TLS.
        sealed_type: What sealed messages are called on the wire.
    """

    def __init__(
        self, keys: KerberosKeys, machine: Machine, accounts: Accounts, bound_to: bytes | None, sealed_type: str
    ) -> None:
        self._gssapi: Any = importlib.import_module("gssapi")
        self._keys = keys
        self._machine = machine
        self._accounts = accounts
        self._bound_to = bound_to
        self._context: Any = None
        self.sealed_type = sealed_type
        self.answer = b""

    def is_last(self, token: bytes) -> bool:  # noqa: ARG002 (there is one)
        """See :class:`msp_sdk.testing.wsman_logons.Acceptor`; so are the others."""
        return True

    def challenge(self, token: bytes) -> bytes:  # noqa: ARG002
        """There is none."""
        raise ValueError("Kerberos has one message")

    def judge(self, token: bytes) -> User | None:
        """Who logged on; None for a refusal, which :attr:`answer` may tell more of."""
        if self._keys.error is not None:
            self.answer = render_error(self._keys.error)
        if self._keys.refuses or self._keys.error is not None:
            return None
        raw = self._gssapi.raw
        bindings = None
        if self._bound_to is not None:
            digest = hashlib.sha256(self._bound_to).digest()
            bindings = raw.ChannelBindings(application_data=b"tls-server-end-point:" + digest)
        try:
            # Each test has its own keys: what was seen under others is no replay.
            store = {b"keytab": f"FILE:{self._keys.keytab}".encode(), b"rcache": b"none:"}
            creds = self._gssapi.Credentials(usage="accept", store=store)
            # The raw call: the other one hides an error that comes with a token.
            taken = raw.accept_sec_context(token, acceptor_creds=creds, channel_bindings=bindings)
        except raw.GSSError as error:
            self._machine.notes["bad_tickets"] = True
            self.answer = bytes(error.token or b"")
            return None
        context = self._gssapi.SecurityContext(base=taken.context)
        flags = self._gssapi.RequirementFlag
        if bindings is not None and not context.actual_flags & flags.channel_bound:
            # MIT takes a client that bound to nothing; Windows' strict level does not.
            self._machine.notes["bad_bindings"] = True
            return None
        name, _, _ = str(context.initiator_name).rstrip("\0").rpartition("@")
        account = self._accounts.find(name, self._machine.dns_domain)
        if account is None or not context.complete:
            return None
        account.attempts.append((self._machine.name, "ticket"))
        self.answer = bytes(taken.token or b"") if self._keys.proof is None else self._keys.proof
        self._keys.taken.append((name, str(context.target_name).rstrip("\0")))
        self._context = context
        administers = {entry.casefold() for entry in account.administers}
        return User(f"{account.domain}\\{account.username}", bool(administers & {"*", self._machine.name.casefold()}))

    def wrap(self, message: bytes) -> tuple[bytes, bytes, int]:
        """A sealed message: signature, content, padding."""
        raw = self._gssapi.raw
        kind = raw.IOVBufferType
        parts = raw.IOV(kind.header, message, kind.padding, std_layout=False)
        raw.wrap_iov(self._context, parts, confidential=True)
        padding = parts[2].value or b""
        return bytes(parts[0].value), bytes(parts[1].value) + padding, len(padding)

    def unwrap(self, signature: bytes, data: bytes) -> bytes:
        """A message that was sealed; ValueError when it does not open."""
        raw = self._gssapi.raw
        if self._context is None:
            raise ValueError("nobody has logged on")
        kind = raw.IOVBufferType
        parts = raw.IOV((kind.header, False, signature), data, kind.data, std_layout=False)
        try:
            opened = raw.unwrap_iov(self._context, parts)
        except raw.GSSError as error:
            raise ValueError("it does not open") from error
        if not opened.encrypted:
            raise ValueError("it was not encrypted")
        return bytes(parts[1].value or b"")


def render_error(number: int) -> bytes:
    """A token of GSS-API with a KRB-ERROR in it. Source: RFC 4120, 5.9.1; RFC 4121, 4.1."""
    name = _der(0x30, _der(0xA0, _int(3)) + _der(0xA1, _der(0x30, _der(0x1B, b"host") + _der(0x1B, b"h"))))
    fields = (
        _der(0xA0, _int(5)),
        _der(0xA1, _int(30)),
        _der(0xA4, _der(0x18, b"20260101000000Z")),
        _der(0xA5, _int(0)),
        _der(0xA6, _int(number)),
        _der(0xA9, _der(0x1B, b"REALM")),
        _der(0xAA, name),
    )
    error = _der(0x7E, _der(0x30, b"".join(fields)))
    return _der(0x60, _KERBEROS_OID + b"\x03\x00" + error)


_KERBEROS_OID = bytes.fromhex("06092a864886f712010202")
_SHORT = 128


def _int(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < _SHORT else bytes([0x82, size >> 8, size & 0xFF])
    return bytes([tag]) + length + content
