"""What every kind of bind shares: the name, and how a refusal is told to the ledger and the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from msp_sdk.directory.connection import Link
from msp_sdk.errors import BindRejectedError, DirectoryError, LogonError, LogonRejectedError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import reason
from msp_sdk.network.kdc_codes import BindRefusal
from msp_sdk.network.logons import LogonAttempt


def user_name(credential: Credential) -> str:
    """The name to bind with: as typed, or with its domain."""
    name = credential.username
    if "@" in name or "\\" in name or not credential.domain_name:
        return name
    return f"{name}@{credential.domain_name}"


def refused(link: Link, credential: Credential, attempt: LogonAttempt, refusal: BindRefusal, said: str) -> NoReturn:
    """Tell the ledger and the caller what a refused logon means.

    Args:
        link: Where.
        credential: Whose.
        attempt: Is ended here, unless nobody knows.
        refusal: What it means.
        said: What the other side said, in words, for a refusal that means nothing to us.

    Raises:
        LogonRejectedError: The password or the account was judged. Retryable where it was no strike, and then not
            before the ledger allows it.
        BindRejectedError: It was not; another door may do.
        LogonError: ``logon-unanswered``: nobody knows.
        DirectoryError: Nothing was looked at, and no reason was given. Retryable.
    """
    if refusal.password_judged and refusal.code is not None:
        if refusal.is_no_strike:
            attempt.kept_out(refusal.code)
        else:
            attempt.refused(refusal.code)
        known = reason(refusal.code)
        more = f" ({said})" if refusal.code == "logon-refused" else ""
        raise LogonRejectedError(
            f"{link.controller.fqdn} refused {credential.username}: {known.title}{more}",
            code=known.code,
            remedy=known.remedy,
            retryable=refusal.is_no_strike,
            context={"controller": link.controller.fqdn, "password_right": refusal.password_right},
        )
    if refusal.password_judged is None:
        raise unanswered(link, credential, said)
    attempt.not_sent()
    if refusal.code is not None:
        raise door_refused(link, credential, refusal.code)
    raise DirectoryError(
        f"{link.controller.fqdn} refused {credential.username}: {said}.", code="directory-failed", retryable=True
    )


@contextmanager
def sending_the_password(link: Link, credential: Credential) -> Iterator[None]:
    """Around the message that is the logon: whatever breaks there, the controller may have counted it.

    Raises:
        LogonError: ``logon-unanswered``. No :class:`DirectoryError`, after which the next controller would be asked:
            the one repetition that is allowed belongs to the next pass.
    """
    try:
        yield
    except DirectoryError as error:
        raise unanswered(link, credential, error.detail.removesuffix(".")) from error


def unanswered(link: Link, credential: Credential, said: str) -> LogonError:
    """The error for a logon of which nobody knows how it ended."""
    known = reason("logon-unanswered")
    return LogonError(
        f"{link.controller.fqdn}, {credential.username}: {known.title} ({said})",
        code=known.code,
        remedy=known.remedy,
        retryable=True,
        context={"controller": link.controller.fqdn, "door": link.door.kind},
    )


def door_refused(link: Link, credential: Credential, code: str | None, said: str = "") -> BindRejectedError:
    """The error for a door that did not open although the password was not refused."""
    known = reason(code or "directory-failed")
    more = f" ({said})" if said else ""
    return BindRejectedError(
        f"{link.controller.fqdn} refused {credential.username}: {known.title}{more}",
        code=known.code,
        remedy=known.remedy,
        context={"controller": link.controller.fqdn, "door": link.door.kind},
    )
