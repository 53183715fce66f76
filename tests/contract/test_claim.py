"""The claim, by real HTTP: atomic and idempotent by device."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from msp_sdk.models.credential import SealedSecret
from msp_sdk.models.provision import ClaimReply
from msp_sdk.security.sealing import api_key_context
from msp_sdk.wire.converter import structure

PROBLEM = "application/problem+json"


def code_of(response):
    assert response.headers["content-type"] == PROBLEM, response.text
    document = response.json()
    assert document["status"] == response.status_code
    assert isinstance(document["retryable"], bool)
    assert document["title"]
    assert document["detail"]
    return response.status_code, document["code"]


def test_the_request_of_the_contract_is_answered_field_by_field(central, make_device):
    made = central.provision(client_name="Clinic")
    assert set(made) >= {
        "id", "provision_code", "qr_content", "client_name", "site_id", "status", "expires_at", "created_at",
    }  # fmt: skip
    assert made["status"] == "pending"
    assert made["qr_content"].startswith("msp-claim:?code=")
    reply = make_device().claim(central, made["provision_code"], hardware_id="board-7")
    assert reply.status_code == 200
    body = reply.json()
    assert body["status"] == "claimed"
    assert body["site_id"] == made["site_id"]
    assert body["appliance_id"].startswith(f"{made['site_id']}-")
    assert body["api_key"].startswith(f"ak_{made['site_id']}_")
    assert body["api_endpoint"] == central.url
    assert body["checkin_interval_seconds"] == 60
    assert set(body["partner"]) == {"id", "slug", "brand_name", "primary_color", "logo_url"}
    assert structure(body, ClaimReply).sealed_api_key is None
    listed = central.http.get("/api/partners/me/provisions?status=claimed").json()["items"]
    assert [entry["id"] for entry in listed] == [made["id"]]
    assert listed[0]["provision_code"] is None


def test_the_code_is_read_as_people_type_it(central, make_device):
    code = central.provision()["provision_code"]
    typed = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert make_device(keyless=True).claim(central, typed).status_code == 200


def test_a_lost_claim_reply_does_not_burn_the_code(central, make_device):
    # Lesson 1: the same device asks again, and gets the same place and a key that works.
    device, code = make_device(), central.provision()["provision_code"]
    replies = [device.claim(central, code).json() for _ in range(3)]
    assert len({reply["appliance_id"] for reply in replies}) == 1
    assert len({reply["api_key"] for reply in replies}) == 3
    status = {
        "site_id": "x", "hostname": "h", "mac_address": device.mac, "ip_addresses": [], "uptime_seconds": 1,
        "agent_version": "1",
    }  # fmt: skip
    first = central.call("POST", "/api/appliances/checkin", replies[1]["api_key"], json=status)
    assert first.status_code == 200
    # The first key used ended the others.
    for reply in (replies[0], replies[2]):
        assert code_of(central.call("POST", "/api/appliances/checkin", reply["api_key"], json=status))[0] == 401


def test_after_first_use_a_repeat_gets_its_key_sealed_and_the_old_one_works_until_it_is_used(central, make_device):
    # Lesson 3: overlap.
    device, code = make_device(), central.provision()["provision_code"]
    enrolment = device.claim(central, code).json()
    status = {
        "site_id": enrolment["site_id"], "hostname": "h", "mac_address": device.mac, "ip_addresses": [],
        "uptime_seconds": 1, "agent_version": "1",
    }  # fmt: skip

    def check_in(key):
        return central.call("POST", "/api/appliances/checkin", key, json=status).status_code

    assert check_in(enrolment["api_key"]) == 200
    repeat = device.claim(central, code).json()
    assert repeat["api_key"] is None
    context = api_key_context(repeat["partner"]["id"], repeat["site_id"], repeat["appliance_id"])
    new_key = device.keys.open(structure(repeat["sealed_api_key"], SealedSecret), context).reveal()
    assert check_in(enrolment["api_key"]) == 200
    assert check_in(new_key) == 200
    assert check_in(enrolment["api_key"]) == 401


def test_a_keyless_repeat_works_until_the_key_was_used_and_never_after(central, make_device):
    device, code = make_device(keyless=True), central.provision()["provision_code"]
    first = device.claim(central, code).json()
    assert device.claim(central, code).json()["appliance_id"] == first["appliance_id"]
    key = device.claim(central, code).json()["api_key"]
    status = {
        "site_id": "x", "hostname": "h", "mac_address": device.mac, "ip_addresses": [], "uptime_seconds": 1,
        "agent_version": "1",
    }  # fmt: skip
    assert central.call("POST", "/api/appliances/checkin", key, json=status).status_code == 200
    assert code_of(device.claim(central, code)) == (409, "device-keys-required")


def test_at_most_five_keys_of_an_appliance_work(central, make_device):
    device, code = make_device(), central.provision()["provision_code"]
    keys = [device.claim(central, code).json()["api_key"] for _ in range(7)]
    path = "/api/packages/" + "0" * 64
    valid = [key for key in keys if central.call("GET", path, key).status_code != 401]
    assert valid == keys[2:]


def test_another_device_cannot_take_a_claimed_code(central, make_device):
    code = central.provision()["provision_code"]
    assert make_device().claim(central, code).status_code == 200
    assert code_of(make_device().claim(central, code)) == (409, "provision-code-claimed")


def test_of_two_devices_that_race_for_a_code_exactly_one_wins(central, make_device):
    for _ in range(5):
        code = central.provision()["provision_code"]
        gate = threading.Barrier(4)

        def race(device, code=code, gate=gate):
            gate.wait()
            return device.claim(central, code).status_code

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(race, [make_device() for _ in range(4)]))
        assert sorted(results) == [200, 409, 409, 409]


def test_one_device_that_races_itself_is_one_appliance(central, make_device):
    device, code = make_device(), central.provision()["provision_code"]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: device.claim(central, code).json(), range(4)))
    assert len({reply["appliance_id"] for reply in replies}) == 1
    assert len(central.http.get(f"/api/sites/{replies[0]['site_id']}/appliances").json()["items"]) == 1


def test_a_code_with_two_uses_lets_two_devices_into_one_site(central, make_device):
    made = central.provision(uses=2)
    replies = [make_device().claim(central, made["provision_code"]) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 409]
    first, second = replies[0].json(), replies[1].json()
    assert first["site_id"] == second["site_id"]
    assert first["appliance_id"] != second["appliance_id"]


def test_unknown_expired_and_revoked_codes_say_so(central, make_device):
    device = make_device()
    assert code_of(device.claim(central, "0000-0000-0000-0000")) == (404, "provision-code-unknown")
    revoked = central.provision()
    assert central.http.delete(f"/api/partners/me/provisions/{revoked['id']}").status_code == 204
    assert code_of(device.claim(central, revoked["provision_code"])) == (410, "provision-code-revoked")
    expired = central.provision(expires_in_days=1)
    claimed = central.provision(expires_in_days=1)
    assert device.claim(central, claimed["provision_code"]).status_code == 200
    central.pass_time(days=2)
    assert code_of(make_device().claim(central, expired["provision_code"])) == (410, "provision-code-expired")
    # A repeat works until the code expires, not longer.
    assert code_of(device.claim(central, claimed["provision_code"])) == (410, "provision-code-expired")
    assert code_of(central.http.delete(f"/api/partners/me/provisions/{expired['id']}"))[1] == "provision-not-pending"


@pytest.mark.parametrize(
    "change",
    [
        {"proof": None},
        {"proof": "AAAA"},
        {"mac_address": "00:15:5D:00:00:99"},
    ],
)
def test_a_claim_whose_proof_does_not_fit_is_refused_and_the_code_stays(central, make_device, change):
    device, code = make_device(mac="00:15:5D:00:00:01"), central.provision()["provision_code"]
    assert code_of(device.claim(central, code, **change)) == (422, "bad-proof")
    assert device.claim(central, code).status_code == 200


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"provision_code": "too-short"}, "provision_code"),
        ({"provision_code": 7}, "provision_code"),
        ({"mac_address": "nonsense"}, "mac_address"),
        ({"hostname": "x" * 300}, "hostname"),
        ({"hostname": "a\x00b"}, "hostname"),
        ({"device_keys": {"signing": "AA", "sealing": "AA"}}, "device_keys"),
    ],
)
def test_bad_fields_of_a_claim_are_named(central, make_device, change, path):
    device = make_device()
    response = device.claim(central, central.provision()["provision_code"], **change)
    assert code_of(response) == (422, "invalid")
    assert [entry["path"] for entry in response.json()["errors"]] == [path]


def test_a_known_mac_alone_mints_nothing(central, make_device):
    # Lesson 8: a code or the old key is needed; and lesson 6: the MAC of a keyed box is not its identity.
    joined = central.join()
    thief = make_device(mac=joined.device.mac)
    assert code_of(thief.claim(central, "0000-0000-0000-0000")) == (404, "provision-code-unknown")
    code = central.provision(site_id=joined.site_id)["provision_code"]
    assert code_of(thief.claim(central, code)) == (409, "appliance-exists")
    assert code_of(make_device(mac=joined.device.mac, keyless=True).claim(central, code)) == (
        409,
        "device-keys-required",
    )


def test_a_box_with_a_new_network_card_or_another_spelling_is_the_same_box(central, make_device):
    # Lesson 6: no twins.
    device = make_device(keyless=True, mac="00:15:5D:00:00:05")
    code = central.provision()["provision_code"]
    first = device.claim(central, code).json()
    other = device.claim(
        central, code, mac_address="aabbccddeeff", all_mac_addresses=["00-15-5d-00-00-05", "02:42:ac:11:00:02"]
    ).json()
    assert other["appliance_id"] == first["appliance_id"]
    assert other["appliance_id"].endswith("-00:15:5D:00:00:05")
    # The id is one id, also when a client quotes it.
    for spelled in (first["appliance_id"], first["appliance_id"].replace(":", "%3A")):
        path = f"/api/sites/{first['site_id']}/appliances/{spelled}/approve"
        assert central.http.post(path).status_code == 200


def test_two_boxes_with_one_host_name_are_two_appliances(central, make_device):
    made = central.provision(uses=2)
    ids = {make_device().claim(central, made["provision_code"]).json()["appliance_id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_revoked_appliance_never_comes_back_by_a_claim(central):
    joined = central.join()
    path = f"/api/sites/{joined.site_id}/appliances/{joined.id}/revoke"
    assert central.http.post(path).json()["state"] == "revoked"
    assert joined.post().status_code == 401
    fresh = central.provision(site_id=joined.site_id)["provision_code"]
    assert code_of(joined.device.claim(central, fresh)) == (409, "appliance-revoked")
    assert code_of(central.http.post(path.replace("revoke", "approve"))) == (409, "appliance-revoked")


def test_new_hardware_takes_the_place_after_replace(central, make_device):
    joined = central.join()
    joined.check_in()
    new = make_device()
    path = f"/api/sites/{joined.site_id}/appliances/{joined.id}/replace"
    assert central.http.post(path).status_code == 200
    reply = new.claim(central, central.provision(site_id=joined.site_id)["provision_code"]).json()
    assert reply["appliance_id"] == joined.id
    assert joined.post().status_code == 401
    assert joined.post(key=reply["api_key"]).status_code == 200
    # It is done once; the next new device gets a place of its own.
    other = make_device().claim(central, central.provision(site_id=joined.site_id)["provision_code"]).json()
    assert other["appliance_id"] != joined.id


@pytest.mark.parametrize("keyless", [False, True])
def test_a_revoked_device_stays_out_after_new_hardware_has_its_place(central, make_device, keyless):
    first = central.join()
    old = central.join(make_device(keyless=keyless), site_id=first.site_id)
    path = f"/api/sites/{old.site_id}/appliances/{old.id}"
    # Its place went through two hands, so that not even its MAC is left in the list of appliances.
    for verb in ("revoke", "replace"):
        assert central.http.post(f"{path}/{verb}").status_code == 200
    assert central.join(make_device(keyless=keyless), site_id=old.site_id).id == old.id
    fresh = central.provision(site_id=old.site_id)["provision_code"]
    assert code_of(old.device.claim(central, fresh)) == (409, "appliance-revoked")
    # The code is not spent by the attempt, and the new hardware goes on.
    assert make_device().claim(central, fresh).status_code == 200


def test_hardware_that_was_only_replaced_can_have_its_place_back(central, make_device):
    joined = central.join()
    path = f"/api/sites/{joined.site_id}/appliances/{joined.id}/replace"
    for device in (make_device(), joined.device):
        assert central.http.post(path).status_code == 200
        assert central.join(device, site_id=joined.site_id).id == joined.id


def test_a_code_is_tried_twenty_times_a_minute_and_an_address_as_often_as_the_settings_say(make_central, make_device):
    central = make_central(claims_per_minute_code=3, claims_per_minute_address=6)
    device, code = make_device(), central.provision()["provision_code"]
    assert [device.claim(central, code).status_code for _ in range(4)] == [200, 200, 200, 429]
    other = [device.claim(central, "0000-0000-0000-0000") for _ in range(3)]
    assert [reply.status_code for reply in other] == [404, 404, 429]
    assert int(other[2].headers["retry-after"]) >= 1
    assert other[2].json()["retryable"] is True


def test_a_flood_of_claims_does_not_starve_the_heartbeat(make_central, make_device):
    # Lesson 16: separate budgets.
    central = make_central(claims_per_minute_address=2)
    joined = central.join()
    for _ in range(5):
        make_device().claim(central, "0000-0000-0000-0000")
    assert make_device().claim(central, "0000-0000-0000-0000").status_code == 429
    for _ in range(5):
        joined.check_in()


def test_the_endpoint_never_comes_from_a_host_header(central, make_device):
    body = make_device().body(central.provision()["provision_code"])
    reply = central.call("POST", "/api/partners/claim", json=body, headers={"Host": "evil.example"})
    assert reply.json()["api_endpoint"] == central.url


def test_a_code_for_a_site_with_credentials_needs_approval_unless_made_otherwise(central, make_device):
    joined = central.join()
    central.http.post(
        f"/api/sites/{joined.site_id}/domain-credentials",
        json={
            "domain_name": "corp.example",
            "username": "svc",
            "password": "Pa55",
            "credential_type": "service_account",
        },
    ).raise_for_status()
    code = central.provision(site_id=joined.site_id)["provision_code"]
    second = make_device().claim(central, code).json()
    states = {
        entry["id"]: entry["state"]
        for entry in central.http.get(f"/api/sites/{joined.site_id}/appliances").json()["items"]
    }
    assert states == {joined.id: "active", second["appliance_id"]: "awaiting_approval"}
    trusted = central.join(site_id=joined.site_id, auto_approve=True)
    listed = central.http.get(f"/api/sites/{joined.site_id}/appliances").json()["items"]
    assert {entry["state"] for entry in listed if entry["id"] == trusted.id} == {"active"}
