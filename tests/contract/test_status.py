"""The deployment status: how a site walks, over real HTTP."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from typing import Any

NOW = "2026-01-05T10:00:00Z"
MANIFEST = {"service_name": "a", "display_name": "A", "install_folder": "C:\\A", "file_name": "a.exe"}


def status(site: Any) -> dict[str, Any]:
    answer = site.partner.get(f"/api/sites/{site.site_id}/deployment-status")
    assert answer.status_code == 200, answer.text
    return answer.json()


def report(site: Any, call: str, **body: object) -> None:
    answer = site.appliance.post(f"/api/appliances/{call}", json=body)
    assert answer.status_code == 200, answer.text


def discover(site: Any) -> None:
    domain = {"domain_name": "corp.example", "domain_controllers": ["dc1.corp.example"], "discovered_at": NOW}
    report(site, "domain-discovered", report_id="d1", discovered_domain={**domain, "netbios_name": "CORP"})


def store_credential(site: Any) -> str:
    body = {
        "domain_name": "corp.example",
        "username": "svc@corp.example",
        "password": "correct horse",
        "credential_type": "service_account",
    }
    answer = site.partner.post(f"/api/sites/{site.site_id}/domain-credentials", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def enumerate_(site: Any, report_id: str, generation: int) -> None:
    def computer(name: str, role: str) -> dict[str, object]:
        return {
            "object_guid": f"guid-{name}",
            "sam_account_name": f"{name}$",
            "hostname": name,
            "role": role,
            "is_server": role == "server",
            "is_workstation": role == "workstation",
            "is_domain_controller": False,
        }

    results = {
        "kind": "full",
        "domain_name": "CORP.example",
        "enumeration_time": NOW,
        "source": "dc1 ldaps",
        "generation": generation,
        "servers": [computer("SRV1", "server")],
        "workstations": [computer("PC1", "workstation")],
    }
    report(site, "enumeration-results", report_id=report_id, results=results)


def report_targets(site: Any, report_id: str, generation: int) -> None:
    targets = [
        {"hostname": "SRV1", "role": "server", "object_guid": "guid-SRV1", "reachable": True},
        {"hostname": "PC1", "role": "workstation", "object_guid": "guid-PC1", "reachable": False},
    ]
    report(site, "targets", report_id=report_id, enumeration_generation=generation, targets=targets)


def upload(site: Any) -> str:
    content = b"agent"
    sha256 = hashlib.sha256(content).hexdigest()
    package = {"name": "acme", "version": "1", "sha256": sha256, "size_bytes": len(content), "manifest": MANIFEST}
    site.partner.post("/api/packages", json=package)
    site.partner.put(f"/api/packages/{sha256}", content=content)
    return sha256


def outcome(host: str, state: str, code: str | None = None) -> dict[str, object]:
    return {
        "hostname": host,
        "object_guid": f"guid-{host}",
        "success": state == "done",
        "state": state,
        "action": "install",
        "error": {"code": code, "detail": "in words"} if code else None,
    }


def test_a_site_walks_from_discovering_to_complete(site: Any) -> None:
    site.partner.patch(f"/api/sites/{site.site_id}", json={"auto_rollout": {"package": upload(site)}})
    assert status(site)["phase"] == "discovering"
    discover(site)
    found = status(site)
    assert (found["phase"], found["details"]["domain_discovered"]) == ("awaiting_credentials", "corp.example")
    assert found["details"]["directory"] == "found"
    store_credential(site)
    assert status(site)["phase"] == "enumerating"
    # Generation 1 is what the credential wished.
    enumerate_(site, "e1", 1)
    found = status(site)
    assert (found["phase"], found["details"]["awaiting"]) == ("deploying", ["targets"])
    assert (found["details"]["servers_found"], found["details"]["workstations_found"]) == (1, 1)
    report_targets(site, "t1", 1)
    assert status(site)["details"]["awaiting"] == ["outcomes:2"]
    (rollout,) = site.partner.get(f"/api/sites/{site.site_id}/rollouts").json()["items"]
    outcomes = [outcome("SRV1", "failed", "not-authorised-here"), outcome("PC1", "waiting", "no-answer")]
    report(site, "agent-deployments", report_id="a1", rollout_id=rollout["id"], deployments=outcomes)
    found = status(site)
    assert (found["phase"], found["details"]["agents_failed"]) == ("scanning", 1)
    result = {"hostname": "srv1", "object_guid": "guid-SRV1", "check": "firewall", "status": "error", "checked_at": NOW}
    report(site, "scan-results", report_id="s1", results=[result])
    found = status(site)
    assert (found["phase"], found["progress"], found["details"]["awaiting"]) == ("complete", 100, [])
    assert found["details"]["first_scan_complete"] is True
    # A retry makes the failed host due again, and the one that waits not.
    site.partner.post(f"/api/sites/{site.site_id}/rollouts/{rollout['id']}/retry")
    assert status(site)["details"]["awaiting"] == ["outcomes:1"]
    again = [outcome("SRV1", "done")]
    report(site, "agent-deployments", report_id="a2", rollout_id=rollout["id"], deployments=again, generation=2)
    found = status(site)
    assert (found["phase"], found["details"]["agents_deployed"], found["details"]["agents_failed"]) == (
        "complete",
        1,
        0,
    )


def test_a_new_enumeration_is_unmet_until_its_own_targets_are_there(site: Any) -> None:
    site.partner.patch(f"/api/sites/{site.site_id}", json={"auto_rollout": {"package": upload(site)}})
    discover(site)
    store_credential(site)
    enumerate_(site, "e1", 1)
    report_targets(site, "t1", 1)
    enumerate_(site, "e2", 2)
    assert status(site)["details"]["awaiting"] == ["targets"]
    report_targets(site, "t2", 2)
    assert status(site)["details"]["awaiting"] == ["outcomes:2"]


def test_what_a_revoked_appliance_had_listed_holds_the_site_up_no_more(site: Any) -> None:
    site.partner.patch(f"/api/sites/{site.site_id}", json={"auto_rollout": {"package": upload(site)}})
    other = site.central.join(site_id=site.site_id)
    discover(site)
    store_credential(site)
    enumerate_(site, "e1", 1)
    report_targets(site, "t1", 1)
    assert status(site)["details"]["awaiting"] == ["outcomes:2"]
    site.partner.post(f"/api/sites/{site.site_id}/appliances/{site.joined.id}/revoke").raise_for_status()
    with site.central.client(other.key) as client:
        body = {"report_id": "t2", "enumeration_generation": 1, "targets": []}
        client.post("/api/appliances/targets", json=body).raise_for_status()
    assert status(site)["phase"] == "complete"
    assert [entry["report_id"] for entry in site.partner.get(f"/api/sites/{site.site_id}/targets").json()["items"]] == [
        "t2"
    ]
    # Without any appliance the site is not complete, and says whom it waits for.
    site.partner.post(f"/api/sites/{site.site_id}/appliances/{other.id}/revoke").raise_for_status()
    assert status(site)["details"]["awaiting"] == ["appliance", "targets"]


def test_an_appliance_that_awaits_approval_is_not_heard(site: Any, make_device: Any) -> None:
    discover(site)
    store_credential(site)
    device = make_device()
    code = site.central.provision(site_id=site.site_id)["provision_code"]
    stranger = device.claim(site.central, code).json()
    domain = {
        "domain_name": "evil.example", "domain_controllers": ["dc.evil.example"], "discovered_at": NOW,
        "confidence": 100, "certificates": [{"controller": "dc1", "sha256": "ee" * 32}],
    }  # fmt: skip
    targets = [{"hostname": "TRAP", "role": "server", "reachable": True}]
    with site.central.client(stranger["api_key"]) as client:
        found = client.post("/api/appliances/domain-discovered", json={"report_id": "1", "discovered_domain": domain})
        listed = client.post(
            "/api/appliances/targets", json={"report_id": "2", "enumeration_generation": 1, "targets": targets}
        )
    assert (found.status_code, listed.status_code) == (200, 200)

    def shown(call: str) -> str:
        return str(site.partner.get(f"/api/sites/{site.site_id}/{call}").text)

    assert "ee" * 32 not in shown("domains")
    assert "TRAP" not in shown("targets")
    # Once a person let it in, what it said before counts: nothing has to be sent again.
    path = f"/api/sites/{site.site_id}/appliances/{stranger['appliance_id']}/approve"
    site.partner.post(path).raise_for_status()
    assert "ee" * 32 in shown("domains")
    assert "TRAP" in shown("targets")


def test_a_refused_credential_is_named_with_its_reason(site: Any) -> None:
    discover(site)
    credential_id = store_credential(site)
    reply = site.joined.check_in(completed={})
    version = reply["domain_credentials"][0]["version"]
    refused = {
        "id": credential_id,
        "version": version,
        "state": "refused",
        "code": "wrong-password",
        "at": datetime.now(UTC).isoformat(),
    }
    site.joined.check_in(completed={}, credential_states=[refused])
    found = status(site)
    assert found["phase"] == "awaiting_credentials"
    assert found["details"]["awaiting"] == [f"domain_credential:{credential_id}:wrong-password"]


def test_a_failed_enumeration_says_why_and_a_good_one_before_it_still_counts(site: Any) -> None:
    """Lesson 24."""
    discover(site)
    store_credential(site)
    failed = {"code": "unreachable-controller", "detail": "no answer", "generation": 1}
    report(site, "enumeration-results", report_id="f1", failed=failed)
    found = status(site)
    assert (found["phase"], found["details"]["awaiting"]) == ("enumerating", ["enumeration:unreachable-controller"])
    enumerate_(site, "e1", 1)
    report(site, "enumeration-results", report_id="f2", failed=failed)
    found = status(site)
    assert (found["phase"], found["details"]["servers_found"]) == ("scanning", 1)


def test_a_failure_of_before_the_last_reading_passes_over_no_domain(site: Any) -> None:
    discover(site)
    store_credential(site)
    failed = {"code": "domain-out-of-scope", "detail": "no", "domain_name": "corp.example", "generation": 1}
    report(site, "enumeration-results", report_id="e1", failed=failed)
    assert status(site)["details"]["awaiting"] == ["enumeration:domain-out-of-scope"]
    branch = {"domain_name": "branch.example", "domain_controllers": ["dc1.branch.example"], "discovered_at": NOW}
    corp = {**branch, "domain_name": "corp.example", "confidence": 90}
    report(site, "domain-discovered", report_id="d2", discovered_domain=corp, other_domains=[branch])
    assert status(site)["details"]["domain_discovered"] == "branch.example"
    enumerate_(site, "e2", 1)
    assert status(site)["details"]["domain_discovered"] == "corp.example"


def test_a_site_without_a_directory_walks_on(site: Any) -> None:
    """Lesson 59."""
    report(site, "domain-discovered", report_id="d1", nothing_found={"evidence": []})
    found = status(site)
    assert (found["phase"], found["details"]["directory"]) == ("scanning", "none")
    targets = [{"hostname": "scanner-pc", "role": "workstation", "reachable": False}]
    report(site, "targets", report_id="t1", enumeration_generation=0, targets=targets)
    assert status(site)["phase"] == "complete"


def test_an_enumeration_report_acknowledges_its_generation(site: Any) -> None:
    """Lesson 11: nothing is cleared by being sent, and what is done is not asked for again."""
    store_credential(site)
    told = site.joined.check_in(completed={})
    assert (told["trigger_enumeration"], told["enumeration_generation"]) == (True, 1)
    enumerate_(site, "e1", told["enumeration_generation"])
    assert site.joined.check_in(completed={})["trigger_enumeration"] is False
    site.partner.post(f"/api/sites/{site.site_id}/enumerations")
    assert site.joined.check_in(completed={})["trigger_enumeration"] is True


def test_a_generation_from_the_future_swallows_no_wish(site: Any) -> None:
    store_credential(site)
    enumerate_(site, "e1", 99)
    site.partner.post(f"/api/sites/{site.site_id}/enumerations")
    assert site.joined.check_in(completed={})["trigger_enumeration"] is True


def test_a_site_never_looks_complete_between_two_reports(site: Any) -> None:
    """Facts of two moments must not be mixed: a new list of targets beside the old hosts."""
    discover(site)
    store_credential(site)
    create = {"package_sha256": upload(site)}
    assert site.partner.post(f"/api/sites/{site.site_id}/rollouts", json=create).status_code == 201
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        with site.central.client(site.central.api_key) as client:
            while not done.is_set():
                seen.add(client.get(f"/api/sites/{site.site_id}/deployment-status").json()["phase"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 25):
        enumerate_(site, f"e{number}", number)
        report_targets(site, f"t{number}", number)
    done.set()
    watcher.join()
    assert "deploying" in seen
    assert seen <= {"enumerating", "deploying"}
