"""Every error this project raises: one root, two levels.

::

    MspError              code (stable slug), retryable, context (safe to log), remedy (one sentence for a person)
    ├ ConfigError
    ├ StateError          we were called out of order
    ├ WireError           the peer sent nonsense: path      └ UnsupportedVersionError
    ├ TransportError      no answer                         └ TransportTimeoutError
    ├ CentralError        Central said no: status, problem, retry_after_s
    │                     └ ClaimRejectedError, NotEnrolledError, RateLimitedError
    ├ DiscoveryError      the network could not be asked (finding no domain is a result, not an error)
    ├ DirectoryError      └ BindRejectedError, PartialResultError
    ├ LogonError          └ LogonRejectedError, LogonNotAllowedError, NotAuthorisedHereError
    ├ WindowsError        └ UnreachableError, ScriptFailedError, WrongHostError, EncryptionRefusedError
    └ DeploymentError     └ DigestMismatchError, SignatureRejectedError, InstallFailedError

A caller catches :class:`MspError` and its children only: every foreign exception is translated where it appears.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MspError(Exception):
    """Root of all errors of this project.

    Attributes:
        code: Stable slug, such as ``bind-rejected``; a program may branch on it.
        retryable: True when the same call may succeed later, and repeating it does no harm.
        context: Facts that are safe to log; never a secret.
        remedy: One sentence that tells a person what to do. Empty when there is nothing to do.
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False
    default_remedy: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        remedy: str | None = None,
        retryable: bool | None = None,
        context: Mapping[str, object] | None = None,
    ) -> None:
        """Build the message from the attributes; ``detail`` says what happened and why."""
        self.detail = detail
        self.code = self.default_code if code is None else code
        self.remedy = self.default_remedy if remedy is None else remedy
        self.retryable = self.default_retryable if retryable is None else retryable
        self.context: dict[str, object] = dict(context or {})
        super().__init__(f"{detail} {self.remedy}".rstrip())

    def __reduce__(self) -> tuple[object, ...]:
        # Children have required keywords, which Exception's own way of pickling forgets; a process pool would hang.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MspError], args: tuple[object, ...], state: Mapping[str, object]) -> MspError:
    """An error as it was, from its parts."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(MspError):
    """A setting or a file of settings is missing or wrong."""

    default_code = "bad-config"


class StateError(MspError):
    """We were called out of order."""

    default_code = "out-of-order"


class WireError(MspError):
    """The peer sent something that the contract does not allow.

    Attributes:
        path: Where in the document, such as ``results.servers[3].role``; empty for the whole.
        errors: All places, as (path, message); never a value.
    """

    default_code = "bad-message"

    def __init__(
        self,
        detail: str,
        *,
        path: str = "",
        errors: tuple[tuple[str, str], ...] = (),
        code: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Keep the places beside the message."""
        super().__init__(detail, code=code, remedy=remedy, context={"path": path})
        self.path = path
        self.errors = errors or (((path, detail),) if path else ())


class UnsupportedVersionError(WireError):
    """The peer speaks a version that we do not."""

    default_code = "unsupported-version"


class TransportError(MspError):
    """No answer: the connection failed or broke."""

    default_code = "no-answer"
    default_retryable = True


class TransportTimeoutError(TransportError):
    """No answer in time."""

    default_code = "timeout"


class CentralError(MspError):
    """Central said no.

    Attributes:
        status: The HTTP status.
        problem: The problem document, without secrets.
        retry_after_s: Seconds Central asked us to wait, or None.
    """

    default_code = "central-refused"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        problem: Mapping[str, object] | None = None,
        remedy: str | None = None,
    ) -> None:
        """Keep what Central answered."""
        super().__init__(detail, code=code, retryable=retryable, remedy=remedy, context={"status": status})
        self.status = status
        self.retry_after_s = retry_after_s
        self.problem: dict[str, object] = dict(problem or {})


class ClaimRejectedError(CentralError):
    """The provision code is unknown, spent, expired or revoked, or the device may not join."""

    default_code = "claim-rejected"


class NotEnrolledError(CentralError):
    """The key is wrong, unknown or revoked (401)."""

    default_code = "not-enrolled"
    default_remedy = "Claim the appliance again with a new provision code, or check the API key."


class RateLimitedError(CentralError):
    """Central asked us to slow down (429 or 503)."""

    default_code = "rate-limited"
    default_retryable = True


class DiscoveryError(MspError):
    """The network could not be asked. Finding no domain is a result, not this error."""

    default_code = "discovery-failed"
    default_retryable = True


class DirectoryError(MspError):
    """A directory could not be asked or did not answer as it should."""

    default_code = "directory-failed"


class BindRejectedError(DirectoryError):
    """The directory refused the bind for a reason other than the password (signing, clock, certificate)."""

    default_code = "bind-rejected"


class PartialResultError(DirectoryError):
    """The directory stopped half-way; ``received`` holds what came."""

    default_code = "partial-result"
    default_retryable = True

    def __init__(self, detail: str, *, received: tuple[object, ...] = (), code: str | None = None) -> None:
        """Keep what arrived before the answer broke off."""
        super().__init__(detail, code=code, context={"received_count": len(received)})
        self.received = received


class LogonError(MspError):
    """A logon did not come about."""

    default_code = "logon-failed"


class LogonRejectedError(LogonError):
    """The password was refused. It is never tried again."""

    default_code = "wrong-password"
    default_remedy = "Correct the credential, or use retry for exactly one more attempt."


class LogonNotAllowedError(LogonError):
    """The logon ledger did not allow the attempt; nothing was sent."""

    default_code = "logon-not-allowed"


class NotAuthorisedHereError(LogonError):
    """The credential is right, but this host does not let it in."""

    default_code = "not-authorised-here"
    default_remedy = "Make the account a local administrator of this host, or give the host its own credential."


class WindowsError(MspError):
    """A Windows host could not be worked with."""

    default_code = "windows-failed"


class UnreachableError(WindowsError):
    """No door of the host answered."""

    default_code = "no-answer"
    default_retryable = True


class ScriptFailedError(WindowsError):
    """The script did not return its envelope, or said that it failed."""

    default_code = "script-failed"


class WrongHostError(WindowsError):
    """The machine that answered is not the one that was meant. Nothing was written."""

    default_code = "wrong-host"
    default_remedy = "Correct the DNS record or the address of this computer."


class EncryptionRefusedError(WindowsError):
    """The host and we found no encrypted way to talk; nothing was sent in clear."""

    default_code = "encryption-refused"


class DeploymentError(MspError):
    """The agent could not be brought onto a host."""

    default_code = "deployment-failed"


class DigestMismatchError(DeploymentError):
    """A file is not the one that was meant."""

    default_code = "digest-mismatch"


class SignatureRejectedError(DeploymentError):
    """A signature is missing or wrong."""

    default_code = "signature-rejected"


class InstallFailedError(DeploymentError):
    """The installer or the service failed on the host."""

    default_code = "install-failed"
