"""Problems (RFC 9457): one table of codes, and how a problem becomes an error at the client.

Every ``code`` that Central answers with is in the table, with its status and title.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from msp_sdk.errors import CentralError, ClaimRejectedError, NotEnrolledError, RateLimitedError

MEDIA_TYPE = "application/problem+json"


@frozen
class ProblemKind:
    """A kind of problem: HTTP status, title, whether the same call may succeed later, and what to do."""

    code: str
    status: int
    title: str
    retryable: bool = False
    remedy: str = ""


_TABLE = (
    ProblemKind("bad-json", 400, "The body is not JSON."),
    ProblemKind("bad-request", 400, "The request cannot be understood."),
    ProblemKind("unauthenticated", 401, "The key or session is missing, wrong or ended."),
    ProblemKind("forbidden", 403, "The role does not allow this."),
    ProblemKind("csrf", 403, "The page's token is missing or wrong.", remedy="Reload the page."),
    ProblemKind("untrusted-peer", 403, "This address may not talk to Central directly."),
    ProblemKind(
        "not-approved", 403, "This appliance has not been approved yet.", retryable=True, remedy="Ask the partner."
    ),
    ProblemKind("not-found", 404, "There is no such thing here."),
    ProblemKind("provision-code-unknown", 404, "This provision code is unknown.", remedy="Check the code's letters."),
    ProblemKind("login-code-unknown", 401, "This login code is unknown, used or expired.", remedy="Make a new one."),
    ProblemKind("method-not-allowed", 405, "This path does not take this method."),
    ProblemKind("conflict", 409, "This cannot be done in the present state."),
    ProblemKind("provision-code-claimed", 409, "Another device has claimed this code.", remedy="Make a new code."),
    ProblemKind("provision-not-pending", 409, "Only a pending code can be revoked."),
    ProblemKind("appliance-revoked", 409, "This appliance has been revoked.", remedy="Ask the partner."),
    ProblemKind(
        "appliance-exists", 409, "An appliance with this address exists already.", remedy="Use replace at the partner."
    ),
    ProblemKind("device-keys-required", 409, "This appliance is active; a repeat needs its device keys."),
    ProblemKind("provision-code-expired", 410, "This provision code has expired.", remedy="Make a new code."),
    ProblemKind("provision-code-revoked", 410, "This provision code was revoked.", remedy="Make a new code."),
    ProblemKind("too-large", 413, "The body is too large."),
    ProblemKind("unsupported-media-type", 415, "This content type is not understood."),
    ProblemKind("invalid", 422, "The request does not fit the contract."),
    ProblemKind("bad-proof", 422, "The proof does not fit the device keys."),
    ProblemKind("digest-mismatch", 422, "The content is not what its digest says."),
    ProblemKind("report-incomplete", 422, "The report stopped half-way; nothing was changed."),
    ProblemKind("package-missing", 404, "The package's file has not been uploaded."),
    ProblemKind("rate-limited", 429, "Too many requests.", retryable=True),
    ProblemKind("internal", 500, "Something failed on our side."),
    ProblemKind("unavailable", 503, "Central cannot answer now.", retryable=True),
)

PROBLEMS: Mapping[str, ProblemKind] = MappingProxyType({kind.code: kind for kind in _TABLE})

_CLAIM_CODES = frozenset(
    {
        "provision-code-unknown",
        "provision-code-claimed",
        "provision-code-expired",
        "provision-code-revoked",
        "appliance-revoked",
        "appliance-exists",
        "device-keys-required",
        "bad-proof",
    }
)


def render_problem(
    code: str, detail: str, *, errors: tuple[tuple[str, str], ...] = (), request_id: str | None = None
) -> dict[str, Any]:
    """The problem document for a code of the table.

    Raises:
        KeyError: The code is not in the table.
    """
    kind = PROBLEMS[code]
    document: dict[str, Any] = {
        "type": f"urn:msp:problem:{code}",
        "code": code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "retryable": kind.retryable,
    }
    if kind.remedy:
        document["remedy"] = kind.remedy
    if errors:
        document["errors"] = [{"path": path, "message": message} for path, message in errors]
    if request_id is not None:
        document["request_id"] = request_id
    return document


def error_from_problem(status: int, document: Mapping[str, Any], retry_after_s: float | None = None) -> CentralError:
    """The error that a client raises for a problem, also for one of a newer Central or of a proxy in between."""
    code = document.get("code")
    known = code if isinstance(code, str) else None
    detail = document.get("detail") or document.get("title") or f"Central answered {status}."
    remedy = document.get("remedy")
    if known in _CLAIM_CODES:
        kind: type[CentralError] = ClaimRejectedError
    elif status == 401:  # noqa: PLR2004
        kind = NotEnrolledError
    elif status in (429, 503):
        kind = RateLimitedError
    else:
        kind = CentralError
    retryable = document.get("retryable")
    return kind(
        str(detail),
        status=status,
        code=known,
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after_s=retry_after_s,
        problem=document,
        remedy=remedy if isinstance(remedy, str) else None,
    )
