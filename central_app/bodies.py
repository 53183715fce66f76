"""Bodies in and out: JSON to models with every limit checked, models to JSON."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from sanic import Request
from sanic.response import HTTPResponse

from central_app.problems import ProblemError, invalid
from msp_sdk.wire.converter import dumps, loads, structure

T = TypeVar("T")

MOST_BYTES = 1024 * 1024
CHECKIN_BYTES = 64 * 1024
_DEEPEST = 32
_BIGGEST = 2**63


def read_json(request: Request, most_bytes: int = MOST_BYTES) -> Any:
    """The body as parsed JSON that a database can hold: no NUL, no half characters, no endless numbers or nests.

    Raises:
        ProblemError: ``too-large``, ``unsupported-media-type`` or ``invalid``.
        WireError: ``bad-json``.
    """
    body = request.body or b""
    if len(body) > most_bytes:
        raise ProblemError("too-large")
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ProblemError("unsupported-media-type")
    data = loads(body)
    check_plain(data)
    return data


def read_model(request: Request, kind: type[T], most_bytes: int = MOST_BYTES) -> T:
    """The body as a model.

    Raises:
        ProblemError, WireError: As :func:`read_json`; ``invalid`` with every path where it does not fit.
    """
    return structure(read_json(request, most_bytes), kind)


def check_plain(data: object) -> None:
    """Refuse what JSON can say and a database or a program cannot hold.

    Raises:
        ProblemError: ``invalid``, with the path.
    """
    waiting: list[tuple[str, int, object]] = [("", 0, data)]
    while waiting:
        path, depth, value = waiting.pop()
        if isinstance(value, str):
            _check_text(path, value)
        elif isinstance(value, dict | list):
            if depth >= _DEEPEST:
                raise invalid(path[:80], "is nested too deeply")
            if isinstance(value, dict):
                for name, child in value.items():
                    _check_text(path, name)
                    waiting.append((f"{path}.{name}" if path else name, depth + 1, child))
            else:
                waiting += [(f"{path}[{index}]", depth + 1, child) for index, child in enumerate(value)]
        elif isinstance(value, int) and not -_BIGGEST <= value < _BIGGEST:
            raise invalid(path, "is too large a number")
        elif isinstance(value, float) and not math.isfinite(value):
            raise invalid(path, "is not a number")


def _check_text(path: str, text: str) -> None:
    if "\x00" in text or not _is_whole(text):
        raise invalid(path, "holds characters that are none")


def _is_whole(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """A model as the response."""
    return HTTPResponse(dumps(value), status=status, headers=headers, content_type="application/json")


def list_reply(items: list[Any], next_cursor: str | None = None) -> HTTPResponse:
    """A list as the response: ``{items, next_cursor}``."""
    return json_reply({"items": items, "next_cursor": next_cursor})


def empty_reply() -> HTTPResponse:
    """204."""
    return HTTPResponse(status=204)


def page_of(request: Request, most: int = 500, usual: int = 100) -> tuple[int, int]:
    """``?cursor=&limit=`` of a list that only grows at its end: (offset, limit).

    Raises:
        ProblemError: ``invalid``.
    """
    offset = _count(request.args.get("cursor"), "cursor", 0, 2**40)
    return offset, max(1, _count(request.args.get("limit"), "limit", usual, most))


def _count(text: str | None, path: str, usual: int, most: int) -> int:
    if text is None or text == "":
        return usual
    if not text.isascii() or not text.isdigit() or len(text) > len(str(most)):
        raise invalid(path, "is not a number of this list")
    return min(int(text), most)


def next_cursor(offset: int, limit: int, found: int) -> str | None:
    """The cursor after a page, for a query that asked for one row more than the page holds."""
    return str(offset + limit) if found > limit else None


def check_text(path: str, value: str | None, longest: int, shortest: int = 1) -> None:
    """A text of a sensible length, or None.

    Raises:
        ProblemError: ``invalid``.
    """
    if value is not None and not shortest <= len(value.strip()) <= len(value) <= longest:
        raise invalid(path, f"has {shortest} to {longest} characters")
