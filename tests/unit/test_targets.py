"""Merging: identity, whose word counts, what is left out, and which credential a target gets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from attrs import evolve

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import Computer, Enumeration
from msp_sdk.models.credential import Credential, CredentialType
from msp_sdk.models.target import ManualTarget, MergeResult
from msp_sdk.secret import Secret
from msp_sdk.targets import TargetMerger
from msp_sdk.targets.identity import parse_reference

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def never_opened() -> Secret:
    raise AssertionError("merging opens no secret")


def credential(
    name: str, kind: CredentialType = "service_account", *, host: str | None = None, domain: str | None = None
) -> Credential:
    if domain is None and kind in ("service_account", "domain_admin"):
        domain = "corp.example"
    return Credential(name, 1, kind, "user", never_opened, domain_name=domain, host=host)


def computer(name: str, role: str = "server", **more: object) -> Computer:
    facts: dict[str, object] = {
        "object_guid": f"guid-{name}",
        "sam_account_name": f"{name.upper()}$",
        "hostname": name.upper(),
        "role": role,
        "is_server": role in ("server", "domain_controller"),
        "is_workstation": role == "workstation",
        "is_domain_controller": role == "domain_controller",
        "fqdn": f"{name}.corp.example",
        "domain_name": "corp.example",
        "ip_addresses": (f"10.0.0.{sum(map(ord, name)) % 250 + 1}",),
    }
    return Computer(**{**facts, **more})  # type: ignore[arg-type]


def test_short_name_full_name_and_address_are_one_target():
    # Lesson 30.
    manual = [ManualTarget("SRV1", port=15986), ManualTarget("srv1.corp.example."), ManualTarget("10.0.0.5")]
    result = TargetMerger().merge(manual=manual, enumerated=[computer("srv1", ip_addresses=("10.0.0.5",))])
    (target,) = result.targets
    assert (target.object_guid, target.port, target.fqdn) == ("guid-srv1", 15986, "srv1.corp.example")
    assert target.ip_addresses == ("10.0.0.5",)


def test_short_and_full_name_are_one_target_without_a_directory_too():
    result = TargetMerger().merge(manual=[ManualTarget("SRV1", role="workstation"), ManualTarget("srv1.corp.example")])
    (target,) = result.targets
    assert (target.hostname, target.role) == ("srv1.corp.example", "workstation")


def test_two_computers_with_one_address_stay_two():
    # Lesson 54's stale record, seen from here: an address never joins two objectGUIDs.
    one, two = computer("srv1", ip_addresses=("10.0.0.5",)), computer("srv2", ip_addresses=("10.0.0.5",))
    result = TargetMerger().merge(enumerated=[one, two])
    assert [(target.object_guid, target.ip_addresses) for target in result.targets] == [
        ("guid-srv1", ("10.0.0.5",)),
        ("guid-srv2", ("10.0.0.5",)),
    ]


def test_short_name_of_two_domains_is_given_to_neither():
    other = computer("srv1", object_guid="guid-other", fqdn="srv1.lab.example", domain_name="lab.example")
    result = TargetMerger().merge(manual=[ManualTarget("srv1", port=1)], enumerated=[computer("srv1"), other])
    assert sorted((target.object_guid or "", target.port) for target in result.targets) == [
        ("", 1),
        ("guid-other", None),
        ("guid-srv1", None),
    ]


def test_one_computer_read_twice_is_one():
    probed = computer("srv1", reachable=True, doors=(5985,))
    without_guid = computer("srv1", object_guid="", sid="S-1-5-21-1-2-3-1104")
    with_guid = evolve(probed, sid="s-1-5-21-1-2-3-1104", object_guid="GUID-SRV1")
    (target,) = TargetMerger().merge(enumerated=[without_guid, with_guid, computer("srv1")]).targets
    assert target.doors == (5985,)


def test_manual_wins_field_by_field():
    # Lesson 31.
    manual = [ManualTarget("srv1.corp.example", port=15985, use_ssl=True, credential_id="mine")]
    (target,) = (
        TargetMerger().merge(manual=manual, credentials=[credential("svc")], enumerated=[computer("srv1")]).targets
    )
    assert (target.port, target.use_ssl, target.credential_id) == (15985, True, "mine")
    assert (target.role, target.fqdn, target.object_guid) == ("server", "srv1.corp.example", "guid-srv1")
    assert target.provenance["port"] == "manual"
    assert target.provenance["role"] == "directory"


def test_manual_target_survives_merge():
    # Lesson 31, and 29: what a person set is there whatever the directory says.
    manual = [ManualTarget("printer-pc")]
    for enumerated in (None, [], [computer("srv1")]):
        names = [target.hostname for target in TargetMerger().merge(manual=manual, enumerated=enumerated).targets]
        assert "printer-pc" in names


def test_check_in_without_a_new_enumeration_wipes_nothing():
    # Lesson 29.
    merger = TargetMerger()
    computers = [computer("srv1", reachable=True, doors=(5986,)), computer("old", skipped_reason="stale")]
    first = merger.merge(enumerated=computers)
    again = merger.merge(manual=[ManualTarget("extra")], enumerated=None, previous=first)
    assert [target.key for target in again.targets] == ["extra", "guid-srv1"]
    assert again.targets[1].doors == (5986,)
    assert again.skipped == first.skipped
    assert merger.merge(manual=[ManualTarget("extra")], enumerated=computers, previous=again).targets == again.targets


def test_computer_that_left_the_directory_is_listed_with_its_reason():
    merger = TargetMerger()
    before = merger.merge(enumerated=[computer("srv1"), computer("srv2")])
    after = merger.merge(enumerated=[computer("srv2")], previous=before)
    assert [target.hostname for target in after.targets] == ["SRV2"]
    assert [(entry.hostname, entry.reason) for entry in after.skipped] == [("SRV1", "not-in-directory")]


def test_reading_one_domain_says_nothing_of_another():
    merger = TargetMerger()
    other = computer("lab1", fqdn="lab1.lab.example", domain_name="lab.example")
    before = merger.merge(enumerated=Enumeration("lab.example", (other,), NOW, "dc1"))
    after = merger.merge(enumerated=Enumeration("corp.example", (computer("srv1"),), NOW, "dc2"), previous=before)
    assert [target.hostname for target in after.targets] == ["LAB1", "SRV1"]
    assert after.skipped == ()


def test_twenty_thousand_computers_are_merged_by_look_up_and_not_by_comparing_each_with_each():
    # Comparing each with each takes minutes, which ends the test.
    computers = [
        computer(f"ws{number}", ip_addresses=(f"10.1.{number // 250}.{number % 250}",)) for number in range(20_000)
    ]
    manual = [ManualTarget(f"ws{number}", excluded=number % 2 == 0) for number in range(1000)]
    result = TargetMerger().merge(manual=manual, credentials=[credential("svc")], enumerated=computers)
    assert (len(result.targets), len(result.skipped)) == (19_500, 500)


@pytest.mark.parametrize("spelling", ["SRV1", "srv1.corp.example", "SRV1.CORP.EXAMPLE.", "10.0.0.5", "::ffff:10.0.0.5"])
def test_exclusion_is_absolute_in_every_spelling(spelling: str):
    # Lesson 31.
    manual = [ManualTarget(spelling, excluded=True), ManualTarget("srv1"), ManualTarget("srv1.corp.example", port=1)]
    result = TargetMerger().merge(
        manual=manual,
        credentials=[credential("own", "winrm", host="SRV1")],
        enumerated=[computer("srv1", ip_addresses=("10.0.0.5",))],
    )
    assert result.targets == ()
    assert [(entry.hostname, entry.reason) for entry in result.skipped] == [("SRV1", "excluded")]


def test_exclusion_that_may_mean_two_machines_excludes_both():
    other = computer("srv1", object_guid="guid-other", fqdn="srv1.lab.example", domain_name="lab.example")
    result = TargetMerger().merge(manual=[ManualTarget("srv1", excluded=True)], enumerated=[computer("srv1"), other])
    assert result.targets == ()
    assert {entry.object_guid for entry in result.skipped} == {"guid-srv1", "guid-other"}


def test_ambiguous_address_is_no_back_door_to_an_excluded_machine():
    shared = [computer("srv1", ip_addresses=("10.0.0.5",)), computer("srv2", ip_addresses=("10.0.0.5",))]
    manual = [ManualTarget("srv1", excluded=True), ManualTarget("10.0.0.5")]
    result = TargetMerger().merge(manual=manual, enumerated=shared)
    assert [target.object_guid for target in result.targets] == ["guid-srv2"]


def test_lifted_exclusion_brings_the_computer_back_before_the_next_enumeration():
    merger = TargetMerger()
    excluded = merger.merge(manual=[ManualTarget("srv1", excluded=True)], enumerated=[computer("srv1")])
    lifted = merger.merge(previous=excluded)
    assert [target.object_guid for target in lifted.targets] == ["guid-srv1"]


def test_left_out_computers_are_listed_with_their_reasons():
    reasons = ("disabled-account", "stale", "not-windows", "vendor-managed", "no-name")
    computers = [computer(f"c{number}", skipped_reason=code) for number, code in enumerate(reasons)]
    result = TargetMerger().merge(enumerated=computers)
    assert result.targets == ()
    assert [entry.reason for entry in result.skipped] == list(reasons)


def test_a_persons_word_makes_a_target_of_a_vendor_managed_machine():
    # Lesson 61: untouched until a person approves.
    imaging = computer("mri", "workstation", skipped_reason="vendor-managed")
    result = TargetMerger().merge(manual=[ManualTarget("mri")], enumerated=[imaging])
    assert [target.object_guid for target in result.targets] == ["guid-mri"]


def test_disabled_computer_stays_left_out_though_a_person_names_it():
    # Lesson 26: no domain logon can succeed at a computer whose own account is disabled.
    left = computer("old", skipped_reason="disabled-account", enabled=False)
    result = TargetMerger().merge(
        manual=[ManualTarget("old")], credentials=[credential("c1")], enumerated=[left]
    )  # fmt: skip
    assert result.targets == ()
    assert [(entry.hostname, entry.reason) for entry in result.skipped] == [("OLD", "disabled-account")]


def test_disabled_computer_is_a_target_by_a_persons_word_and_an_account_of_its_own():
    left = computer("old", skipped_reason="disabled-account", enabled=False)
    manual = [ManualTarget("old")]
    for own in (credential("own", "winrm", host="old"), credential("everywhere", "local_admin")):
        result = TargetMerger().merge(manual=manual, credentials=[own], enumerated=[left])
        assert [target.credential_id for target in result.targets] == [own.id]
    result = TargetMerger().merge(credentials=[credential("own", "winrm", host="old")], enumerated=[left])
    assert result.targets == (), "a credential alone is no word for it"


def test_address_that_probing_found_is_kept_with_what_probing_found():
    # Lesson 57: without it the connection would go by the system's resolver.
    manual = [ManualTarget("kiosk.lobby.test")]
    (plain,) = TargetMerger().merge(manual=manual).targets
    probed = evolve(
        plain, reachable=True, doors=(5986,), ip_addresses=("10.0.0.7",),
        provenance={**plain.provenance, "reachable": "probe", "doors": "probe", "ip_addresses": "probe"},
    )  # fmt: skip
    before = MergeResult((probed,))
    assert TargetMerger().merge(manual=manual, previous=before).targets == (probed,)


def test_unreachable_computer_stays_a_target():
    asleep = computer("ws1", "workstation", reachable=False, unreachable_reason="no-answer")
    (target,) = TargetMerger().merge(enumerated=[asleep]).targets
    assert (target.reachable, target.unreachable_reason, target.provenance["reachable"]) == (
        False,
        "no-answer",
        "probe",
    )


def test_credential_of_one_host_makes_it_a_target():
    (target,) = TargetMerger().merge(credentials=[credential("own", "winrm", host="kiosk")]).targets
    assert (target.hostname, target.credential_id, target.provenance["hostname"]) == ("kiosk", "own", "credential")


def test_credential_of_a_domain_is_never_a_target():
    assert TargetMerger().merge(credentials=[credential("svc"), credential("site", "local_admin")]).targets == ()


def test_credentials_are_chosen_by_the_least_reach():
    own, local = credential("own", "winrm", host="srv1"), credential("site", "local_admin")
    service, admin = credential("svc"), credential("adm", "domain_admin")
    held = [admin, service, local, own]
    chosen = []
    while held:
        (target,) = TargetMerger().merge(credentials=held, enumerated=[computer("srv1")]).targets
        chosen.append(target.credential_id)
        held.pop()
    assert chosen == ["own", "site", "svc", None]


def test_domain_administrator_goes_to_hosts_only_where_the_site_allows_it():
    admin = [credential("adm", "domain_admin")]
    hosts = [computer("dc1", "domain_controller"), computer("srv1")]
    strict = TargetMerger().merge(credentials=admin, enumerated=hosts)
    loose = TargetMerger(SitePolicy(allow_domain_admin_on_hosts=True)).merge(credentials=admin, enumerated=hosts)
    assert [target.credential_id for target in strict.targets] == ["adm", None]
    assert [target.credential_id for target in loose.targets] == ["adm", "adm"]


def test_controller_never_gets_the_sites_local_administrator():
    held = [credential("site", "local_admin"), credential("svc")]
    (target,) = TargetMerger().merge(credentials=held, enumerated=[computer("dc1", "domain_controller")]).targets
    assert target.credential_id == "svc"


def test_credential_of_another_domain_is_not_used():
    foreign = credential("svc", domain="lab.example")
    (target,) = TargetMerger().merge(credentials=[foreign], enumerated=[computer("srv1")]).targets
    assert target.credential_id is None


def test_full_manual_name_in_a_credentials_domain_gets_that_credential():
    (target,) = (
        TargetMerger().merge(manual=[ManualTarget("srv9.corp.example")], credentials=[credential("svc")]).targets
    )
    assert (target.domain_name, target.credential_id) == ("corp.example", "svc")
    (short,) = TargetMerger().merge(manual=[ManualTarget("srv9")], credentials=[credential("svc")]).targets
    assert short.credential_id is None


@pytest.mark.parametrize(
    ("text", "kind", "folded"),
    [
        (" SRV1 ", "name", "srv1"),
        ("Srv1.Corp.Example.", "fqdn", "srv1.corp.example"),
        ("10.0.0.5", "address", "10.0.0.5"),
        ("[FE80::0:1]", "address", "fe80::1"),
        ("STRASSE", "name", "strasse"),
    ],
)
def test_reference_is_read_as_people_write_it(text: str, kind: str, folded: str):
    reference = parse_reference(text)
    assert (reference.kind, reference.text) == (kind, folded)
