"""Laws of merging: lessons 29 to 31, for any sources in any order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import Credential
from msp_sdk.models.target import ManualTarget
from msp_sdk.secret import Secret
from msp_sdk.targets import TargetMerger
from msp_sdk.targets.identity import distinct, parse_reference

NAMES = st.sampled_from(["srv1", "SRV1", "srv2", "ws1"])
DOMAINS = st.sampled_from(["corp.example", "lab.example"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
SPELLINGS = st.one_of(NAMES, st.builds("{}.{}".format, NAMES, DOMAINS), ADDRESSES)
REASONS = st.sampled_from([None, None, None, "stale", "disabled-account", "vendor-managed"])


@st.composite
def computers(draw: st.DrawFn) -> Computer:
    name, domain = draw(NAMES), draw(DOMAINS)
    return Computer(
        object_guid=draw(st.sampled_from(["g1", "G1", "g2", "g3", ""])),
        sam_account_name=f"{name}$",
        hostname=name,
        role=draw(st.sampled_from(["server", "workstation", "domain_controller"])),
        is_server=True,
        is_workstation=False,
        is_domain_controller=False,
        sid=draw(st.sampled_from([None, "S-1", "s-1", "S-2"])),
        fqdn=draw(st.sampled_from([f"{name}.{domain}", None])),
        domain_name=draw(st.sampled_from([domain, None])),
        ip_addresses=tuple(draw(st.lists(ADDRESSES, max_size=2, unique=True))),
        reachable=draw(st.sampled_from([None, True, False])),
        skipped_reason=draw(REASONS),
    )


MANUAL = st.lists(
    st.builds(
        ManualTarget,
        hostname=SPELLINGS,
        port=st.sampled_from([None, 5985, 15986]),
        role=st.sampled_from([None, "workstation"]),
        credential_id=st.sampled_from([None, "own"]),
        excluded=st.sampled_from([False, False, False, True]),
    ),
    max_size=5,
)
CREDENTIALS = st.lists(
    st.builds(
        lambda number, kind, host: Credential(
            f"c{number}",
            1,
            kind,
            "user",
            lambda: Secret(""),
            domain_name="corp.example" if kind in ("service_account", "domain_admin") else None,
            host=host if kind in ("winrm", "local_admin") else None,
        ),
        st.integers(0, 9),
        st.sampled_from(["winrm", "local_admin", "service_account", "domain_admin"]),
        SPELLINGS,
    ),
    max_size=3,
    unique_by=lambda entry: entry.id,
)
DIRECTORY = st.lists(computers(), max_size=5)
MERGER = TargetMerger(SitePolicy(allow_domain_admin_on_hosts=True))


@settings(max_examples=150, deadline=None)
@given(MANUAL, CREDENTIALS, DIRECTORY, st.none() | DIRECTORY)
def test_merging_again_changes_nothing(manual, credentials, directory, before):
    earlier = None if before is None else MERGER.merge(enumerated=before)
    once = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory, previous=earlier)
    again = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory, previous=once)
    assert again == once


@settings(max_examples=150, deadline=None)
@given(MANUAL, CREDENTIALS, DIRECTORY, st.randoms(use_true_random=False))
def test_order_of_the_sources_does_not_matter(manual, credentials, directory, random):
    expected = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory)
    for source in (manual, credentials, directory):
        random.shuffle(source)
    assert MERGER.merge(manual=manual, credentials=credentials, enumerated=directory) == expected


@settings(max_examples=150, deadline=None)
@given(MANUAL, CREDENTIALS, DIRECTORY)
def test_every_computer_is_a_target_or_is_skipped_and_never_both(manual, credentials, directory):
    result = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory)
    listed = [entry.object_guid.casefold() for entry in (*result.targets, *result.skipped) if entry.object_guid]
    assert sorted(listed) == sorted({entry.object_guid.casefold() for entry in directory if entry.object_guid})
    nameless = [entry for entry in distinct(directory).values() if not entry.object_guid]
    names = [entry.hostname.casefold() for entry in (*result.targets, *result.skipped)]
    fqdns = [(entry.fqdn or "").casefold() for entry in result.targets]
    for entry in nameless:
        assert entry.hostname.casefold() in names or (entry.fqdn or "?").casefold() in fqdns or result.targets


@settings(max_examples=150, deadline=None)
@given(MANUAL, CREDENTIALS, DIRECTORY)
def test_nothing_appears_without_a_source(manual, credentials, directory):
    result = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory)
    spoken = {parse_reference(entry.hostname) for entry in manual}
    spoken |= {parse_reference(entry.host) for entry in credentials if entry.host}
    spoken |= {parse_reference(entry.hostname) for entry in directory}
    for entry in (*result.targets, *result.skipped):
        assert parse_reference(entry.hostname) in spoken


@settings(max_examples=150, deadline=None)
@given(MANUAL, CREDENTIALS, DIRECTORY)
def test_manual_wins_and_exclusion_is_absolute(manual, credentials, directory):
    result = MERGER.merge(manual=manual, credentials=credentials, enumerated=directory)
    excluded = {parse_reference(entry.hostname) for entry in manual if entry.excluded}
    for target in result.targets:
        own = {parse_reference(target.hostname)}
        if target.fqdn:
            own.add(parse_reference(target.fqdn))
        assert not own & excluded
        wishes = [entry for entry in manual if parse_reference(entry.hostname) == parse_reference(target.hostname)]
        ports = {entry.port for entry in wishes} - {None}
        if target.provenance["hostname"] == "manual" and ports:
            assert target.port in ports


@settings(max_examples=150, deadline=None)
@given(MANUAL, DIRECTORY)
def test_unread_directory_is_remembered(manual, directory):
    # Lesson 29: a check-in without a new reading wipes nothing that was found.
    before = MERGER.merge(manual=manual, enumerated=directory)
    after = MERGER.merge(manual=manual, enumerated=None, previous=before)
    # Of who was excluded only the short name is remembered: where that fits several, all of them are left out.
    excluded = {entry.object_guid for entry in after.skipped if entry.reason == "excluded"}
    assert {target.object_guid for target in before.targets if target.object_guid} <= excluded | {
        target.object_guid for target in after.targets
    }
    if not any(entry.excluded for entry in manual):
        assert not excluded
