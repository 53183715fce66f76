"""A password at the moment of use, after the ledger has allowed the attempt."""

from __future__ import annotations

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LogonAttempt
from msp_sdk.secret import Secret


def open_password(credential: Credential, attempt: LogonAttempt) -> Secret:
    """Open the secret. Whatever fails here leaves the attempt as never made.

    Raises:
        ConfigError: It is empty: an empty password would be an anonymous bind that "succeeds". Or it is no text that
            can be sent.
    """
    try:
        secret = credential.open()
        if any("\ud800" <= character <= "\udfff" for character in secret.reveal()):
            # A terminal with another character set leaves these; an encoder's complaint would carry the password.
            raise ConfigError(f"the password of {credential.username} is no text in UTF-8.", code="no-password")  # noqa: TRY301 (the same)
        if not secret:
            raise ConfigError(f"the password of {credential.username} is empty.", code="no-password")  # noqa: TRY301 (the attempt is ended below, whatever it was)
    except BaseException:
        attempt.not_sent()
        raise
    return secret
