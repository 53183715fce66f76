"""Every model that crosses the wire comes back as it went, through real JSON text."""

from __future__ import annotations

import importlib
import json
import pkgutil
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msp_sdk import models
from msp_sdk.errors import WireError
from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults
from msp_sdk.models.credential import Credential
from msp_sdk.models.page import Page
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import dumps, loads, structure
from msp_sdk.wire.ndjson import NdjsonReader, render_report, split_roles

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
# Lone surrogates are no text: UTF-8 cannot say them.
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
INSTANTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (Hypothesis wants naive bounds)
PLAIN: dict[object, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    datetime: INSTANTS,
    Secret: st.builds(Secret, TEXTS),
    object: JSON_VALUES,
    type(None): st.none(),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation, as the models use them."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values_of(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXTS, values_of(arguments[1]), max_size=2)
    if attrs.has(kind):
        fields = attrs.fields(attrs.resolve_types(kind))
        return st.builds(kind, **{entry.name: values_of(entry.type) for entry in fields})
    raise AssertionError(f"no model may hold {kind!r}")


def model_classes() -> list[type]:
    """All of ``msp_sdk.models`` but what never crosses the wire: a credential with its opener."""
    found = {}
    for module in pkgutil.iter_modules(models.__path__, "msp_sdk.models."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and attrs.has(value) and value.__module__.startswith("msp_sdk.models."):
                found[value.__qualname__] = value
    del found[Credential.__qualname__]
    # A page is of something; see its own test.
    del found[Page.__qualname__]
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("kind", model_classes(), ids=lambda kind: kind.__name__)
def test_a_model_comes_back_as_it_went(kind):
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values_of(kind))
    def come_back(value: Any) -> None:
        assert structure(loads(dumps(value)), kind) == value

    come_back()


@pytest.mark.parametrize("kind", model_classes(), ids=lambda kind: kind.__name__)
def test_a_field_of_a_newer_peer_is_tolerated(kind):
    @settings(max_examples=3, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values_of(kind))
    def tolerate(value: Any) -> None:
        document = json.loads(dumps(value))
        document["field_of_tomorrow"] = {"a": [1]}
        assert structure(document, kind) == value

    tolerate()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.builds(Page, items=st.lists(values_of(Computer), max_size=2).map(tuple), next_cursor=st.none() | TEXTS))
def test_a_page_of_models_comes_back_as_it_went(page):
    assert structure(loads(dumps(page)), Page[Computer]) == page


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=JSON_VALUES, kind=st.sampled_from(model_classes()))
def test_any_json_in_place_of_a_model_is_a_wire_error_or_a_model(data, kind):
    try:
        value = structure(data, kind)
    except WireError as error:
        assert error.errors  # noqa: PT017 (either end is fine; what is wrong is any other error)
    else:
        assert isinstance(value, kind)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(values_of(Computer), max_size=5), st.text(min_size=1, max_size=5), st.data())
def test_a_long_report_comes_back_line_by_line_or_not_at_all(computers, report_id, data):
    sorted_out = split_roles(
        EnumerationResults("full", "corp.example", datetime(2026, 1, 1, tzinfo=UTC), "dc1"), computers
    )
    report = EnumerationReport(report_id, results=sorted_out)
    lines = list(render_report(report))

    reader = NdjsonReader()
    entries = [entry for line in lines if (entry := reader.read(line[:-1])) is not None]
    reader.finish()
    assert reader.header is not None
    assert reader.header["report_id"] == report_id
    assert tuple(structure(entry.data, Computer) for entry in entries) == sorted_out.computers

    # Half a report changes nothing, wherever it breaks off.
    broken = NdjsonReader()
    for line in lines[: data.draw(st.integers(0, len(lines) - 1))]:
        broken.read(line[:-1])
    with pytest.raises(WireError):
        broken.finish()
