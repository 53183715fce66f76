"""What a script takes and what it returns: the JSON file beside its text. No I/O.

A contract says the names and types of both sides, gives an example of each, says whether the script is harmless with
that example (then it may be run on a stranger's host to record what Windows truly answers), and where its example of
an answer comes from: ``written by us``, or ``captured from Windows`` and the build.

Types are few: ``string``, ``integer``, ``boolean``; a list is ``["string"]``, an object ``{"name": type}``. A type
that ends with ``?`` may be null, and so may a list written ``["string", null]``; a name that ends with ``?`` may be
missing.

Example:
    >>> contract = parse_contract({
    ...     "input": {"service_name": "string"}, "output": {"state": "string?"}, "harmless": True,
    ...     "example": {"input": {"service_name": "Agent"}, "output": {"state": None}}, "provenance": "written by us",
    ... })
    >>> contract.trouble("input", {"service_name": 5})
    'service_name: is no string'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from msp_sdk.errors import ConfigError

Side = Literal["input", "output"]

_TYPES: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool}
_PROVENANCE = re.compile(r"written by us|captured from Windows \d+(\.\d+)+")
_KEYS = frozenset({"input", "output", "example", "harmless", "provenance"})


@frozen
class Contract:
    """See the module.

    Attributes:
        input: Names and types of the parameters.
        output: Names and types of the value.
        example_input: Parameters that fit.
        example_output: A value that fits.
        harmless: True when the script may be run with the example on any host: it changes nothing and costs little.
        provenance: Where the example of the value comes from.
    """

    input: Mapping[str, object]
    output: Mapping[str, object]
    example_input: Mapping[str, object]
    example_output: Mapping[str, object]
    harmless: bool
    provenance: str

    def trouble(self, side: Side, values: Mapping[str, object]) -> str:
        """The first place that does not fit, as ``path: why``, without the value itself; empty when all fits.

        Parameters that are not in the contract do not fit. A value may hold more than the contract says.
        """
        shape = self.input if side == "input" else self.output
        return _object_trouble(shape, values, "", closed=side == "input")


def parse_contract(document: object) -> Contract:
    """Read a contract.

    Raises:
        ConfigError: It makes no sense, or its own example does not fit.
    """
    if not isinstance(document, dict) or set(document) != _KEYS:
        raise _bad(f"its keys are not {', '.join(sorted(_KEYS))}")
    example = document["example"]
    parts = (document["input"], document["output"], *(example.values() if isinstance(example, dict) else ()))
    if (
        not isinstance(example, dict)
        or set(example) != {"input", "output"}
        or not all(isinstance(p, dict) for p in parts)
    ):
        raise _bad("input, output and both of its examples are objects")
    if not isinstance(document["harmless"], bool) or not _PROVENANCE.fullmatch(str(document["provenance"])):
        raise _bad("harmless is true or false, and provenance says who wrote the example")
    for side in ("input", "output"):
        _check_shape(document[side], side)
    contract = Contract(
        document["input"],
        document["output"],
        example["input"],
        example["output"],
        document["harmless"],
        document["provenance"],
    )
    trouble = contract.trouble("input", contract.example_input) or contract.trouble("output", contract.example_output)
    if trouble:
        raise _bad(f"its own example does not fit: {trouble}")
    return contract


def _bad(why: str) -> ConfigError:
    return ConfigError(f"the contract of a script makes no sense: {why}.", code="bad-script")


def _check_shape(shape: object, path: str) -> None:
    if isinstance(shape, dict):
        for name, inner in shape.items():
            _check_shape(inner, f"{path}.{name}")
    elif isinstance(shape, list) and shape[1:] in ([], [None]) and shape:
        _check_shape(shape[0], f"{path}[]")
    elif not isinstance(shape, str) or shape.removesuffix("?") not in _TYPES:
        raise _bad(f"{path} is no type")


def _object_trouble(shape: Mapping[str, object], values: Mapping[str, object], path: str, *, closed: bool) -> str:
    for written, inner in shape.items():
        name = written.removesuffix("?")
        here = f"{path}.{name}" if path else name
        if name not in values:
            if written == name:
                return f"{here}: is missing"
            continue
        found = _trouble(inner, values[name], here, closed=closed)
        if found:
            return found
    known = {name.removesuffix("?") for name in shape}
    extra = sorted(str(name) for name in values if name not in known)
    return f"{path}.{extra[0]}: is not in the contract".lstrip(".") if closed and extra else ""


def _trouble(shape: object, value: object, path: str, *, closed: bool) -> str:
    if isinstance(shape, dict):
        return (
            _object_trouble(shape, value, path, closed=closed) if isinstance(value, dict) else f"{path}: is no object"
        )
    if isinstance(shape, list):
        return _list_trouble(shape, value, path, closed=closed)
    name = str(shape).removesuffix("?")
    # In Python a truth is a number too; in JSON it is not.
    fits = isinstance(value, _TYPES[name]) and not (name == "integer" and isinstance(value, bool))
    return "" if fits or (value is None and name != shape) else f"{path}: is no {name}"


def _list_trouble(shape: list[object], value: object, path: str, *, closed: bool) -> str:
    if not isinstance(value, list | tuple):
        return "" if value is None and len(shape) > 1 else f"{path}: is no list"
    places = (_trouble(shape[0], entry, f"{path}[{index}]", closed=closed) for index, entry in enumerate(value))
    return next(filter(None, places), "")
