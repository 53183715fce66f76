"""How models become JSON and back: the one cattrs set-up of the project.

Instants are RFC 3339 in UTC, bytes base64url without padding, a :class:`Secret` its text (the wire is TLS).
Unknown fields are tolerated and can be counted; known ones are checked strictly: a number is not text.
An error names the place and never the value.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import GenericAlias
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from msp_sdk.errors import WireError
from msp_sdk.secret import Secret

T = TypeVar("T")
_INT_LIMIT = 2**63


class _FieldError(ValueError):
    """A value of the wrong kind; the text never repeats it."""


def encode_bytes(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def decode_bytes(text: str) -> bytes:
    """Read base64url with or without padding.

    Raises:
        ValueError: It is not base64url.
    """
    if "+" in text or "/" in text:
        raise _FieldError("is not base64url")
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _FieldError("is not base64url") from None


def render_instant(value: datetime) -> str:
    """RFC 3339 in UTC with ``Z``; a naive instant is refused, since nobody knows what it means."""
    if value.tzinfo is None:
        raise WireError("an instant without a time zone cannot be sent.", code="naive-instant")
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 instant; the result is aware, in UTC.

    Raises:
        ValueError: It is not an instant with a time zone.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise _FieldError("is not an RFC 3339 instant") from None
    if value.tzinfo is None:
        raise _FieldError("has no time zone")
    return value.astimezone(UTC)


def _strict(kind: type, name: str) -> Any:
    def structure_strictly(value: Any, _: Any) -> Any:
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        raise _FieldError(f"is not {name}")

    return structure_strictly


def _structure_int(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _FieldError("is not a whole number")
    if not -_INT_LIMIT <= value < _INT_LIMIT:
        # No count of ours is that big, and no database takes it.
        raise _FieldError("is out of range")
    return value


def _structure_float(value: Any, _: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number):
            return number
    raise _FieldError("is not a number")


def _structure_text(build: Any) -> Any:
    def structure_from_text(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise _FieldError("is not text")
        return build(value)

    return structure_from_text


def _object_hook(kind: Any, converter: cattrs.BaseConverter) -> Any:
    build = make_dict_structure_fn(kind, converter)

    def structure_object(value: Any, _: Any) -> Any:
        # Text has no keys, so that it would pass for an object with nothing but defaults.
        if not isinstance(value, Mapping):
            raise _FieldError("is not an object")
        return build(value, kind)

    return structure_object


def _is_homogenous_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _list_hook(kind: Any, converter: cattrs.BaseConverter) -> Any:
    build = converter.get_structure_hook(GenericAlias(list, get_args(kind)[:1]))

    def structure_list(value: Any, _: Any) -> Any:
        # Text would be read letter by letter.
        if not isinstance(value, list | tuple):
            raise _FieldError("is not a list")
        return tuple(build(value, list))

    return structure_list


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True, prefer_attrib_converters=False)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(_is_homogenous_tuple, _list_hook)
    converter.register_structure_hook(str, _strict(str, "text"))
    converter.register_structure_hook(int, _structure_int)
    converter.register_structure_hook(bool, _strict(bool, "true or false"))
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    converter.register_structure_hook(bytes, _structure_text(decode_bytes))
    converter.register_structure_hook(datetime, _structure_text(parse_instant))
    converter.register_structure_hook(Secret, _structure_text(Secret))
    converter.register_unstructure_hook(bytes, encode_bytes)
    converter.register_unstructure_hook(datetime, render_instant)
    converter.register_unstructure_hook(Secret, lambda secret: secret.reveal())
    return converter


_CONVERTER = _make_converter()


def _places(error: BaseException, path: str) -> list[tuple[str, str]]:
    """All places of a structuring error, without values."""
    found: list[tuple[str, str]] = []
    if isinstance(error, ClassValidationError):
        with_notes, without = error.group_exceptions()
        for cause, note in with_notes:
            found += _places(cause, f"{path}.{note.name}" if path else note.name)
        for cause in without:
            found += _places(cause, path)
    elif isinstance(error, IterableValidationError):
        items, without = error.group_exceptions()
        for cause, index in items:
            found += _places(cause, f"{path}[{index.index}]")
        for cause in without:
            found += _places(cause, path)
    elif isinstance(error, WireError):
        found.append((error.path or path, error.detail))
    elif isinstance(error, _FieldError):
        found.append((path, str(error)))
    elif isinstance(error, KeyError):
        # Inside a class cattrs notes the missing field itself, so the path is already complete.
        found.append((path, "is missing"))
    else:
        found.append((path, "is not what the contract allows"))
    return found


def structure(data: object, kind: type[T]) -> T:
    """Build a value from parsed JSON.

    Raises:
        WireError: With every place that is wrong; never a value. Not retryable.
    """
    if attrs.has(kind) and not isinstance(data, Mapping):
        raise WireError("the body is not a JSON object.", path="", errors=(("", "is not an object"),))
    try:
        return _CONVERTER.structure(data, kind)
    except Exception as error:  # noqa: BLE001 (cattrs raises groups of anything)
        errors = tuple(_places(error, ""))
        places = ", ".join(f"{path or 'body'} {message}" for path, message in errors[:5])
        # The cause holds the refused values, secrets among them: it must not travel with the error.
        raise WireError(f"the message does not fit: {places}.", path=errors[0][0], errors=errors) from None


def unstructure(value: object) -> Any:
    """Turn a model into what JSON can say."""
    return _CONVERTER.unstructure(value)


def dumps(value: object) -> bytes:
    """A model as JSON text in UTF-8."""
    return json.dumps(unstructure(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def loads(text: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        WireError: It is not JSON. Not retryable.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if _has_escaped_surrogate(text):
            # Half a character can be parsed, and then neither stored nor sent.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON.", code="bad-json") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _has_escaped_surrogate(text: bytes | str) -> bool:
    return b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower()


def unknown_fields(data: object, kind: type) -> tuple[str, ...]:
    """Names at the top of ``data`` that ``kind`` does not know, sorted; they are tolerated and counted."""
    if not isinstance(data, Mapping) or not attrs.has(kind):
        return ()
    known = {entry.name for entry in attrs.fields(kind)}
    return tuple(sorted(str(name) for name in data if name not in known))
