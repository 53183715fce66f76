"""Reports of appliances, over real HTTP against a real Central."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.enumeration_reports import NOW, computer, full, listed, names, report, taken

SCRIPT = "<script>alert(1)</script>"


def discovered(report_id: str, name: str = "corp.example") -> dict[str, object]:
    return {
        "report_id": report_id,
        "discovered_domain": {
            "domain_name": name,
            "domain_controllers": [f"dc1.{name}"],
            "discovered_at": NOW,
            "certificates": [{"controller": f"dc1.{name}", "sha256": "ab" * 32}],
        },
    }


def test_a_discovered_domain_is_shown_with_its_certificates(site: Any) -> None:
    taken(site, "domain-discovered", discovered("d1"))
    (found,) = listed(site, "domains")
    assert found["discovered_domain"]["certificates"] == [{"controller": "dc1.corp.example", "sha256": "ab" * 32}]


def test_what_is_known_of_controllers_and_of_hosts_in_no_directory_reaches_the_partner(site: Any) -> None:
    body = discovered("d1")
    controller = {"fqdn": "dc1.corp.example", "ad_site": "HQ", "doors": [88, 389], "is_read_only": True}
    body["discovered_domain"] |= {"controllers": [controller], "forest": "example", "netbios_name": "CORP"}  # type: ignore[operator]
    body["swept"] = [{"address": "10.0.0.9", "doors": [445, 5985], "name": "kiosk.lan"}]
    taken(site, "domain-discovered", body)
    (found,) = listed(site, "domains")
    (known,) = found["discovered_domain"]["controllers"]
    assert {name: known[name] for name in controller} == controller
    assert found["swept"][0]["reason"] == "not-in-a-directory"


def test_a_discovery_that_finds_nothing_does_not_forget_the_domain(site: Any) -> None:
    """Lesson 19."""
    taken(site, "domain-discovered", discovered("d1"))
    taken(site, "domain-discovered", {"report_id": "d2", "nothing_found": {}})
    assert listed(site, "domains")[0]["discovered_domain"]["domain_name"] == "corp.example"


@pytest.mark.parametrize("body", [{}, {**discovered("d1"), "nothing_found": {}}])
def test_a_discovery_report_holds_a_domain_or_nothing_never_both_never_neither(
    site: Any, body: dict[str, object]
) -> None:
    answer = report(site, "domain-discovered", {"report_id": "d1", **body})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"][0]["path"] == "discovered_domain"


def test_a_repeated_report_changes_nothing_and_is_answered_well(site: Any) -> None:
    """Lesson 15: an outbox sends again what was not acknowledged."""
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    taken(site, "enumeration-results", full("e2", computer("SRV2")))
    taken(site, "enumeration-results", full("e1", computer("SRV1")), repeated=True)
    assert names(site) == ["SRV2"]


def test_a_report_id_is_unique_per_kind_and_appliance_and_never_empty(site: Any) -> None:
    answer = report(site, "enumeration-results", full(" "))
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "report_id")


def test_only_a_full_report_marks_the_missing_as_vanished(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2")))
    taken(site, "enumeration-results", full("e2", computer("SRV3"), kind="changes"))
    assert names(site) == ["SRV1", "SRV2", "SRV3"]
    taken(site, "enumeration-results", full("e3", computer("SRV2")))
    assert names(site) == ["SRV2"]


def test_a_computer_that_comes_back_is_there_again(site: Any) -> None:
    for number, server in enumerate(("SRV1", "SRV2", "SRV1")):
        taken(site, "enumeration-results", full(f"e{number}", computer(server)))
    assert names(site) == ["SRV1"]


def test_a_full_report_leaves_other_domains_alone(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    taken(site, "enumeration-results", full("e2", computer("OTHER"), domain_name="branch.example"))
    assert names(site) == ["OTHER", "SRV1"]


def test_a_failure_is_of_its_own_domain_and_hides_no_other_one(site: Any) -> None:
    domains = ("corp.example", "branch.example")
    first, second = (discovered(f"d-{name}", name)["discovered_domain"] for name in domains)
    taken(site, "domain-discovered", {"report_id": "d1", "discovered_domain": first, "other_domains": [second]})
    for name in domains:
        body = {
            "domain_name": name,
            "username": f"svc@{name}",
            "password": "x" * 12,
            "credential_type": "service_account",
        }
        assert site.partner.post(f"/api/sites/{site.site_id}/domain-credentials", json=body).status_code == 201
    failed = {"code": "certificate-untrusted", "detail": "in words", "domain_name": "BRANCH.example"}
    failed["failures"] = [{"controller": "dc1.branch.example", "code": "certificate-untrusted", "door": "ldaps"}]  # type: ignore[assignment]
    taken(site, "enumeration-results", {"report_id": "f1", "failed": failed})

    def awaiting() -> list[str]:
        answer = site.partner.get(f"/api/sites/{site.site_id}/deployment-status").json()
        return [slug for slug in answer["details"]["awaiting"] if slug.startswith("enumeration")]

    assert awaiting() == ["enumeration"], "of the first domain nobody has said anything yet"
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    assert awaiting() == []


def test_a_full_report_of_some_units_leaves_the_rest_of_the_domain_alone(site: Any) -> None:
    inside, outside = computer("IN", ou_path="Clinic/Servers"), computer("OUT", ou_path="HQ")
    taken(site, "enumeration-results", full("e1", inside, outside))
    taken(site, "enumeration-results", full("e2", scope={"ous": ["clinic"]}))
    assert names(site) == ["OUT"]


def test_removed_computers_of_a_changes_report_are_gone(site: Any) -> None:
    one = computer("SRV1")
    taken(site, "enumeration-results", full("e1", one, computer("SRV2")))
    removed = [{"object_guid": str(one["object_guid"]).upper(), "reason": "deleted"}]
    taken(site, "enumeration-results", full("e2", kind="changes", removed=removed))
    assert names(site) == ["SRV2"]


def changes(report_id: str, *servers: dict[str, object], **results: object) -> dict[str, object]:
    return full(report_id, *servers, kind="changes", **results)


def owes_enumeration(site: Any, completed: int) -> bool:
    return bool(site.joined.check_in(completed={"enumeration": completed})["trigger_enumeration"])


def test_computers_that_were_removed_in_one_domain_stay_in_another(site: Any) -> None:
    mine = computer("SRV1")
    taken(site, "enumeration-results", full("e1", mine))
    removed = [{"object_guid": mine["object_guid"], "reason": "deleted"}]
    taken(site, "enumeration-results", changes("e2", domain_name="branch.example", removed=removed))
    assert names(site) == ["SRV1"]


def test_changes_that_go_on_from_the_last_report_are_taken_and_ask_for_nothing(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), cursor="c1"))
    taken(site, "enumeration-results", changes("e2", computer("SRV2"), base_cursor="c1", cursor="c2"))
    taken(site, "enumeration-results", changes("e3", computer("SRV3"), base_cursor="c2", cursor="c3"))
    assert names(site) == ["SRV1", "SRV2", "SRV3"]
    assert not owes_enumeration(site, 0)


def test_changes_with_a_gap_before_them_are_taken_and_a_full_enumeration_is_wished_once(site: Any) -> None:
    """Lesson 15: a report that was given up on its way must not leave the list wrong for ever."""
    taken(site, "enumeration-results", full("e1", computer("SRV1"), cursor="c1"))
    taken(site, "enumeration-results", changes("e3", computer("SRV3"), base_cursor="c2", cursor="c3"))
    assert names(site) == ["SRV1", "SRV3"]
    taken(site, "enumeration-results", changes("e4", computer("SRV4"), base_cursor="c9", cursor="c4"))
    wished = site.joined.check_in(completed={"enumeration": 0})
    assert (wished["trigger_enumeration"], wished["enumeration_generation"]) == (True, 1)
    taken(site, "enumeration-results", full("e5", computer("SRV4"), generation=1, cursor="c5"))
    assert not owes_enumeration(site, 1)
    taken(site, "enumeration-results", changes("e6", base_cursor="c5", cursor="c6"))
    assert not owes_enumeration(site, 1)


def test_changes_never_complete_a_wish_and_never_make_a_domain_fully_enumerated(site: Any) -> None:
    site.partner.post(f"/api/sites/{site.site_id}/enumerations")
    taken(site, "enumeration-results", changes("e1", computer("SRV1"), generation=1))
    assert owes_enumeration(site, 0)
    assert site.partner.get(f"/api/sites/{site.site_id}/deployment-status").json()["phase"] == "discovering"


def test_changes_of_a_domain_that_central_knows_nothing_of_ask_for_a_full_one(site: Any) -> None:
    """Central's tables were set back to an older day."""
    taken(site, "enumeration-results", changes("e1", computer("SRV1"), base_cursor="c1", cursor="c2"))
    assert owes_enumeration(site, 0)


def test_repeated_changes_are_idempotent(site: Any) -> None:
    """A crash between a report and its record sends the same changes again, under another id."""
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2"), cursor="c1"))
    removed = [{"object_guid": computer("SRV2")["object_guid"], "reason": "deleted"}]
    for number in range(2):
        body = changes(f"r{number}", computer("SRV3"), base_cursor="c1", cursor="c2", removed=removed)
        taken(site, "enumeration-results", body)
        assert names(site) == ["SRV1", "SRV3"]


@pytest.mark.parametrize(
    "scope",
    [{"names": ["XX*"]}, {"roles": ["other"]}, {"groups": ["CN=x"]}, {"moon_phase": "full"}, {"ous": [{}]}],
)
def test_a_full_report_of_a_scope_that_central_cannot_judge_marks_nothing_as_vanished(site: Any, scope: object) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("PC1", "workstation")))
    body = full("e2", computer("SRV9"))
    body["results"]["scope"] = scope  # type: ignore[index]
    answer = report(site, "enumeration-results", body)
    assert answer.status_code in (200, 422)
    assert {"PC1", "SRV1"} <= set(names(site))


def test_units_that_were_left_out_are_left_alone(site: Any) -> None:
    inside, outside = computer("IN", ou_path="Clinic"), computer("OUT", ou_path="Clinic/Imaging/CT")
    taken(site, "enumeration-results", full("e1", inside, outside))
    taken(site, "enumeration-results", full("e2", scope={"excluded_ous": ["Clinic/Imaging"]}))
    assert names(site) == ["OUT"]


def test_why_computers_are_left_out_is_counted(site: Any) -> None:
    skipped = [{"hostname": name, "reason": reason} for name, reason in (("A", "stale"), ("B", "stale"), ("C", "new"))]
    targets = [{"hostname": "SRV1", "role": "server"}]
    body = {"report_id": "t1", "enumeration_generation": 0, "targets": targets, "skipped": skipped}
    taken(site, "targets", body)
    details = site.partner.get(f"/api/sites/{site.site_id}/deployment-status").json()["details"]
    assert details["skipped"] == {"new": 1, "stale": 2}


def test_a_failed_enumeration_never_turns_the_last_good_result_into_zero(site: Any) -> None:
    """Lesson 24: an error is not an empty answer."""
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    failed = {"code": "unreachable-controller", "detail": "no answer", "controllers_tried": ["dc1"]}
    taken(site, "enumeration-results", {"report_id": "e2", "failed": failed})
    assert names(site) == ["SRV1"]


def test_a_report_with_both_results_and_a_failure_is_refused(site: Any) -> None:
    both = {**full("e1", computer("SRV1")), "failed": {"code": "internal", "detail": ""}}
    assert report(site, "enumeration-results", both).status_code == 422
    assert names(site) == []


def test_a_host_name_with_a_script_is_kept_as_text(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer(SCRIPT)))
    assert names(site) == [SCRIPT]


def test_broken_json_and_unknown_media_types_are_clear_problems(site: Any) -> None:
    url = "/api/appliances/enumeration-results"
    broken = site.appliance.post(url, content=b'{"report_id": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "bad-json")
    xml = site.appliance.post(url, content=b"<a/>", headers={"Content-Type": "text/xml"})
    assert (xml.status_code, xml.json()["code"]) == (415, "unsupported-media-type")
    nul = report(site, "enumeration-results", full("e1", computer("A\x00B")))
    assert nul.status_code == 422


def test_far_more_than_a_mebibyte_of_json_is_too_large_and_the_sender_hears_it(site: Any) -> None:
    big = full("e1", computer("SRV1", os_name="x" * 4 * 1024 * 1024))
    answer = report(site, "enumeration-results", big)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_a_partner_cannot_report_and_an_appliance_cannot_read(site: Any) -> None:
    assert site.partner.post("/api/appliances/targets", json={}).status_code == 401
    assert site.appliance.get(f"/api/sites/{site.site_id}/computers").status_code == 401


def test_a_list_of_targets_replaces_the_last_one_of_its_appliance(site: Any) -> None:
    first = [{"hostname": "SRV1", "role": "server"}, {"hostname": "SRV2", "role": "server"}]
    taken(site, "targets", {"report_id": "t1", "enumeration_generation": 1, "targets": first})
    skipped = [{"hostname": "OLD", "reason": "stale"}]
    taken(site, "targets", {"report_id": "t2", "enumeration_generation": 2, "targets": first[:1], "skipped": skipped})
    (found,) = listed(site, "targets")
    assert (found["enumeration_generation"], found["report_id"]) == (2, "t2")
    assert [entry["hostname"] for entry in found["targets"]] == ["SRV1"]
    assert found["skipped"][0]["reason"] == "stale"


def test_a_target_that_cannot_be_held_is_refused_alone(site: Any) -> None:
    good = [{"hostname": "SRV1", "role": "server"}]
    bad = [{"hostname": "SRV2", "role": "server", "os_name": "\x00"}, {"hostname": " ", "role": "server"}, 7]
    body = {"report_id": "t1", "enumeration_generation": 1, "targets": [*bad, *good], "skipped": [{"hostname": "X"}]}
    answer = report(site, "targets", body)
    assert answer.status_code == 200, answer.text
    places = [entry["path"] for entry in answer.json()["refused"]]
    assert places == ["targets[0].os_name", "targets[1].hostname", "targets[2]", "skipped[0].reason"]
    (found,) = listed(site, "targets")
    assert [entry["hostname"] for entry in found["targets"]] == ["SRV1"]
    nothing = report(site, "targets", {**body, "report_id": "t2", "targets": bad})
    assert nothing.status_code == 422
    assert [entry["hostname"] for entry in listed(site, "targets")[0]["targets"]] == ["SRV1"]


def test_a_list_of_5000_targets_is_taken_and_read_again_and_one_beyond_reason_is_too_large(site: Any) -> None:
    """A bigger site must not lose its list: nothing would be waited for, and hosts would be passed over in silence."""
    provenance = dict.fromkeys(("hostname", "role", "fqdn", "sid", "object_guid", "ip_addresses"), "directory")
    targets = [
        {
            "hostname": f"PC{number:05d}",
            "fqdn": f"pc{number:05d}.corp.example",
            "object_guid": f"{number:08d}-0000-4000-8000-000000000000",
            "sid": f"S-1-5-21-1111111111-2222222222-3333333333-{number}",
            "role": "workstation",
            "ip_addresses": ["10.0.0.1"],
            "provenance": provenance,
        }
        for number in range(5000)
    ]
    body = {"report_id": "t1", "enumeration_generation": 1, "targets": targets}
    assert len(json.dumps(body)) > 1024 * 1024
    taken(site, "targets", body)
    (found,) = listed(site, "targets")
    assert len(found["targets"]) == 5000
    zipped = gzip.compress(json.dumps({**body, "report_id": "t2", "targets": targets[:10]}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert site.appliance.post("/api/appliances/targets", content=zipped, headers=headers).status_code == 200
    assert len(listed(site, "targets")[0]["targets"]) == 10
    huge = {**body, "report_id": "t3", "skipped": [{"hostname": "x", "reason": "stale", "detail": "y" * 2**20}] * 33}
    answer = report(site, "targets", huge)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert len(listed(site, "targets")[0]["targets"]) == 10


def test_outcomes_are_kept_one_a_host_and_the_last_one_counts(site: Any) -> None:
    waiting = {"hostname": "SRV1", "success": False, "state": "waiting", "action": "install"}
    done = {**waiting, "success": True, "state": "done", "agent_version": "1.4.2"}
    taken(site, "agent-deployments", {"report_id": "a1", "deployments": [waiting, {**waiting, "hostname": "SRV2"}]})
    taken(site, "agent-deployments", {"report_id": "a2", "deployments": [done]})
    found = {entry["hostname"]: entry["state"] for entry in listed(site, "deployments")}
    assert found == {"SRV1": "done", "SRV2": "waiting"}


def test_outcomes_of_a_rollout_of_nobody_are_refused(site: Any) -> None:
    answer = report(site, "agent-deployments", {"report_id": "a1", "rollout_id": "rollout-x", "deployments": []})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "rollout_id")


def test_one_hosts_failure_never_hides_behind_another_host(site: Any) -> None:
    """Lesson 52: keyed by host and check."""
    results = [
        {"hostname": host, "check": check, "status": status, "checked_at": NOW}
        for host, check, status in (
            ("SRV1", "firewall", "pass"),
            ("SRV2", "firewall", "fail"),
            ("SRV1", "defender", "error"),
        )
    ]
    taken(site, "scan-results", {"report_id": "s1", "results": results})
    taken(site, "scan-results", {"report_id": "s2", "results": [{**results[0], "status": "fail"}]})
    found = {(entry["hostname"], entry["check"]): entry["status"] for entry in listed(site, "scan-results")}
    assert found == {("SRV1", "firewall"): "fail", ("SRV2", "firewall"): "fail", ("SRV1", "defender"): "error"}


GUID = "0f0e0d0c-0b0a-4900-8000-000000000001"


@pytest.mark.parametrize("guids", [(None, GUID), (GUID, None), (None, GUID.upper(), None, GUID)])
def test_a_host_that_is_reported_with_and_without_its_guid_is_one_host(
    site: Any, guids: tuple[str | None, ...]
) -> None:
    """Lesson 30: one identity, in whatever order its names are learnt."""
    for number, guid in enumerate(guids):
        outcome = {
            "hostname": "SRV1" if number % 2 else "srv1",
            "success": False,
            "state": "failed",
            "action": "install",
        }
        taken(site, "agent-deployments", {"report_id": f"a{number}", "deployments": [outcome | {"object_guid": guid}]})
        result = {"hostname": "SRV1", "check": "firewall", "status": "pass", "checked_at": NOW, "object_guid": guid}
        more = result | {"check": f"only-in-{number}"}
        taken(site, "scan-results", {"report_id": f"s{number}", "results": [result, more]})
    assert [(entry["object_guid"] or "").casefold() for entry in listed(site, "deployments")] == [GUID]
    checks = [entry["check"] for entry in listed(site, "scan-results")]
    assert sorted(checks) == sorted(["firewall", *(f"only-in-{number}" for number in range(len(guids)))])
    assert site.partner.get(f"/api/sites/{site.site_id}/deployment-status").json()["details"]["agents_failed"] == 1


def test_of_two_hosts_with_one_name_neither_gets_what_was_said_of_the_name_alone(site: Any) -> None:
    other = GUID[:-1] + "2"
    outcome = {"hostname": "SRV1", "success": True, "state": "done", "action": "install"}
    for number, guid in enumerate((GUID, other, None)):
        taken(site, "agent-deployments", {"report_id": f"a{number}", "deployments": [outcome | {"object_guid": guid}]})
    assert {entry["object_guid"] for entry in listed(site, "deployments")} == {GUID, other, None}


def test_a_host_that_stands_in_one_report_with_and_without_its_guid_is_one_host(site: Any) -> None:
    outcome = {"hostname": "SRV1", "success": True, "state": "done", "action": "install"}
    taken(site, "agent-deployments", {"report_id": "a", "deployments": [outcome, outcome | {"object_guid": GUID}]})
    assert [entry["object_guid"] for entry in listed(site, "deployments")] == [GUID]


def test_a_scan_report_acknowledges_its_generation(site: Any) -> None:
    """Lesson 11."""
    site.partner.post(f"/api/sites/{site.site_id}/scans")
    told = site.joined.check_in(completed={})
    assert told["trigger_immediate_scan"] is True
    taken(site, "scan-results", {"report_id": "s1", "generation": told["scan_generation"], "results": []})
    assert site.joined.check_in(completed={})["trigger_immediate_scan"] is False


def test_the_report_of_a_client_that_does_not_count_acknowledges_what_it_was_told(site: Any) -> None:
    """A wish that came after it was told is not swallowed."""
    site.partner.post(f"/api/sites/{site.site_id}/enumerations")
    assert site.joined.check_in()["trigger_enumeration"] is True
    site.partner.post(f"/api/sites/{site.site_id}/enumerations")
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    assert site.joined.check_in()["trigger_enumeration"] is True
    taken(site, "enumeration-results", full("e2", computer("SRV1")))
    assert site.joined.check_in()["trigger_enumeration"] is False


def test_runbook_results_are_taken(site: Any) -> None:
    result = {"hostname": "SRV1", "runbook": "disk", "phase": "check", "status": "ok"}
    taken(site, "runbook-results", {"report_id": "r1", "run_id": "run-1", "results": [result]})


def test_another_partners_site_is_as_if_it_were_not_there(site: Any) -> None:
    """Lesson 9."""
    for what in ("computers", "domains", "targets", "deployments", "scan-results", "deployment-status", "rollouts"):
        assert site.partner.get(f"/api/sites/site-0000000000000000/{what}").status_code == 404
