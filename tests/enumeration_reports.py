"""Enumeration reports as an appliance sends them, and what a partner reads of them. ``site`` is the fixture."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

NOW = "2026-01-05T10:00:00Z"


def computer(name: str, role: str = "server", **more: object) -> dict[str, object]:
    return {
        "object_guid": f"guid-{hashlib.sha256(name.encode()).hexdigest()[:12]}",
        "sam_account_name": f"{name}$",
        "hostname": name,
        "role": role,
        "is_server": role in ("server", "domain_controller"),
        "is_workstation": role == "workstation",
        "is_domain_controller": role == "domain_controller",
        **more,
    }


def full(report_id: str, *servers: dict[str, object], **results: object) -> dict[str, object]:
    return {
        "report_id": report_id,
        "results": {
            "kind": "full",
            "domain_name": "corp.example",
            "enumeration_time": NOW,
            "source": "dc1.corp.example ldaps",
            "servers": servers,
            **results,
        },
    }


def report(site: Any, call: str, body: object) -> httpx.Response:
    return site.appliance.post(f"/api/appliances/{call}", json=body)


def taken(site: Any, call: str, body: object, *, repeated: bool = False) -> None:
    answer = report(site, call, body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"status": "ok", "repeated": repeated, "refused_count": 0, "refused": []}


def listed(site: Any, what: str) -> list[dict[str, Any]]:
    answer = site.partner.get(f"/api/sites/{site.site_id}/{what}")
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def names(site: Any) -> list[str]:
    return [entry["hostname"] for entry in listed(site, "computers")]
