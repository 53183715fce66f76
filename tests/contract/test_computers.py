"""Computers: what of a report can be held, and the list that a partner reads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.enumeration_reports import computer, full, names, report, taken


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"role": "toaster"}, "role"),
        ({"os_name": "Windows\x00Server"}, "os_name"),
        ({"fqdn": "x" * 256}, "fqdn"),
        ({"object_guid": " "}, "object_guid"),
        ({"hostname": "A\x00B"}, "hostname"),
        ({"doors": [2**70]}, "doors[0]"),
    ],
)
def test_a_computer_that_cannot_be_held_is_refused_alone_and_its_sender_hears_which_and_why(
    site: Any, wrong: dict[str, object], place: str
) -> None:
    bad = {**computer("SRV2"), **wrong}
    answer = report(site, "enumeration-results", full("e1", computer("SRV1"), bad, computer("SRV3")))
    assert (answer.status_code, answer.json()["refused_count"]) == (200, 1), answer.text
    (refused,) = answer.json()["refused"]
    assert refused["path"] == f"results.servers[1].{place}"
    assert refused["message"]
    assert names(site) == ["SRV1", "SRV3"]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"kind": "half"}, "results.kind"),
        ({"source": "dc1\x00"}, "results.source"),
        ({"domain_name": " "}, "results.domain_name"),
        ({"scope": {"ous": "Clinic"}}, "results.scope.ous"),
        ({"servers": {}}, "results.servers"),
    ],
)
def test_a_report_whose_head_does_not_fit_is_refused_and_says_where_in_the_report(
    site: Any, wrong: dict[str, object], place: str
) -> None:
    answer = report(site, "enumeration-results", full("e1", computer("SRV1"), **wrong))
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, place), answer.text
    assert names(site) == []


def test_a_report_without_an_id_is_refused(site: Any) -> None:
    body = full("e1", computer("SRV1"))
    del body["report_id"]
    answer = report(site, "enumeration-results", body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "report_id"), answer.text


def test_a_computer_that_was_refused_has_not_vanished(site: Any) -> None:
    """What a report speaks of is there, whether or not its words can be held."""
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2"), computer("SRV3")))
    report(site, "enumeration-results", full("e2", computer("SRV1"), {**computer("SRV2"), "os_name": "\x00"}))
    assert names(site) == ["SRV1", "SRV2"]


def test_a_full_report_that_could_not_identify_every_entry_marks_nothing_as_vanished(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2")))
    taken(site, "enumeration-results", full("e2", computer("SRV1"), unreadable_count=1))
    assert names(site) == ["SRV1", "SRV2"]
    taken(site, "enumeration-results", full("e3", computer("SRV1")))
    assert names(site) == ["SRV1"]


def test_a_full_report_with_an_entry_that_names_nobody_marks_nothing_as_vanished(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2")))
    report(site, "enumeration-results", full("e2", computer("SRV1"), {**computer("SRV2"), "object_guid": ""}))
    assert names(site) == ["SRV1", "SRV2"]


def test_a_report_of_which_nothing_can_be_held_is_refused_and_is_no_domain_without_computers(site: Any) -> None:
    """Lesson 24."""
    taken(site, "enumeration-results", full("e1", computer("SRV1")))
    answer = report(site, "enumeration-results", full("e2", {**computer("SRV1"), "role": "toaster"}))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "results.servers[0].role"
    assert names(site) == ["SRV1"]


def test_of_thousands_of_refused_computers_the_first_are_named_and_all_are_counted(site: Any) -> None:
    wrong = [{**computer(f"PC{number}"), "role": "toaster"} for number in range(2000)]
    answer = report(site, "enumeration-results", full("e1", computer("SRV1"), *wrong)).json()
    assert (answer["refused_count"], len(answer["refused"])) == (2000, 50)
    assert names(site) == ["SRV1"]


def test_a_removed_computer_whose_name_cannot_be_one_is_refused_alone(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", computer("SRV1"), computer("SRV2")))
    gone = [{"object_guid": guid, "reason": "deleted"} for guid in ("x" * 99, computer("SRV1")["object_guid"])]
    answer = report(site, "enumeration-results", full("e2", kind="changes", removed=gone))
    assert (answer.status_code, answer.json()["refused_count"]) == (200, 1)
    assert answer.json()["refused"][0]["path"] == "results.removed[0].object_guid"
    assert names(site) == ["SRV2"]


def test_computers_come_in_pages_by_name_with_role_and_text(site: Any) -> None:
    servers = [computer(f"SRV{number:03}") for number in range(150)]
    taken(site, "enumeration-results", full("e1", *servers, workstations=[computer("PC_1", "workstation")]))
    url = f"/api/sites/{site.site_id}/computers"
    found: list[str] = []
    cursor: str | None = ""
    sizes = []
    while cursor is not None:
        page = site.partner.get(url, params={"cursor": cursor} if cursor else {}).json()
        found += [entry["hostname"] for entry in page["items"]]
        sizes.append(len(page["items"]))
        cursor = page["next_cursor"]
    assert sizes == [100, 51]
    assert found == ["PC_1", *(f"SRV{number:03}" for number in range(150))]
    assert [entry["hostname"] for entry in site.partner.get(url, params={"q": "pc_"}).json()["items"]] == ["PC_1"]
    assert site.partner.get(url, params={"q": "srv0%9"}).json()["items"] == []
    assert len(site.partner.get(url, params={"role": "workstation"}).json()["items"]) == 1
    assert site.partner.get(url, params={"role": "toaster"}).status_code == 422
    assert site.partner.get(url, params={"cursor": "%%%"}).status_code == 422


def test_computers_with_letters_beyond_ascii_come_in_pages_and_are_found_in_any_case(site: Any) -> None:
    """SQLite's lower() knows ASCII alone: a cursor of ours must not be compared with what it makes of a name."""
    wanted = [f"PRAXIS-MÜLLER-{number:03}" for number in range(250)]
    taken(site, "enumeration-results", full("e1", *(computer(name) for name in wanted)))
    url = f"/api/sites/{site.site_id}/computers"
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = site.partner.get(url, params={"cursor": cursor} if cursor else {}).json()
        found += [entry["hostname"] for entry in page["items"]]
        cursor = page["next_cursor"]
    assert found == wanted
    for text in ("müller-01", "MÜLLER-01", "Mu\N{COMBINING DIAERESIS}ller-01"):
        assert len(site.partner.get(url, params={"q": text}).json()["items"]) == 10, text


def test_a_name_with_a_newline_holds_up_no_page(site: Any) -> None:
    taken(site, "enumeration-results", full("e1", *(computer(f"PC\n{number:03}") for number in range(101))))
    url = f"/api/sites/{site.site_id}/computers"
    cursor = site.partner.get(url).json()["next_cursor"]
    assert len(site.partner.get(url, params={"cursor": cursor}).json()["items"]) == 1
