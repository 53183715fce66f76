"""What every kind of bind shares: the name, the password, and how a refusal is told to the ledger and the caller."""

from __future__ import annotations

from typing import NoReturn

from msp_sdk.directory.connection import Link
from msp_sdk.directory.logon_codes import BindRefusal
from msp_sdk.errors import BindRejectedError, ConfigError, DirectoryError, LogonRejectedError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import reason
from msp_sdk.network.logons import LogonAttempt
from msp_sdk.secret import Secret


def user_name(credential: Credential) -> str:
    """The name to bind with: as typed, or with its domain."""
    name = credential.username
    if "@" in name or "\\" in name or not credential.domain_name:
        return name
    return f"{name}@{credential.domain_name}"


def open_password(credential: Credential, attempt: LogonAttempt) -> Secret:
    """Open the secret, after the ledger has allowed the attempt.

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


def refused(link: Link, credential: Credential, attempt: LogonAttempt, refusal: BindRefusal, said: str) -> NoReturn:
    """Tell the ledger and the caller what a refused logon means.

    Args:
        link: Where.
        credential: Whose.
        attempt: Is ended here, unless nobody knows.
        refusal: What it means.
        said: What the other side said, in words, for a refusal that means nothing to us.

    Raises:
        LogonRejectedError: The password or the account was judged.
        BindRejectedError: It was not; another door may do.
        DirectoryError: Nobody knows.
    """
    if refusal.password_judged and refusal.code is not None:
        attempt.refused(refusal.code)
        known = reason(refusal.code)
        raise LogonRejectedError(
            f"{link.controller.fqdn} refused {credential.username}: {known.title}",
            code=known.code,
            remedy=known.remedy,
            context={"controller": link.controller.fqdn, "password_right": refusal.password_right},
        )
    if refusal.password_judged is False:
        attempt.not_sent()
    if refusal.code is not None:
        raise kept_out(link, credential, refusal.code)
    raise DirectoryError(
        f"{link.controller.fqdn} refused {credential.username}: {said}.", code="directory-failed", retryable=True
    )


def kept_out(link: Link, credential: Credential, code: str | None, said: str = "") -> BindRejectedError:
    """The error for a door that did not open although the password was not refused."""
    known = reason(code or "directory-failed")
    more = f" ({said})" if said else ""
    return BindRejectedError(
        f"{link.controller.fqdn} refused {credential.username}: {known.title}{more}",
        code=known.code,
        remedy=known.remedy,
        context={"controller": link.controller.fqdn, "door": link.door.kind},
    )
