"""The partner's side by real HTTP: people, sessions, sites, codes, appliances, audit, health."""

from __future__ import annotations

import pytest

from central_app.audit.service import chain_holds
from msp_sdk.models.event import AuditEntry
from msp_sdk.wire.converter import structure
from msp_sdk.wire.routes import ROUTES


def code_of(response):
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


def add_user(central, role):
    user = central.http.post("/api/partners/me/users", json={"email": f"{role}@contoso.example", "role": role})
    assert user.status_code == 201, user.text
    key = central.http.post("/api/partners/me/keys", json={"user_id": user.json()["id"], "label": role})
    assert key.status_code == 201
    return user.json(), key.json()


@pytest.mark.parametrize("route", [route for route in ROUTES if route.caller != "anyone"], ids=lambda route: route.path)
def test_no_route_answers_without_a_key(central_once, route):
    names = dict.fromkeys(route.names, "x")
    response = central_once.call(route.method, route.url(**names))
    assert code_of(response) == (401, "unauthenticated")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.names], ids=lambda route: route.path)
def test_what_is_somebody_elses_is_not_there(central_once, route):
    if not hasattr(central_once, "stranger"):
        central_once.stranger = central_once.new_partner_key("stranger")
        central_once.joined = central_once.join()
        central_once.made = central_once.provision()
    joined = central_once.joined
    names = {
        "site_id": joined.site_id,
        "appliance_id": joined.id,
        "provision_id": central_once.made["id"],
        "sha256": "0" * 64,
    }
    path = route.url(**{name: names.get(name, "none") for name in route.names})
    body = {} if route.method in ("GET", "DELETE") or route.path.startswith("/api/packages") else {"json": {}}
    response = central_once.call(route.method, path, central_once.stranger, **body)
    assert code_of(response)[0] == 404
    if "site_id" in route.names and route.caller == "either":
        other = central_once.join()
        assert code_of(central_once.call(route.method, path, other.key))[0] == 404


def test_an_appliance_key_opens_no_partner_route_and_a_partner_key_no_check_in(central):
    joined = central.join()
    assert code_of(central.call("GET", "/api/sites", joined.key))[0] == 401
    assert code_of(joined.post(key=central.api_key))[0] == 401


def test_a_viewer_reads_a_technician_works_an_admin_has_people(central):
    site_id = central.http.post("/api/sites", json={"name": "Clinic"}).json()["site_id"]
    _, viewer = add_user(central, "viewer")
    _, technician = add_user(central, "technician")
    for key, made, people in ((viewer["api_key"], 403, 403), (technician["api_key"], 201, 403)):
        assert central.call("GET", f"/api/sites/{site_id}", key).status_code == 200
        assert central.call("POST", "/api/sites", key, json={"name": "x"}).status_code == made
        assert central.call("GET", "/api/partners/me/keys", key).status_code == people
        assert central.call("DELETE", f"/api/sites/{site_id}", key).status_code == 403
    assert code_of(central.call("GET", "/api/partners/me/provisions", viewer["api_key"])) == (403, "forbidden")


def test_a_revoked_key_ends_at_once_and_so_does_the_session_it_opened(central):
    _, key = add_user(central, "technician")
    with central.client() as page:
        assert page.post("/api/session", json={"api_key": key["api_key"]}).status_code == 200
        assert page.get("/api/sites").status_code == 200
        assert central.http.delete(f"/api/partners/me/keys/{key['id']}").status_code == 204
        assert code_of(page.get("/api/sites")) == (401, "unauthenticated")
    assert central.call("GET", "/api/sites", key["api_key"]).status_code == 401
    listed = central.http.get("/api/partners/me/keys").json()["items"]
    assert key["id"] not in [entry["id"] for entry in listed]
    assert {entry["api_key"] for entry in listed} == {None}


def test_a_page_session_needs_its_token_to_change_anything(central):
    with central.client() as page:
        opened = page.post("/api/session", json={"api_key": central.api_key})
        assert opened.status_code == 200
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Secure" not in cookie  # the public URL is loopback http
        assert page.get("/api/sites").status_code == 200
        assert code_of(page.post("/api/sites", json={"name": "x"})) == (403, "csrf")
        token = {"X-CSRF-Token": opened.json()["csrf_token"]}
        assert page.post("/api/sites", json={"name": "x"}, headers={"X-CSRF-Token": "é".encode()}).status_code == 403
        assert page.post("/api/sites", json={"name": "x"}, headers=token).status_code == 201
        assert page.delete("/api/session", headers=token).status_code == 204
        page.cookies.set("msp_session", cookie.partition("=")[2].partition(";")[0])
        assert page.get("/api/sites").status_code == 401


def test_a_session_cookie_is_secure_behind_a_public_https_url(make_central):
    central = make_central(public_url="https://central.example")
    opened = central.call("POST", "/api/session", json={"api_key": central.api_key})
    cookie = opened.headers["set-cookie"]
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    token = cookie.partition("=")[2].partition(";")[0]
    # A neighbour under the same domain can set a cookie of the plain name: it opens nothing.
    for name, status in (("__Host-msp_session", 200), ("msp_session", 401)):
        assert central.call("GET", "/api/sites", headers={"Cookie": f"{name}={token}"}).status_code == status
    assert central.provision()["qr_content"].endswith("central=https%3A%2F%2Fcentral.example")


def test_a_login_code_opens_one_session_once_within_five_minutes(central):
    made = central.http.post("/api/partners/me/login-codes")
    assert made.status_code == 201
    code = made.json()["code"]
    assert central.call("POST", "/api/session", json={"code": code}).status_code == 200
    assert code_of(central.call("POST", "/api/session", json={"code": code})) == (401, "login-code-unknown")
    late = central.http.post("/api/partners/me/login-codes").json()["code"]
    central.pass_time(minutes=6)
    assert code_of(central.call("POST", "/api/session", json={"code": late})) == (401, "login-code-unknown")
    assert central.call("POST", "/api/session", json={"code": late, "api_key": "x"}).status_code == 422
    assert central.call("POST", "/api/session", json={"api_key": "pk_x_" + "a" * 43}).status_code == 401


def test_a_site_is_made_changed_and_listed(central):
    made = central.http.post("/api/sites", json={"name": "Clinic", "time_zone": "Europe/Vienna"})
    assert made.status_code == 201
    site = made.json()
    assert site["allow_plaintext_credentials"] is site["allow_ntlm"] is site["allow_domain_admin_on_hosts"] is False
    path = f"/api/sites/{site['site_id']}"
    changed = central.http.patch(path, json={"scope": {"ous": ["OU=A"]}, "allow_ntlm": True, "unknown": 1}).json()
    assert changed["name"] == "Clinic"
    assert {name: value for name, value in changed["scope"].items() if value} == {"ous": ["OU=A"]}
    assert changed["allow_ntlm"] is True
    auto = {"package": "agent", "roles": ["server"]}
    assert central.http.patch(path, json={"auto_rollout": auto}).json()["auto_rollout"] == auto
    assert central.http.patch(path, json={"auto_rollout": None}).json()["auto_rollout"] is None
    assert central.http.get(path).json()["time_zone"] == "Europe/Vienna"
    assert [entry["name"] for entry in central.http.get("/api/sites").json()["items"]] == ["Clinic"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": ""}, "name"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"checkin_interval_seconds": 0}, "checkin_interval_seconds"),
        ({"auto_rollout": {"package": "a", "roles": ["domain_controller"]}}, "auto_rollout.roles"),
        ({"trusted_cas": ["no pem"]}, "trusted_cas[0]"),
        ({"scope": {"subnets": ["x"]}}, "scope.subnets[0]"),
        ({"scope": {"excluded_names": ["A*", " "]}}, "scope.excluded_names[1]"),
        ({"scope": {"roles": ["printer"]}}, "scope.roles[0]"),
        ({"scope": {"stale_after_days": 7}}, "scope.stale_after_days"),
        ({"allow_ntlm": None}, "allow_ntlm"),
    ],
)
def test_settings_that_make_no_sense_are_named(central, change, path):
    site_id = central.http.post("/api/sites", json={"name": "Clinic"}).json()["site_id"]
    response = central.http.patch(f"/api/sites/{site_id}", json=change)
    assert code_of(response) == (422, "invalid")
    assert response.json()["errors"][0]["path"] == path


def test_lists_are_paged_and_complete(central):
    for number in range(5):
        central.http.post("/api/sites", json={"name": f"S{number}"}).raise_for_status()
    names, cursor = [], ""
    while cursor is not None:
        page = central.http.get(f"/api/sites?limit=2&cursor={cursor}").json()
        names += [entry["name"] for entry in page["items"]]
        cursor = page["next_cursor"]
    assert names == ["S0", "S1", "S2", "S3", "S4"]
    assert code_of(central.http.get("/api/sites?cursor=x")) == (422, "invalid")


def test_off_boarding_ends_keys_and_keeps_or_erases_the_history(central):
    kept, erased = central.join(), central.join()
    for joined in (kept, erased):
        joined.check_in()
    assert central.http.delete(f"/api/sites/{kept.site_id}").status_code == 204
    assert central.http.delete(f"/api/sites/{erased.site_id}?history=erase").status_code == 204
    for joined in (kept, erased):
        assert joined.post().status_code == 401
        assert central.http.get(f"/api/sites/{joined.site_id}").status_code == 404
    assert central.http.get(f"/api/audit?site_id={kept.site_id}").json()["items"]
    assert central.http.get(f"/api/audit?site_id={erased.site_id}").json()["items"] == []
    actions = [entry["action"] for entry in central.http.get("/api/audit").json()["items"]]
    assert {"site-off-boarded", "site-erased"} <= set(actions)


def test_many_codes_are_made_all_or_none(central):
    path = "/api/partners/me/provisions/bulk"
    made = central.http.post(path, json={"entries": [{"client_name": f"C{number}"} for number in range(3)]})
    assert made.status_code == 201
    assert [entry["client_name"] for entry in made.json()["items"]] == ["C0", "C1", "C2"]
    assert len({entry["provision_code"] for entry in made.json()["items"]}) == 3
    before = len(central.http.get("/api/sites").json()["items"])
    refused = central.http.post(path, json={"entries": [{"client_name": "ok"}, {"site_id": "site-none"}]})
    assert refused.status_code == 404
    assert len(central.http.get("/api/sites").json()["items"]) == before
    assert central.http.post(path, json={"entries": []}).status_code == 422
    assert central.http.post(path, json={"entries": [{}] * 101}).status_code == 422
    bad = central.http.post(path, json={"entries": [{}, {"uses": 0}]})
    assert bad.json()["errors"][0]["path"] == "entries[1].uses"


def test_a_pending_code_has_a_picture_and_a_revoked_one_none(central):
    made = central.provision()
    path = f"/api/partners/me/provisions/{made['id']}"
    svg = central.http.get(f"{path}/qr")
    assert svg.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in svg.content
    assert central.http.get(f"{path}/qr?format=png").content.startswith(b"\x89PNG")
    assert central.http.get(f"{path}/qr?format=gif").status_code == 422
    assert central.http.delete(path).status_code == 204
    assert code_of(central.http.get(f"{path}/qr")) == (409, "provision-not-pending")
    for status, count in (("pending", 0), ("revoked", 1), ("claimed", 0), ("expired", 0)):
        assert len(central.http.get(f"/api/partners/me/provisions?status={status}").json()["items"]) == count


def test_the_audit_is_a_chain_that_shows_a_change(central):
    joined = central.join()
    central.http.post(f"/api/sites/{joined.site_id}/scans").raise_for_status()
    items = central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"]
    entries = structure(items, tuple[AuditEntry, ...])
    assert [entry.action for entry in entries] == [
        "site-created", "provision-created", "provision-claimed", "scan-wished",
    ]  # fmt: skip
    partner_id = joined.enrolment["partner"]["id"]
    assert chain_holds(entries, partner_id)
    assert not chain_holds(entries[:1] + entries[2:], partner_id)
    assert not chain_holds((entries[0].__class__(1, entries[0].at, "somebody", "x"), *entries[1:]), partner_id)


def test_manual_targets_are_set_whole_and_a_host_is_there_once(central):
    site_id = central.http.post("/api/sites", json={"name": "Clinic"}).json()["site_id"]
    path = f"/api/sites/{site_id}/manual-targets"
    target = {"hostname": "<script>", "port": None, "use_ssl": True, "role": "server", "excluded": True}
    assert central.http.put(path, json=[target]).status_code == 200
    assert central.http.get(path).json()["items"] == [{**target, "credential_id": None}]
    assert central.http.put(path, json=[{"hostname": "a"}, {"hostname": "A"}]).status_code == 422
    assert central.http.put(path, json={"nothing": 1}).status_code == 422
    assert len(central.http.get(path).json()["items"]) == 1


def test_health_says_that_it_lives_and_is_ready(central):
    assert central.call("GET", "/healthz").json() == {"status": "ok"}
    ready = central.call("GET", "/readyz")
    assert ready.json() == {"status": "ready"}
    assert ready.headers["cache-control"] == "no-store"
    assert ready.headers["x-content-type-options"] == "nosniff"


def test_only_the_proxy_may_connect_and_its_word_about_addresses_counts(make_central):
    closed = make_central(behind_proxy=["10.9.0.0/16"])
    assert code_of(closed.call("GET", "/healthz")) == (403, "untrusted-peer")
    trusting = make_central(behind_proxy=["127.0.0.0/8"])
    trusting.call(
        "POST", "/api/session", json={"api_key": trusting.api_key}, headers={"X-Forwarded-For": "6.6.6.6, 9.8.7.6"}
    )
    opened = trusting.http.get("/api/audit").json()["items"][-1]
    assert (opened["action"], opened["address"]) == ("session-opened", "9.8.7.6")
