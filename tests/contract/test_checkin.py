"""The check-in, by real HTTP."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine, select, update

from central_app.database.tables import appliances, events, sites
from msp_sdk.models.checkin import CheckinReply
from msp_sdk.wire.converter import structure

PATH = "/api/appliances/checkin"
FIELDS = {
    "status", "appliance_id", "server_time", "windows_targets", "enabled_runbooks", "domain_credentials",
    "site_credentials", "credentials_version", "site_policy", "manual_targets", "targets_version",
    "trigger_enumeration", "enumeration_generation", "trigger_immediate_scan", "scan_generation", "rollouts",
    "runbook_runs", "site_appliances", "site_scope", "awaiting", "next_checkin_seconds",
}  # fmt: skip


CREDENTIAL_LISTS = ["domain_credentials", "site_credentials", "windows_targets"]


def appliance_row(central, appliance_id):
    engine = create_engine(f"sqlite:///{central.database}")
    with engine.connect() as connection:
        row = connection.execute(select(appliances).where(appliances.c.id == appliance_id)).mappings().one()
    engine.dispose()
    return row


def test_the_first_check_in_of_a_fresh_appliance_is_answered_field_by_field(central):
    # Lesson 7: the first of everything.
    joined = central.join()
    reply = joined.check_in()
    assert set(reply) == FIELDS
    assert reply["status"] == "ok"
    assert reply["appliance_id"] == joined.id
    assert abs(datetime.fromisoformat(reply["server_time"]) - datetime.now(UTC)) < timedelta(seconds=30)
    assert reply["windows_targets"] == reply["domain_credentials"] == reply["site_credentials"] == []
    assert reply["manual_targets"] == reply["rollouts"] == reply["site_appliances"] == []
    # Lesson 51: none means none.
    assert reply["enabled_runbooks"] == reply["runbook_runs"] == []
    assert reply["site_policy"] == {
        "allow_ntlm": False, "allow_domain_admin_on_hosts": False, "trusted_cas": [],
    }  # fmt: skip
    assert reply["trigger_enumeration"] is False
    assert reply["next_checkin_seconds"] == 60
    assert structure(reply, CheckinReply).awaiting == ()
    listed = central.http.get(f"/api/sites/{joined.site_id}/appliances").json()["items"][0]
    assert listed["agent_version"] == "0.1.0"
    assert listed["ip_addresses"] == ["10.0.0.2"]
    assert listed["last_seen_at"] is not None


def test_every_documented_field_of_a_request_is_kept_and_unknown_ones_are_counted(central):
    # Lesson 17: nothing that one side sends is dropped in silence.
    joined = central.join()
    joined.check_in(
        all_mac_addresses=[joined.device.mac], subnets=["10.0.0.0/24"], credentials_version=None, targets_version=None,
        completed={}, credential_states=[], health={"disk": "full", "clock_skew_s": 75.5}, from_the_future=1, more=[],
    )  # fmt: skip
    row = appliance_row(central, joined.id)
    assert row["subnets"] == ["10.0.0.0/24"]
    assert row["health"]["disk"] == "full"
    assert row["clock_skew_s"] == 75.5
    assert row["unknown_fields_count"] == 2


@pytest.mark.parametrize("key", [None, "x", "ak_", "nonsense", "ak_site-1_x", "pk_partner-1_" + "a" * 43])
def test_an_unknown_key_is_never_let_in_even_for_a_registered_appliance(central, key):
    # Lesson 5: never fail open.
    joined = central.join()
    joined.check_in()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    response = central.call("POST", PATH, json=joined.status(), headers=headers)
    assert response.status_code == 401
    assert response.json()["code"] == "unauthenticated"
    forged = joined.key[:-1] + ("a" if joined.key[-1] != "a" else "b")
    assert joined.post(key=forged).status_code == 401


def test_the_site_of_the_body_decides_nothing(central):
    # Lesson 9: the key's site, always.
    mine, theirs = central.join(), central.join()
    reply = mine.check_in(site_id=theirs.site_id, mac_address=theirs.device.mac, hostname="imposter")
    assert reply["appliance_id"] == mine.id
    assert appliance_row(central, theirs.id)["last_seen_at"] is None


def test_a_key_belongs_to_one_appliance_and_revoking_it_leaves_its_siblings(central):
    # Lesson 4: one key per appliance.
    first = central.join()
    second = central.join(site_id=first.site_id)
    assert [entry["id"] for entry in first.check_in()["site_appliances"]] == [second.id]
    central.http.post(f"/api/sites/{first.site_id}/appliances/{first.id}/revoke").raise_for_status()
    assert first.post().status_code == 401
    assert second.check_in()["site_appliances"] == []


def test_a_wish_stays_owed_until_it_is_completed_whatever_reply_is_lost(central):
    # Lesson 11: nothing is cleared by being sent.
    joined = central.join()
    central.http.post(f"/api/sites/{joined.site_id}/enumerations").raise_for_status()
    for _ in range(3):
        reply = joined.check_in(completed={})
        assert (reply["trigger_enumeration"], reply["enumeration_generation"]) == (True, 1)
        assert reply["trigger_immediate_scan"] is False
    assert joined.check_in(completed={"enumeration": 1})["trigger_enumeration"] is False
    # A wrong count does not swallow the next wish.
    assert joined.check_in(completed={"enumeration": 99})["trigger_enumeration"] is False
    central.http.post(f"/api/sites/{joined.site_id}/enumerations").raise_for_status()
    assert joined.check_in(completed={"enumeration": 1})["trigger_enumeration"] is True
    assert joined.check_in(completed={"enumeration": 2})["trigger_enumeration"] is False
    assert joined.check_in(completed={"enumeration": 1})["trigger_enumeration"] is False


def test_a_client_that_does_not_count_is_told_once_and_again_after_three_intervals(central):
    joined = central.join()
    central.http.post(f"/api/sites/{joined.site_id}/scans").raise_for_status()
    assert [joined.check_in()["trigger_immediate_scan"] for _ in range(3)] == [True, False, False]
    central.pass_time(seconds=181)
    assert [joined.check_in()["trigger_immediate_scan"] for _ in range(2)] == [True, False]


def test_manual_targets_follow_their_version_and_none_means_none(central):
    # Lesson 13.
    joined = central.join()
    version = joined.check_in()["targets_version"]
    assert joined.check_in(targets_version=version)["manual_targets"] is None
    path = f"/api/sites/{joined.site_id}/manual-targets"
    central.http.put(path, json=[{"hostname": "SRV1", "port": 5985}]).raise_for_status()
    reply = joined.check_in(targets_version=version)
    assert [target["hostname"] for target in reply["manual_targets"]] == ["SRV1"]
    assert central.http.put(path, json={"items": []}).json()["items"] == []
    assert joined.check_in(targets_version=reply["targets_version"])["manual_targets"] == []


def test_the_heartbeat_is_committed_whatever_an_optional_part_does(central):
    # Lesson 14: the events table is gone, so the event of the first check-in fails; the box still looks alive.
    joined = central.join()
    engine = create_engine(f"sqlite:///{central.database}")
    with engine.begin() as connection:
        events.drop(connection)
    engine.dispose()
    reply = joined.check_in(health={"disk": "full"})
    assert reply["status"] == "ok"
    row = appliance_row(central, joined.id)
    assert row["last_seen_at"] is not None
    assert row["health"] is None


def without(central, table):
    """A context in which a table of Central is gone, so that whatever needs it fails."""

    @contextmanager
    def gone():
        for old, new in ((table, f"{table}_gone"), (f"{table}_gone", table)):
            engine = create_engine(f"sqlite:///{central.database}")
            with engine.begin() as connection:
                connection.exec_driver_sql(f"alter table {old} rename to {new}")
            engine.dispose()
            if old == table:
                yield

    return gone()


@pytest.mark.parametrize(
    ("table", "part", "lists", "version"),
    [
        ("credential_leases", "credentials", CREDENTIAL_LISTS, "credentials_version"),
        ("manual_targets", "targets", ["manual_targets"], "targets_version"),
    ],
)  # fmt: skip
def test_what_central_cannot_read_now_is_not_claimed_to_be_unchanged(central, table, part, lists, version):
    # Lessons 14 and 24: the heartbeat goes on, and an error is neither "none" nor "unchanged".
    joined = central.join()
    held = joined.check_in()
    site = f"/api/sites/{joined.site_id}"
    domain = {"domain_name": "corp.example", "username": "svc", "password": "x", "credential_type": "service_account"}
    central.http.post(f"{site}/domain-credentials", json=domain).raise_for_status()
    central.http.put(f"{site}/manual-targets", json=[{"hostname": "SRV1"}]).raise_for_status()
    versions = {"credentials_version": held["credentials_version"], "targets_version": held["targets_version"]}
    with without(central, table):
        reply = joined.check_in(**versions)
    assert reply["status"] == "ok"
    assert [reply[name] for name in lists] == [None] * len(lists)
    assert reply[version] == held[version]
    assert f"central:{part}" in reply["awaiting"]
    after = joined.check_in(credentials_version=reply["credentials_version"], targets_version=reply["targets_version"])
    assert after[lists[0]]
    assert after["awaiting"] == []


def test_rollouts_that_cannot_be_read_are_said_to_be_missing(central):
    # Lesson 24.
    joined = central.join()
    with without(central, "packages"):
        reply = joined.check_in()
    assert (reply["rollouts"], reply["awaiting"]) == ([], ["central:rollouts"])


def test_the_runbooks_that_a_site_may_run_are_exactly_the_enabled_ones(central):
    joined = central.join()
    engine = create_engine(f"sqlite:///{central.database}")
    for enabled in (["reboot", "inventory"], []):
        with engine.begin() as connection:
            connection.execute(update(sites).where(sites.c.site_id == joined.site_id).values(enabled_runbooks=enabled))
        assert joined.check_in()["enabled_runbooks"] == enabled
    engine.dispose()


def types_of_events(central, joined):
    engine = create_engine(f"sqlite:///{central.database}")
    with engine.connect() as connection:
        rows = connection.execute(select(events.c.type).where(events.c.site_id == joined.site_id)).scalars().all()
    engine.dispose()
    return rows


def test_a_client_that_never_names_its_version_makes_no_noise_at_every_check_in(central):
    joined = central.join()
    site = f"/api/sites/{joined.site_id}"
    central.http.post(f"{site}/credentials", json={"type": "winrm", "host": "SRV1", "username": "a", "password": "b"})

    def noise():
        actions = [
            entry["action"] for entry in central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"]
        ]
        return actions.count("credentials-delivered"), types_of_events(central, joined).count("appliance-checked-in")

    for _ in range(4):
        assert len(joined.check_in()["windows_targets"]) == 1
    assert noise() == (1, 1)
    # After a silence both are news again, and so is a change.
    central.pass_time(seconds=181)
    for _ in range(2):
        joined.check_in()
    assert noise() == (2, 2)
    central.http.post(f"{site}/credentials", json={"type": "winrm", "host": "SRV2", "username": "a", "password": "b"})
    for _ in range(2):
        joined.check_in()
    assert noise() == (3, 2)


def test_macs_are_kept_in_one_spelling(central):
    joined = central.join()
    joined.check_in(mac_address=joined.device.mac.lower().replace(":", "-"), all_mac_addresses=["00155d0a0b0c"])
    assert appliance_row(central, joined.id)["all_mac_addresses"] == ["00:15:5D:0A:0B:0C"]


def test_a_flood_of_reports_is_held_back_and_never_starves_the_heartbeat(make_central):
    # Lesson 16: separate budgets, one an appliance.
    central = make_central(reports_per_minute_appliance=3)
    noisy = central.join()
    quiet = central.join(site_id=noisy.site_id)

    def report(joined, number):
        body = {"report_id": str(number), "results": []}
        return central.call("POST", "/api/appliances/scan-results", joined.key, json=body)

    replies = [report(noisy, number) for number in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert int(replies[-1].headers["retry-after"]) >= 1
    for _ in range(5):
        noisy.check_in()
    assert report(quiet, 1).status_code == 200


def test_a_check_in_of_65_kib_is_refused_and_one_just_below_is_not(central):
    joined = central.join()
    big = joined.post(health={"log": "x" * (65 * 1024)})
    assert big.status_code == 413
    assert big.headers["content-type"] == "application/problem+json"
    assert big.json()["code"] == "too-large"
    assert joined.post(health={"log": "x" * (63 * 1024)}).status_code == 200


def test_a_body_of_megabytes_is_a_problem_in_json_too(central):
    joined = central.join()
    response = central.call("POST", PATH, joined.key, content=b"x" * (3 * 1024 * 1024))
    assert response.status_code == 413
    assert response.json()["code"] == "too-large"


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe\x00", "application/json", 400),
        (b"[" * 20_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json", 422),
    ],
)
def test_a_broken_body_is_a_clear_problem(central, content, media_type, status):
    joined = central.join()
    response = central.call("POST", PATH, joined.key, content=content, headers={"Content-Type": media_type})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": 7},
        {"hostname": None},
        {"hostname": "a\x00b"},
        {"uptime_seconds": "long"},
        {"credentials_version": True},
        {"completed": {"enumeration": "1"}},
        {"completed": {"enumeration": 10**30}},
        {"health": {"deep": [[[[]]]], "number": 10**40}},
        {"ip_addresses": 7},
        {"ip_addresses": "10.0.0.1"},
        {"mac_address": "nonsense"},
        {"all_mac_addresses": ["00155D010203", "x"]},
        {"credential_states": [{"id": "x"}]},
        {"agent_version": "x" * 100},
    ],
)
def test_a_field_that_does_not_fit_is_named_and_its_value_is_not_repeated(central, change):
    joined = central.join()
    response = joined.post(**change)
    assert response.status_code == 422
    errors = response.json()["errors"]
    assert errors[0]["path"].startswith(next(iter(change)))


def test_half_characters_and_endless_numbers_never_make_a_500(central):
    joined = central.join()
    text = json.dumps(joined.status(hostname="PLACE"))
    for value in ('"\\ud800"', '"\\u0000"', "NaN", "1e999", "9" * 5000, '{"a":' * 500 + "1" + "}" * 500):
        content = text.replace('"PLACE"', value).encode()
        response = central.call("POST", PATH, joined.key, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422), value[:20]
    assert joined.post().status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not-found"),
        ("PATCH", PATH, 405, "method-not-allowed"),
        ("GET", "/api/sites/%00%FF", 404, "not-found"),
        ("GET", "/api/sites/../../etc", 404, "not-found"),
    ],
)
def test_every_refusal_is_a_problem_document(central, method, path, status, code):
    response = central.http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code


def test_the_site_sets_the_interval(central):
    joined = central.join()
    central.http.patch(f"/api/sites/{joined.site_id}", json={"checkin_interval_seconds": 1}).raise_for_status()
    assert joined.check_in()["next_checkin_seconds"] == 1


def test_what_an_appliance_says_of_its_health_is_seen_by_the_partner(central):
    joined = central.join()
    joined.check_in(health={"problems": {"enumeration": "unreachable-controller"}})
    url = f"/api/sites/{joined.site_id}/appliances"
    (seen,) = central.http.get(url).json()["items"]
    assert seen["health"] == {"problems": {"enumeration": "unreachable-controller"}}
    joined.check_in(health={})
    assert central.http.get(url).json()["items"][0]["health"] == {}
