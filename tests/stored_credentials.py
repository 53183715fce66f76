"""Credentials as a partner stores them, and what an appliance says of them. ``central`` is the fixture."""

from __future__ import annotations

PASSWORD = "Tr0ub4dor&3 ünïcode"


def add_domain(central, site_id, **changes):
    body = {
        "domain_name": "corp.example",
        "username": "CORP\\svc-msp",
        "password": PASSWORD,
        "credential_type": "service_account",
        "trusted_certificates": [{"sha256": "ab" * 32}],
    } | changes
    response = central.http.post(f"/api/sites/{site_id}/domain-credentials", json=body)
    assert response.status_code == 201, response.text
    return response.json()


def add(central, site_id, **body):
    response = central.http.post(
        f"/api/sites/{site_id}/credentials", json={"username": ".\\admin", "password": PASSWORD, **body}
    )
    assert response.status_code == 201, response.text
    return response.json()


def state(joined, credential, name, code=None):
    return {
        "id": credential["id"], "version": credential["version"], "state": name, "code": code,
        "at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
