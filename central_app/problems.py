"""What Central answers when it says no: always a problem document, never a stack trace.

A handler raises :class:`ProblemError`, or lets a :class:`WireError` pass; everything else that Sanic or we raise
becomes a problem in :class:`ProblemHandler`.
"""

from __future__ import annotations

import json
import logging

from sanic import Request
from sanic.exceptions import RequestCancelled, SanicException
from sanic.handlers import ErrorHandler
from sanic.response import HTTPResponse

from msp_sdk.errors import MspError, WireError
from msp_sdk.wire.problems import MEDIA_TYPE, PROBLEMS, render_problem

log = logging.getLogger("central")

_BY_STATUS = {
    400: "bad-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    429: "rate-limited",
    503: "unavailable",
}
_SERVER_SIDE = 500
MOST_ERRORS = 100
LONGEST_PATH = 200
LONGEST_DETAIL = 1000
_BUSY_S = 2


class ProblemError(MspError):
    """Central says no, with a code of the table of problems."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: tuple[tuple[str, str], ...] = (),
        retry_after_s: int | None = None,
    ) -> None:
        """Without ``detail`` the title of the problem is enough."""
        kind = PROBLEMS[code]
        super().__init__(detail or kind.title, code=code, retryable=kind.retryable)
        self.errors = errors
        self.retry_after_s = retry_after_s


def not_found() -> ProblemError:
    """The answer for what is not there, and for what is somebody else's."""
    return ProblemError("not-found")


def invalid(path: str, message: str) -> ProblemError:
    """One field is wrong. ``message`` goes on from the path: "is too long"."""
    return ProblemError("invalid", f"{path} {message}.", errors=((path, message),))


def problem_response(
    code: str,
    detail: str,
    *,
    errors: tuple[tuple[str, str], ...] = (),
    retry_after_s: int | None = None,
    request_id: str | None = None,
    status: int | None = None,
) -> HTTPResponse:
    """The response for a problem."""
    # Names are the caller's text, and there may be as many as the body has room for.
    shown = tuple((path[:LONGEST_PATH], message) for path, message in errors[:MOST_ERRORS])
    document = render_problem(code, detail[:LONGEST_DETAIL], errors=shown, request_id=request_id)
    if status is not None:
        document["status"] = status
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    if code == "unauthenticated":
        headers["www-authenticate"] = "Bearer"
    return HTTPResponse(
        json.dumps(document, ensure_ascii=True), status=document["status"], headers=headers, content_type=MEDIA_TYPE
    )


def respond_to(error: BaseException, request_id: str | None) -> HTTPResponse:
    """The response for any exception."""
    if isinstance(error, RequestCancelled):
        # Whoever asked has gone; nobody hears the answer, and nothing of ours failed.
        return problem_response("unavailable", "The request was given up.", request_id=request_id)
    known = _respond_to_ours(error) if isinstance(error, MspError) else _respond_to_sanic(error)
    if known is not None:
        return known
    log.error("request %s failed", request_id, exc_info=error)
    return problem_response("internal", "The log has more under the request's id.", request_id=request_id)


def _respond_to_ours(error: MspError) -> HTTPResponse | None:
    if isinstance(error, ProblemError):
        return problem_response(error.code, error.detail, errors=error.errors, retry_after_s=error.retry_after_s)
    if isinstance(error, WireError):
        code = error.code if error.code in PROBLEMS else "invalid"
        return problem_response(code, error.detail, errors=error.errors)
    if error.code in PROBLEMS:
        return problem_response(error.code, error.detail)
    if error.retryable:
        log.warning("answered 503: %s", error.detail)
        return problem_response("unavailable", "Central is busy.", retry_after_s=_BUSY_S)
    return None


def _respond_to_sanic(error: BaseException) -> HTTPResponse | None:
    if not isinstance(error, SanicException):
        return None
    code = _BY_STATUS.get(error.status_code)
    if code is not None:
        retry_after_s = _BUSY_S if code == "unavailable" else None
        return problem_response(code, PROBLEMS[code].title, retry_after_s=retry_after_s)
    if error.status_code < _SERVER_SIDE:
        return problem_response("bad-request", PROBLEMS["bad-request"].title, status=error.status_code)
    return None


class ProblemHandler(ErrorHandler):
    """Sanic's way to hand us every exception, its own among them."""

    def default(self, request: Request | None, exception: Exception) -> HTTPResponse:
        """Answer with a problem."""
        return respond_to(exception, None if request is None else str(request.id))

    def response(self, request: Request | None, exception: Exception) -> HTTPResponse:
        """The same for every kind: Sanic looks no handler up."""
        return self.default(request, exception)
