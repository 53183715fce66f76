r"""Basic: the host is given the password itself, with each request. Inside TLS alone, and only where a site asks.

Windows takes it for a host's own accounts; the name goes without ``.\``. That Windows answers a logon without an
envelope by 200, as for the other schemes, is unproven here; any other answer counts as no logon.
"""

from __future__ import annotations

import base64

from msp_sdk.errors import EncryptionRefusedError
from msp_sdk.secret import Secret


class BasicLogon:
    """One account's name and password, for one connection inside TLS."""

    def __init__(self, username: str, password: Secret) -> None:
        self._username = username.removeprefix(".\\")
        self._password = password

    @property
    def complete(self) -> bool:
        """There is nothing to agree on."""
        return True

    def token(self) -> bytes:
        """What is shown to the host."""
        return f"{self._username}:{self._password.reveal()}".encode()

    def header(self) -> str:
        """The ``Authorization`` of each request."""
        return f"Basic {base64.b64encode(self.token()).decode('ascii')}"

    def seal(self, message: bytes) -> tuple[bytes, bytes, int]:  # noqa: ARG002 (a logon's shape)
        """There are no keys.

        Raises:
            EncryptionRefusedError: Always.
        """
        raise EncryptionRefusedError("Basic seals nothing.")

    def unseal(self, signature: bytes, data: bytes) -> bytes:  # noqa: ARG002 (a logon's shape)
        """There are no keys.

        Raises:
            EncryptionRefusedError: Always.
        """
        raise EncryptionRefusedError("Basic seals nothing.")
