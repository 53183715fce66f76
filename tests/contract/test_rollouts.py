"""Rollouts, over real HTTP."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import create_engine, update

from central_app.database.tables import sites

MANIFEST = {"service_name": "a", "display_name": "A", "install_folder": "C:\\A", "file_name": "a.exe"}


def upload(site: Any, content: bytes = b"agent one", version: str = "1.0") -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    package = {"name": "acme", "version": version, "sha256": sha256, "size_bytes": len(content), "manifest": MANIFEST}
    assert site.partner.post("/api/packages", json=package).status_code == 201
    assert site.partner.put(f"/api/packages/{sha256}", content=content).status_code == 200
    return sha256


def rollouts(site: Any) -> list[dict[str, Any]]:
    return site.partner.get(f"/api/sites/{site.site_id}/rollouts").json()["items"]


def create(site: Any, **body: object) -> Any:
    return site.partner.post(f"/api/sites/{site.site_id}/rollouts", json=body)


def on(site: Any, rollout: dict[str, Any], verb: str) -> Any:
    return site.partner.post(f"/api/sites/{site.site_id}/rollouts/{rollout['id']}/{verb}")


def wish_auto(site: Any, package: str, *roles: str) -> None:
    auto = {"package": package, "roles": list(roles or ("server", "workstation"))}
    answer = site.partner.patch(f"/api/sites/{site.site_id}", json={"auto_rollout": auto})
    assert answer.status_code == 200, answer.text


def report_targets(site: Any, report_id: str) -> None:
    body = {"report_id": report_id, "enumeration_generation": 1, "targets": []}
    assert site.appliance.post("/api/appliances/targets", json=body).status_code == 200


def test_a_rollout_has_the_shape_of_the_contract_and_is_listed(site: Any) -> None:
    made = create(site, package_sha256=upload(site), scope={"roles": ["server"], "exclude": ["SRV9"]})
    assert made.status_code == 201
    body = made.json()
    assert {"id", "generation", "state", "action", "package", "scope", "waves", "window"} <= set(body)
    assert (body["generation"], body["state"], body["action"]) == (1, "active", "install")
    assert body["package"]["manifest"]["file_name"] == "a.exe"
    assert rollouts(site) == [body]
    assert site.partner.get(f"/api/sites/{site.site_id}/rollouts/{body['id']}").json() == body


def test_a_rollout_needs_an_uploaded_package(site: Any) -> None:
    unknown = create(site, package_sha256="0" * 64)
    assert (unknown.status_code, unknown.json()["errors"][0]["path"]) == (422, "package_sha256")
    content = b"later"
    sha256 = hashlib.sha256(content).hexdigest()
    package = {"name": "acme", "version": "1", "sha256": sha256, "size_bytes": 5, "manifest": MANIFEST}
    site.partner.post("/api/packages", json=package)
    assert create(site, package_sha256=sha256).status_code == 409


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"waves": []}, "waves"),
        ({"waves": [{"percent": 0}]}, "waves"),
        ({"scope": {"roles": []}}, "scope"),
        ({"window": {"start": "24:00", "end": "05:00"}}, "window.start"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_refused_with_its_path(site: Any, body: dict[str, object], path: str) -> None:
    answer = create(site, package_sha256=upload(site), **body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert rollouts(site) == []


def test_pause_resume_and_cancel_are_idempotent_and_a_cancelled_one_stays_cancelled(site: Any) -> None:
    made = create(site, package_sha256=upload(site)).json()
    for verb, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        for _ in range(2):
            assert on(site, made, verb).json()["state"] == state
    for verb in ("pause", "resume", "retry"):
        answer = on(site, made, verb)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_retry_raises_the_generation(site: Any) -> None:
    """Lesson 45: "retry now"."""
    made = create(site, package_sha256=upload(site)).json()
    assert on(site, made, "retry").json()["generation"] == 2
    assert on(site, made, "retry").json()["generation"] == 3


def test_an_unknown_rollout_is_not_found(site: Any) -> None:
    assert on(site, {"id": "rollout-x"}, "pause").status_code == 404


def test_an_auto_rollout_is_made_once_per_package_when_targets_arrive_and_controllers_never(site: Any) -> None:
    wish_auto(site, upload(site))
    report_targets(site, "t1")
    report_targets(site, "t2")
    (made,) = rollouts(site)
    assert (made["state"], made["scope"]["roles"]) == ("active", ["server", "workstation"])


@pytest.mark.parametrize(
    ("roles", "covered"),
    [(["domain_controller"], []), (["server", "domain_controller"], [["server"]])],
)
def test_an_auto_rollout_never_covers_controllers_even_if_the_table_says_so(
    site: Any, roles: list[str], covered: list[list[str]]
) -> None:
    sha256 = upload(site)
    # The API refuses such roles; a row of another hand or version does not get past the rule either.
    engine = create_engine(f"sqlite:///{site.central.database}")
    with engine.begin() as connection:
        wish = {"package": sha256, "roles": roles}
        connection.execute(update(sites).where(sites.c.site_id == site.site_id).values(auto_rollout=wish))
    engine.dispose()
    report_targets(site, "t1")
    assert [made["scope"]["roles"] for made in rollouts(site)] == covered


def test_an_auto_rollout_waits_for_its_package_and_begins_with_the_upload(site: Any) -> None:
    wish_auto(site, hashlib.sha256(b"agent one").hexdigest())
    report_targets(site, "t1")
    assert rollouts(site) == []
    upload(site)
    assert [made["state"] for made in rollouts(site)] == ["active"]


def test_an_auto_rollout_by_name_takes_the_newest_and_ends_the_one_before(site: Any) -> None:
    wish_auto(site, "acme")
    first = upload(site)
    report_targets(site, "t1")
    second = upload(site, b"agent two", "2.0")
    found = {made["package"]["sha256"]: made["state"] for made in rollouts(site)}
    assert found == {first: "cancelled", second: "active"}


def test_an_auto_rollout_that_a_person_cancelled_is_not_made_again(site: Any) -> None:
    wish_auto(site, upload(site))
    report_targets(site, "t1")
    on(site, rollouts(site)[0], "cancel")
    report_targets(site, "t2")
    assert [made["state"] for made in rollouts(site)] == ["cancelled"]


def test_an_appliance_is_told_its_rollouts_at_the_check_in(site: Any) -> None:
    made = create(site, package_sha256=upload(site)).json()
    told = site.joined.check_in()["rollouts"]
    assert [(entry["id"], entry["generation"], entry["state"]) for entry in told] == [(made["id"], 1, "active")]
