"""Whatever a directory sends, classify answers, and answers consistently."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from msp_sdk.directory.entry import Entry, escape_dn, ou_path, parse_sid, render_sid, split_dn
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, ServiceAccount, classify
from msp_sdk.models.reason import REASONS

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


@settings(deadline=None)
@given(ENTRIES, st.text(max_size=60))
def test_nothing_breaks_it_and_nothing_is_dropped_without_a_reason(attributes, dn):
    found = classify(Entry(dn, attributes), domain_name="x.test", now=NOW)
    if isinstance(found, ServiceAccount):
        return
    assert found.is_domain_controller == (found.role == "domain_controller")
    assert found.is_server == (found.role in ("server", "domain_controller"))
    assert found.is_workstation == (found.role == "workstation")
    assert found.role != "other" or found.skipped_reason is not None
    assert found.skipped_reason is None or found.skipped_reason in REASONS
    assert found.enabled or found.skipped_reason is not None


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
