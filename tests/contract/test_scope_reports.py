"""What belongs to a site, when reports of its directory come in one scope or another."""

from __future__ import annotations

from typing import Any

import pytest


def full(report_id: str, *names: str, **results: object) -> dict[str, object]:
    servers = [
        {
            "object_guid": f"guid-{name}",
            "sam_account_name": f"{name}$",
            "hostname": name,
            "role": "server",
            "is_server": True,
            "is_workstation": False,
            "is_domain_controller": False,
        }
        for name in names
    ]
    head = {"kind": "full", "domain_name": "corp.example", "enumeration_time": "2026-01-05T10:00:00Z", "source": "dc1"}
    return {"report_id": report_id, "results": {**head, "servers": servers, **results}}


def take(site: Any, body: dict[str, object]) -> None:
    answer = site.appliance.post("/api/appliances/enumeration-results", json=body)
    assert answer.status_code == 200, answer.text


def listed(site: Any) -> list[str]:
    items = site.partner.get(f"/api/sites/{site.site_id}/computers").json()["items"]
    return sorted(entry["hostname"] for entry in items)


@pytest.mark.parametrize("site_scope", [{"names": ["SRV*"], "groups": ["In"]}, {"names": ["SRV*"]}, None])
def test_what_the_sites_present_scope_leaves_out_is_not_listed_any_more(site: Any, site_scope: object) -> None:
    take(site, full("e1", "SRV1", "PC1"))
    present = {"names": ["SRV*"], "groups": ["In"]}
    site.partner.patch(f"/api/sites/{site.site_id}", json={"scope": present})
    take(site, full("e2", "SRV1", scope=present, site_scope=site_scope))
    assert listed(site) == (["SRV1"] if site_scope == present else ["PC1", "SRV1"]), "an older scope says nothing"


def test_a_scope_that_central_does_not_know_speaks_for_nothing_although_the_sites_own_is_the_present_one(
    site: Any,
) -> None:
    take(site, full("e1", "SRV1", "PC1"))
    take(site, full("e2", "SRV1", scope={"new_narrowing": ["x"]}, site_scope={}))
    assert listed(site) == ["PC1", "SRV1"]
    take(site, full("e3", "SRV1", scope={}, site_scope={}))
    assert listed(site) == ["SRV1"]


def test_a_domain_that_the_present_scope_leaves_out_is_not_listed_any_more(site: Any) -> None:
    take(site, full("e1", "SRV1"))
    present = {"ous": ["OU=Rome,DC=branch,DC=example"]}
    failed = {"code": "domain-out-of-scope", "detail": "no", "domain_name": "corp.example", "site_scope": present}
    take(site, {"report_id": "e2", "failed": failed})
    assert listed(site) == ["SRV1"], "it is not the present one"
    site.partner.patch(f"/api/sites/{site.site_id}", json={"scope": present})
    take(site, {"report_id": "e3", "failed": failed})
    assert listed(site) == []
