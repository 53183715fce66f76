"""Models and JSON: strict about kinds, exact about places, silent about values."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

import pytest
from attrs import field, frozen

from msp_sdk.errors import MspError, WireError
from msp_sdk.models.checkin import CheckinReply, CheckinRequest
from msp_sdk.models.computer import EnumerationReport
from msp_sdk.models.credential import NewCredential, NewDomainCredential
from msp_sdk.models.provision import ClaimRequest
from msp_sdk.models.site import NewSite
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import (
    decode_bytes,
    dumps,
    encode_bytes,
    loads,
    parse_instant,
    render_instant,
    structure,
    unknown_fields,
    unstructure,
)

CHECKIN = {
    "site_id": "s",
    "hostname": "box",
    "mac_address": "00:11:22:33:44:55",
    "ip_addresses": ["10.0.0.5"],
    "uptime_seconds": 1.5,
    "agent_version": "0.1.0",
    "nixos_version": "24.05",
}


@frozen
class Leaf:
    name: str
    count: int = 0
    role: Literal["a", "b"] = "a"
    share: float = 0.0
    on: bool = False
    at: datetime | None = None
    blob: bytes = b""
    secret: Secret | None = None


@frozen
class Tree:
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, Leaf] = field(factory=dict)
    numbers: Mapping[str, int] = field(factory=dict)
    free: Mapping[str, object] = field(factory=dict)


def places(data: object, kind: type) -> list[tuple[str, str]]:
    with pytest.raises(WireError) as caught:
        structure(data, kind)
    return list(caught.value.errors)


def test_the_seven_fields_of_a_first_check_in_are_enough():
    request = structure(CHECKIN, CheckinRequest)
    assert (request.uptime_seconds, request.completed, request.credentials_version) == (1.5, None, None)


def test_whole_numbers_are_fine_where_a_float_is_meant():
    assert structure({**CHECKIN, "uptime_seconds": 12}, CheckinRequest).uptime_seconds == 12.0


def test_null_and_empty_are_two_things():
    # lesson 13: an empty list says "forget what you had", null says "unchanged".
    base = {"status": "ok", "appliance_id": "a", "server_time": "2026-01-01T00:00:00Z"}
    assert structure({**base, "domain_credentials": None}, CheckinReply).domain_credentials is None
    assert structure({**base, "domain_credentials": []}, CheckinReply).domain_credentials == ()
    assert unstructure(structure({**base, "domain_credentials": []}, CheckinReply))["domain_credentials"] == []
    assert unstructure(structure(base, CheckinReply))["domain_credentials"] is None


def test_unknown_fields_are_tolerated_and_counted():
    # lesson 17: what one side sends and the other does not know is not lost without a trace.
    data = {**CHECKIN, "zeta": 1, "alpha": {"deep": [1]}}
    assert structure(data, CheckinRequest) == structure(CHECKIN, CheckinRequest)
    assert unknown_fields(data, CheckinRequest) == ("alpha", "zeta")
    assert unknown_fields([1], CheckinRequest) == ()
    assert unknown_fields({}, str) == ()


def test_errors_name_every_place_with_its_path():
    data = {
        "leaves": [{"name": "a"}, {"name": 1, "count": "x", "share": "y", "on": 1}, {"count": 2}, "no"],
        "by_name": {"k": {"name": None}},
        "numbers": {"n": "one"},
    }
    found = dict(places(data, Tree))
    assert found["leaves[1].name"] == "is not text"
    assert found["leaves[1].count"] == "is not a whole number"
    assert found["leaves[1].share"] == "is not a number"
    assert found["leaves[1].on"] == "is not true or false"
    assert found["leaves[2].name"] == "is missing"
    assert any(path.startswith("leaves[3]") for path in found)
    assert any(path.startswith("by_name") for path in found)
    assert any(path.startswith("numbers") for path in found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", None, "is not text"),
        ("name", 5, "is not text"),
        ("name", ["a"], "is not text"),
        ("count", True, "is not a whole number"),
        ("count", 1.0, "is not a whole number"),
        ("count", "1", "is not a whole number"),
        ("share", True, "is not a number"),
        ("on", 0, "is not true or false"),
        ("on", "true", "is not true or false"),
        ("blob", 5, "is not text"),
        ("blob", "ä", "is not base64url"),
        ("at", "yesterday", "is not an RFC 3339 instant"),
        ("at", "2026-01-01T00:00:00", "has no time zone"),
        ("at", 5, "is not text"),
        ("secret", 5, "is not text"),
        ("role", "c", "is not what the contract allows"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_at_its_place(name, value, message):
    assert (name, message) in places({"name": "a", name: value}, Leaf)


@pytest.mark.parametrize("body", [None, [], "text", 5, True])
def test_a_body_that_is_no_object_is_said_to_be_none(body):
    with pytest.raises(WireError) as caught:
        structure(body, CheckinRequest)
    assert caught.value.errors == (("", "is not an object"),)


def test_an_error_never_repeats_a_value():
    # A request that is almost right holds a password; its error goes into replies and logs.
    password = "Tr0ub4dor&3"
    cases: list[tuple[object, type]] = [
        ({"domain_name": password, "username": [password], "password": password}, NewDomainCredential),
        ({"type": password, "username": "u", "password": password}, NewCredential),
        ({"type": "winrm", "username": "u", "password": [password]}, NewCredential),
        ({"type": "winrm", "username": "u", "password": {"value": password}}, NewCredential),
        ({"type": "winrm", "username": "u", "password": password, "port": password}, NewCredential),
        ({"provision_code": password, "mac_address": 5, "device_keys": {"signing": password}}, ClaimRequest),
    ]
    for data, kind in cases:
        with pytest.raises(MspError) as caught:
            structure(data, kind)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(vars(caught.value))
        assert password not in shown
        assert caught.value.__cause__ is None


MISSHAPEN = [
    ({**CHECKIN, "ip_addresses": "10.0.0.5"}, CheckinRequest, "ip_addresses", "is not a list"),
    ({**CHECKIN, "ip_addresses": {"a": 1}}, CheckinRequest, "ip_addresses", "is not a list"),
    ({"name": "a", "scope": "everything"}, NewSite, "scope", "is not an object"),
    ({"name": "a", "scope": []}, NewSite, "scope", "is not an object"),
    (
        {"type": "winrm", "username": "u", "password": "p", "trusted_certificates": ["ab"]},
        NewCredential,
        "trusted_certificates[0]",
        "is not an object",
    ),
]


@pytest.mark.parametrize(("data", "kind", "path", "message"), MISSHAPEN)
def test_text_is_no_list_and_no_object(data, kind, path, message):
    # Read letter by letter it would pass as a list, and as an object with nothing but defaults.
    assert (path, message) in places(data, kind)


@pytest.mark.parametrize("text", ["a+b/", "-_+/"])
def test_the_other_base64_is_not_taken_for_ours(text):
    # Two spellings of one key would be two devices.
    with pytest.raises(ValueError, match="is not base64url"):
        decode_bytes(text)


def test_an_error_keeps_no_hold_on_the_refused_value():
    """Not even through ``__context__``, which a logger with locals would follow."""
    with pytest.raises(WireError) as caught:
        structure({"type": "winrm", "username": 5, "password": "Tr0ub4dor&3"}, NewCredential)
    assert caught.value.__suppress_context__


def test_bytes_are_base64url_without_padding():
    for blob in (b"", b"\xfb\xff", bytes(range(256))):
        text = encode_bytes(blob)
        assert not set(text) & set("+/=")
        assert decode_bytes(text) == blob
        assert decode_bytes(text + "=" * (-len(text) % 4)) == blob


@pytest.mark.parametrize("text", ["a", "ab c", "ab\n", "abc$", "ä"])
def test_what_is_not_base64url_is_refused(text):
    with pytest.raises(ValueError, match="is not base64url"):
        decode_bytes(text)


def test_instants_are_rfc_3339_in_utc():
    tokyo = datetime(2026, 1, 1, 9, 30, 15, 5, tzinfo=timezone(timedelta(hours=9)))
    assert render_instant(tokyo) == "2026-01-01T00:30:15.000005Z"
    assert parse_instant("2026-01-01T09:30:15.000005+09:00") == tokyo
    assert parse_instant("2026-01-01T09:30:15+09:00").tzinfo is UTC


def test_a_naive_instant_is_never_sent():
    with pytest.raises(WireError) as caught:
        dumps(Leaf("a", at=datetime(2026, 1, 1)))  # noqa: DTZ001 (that it has no zone is what is tested)
    assert caught.value.code == "naive-instant"


def test_text_stays_as_it_is_in_utf_8():
    assert dumps(Leaf("Ärztehaus <script>")).decode().startswith('{"name":"Ärztehaus <script>"')


def test_what_json_cannot_say_is_not_said():
    # Python would write NaN, which no other reader understands.
    with pytest.raises(ValueError, match="JSON"):
        dumps(Leaf("a", share=float("nan")))


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b"\xff\xfe", b"[" * 100_000, '{"a":1}x'])
def test_broken_json_is_a_clear_error(text):
    with pytest.raises(WireError) as caught:
        loads(text)
    assert caught.value.code == "bad-json"


def test_a_free_field_takes_anything_and_gives_it_back():
    free = {"a": [1, {"b": None}], "c": "d", "e": 1.5, "f": True}
    tree = structure({"leaves": [], "free": free}, Tree)
    assert json.loads(dumps(tree))["free"] == free


def test_a_long_list_of_errors_is_cut_in_the_sentence_but_not_in_the_list():
    found = places({"leaves": [{"name": 1}] * 50}, Tree)
    assert len(found) == 50
    with pytest.raises(WireError) as caught:
        structure({"leaves": [{"name": 1}] * 50}, Tree)
    assert len(str(caught.value)) < 400


def test_a_report_with_nothing_in_it_is_still_a_report():
    assert structure({"report_id": "r"}, EnumerationReport).results is None


@pytest.mark.parametrize("text", ['"\\ud800"', '{"a": ["\\uDFFF"]}', "NaN", '{"a": -Infinity}'])
def test_json_that_can_be_neither_stored_nor_sent_is_no_json(text: str) -> None:
    for body in (text, text.encode()):
        with pytest.raises(WireError) as caught:
            loads(body)
        assert caught.value.code == "bad-json"


def test_escaped_pair_of_surrogates_is_one_character() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@frozen
class Numbers:
    count: int = 0
    share: float = 0.0


@pytest.mark.parametrize("text", ['{"count": 9223372036854775808}', '{"share": 1e999}', '{"share": -1e999}'])
def test_number_that_nothing_of_ours_can_be_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(WireError) as caught:
        structure(loads(text), Numbers)
    assert caught.value.path in ("count", "share")
