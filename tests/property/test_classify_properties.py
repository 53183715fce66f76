"""Whatever a directory sends, classify answers, and answers consistently."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from central_app.computers.entries import read_entries
from msp_sdk.directory.entry import Entry, escape_dn, ou_path, parse_guid, parse_sid, render_sid, split_dn
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, ServiceAccount, classify
from msp_sdk.models.computer import Computer
from msp_sdk.models.reason import REASONS
from msp_sdk.models.scope import fold_path
from msp_sdk.wire.converter import dumps, loads, structure

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = st.sampled_from(["Windows", "Server", "10", "Enterprise", "Linux", "IoT", "2008", "R2", "®", "Samba", ""])
VALUES = st.one_of(
    st.binary(max_size=40),
    st.integers().map(lambda number: str(number).encode()),
    st.lists(WORDS, max_size=5).map(lambda words: " ".join(words).encode()),
)
ENTRIES = st.dictionaries(
    st.sampled_from([name.lower() for name in COMPUTER_ATTRIBUTES]), st.lists(VALUES, max_size=3).map(tuple)
)
GUIDS = st.binary(min_size=16, max_size=16).map(lambda guid: {"objectguid": guid})
TEXTS = st.one_of(st.binary(max_size=400), st.text(max_size=400).map(str.encode), VALUES)
TEXT_ENTRIES = st.dictionaries(
    st.sampled_from(
        ["samaccountname", "dnshostname", "name", "operatingsystem", "operatingsystemversion", "managedby"]
    ),
    TEXTS,
)


@settings(deadline=None)
@given(ENTRIES, st.text(max_size=60))
def test_nothing_breaks_it_and_nothing_is_dropped_without_a_reason(attributes, dn):
    found = classify(Entry(dn, attributes), domain_name="x.test", now=NOW)
    if not isinstance(found, Computer):
        assert isinstance(found, ServiceAccount) or parse_guid(Entry(dn, attributes).value("objectGUID")) is None
        return
    assert found.is_domain_controller == (found.role == "domain_controller")
    assert found.is_server == (found.role in ("server", "domain_controller"))
    assert found.is_workstation == (found.role == "workstation")
    assert found.role != "other" or found.skipped_reason is not None
    assert found.skipped_reason is None or found.skipped_reason in REASONS
    assert found.enabled or found.skipped_reason is not None


@settings(deadline=None)
@given(TEXT_ENTRIES, GUIDS, st.text(max_size=60))
def test_every_computer_can_be_kept_by_central(attributes, guid, dn):
    # One that cannot would have the whole report refused, for ever.
    found = classify(Entry(dn, {**attributes, **guid}), domain_name="x.test", now=NOW)
    assert isinstance(found, Computer)
    data = loads(dumps(found))
    batch = read_entries([("results.others[0]", data)])
    assert (len(batch.rows), batch.refused) == (1, ())
    assert structure(data, Computer) == found
    assert not any(unicodedata.category(character) == "Cc" for text in data.values() if isinstance(text, str)
                   for character in text)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aB/\\, ", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=4))
def test_a_path_of_containers_is_read_as_it_was_written(names):
    dn = ",".join(["CN=X", *(f"OU={escape_dn(name)}" for name in reversed(names)), "DC=x"])
    assert fold_path(ou_path(dn)) == tuple(name.strip().casefold() for name in names)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_a_name_survives_its_escapes(name):
    assert split_dn(f"CN={escape_dn(name)},DC=x") == (("CN", name), ("DC", "x"))


@settings(deadline=None)
@given(st.text())
def test_any_text_has_a_path(dn):
    assert isinstance(ou_path(dn), str)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=15))
def test_a_sid_survives_its_bytes(parts):
    sid = "-".join(["S-1-5", *map(str, parts)])
    assert parse_sid(render_sid(sid)) == sid
