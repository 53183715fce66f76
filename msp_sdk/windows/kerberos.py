"""Kerberos for WinRM: sealing with a security context that a worker made (:mod:`msp_sdk.network.kerberos_tickets`).

The context is taken over by its exported bytes. It seals as SSPI does for WinRM: the token's header (with its trailer
rotated into it) is the signature, the content goes beside it. Needs the extra ``kerberos``; imported where a ticket was
had, which shows that it is there.
"""

from __future__ import annotations

import importlib
from typing import Any

from msp_sdk.errors import EncryptionRefusedError, WindowsError


class KerberosLogon:
    """A logon that stands, with its sealing.

    Raises:
        WindowsError: The context cannot be taken over.
    """

    complete = True

    def __init__(self, exported: bytes) -> None:
        self._gssapi: Any = importlib.import_module("gssapi.raw")
        self._failure: type[Exception] = self._gssapi.GSSError
        try:
            self._context: Any = importlib.import_module("gssapi").SecurityContext(token=exported)
        except self._failure as error:
            raise WindowsError("the security context cannot be taken over.", code="logon-failed") from error

    def seal(self, message: bytes) -> tuple[bytes, bytes, int]:
        """A message's signature, its sealed content, and by how much padding made that longer."""
        kind = self._gssapi.IOVBufferType
        parts = self._gssapi.IOV(kind.header, message, kind.padding, std_layout=False)
        try:
            encrypted = self._gssapi.wrap_iov(self._context, parts, confidential=True)
        except self._failure as error:
            raise _ended("the security context has ended") from error
        if not encrypted:
            raise _ended("the security context does not encrypt")
        padding = parts[2].value or b""
        return bytes(parts[0].value), bytes(parts[1].value) + padding, len(padding)

    def unseal(self, signature: bytes, data: bytes) -> bytes:
        """A message of the host's.

        Raises:
            EncryptionRefusedError: It was not sealed by the host that we logged on to, or came twice.
        """
        kind = self._gssapi.IOVBufferType
        # The last one takes what stands for padding with old ciphers.
        parts = self._gssapi.IOV((kind.header, False, signature), data, kind.data, std_layout=False)
        try:
            opened = self._gssapi.unwrap_iov(self._context, parts)
        except self._failure as error:
            raise _ended("the host's answer was not sealed by the host that we logged on to") from error
        if not opened.encrypted:
            raise _ended("the host's answer was signed but not encrypted")
        return bytes(parts[1].value or b"")


def _ended(what: str) -> EncryptionRefusedError:
    return EncryptionRefusedError(f"{what}.")
