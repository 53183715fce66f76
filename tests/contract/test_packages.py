"""Agent packages, over real HTTP."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from central_app.rollouts.packages import Span, parse_range

FILE = b"MZ" + bytes(range(256)) * 10_000
SHA = hashlib.sha256(FILE).hexdigest()
MANIFEST = {
    "service_name": "acme-agent",
    "display_name": "Acme agent",
    "install_folder": "%ProgramFiles%\\Acme",
    "file_name": "agent.exe",
    "config_name": "config.json",
    "config": {"server": "https://agents.example"},
}
PACKAGE = {"name": "acme", "version": "1.4.2", "sha256": SHA, "size_bytes": len(FILE), "manifest": MANIFEST}


def describe(site: Any, **changes: object) -> Any:
    return site.partner.post("/api/packages", json={**PACKAGE, **changes})


def test_a_package_is_described_uploaded_and_comes_back_byte_for_byte(site: Any) -> None:
    made = describe(site)
    assert (made.status_code, made.json()["uploaded"]) == (201, False)
    put = site.partner.put(f"/api/packages/{SHA}", content=FILE)
    assert (put.status_code, put.json()["uploaded"]) == (200, True)
    got = site.partner.get(f"/api/packages/{SHA}")
    assert got.content == FILE
    assert got.headers["content-length"] == str(len(FILE))
    (listed,) = site.partner.get("/api/packages").json()["items"]
    assert (listed["name"], listed["uploaded"]) == ("acme", True)
    assert listed["manifest"]["config"] == MANIFEST["config"]


def test_describing_and_uploading_again_changes_nothing(site: Any) -> None:
    for _ in range(2):
        assert describe(site).status_code == 201
        assert site.partner.put(f"/api/packages/{SHA}", content=FILE).status_code == 200
    assert len(site.partner.get("/api/packages").json()["items"]) == 1
    assert site.partner.get(f"/api/packages/{SHA}").content == FILE


def test_another_description_of_the_same_file_is_a_conflict(site: Any) -> None:
    describe(site)
    answer = describe(site, version="9.9.9")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("content", [FILE[:-1], FILE + b"x", FILE[:-1] + b"x", b""])
def test_a_file_that_is_not_what_was_described_leaves_nothing_behind(site: Any, content: bytes) -> None:
    """Lesson 44: verify the file that will run."""
    describe(site)
    answer = site.partner.put(f"/api/packages/{SHA}", content=content)
    assert (answer.status_code, answer.json()["code"]) == (422, "digest-mismatch")
    missing = site.partner.get(f"/api/packages/{SHA}")
    assert (missing.status_code, missing.json()["code"]) == (404, "package-missing")


@pytest.mark.parametrize(
    ("changes", "path"),
    [({"sha256": SHA.upper()}, "sha256"), ({"size_bytes": 0}, "size_bytes"), ({"name": " "}, "name")],
)
def test_a_description_that_makes_no_sense_is_refused_with_its_path(
    site: Any, changes: dict[str, object], path: str
) -> None:
    answer = describe(site, **changes)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)


def test_a_file_without_a_description_is_not_taken(site: Any) -> None:
    assert site.partner.put(f"/api/packages/{SHA}", content=FILE).status_code == 404


def test_one_range_is_served_and_one_beyond_the_end_is_refused(site: Any) -> None:
    describe(site)
    site.partner.put(f"/api/packages/{SHA}", content=FILE)
    url = f"/api/packages/{SHA}"
    middle = site.partner.get(url, headers={"Range": "bytes=1048570-1048590"})
    assert (middle.status_code, middle.content) == (206, FILE[1048570:1048591])
    assert middle.headers["content-range"] == f"bytes 1048570-1048590/{len(FILE)}"
    assert site.partner.get(url, headers={"Range": "bytes=-5"}).content == FILE[-5:]
    beyond = site.partner.get(url, headers={"Range": f"bytes={len(FILE)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(FILE)}")


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-0", Span(0, 0)),
        ("bytes=5-", Span(5, 9)),
        ("bytes=5-99", Span(5, 9)),
        ("bytes=-3", Span(7, 9)),
        ("bytes=-99", Span(0, 9)),
        ("bytes=0-1,3-4", None),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("lines=0-1", None),
    ],
)
def test_ranges_are_read_as_the_standard_says(header: str | None, span: Span | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0"])
def test_a_range_without_a_byte_is_an_error(header: str) -> None:
    with pytest.raises(ValueError, match="range"):
        parse_range(header, 10)


def test_only_appliances_with_a_rollout_of_it_get_the_file(site: Any) -> None:
    describe(site)
    site.partner.put(f"/api/packages/{SHA}", content=FILE)
    assert site.appliance.get(f"/api/packages/{SHA}").status_code == 404
    made = site.partner.post(f"/api/sites/{site.site_id}/rollouts", json={"package_sha256": SHA}).json()
    assert site.appliance.get(f"/api/packages/{SHA}").content == FILE
    site.partner.post(f"/api/sites/{site.site_id}/rollouts/{made['id']}/cancel")
    assert site.appliance.get(f"/api/packages/{SHA}").status_code == 404


def test_another_partner_sees_no_package_of_ours(site: Any) -> None:
    describe(site)
    site.partner.put(f"/api/packages/{SHA}", content=FILE)
    with site.central.client(site.central.new_partner_key("fabrikam")) as other:
        assert other.get(f"/api/packages/{SHA}").status_code == 404
        assert other.get("/api/packages").json()["items"] == []
