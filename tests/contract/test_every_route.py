"""Every route of the wire: nobody reaches what is somebody else's, and no JSON in the world makes a 5xx.

One table says of each route what a good call looks like. A route that is not in the table fails the first test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, select

from central_app.audit.service import chain_holds
from central_app.database.tables import metadata
from msp_sdk.models.event import AuditEntry
from msp_sdk.wire import routes
from msp_sdk.wire.converter import structure
from msp_sdk.wire.problems import PROBLEMS
from msp_sdk.wire.routes import ROUTES, Route

NOW = "2026-01-05T10:00:00Z"
PASSWORD = "S3cret-that-no-answer-repeats"  # its letters appear nowhere else
FILE = b"the agent"
SHA256 = hashlib.sha256(FILE).hexdigest()
MANIFEST = {"service_name": "a", "display_name": "A", "install_folder": "C:\\A", "file_name": "a.exe", "config": {}}
COMPUTER = {
    "object_guid": "g-1", "sam_account_name": "SRV1$", "hostname": "SRV1", "role": "server", "is_server": True,
    "is_workstation": False, "is_domain_controller": False, "ip_addresses": ["10.0.0.1"], "doors": [5985],
    "last_logon_at": NOW, "enabled": True,
}  # fmt: skip
DOMAIN = {
    "domain_name": "corp.example", "domain_controllers": ["dc1.corp.example"], "discovered_at": NOW, "confidence": 90,
    "evidence": [{"kind": "srv", "source": "dns", "detail": "x"}],
    "certificates": [{"controller": "dc1", "sha256": "ab" * 32}],
}  # fmt: skip
OUTCOME = {
    "hostname": "SRV1", "success": False, "state": "failed", "action": "install", "attempts": 1, "deployed_at": NOW,
    "error": {"code": "winrm-closed", "detail": "x", "remedy": "y"}, "object_guid": "g-1",
}  # fmt: skip
CHECK = {
    "hostname": "SRV1",
    "check": "firewall",
    "status": "pass",
    "checked_at": NOW,
    "evidence": {"a": 1},
    "controls": [],
}

REFUSED = frozenset({401, 403, 404})


def bodies(ids: dict[str, str]) -> dict[Route, Any]:
    """A good body for each route that takes JSON. ``ids`` are those of the things that it names."""
    report = {"report_id": "r1"}
    results = {
        "kind": "full", "domain_name": "corp.example", "enumeration_time": NOW, "source": "dc1", "generation": 1,
        "servers": [COMPUTER], "removed": [{"object_guid": "g-2", "reason": "deleted"}], "scope": {"ous": ["OU=A"]},
    }  # fmt: skip
    domain_credential = {
        "domain_name": "corp.example", "username": "svc", "password": PASSWORD, "credential_type": "service_account",
        "trusted_certificates": [{"sha256": "ab" * 32}],
    }  # fmt: skip
    return {
        routes.CLAIM: {
            "provision_code": "0000-0000-0000-0000", "mac_address": "00:15:5D:00:00:01", "hostname": "h",
            "all_mac_addresses": ["00155D000001"], "hardware_id": "x",
        },
        routes.PROVISION_CREATE: {"client_name": "C", "site_id": ids["site_id"], "uses": 2, "expires_in_days": 3},
        routes.PROVISION_BULK: {"entries": [{"client_name": "C", "site_id": ids["site_id"]}]},
        routes.CHECKIN: {
            "site_id": ids["site_id"], "hostname": "h", "mac_address": "00:15:5D:00:00:01",
            "ip_addresses": ["10.0.0.2"], "uptime_seconds": 1.5, "agent_version": "1", "nixos_version": "24.11",
            "all_mac_addresses": [],
            "subnets": ["10.0.0.0/24"], "credentials_version": 1, "targets_version": 1, "completed": {"scan": 1},
            "credential_states": [{"id": ids["credential_id"], "version": 1, "state": "unproven", "at": NOW}],
            "health": {"clock_skew_s": 1.5, "disk": "full"},
        },
        routes.REPORT_DISCOVERY: report | {"discovered_domain": DOMAIN, "other_domains": [DOMAIN]},
        routes.REPORT_ENUMERATION: report | {"results": results},
        routes.REPORT_TARGETS: report | {
            "enumeration_generation": 1,
            "targets": [{"hostname": "SRV1", "role": "server", "provenance": {"role": "x"}}],
            "skipped": [{"hostname": "OLD", "reason": "stale"}],
        },
        routes.REPORT_DEPLOYMENTS: report | {
            "rollout_id": ids["rollout_id"], "generation": 1, "deployments": [OUTCOME],
        },
        routes.REPORT_SCAN: report | {"generation": 1, "results": [CHECK]},
        routes.REPORT_RUNBOOK: report | {
            "run_id": "run-1",
            "results": [{"hostname": "SRV1", "runbook": "b", "phase": "p", "status": "ok", "evidence": {"a": []}}],
        },
        routes.SESSION_OPEN: {"code": "0000-0000-0000-0000"},
        routes.USER_CREATE: {"email": "x@contoso.example", "role": "viewer"},
        routes.KEY_CREATE: {"user_id": ids["user_id"], "label": "x"},
        routes.SITE_CREATE: {
            "name": "Clinic", "time_zone": "Europe/Vienna", "checkin_interval_seconds": 60, "trusted_cas": [],
            "scope": {"ad_sites": ["a"], "subnets": ["10.0.0.0/8"], "ous": ["OU=A"]},
            "auto_rollout": {"package": SHA256, "roles": ["server"]},
        },
        routes.SITE_CHANGE: {"name": "Renamed", "scope": {"subnets": ["10.0.0.0/8"]}, "allow_ntlm": True},
        routes.MANUAL_TARGETS_PUT: [{"hostname": "SRV9", "port": 5986, "use_ssl": True, "role": "server"}],
        routes.DOMAIN_CREDENTIAL_CREATE: domain_credential,
        routes.CREDENTIAL_CREATE: {
            "type": "winrm", "username": "a", "password": PASSWORD, "host": "SRV1", "port": 5986, "use_ssl": True,
        },
        routes.CREDENTIAL_ROTATE: {"password": PASSWORD, "username": "b"},
        routes.PACKAGE_CREATE: {
            "name": "agent", "version": "1", "sha256": "ef" * 32, "size_bytes": 7, "manifest": MANIFEST,
        },
        routes.ROLLOUT_CREATE: {
            "package_sha256": SHA256, "action": "install", "scope": {"roles": ["server"], "include": ["a"]},
            "waves": [{"percent": 50}], "window": {"start": "22:00", "end": "05:00"},
        },
    }  # fmt: skip


# Routes that take no JSON.
BODILESS = frozenset(
    {
        routes.PROVISION_LIST, routes.PROVISION_REVOKE, routes.PROVISION_QR, routes.SESSION_CLOSE, routes.LOGIN_CODE,
        routes.USER_LIST, routes.KEY_LIST, routes.KEY_REVOKE, routes.SITE_LIST, routes.SITE_GET, routes.SITE_DELETE,
        routes.SITE_STATUS, routes.SITE_EVENTS, routes.SITE_DOMAINS, routes.SITE_COMPUTERS, routes.SITE_TARGETS,
        routes.SITE_DEPLOYMENTS, routes.SITE_SCAN_RESULTS, routes.APPLIANCE_LIST, routes.APPLIANCE_APPROVE,
        routes.APPLIANCE_REVOKE, routes.APPLIANCE_REPLACE, routes.MANUAL_TARGETS_GET, routes.ENUMERATION_WISH,
        routes.SCAN_WISH, routes.DOMAIN_CREDENTIAL_LIST, routes.CREDENTIAL_LIST, routes.CREDENTIAL_DELETE,
        routes.CREDENTIAL_RETRY, routes.PACKAGE_UPLOAD, routes.PACKAGE_LIST, routes.PACKAGE_DOWNLOAD,
        routes.ROLLOUT_LIST, routes.ROLLOUT_GET, routes.ROLLOUT_PAUSE, routes.ROLLOUT_RESUME, routes.ROLLOUT_CANCEL,
        routes.ROLLOUT_RETRY, routes.AUDIT, routes.HEALTHZ, routes.READYZ,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def world(central_unlimited: Any) -> SimpleNamespace:
    """A partner with one of everything, and three who have no business with it."""
    return make_world(central_unlimited)


def made(response: Any) -> dict[str, Any]:
    assert response.status_code in (200, 201), response.text
    found: dict[str, Any] = response.json()
    return found


def make_world(central: Any) -> SimpleNamespace:
    joined = central.join(client_name="Victim clinic")
    site = f"/api/sites/{joined.site_id}"
    sample = bodies(dict.fromkeys(("site_id", "credential_id", "rollout_id", "user_id"), "none"))
    user = made(central.http.post("/api/partners/me/users", json=sample[routes.USER_CREATE]))
    made(central.http.post("/api/packages", json=sample[routes.PACKAGE_CREATE] | {"sha256": SHA256, "size_bytes": 9}))
    made(central.http.put(f"/api/packages/{SHA256}", content=FILE))
    ids = {
        "site_id": joined.site_id,
        "appliance_id": joined.id,
        "user_id": user["id"],
        "key_id": made(central.http.post("/api/partners/me/keys", json={"user_id": user["id"]}))["id"],
        "provision_id": central.provision(site_id=joined.site_id)["id"],
        "sha256": SHA256,
        "credential_id": made(central.http.post(f"{site}/credentials", json=sample[routes.CREDENTIAL_CREATE]))["id"],
        "rollout_id": made(central.http.post(f"{site}/rollouts", json=sample[routes.ROLLOUT_CREATE]))["id"],
    }
    joined.check_in()
    stranger = central.new_partner_key("stranger")
    with central.client(stranger) as client:
        code = made(client.post("/api/partners/me/provisions", json={"client_name": "Elsewhere"}))["provision_code"]
    device = type(joined.device)()
    return SimpleNamespace(
        central=central,
        ids=ids,
        bodies=bodies(ids),
        partner=central.api_key,
        appliance=joined.key,
        enrolment=joined.enrolment,
        attackers={
            "another partner": stranger,
            "another partner's appliance": device.claim(central, code).json()["api_key"],
            "an appliance of another site of the same partner": central.join(client_name="Sister").key,
        },
    )


def call(world: SimpleNamespace, route: Route, key: str, **changes: Any) -> Any:
    body: dict[str, Any] = {"json": world.bodies[route]} if route in world.bodies else {}
    if route is routes.PACKAGE_UPLOAD:
        body = {"content": b"something else"}
    path = route.url(**{name: world.ids[name] for name in route.names})
    if route is routes.SITE_EVENTS:
        # A stream that is let through would never end.
        with world.central.client(key) as client, client.stream(route.method, path) as response:
            if response.status_code != 200:
                response.read()
            return response
    return world.central.call(route.method, path, key, **(body | changes))


def rows_of(world: SimpleNamespace) -> dict[str, list[Any]]:
    """Everything in the database that is the victim's, but for what reading it leaves behind."""
    engine = create_engine(f"sqlite:///{world.central.database}")
    found: dict[str, list[Any]] = {}
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            if "site_id" in table.c:
                mine = table.c.site_id == world.ids["site_id"]
            elif "partner_id" in table.c and table.name != "partner_keys":
                mine = table.c.partner_id == world.enrolment["partner"]["id"]
            else:
                continue
            found[table.name] = [tuple(row) for row in connection.execute(select(table).where(mine))]
    engine.dispose()
    return found


def test_every_route_is_in_the_table(world: SimpleNamespace) -> None:
    assert {*world.bodies, *BODILESS} == set(ROUTES)
    assert not {*world.bodies} & BODILESS


@pytest.mark.parametrize(
    "attacker",
    ["another partner", "another partner's appliance", "an appliance of another site of the same partner"],
)
def test_nobody_reads_or_changes_what_is_somebody_elses(world: SimpleNamespace, attacker: str) -> None:
    # Lesson 9: the key decides, whatever ids a path, a body or a query names.
    key = world.attackers[attacker]
    before = rows_of(world)
    for route in ROUTES:
        if route.caller == "anyone":
            continue
        if route in (routes.LOGIN_CODE, routes.SESSION_CLOSE, routes.CHECKIN):
            # They concern the caller alone.
            continue
        params = {"params": {"site_id": world.ids["site_id"]}} if route is routes.AUDIT else {}
        response = call(world, route, key, **params)
        wrong_kind = route.caller not in ("either", "appliance" if "appliance" in attacker else "partner")
        if route.names or wrong_kind:
            assert response.status_code in REFUSED, (route, response.status_code)
            assert response.headers["content-type"] == "application/problem+json"
        else:
            assert response.status_code < 500, route
        if response.status_code < 300:
            told = response.text
            assert not [value for value in world.ids.values() if value in told and value != SHA256], route
    assert rows_of(world) == before


def test_the_owners_get_through_where_others_do_not(world: SimpleNamespace) -> None:
    """The test above would pass if nothing worked at all."""
    for route in (routes.SITE_GET, routes.CREDENTIAL_LIST, routes.ROLLOUT_GET, routes.SITE_EVENTS, routes.PROVISION_QR):
        assert call(world, route, world.partner).status_code == 200, route
    for route in (routes.PACKAGE_DOWNLOAD, routes.DOMAIN_CREDENTIAL_LIST, routes.CHECKIN, routes.REPORT_DEPLOYMENTS):
        assert call(world, route, world.appliance).status_code == 200, route


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every place in a body, itself first."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from leaves(child, (*path, name))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = replaced(body[path[0]], path[1:], value)
    return copy


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "'; drop table sites; --", "100%", "%s %(a)s {0}",
         "<script>alert(1)</script>", "../../etc/passwd", "A" * 5000, "\u202e", "0001-01-01T00:00:00+14:00",
         "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999Z", "2026-01-01", "=", "AAAA",
         "::1", "10.0.0.0/99", "\n\r", "ab" * 32]
    ),
    st.binary(max_size=8).map(lambda raw: raw.decode("latin-1")),
)  # fmt: skip
numbers = st.one_of(
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63) - 1, 10**400, -1, 0, 1e308, float("nan"), float("inf"), -0.0]),
    st.floats(),
)
nasty = st.one_of(st.none(), st.booleans(), numbers, texts)
anything = st.recursive(
    nasty,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
deep = st.integers(1, 200).map(lambda depth: json.loads('{"a":[' * depth + "]}" * depth))


@st.composite
def spoiled(draw: st.DrawFn, body: Any) -> Any:
    """A good body of which one or two places are something else; or anything at all."""
    if draw(st.integers(0, 7)) == 0:
        return draw(anything | deep)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(leaves(body))))
        old = body
        for name in path:
            old = old[name]
        # Of the same kind most of the time: what gets past the first check is what may harm behind it.
        kin = texts if isinstance(old, str) else numbers if isinstance(old, int | float) else anything
        body = replaced(body, path, draw(kin if draw(st.integers(0, 3)) else anything | deep))
    return body


def is_answered_well(response: Any, said: str) -> None:
    assert response.status_code < 500, (response.status_code, response.text, said)
    assert PASSWORD not in response.text
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == "application/problem+json", said
    document = response.json()
    kind = PROBLEMS[document["code"]]
    assert (document["status"], document["title"], document["retryable"]) == (
        response.status_code, kind.title, kind.retryable,
    )  # fmt: skip
    assert document["detail"]
    if response.status_code == 422:
        assert all({"path", "message"} == set(entry) for entry in document["errors"])


JSON_ROUTES = sorted(bodies(dict.fromkeys(("site_id", "credential_id", "rollout_id", "user_id"), "x")), key=str)


@pytest.mark.parametrize("route", JSON_ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_no_json_in_the_world_makes_a_5xx(world: SimpleNamespace, route: Route) -> None:
    key = world.appliance if route.caller == "appliance" else world.partner
    path = route.url(**{name: world.ids[name] for name in route.names})
    headers = {"Content-Type": "application/json"}
    with world.central.client(key) as client:

        @settings(
            max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(spoiled(world.bodies[route]), st.integers(0, 2**60))
        def spoil(body: Any, number: int) -> None:
            if isinstance(body, dict) and body.get("report_id") == "r1":
                body = body | {"report_id": f"r{number}"}
            said = json.dumps(body)
            is_answered_well(client.request(route.method, path, content=said.encode(), headers=headers), said)

        spoil()


# A stream does not end.
QUERIED = [route for route in ROUTES if route.method == "GET" and route is not routes.SITE_EVENTS]


@pytest.mark.parametrize("route", QUERIED, ids=lambda route: route.path)
def test_no_query_in_the_world_makes_a_5xx(world: SimpleNamespace, route: Route) -> None:
    path = route.url(**{name: world.ids[name] for name in route.names})
    values = ("", "%00", "%ED%A0%80", "-1", "9" * 400, "%25%5f", "%F0%9F%92%A3", "'", "cG9zdA==", "YQpi", "YQ", "٣")
    with world.central.client(world.partner) as client:
        for value in values:
            query = "&".join(
                f"{name}={value}" for name in ("cursor", "limit", "role", "q", "status", "site_id", "format", "after")
            )
            is_answered_well(client.get(f"{path}?{query}"), query)
            for name in ("cursor", "limit", "q", "role"):
                is_answered_well(client.get(f"{path}?{name}={value}"), f"{name}={value}")


def test_whatever_was_kept_of_all_that_can_still_be_shown(world: SimpleNamespace) -> None:
    with world.central.client() as client:
        client.post("/api/session", json={"api_key": world.partner}).raise_for_status()
        for path in ("/", f"/sites/{world.ids['site_id']}", f"/sites/{world.ids['site_id']}/fragment?state=failed"):
            shown = client.get(path)
            assert shown.status_code == 200, shown.text
            assert "<script>alert" not in shown.text
        for route in QUERIED:
            path = route.url(**{name: world.ids[name] for name in route.names})
            assert client.get(path).status_code == 200, route


def test_what_was_done_to_the_site_is_still_one_unbroken_chain(world: SimpleNamespace) -> None:
    with world.central.client(world.partner) as client:
        items = client.get("/api/audit", params={"site_id": world.ids["site_id"], "limit": 500}).json()["items"]
    entries = structure(items, tuple[AuditEntry, ...])
    assert len(entries) > 3
    assert chain_holds(entries, world.enrolment["partner"]["id"])
