"""Credentials on the wire: sealed, versioned, leased, never readable again."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine

from central_app.audit.service import chain_holds
from central_app.database.tables import credentials
from msp_sdk.errors import MspError
from msp_sdk.models.credential import SealedSecret
from msp_sdk.models.event import AuditEntry
from msp_sdk.security.device_keys import DevicePrivateKeys
from msp_sdk.security.sealing import SealContext
from msp_sdk.wire.converter import structure
from tests.stored_credentials import PASSWORD, add, add_domain, state


def open_sealed(joined, entry, type_, place=""):
    context = SealContext(
        joined.enrolment["partner"]["id"], joined.site_id, joined.id, entry["id"], entry["version"], type_,
        entry["username"], place,
    )  # fmt: skip
    return joined.device.keys.open(structure(entry["sealed_password"], SealedSecret), context).reveal()


def test_a_domain_credential_comes_sealed_and_opens_with_the_device_key(central):
    joined = central.join()
    joined.check_in(completed={})
    stored = add_domain(central, joined.site_id)
    assert PASSWORD not in str(stored)
    reply = joined.check_in(completed={})
    (entry,) = reply["domain_credentials"]
    assert reply["windows_targets"] == reply["site_credentials"] == []
    assert entry["password"] is None
    assert entry["kind"] == "service_account"
    assert entry["trusted_certificates"] == [{"sha256": "ab" * 32, "ca_pem": None}]
    assert set(entry["sealed_password"]) == {
        "v", "suite", "key_id", "credential_id", "version", "blob", "signature",
    }  # fmt: skip
    assert open_sealed(joined, entry, "service_account", "corp.example") == PASSWORD
    # A credential for a domain wishes an enumeration and a scan.
    assert (reply["trigger_enumeration"], reply["trigger_immediate_scan"]) == (True, True)
    # Sealed once per version and device key.
    assert joined.check_in()["domain_credentials"][0]["sealed_password"] == entry["sealed_password"]
    by_path = central.call("GET", f"/api/sites/{joined.site_id}/domain-credentials", joined.key).json()["items"]
    assert by_path[0]["sealed_password"] == entry["sealed_password"]


def test_host_and_site_wide_credentials_come_in_their_own_lists(central):
    joined = central.join()
    host = add(central, joined.site_id, type="winrm", host="SRV9", port=5986, use_ssl=True)
    whole = add(central, joined.site_id, type="local_admin")
    reply = joined.check_in()
    (target,) = reply["windows_targets"]
    assert (target["id"], target["role"], target["hostname"], target["port"]) == (host["id"], "winrm", "SRV9", 5986)
    assert target["password"] is None
    assert open_sealed(joined, target, "winrm", "SRV9") == PASSWORD
    (local,) = reply["site_credentials"]
    assert (local["id"], local["kind"]) == (whole["id"], "local_admin")
    assert open_sealed(joined, local, "local_admin") == PASSWORD
    assert reply["domain_credentials"] == []


def test_having_credentials_does_not_hide_new_ones_and_unchanged_is_null(central):
    # Lesson 12.
    joined = central.join()
    first = joined.check_in()
    unchanged = joined.check_in(credentials_version=first["credentials_version"])
    assert unchanged["domain_credentials"] is unchanged["site_credentials"] is unchanged["windows_targets"] is None
    add_domain(central, joined.site_id)
    changed = joined.check_in(credentials_version=first["credentials_version"])
    assert changed["credentials_version"] > first["credentials_version"]
    assert len(changed["domain_credentials"]) == 1
    # One that asks with another number, or none, gets all.
    for other in (None, 10_000):
        assert len(joined.check_in(credentials_version=other)["domain_credentials"]) == 1


def test_deleting_the_last_credential_reaches_the_appliance_as_an_empty_list(central):
    # Lesson 13: empty means none.
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    version = joined.check_in()["credentials_version"]
    path = f"/api/sites/{joined.site_id}/credentials/{stored['id']}"
    assert central.http.delete(path).status_code == 204
    assert joined.check_in(credentials_version=version)["domain_credentials"] == []
    assert central.http.delete(path).status_code == 404


def test_a_device_without_a_sealing_key_gets_no_password_unless_the_site_says_so(central, make_device):
    joined = central.join(make_device(keyless=True))
    add_domain(central, joined.site_id)
    reply = joined.check_in()
    assert reply["domain_credentials"] == []
    assert reply["awaiting"] == ["sealing_key"]
    site = f"/api/sites/{joined.site_id}"
    central.http.patch(site, json={"allow_plaintext_credentials": True}).raise_for_status()
    plain = joined.check_in(credentials_version=reply["credentials_version"])["domain_credentials"][0]
    assert plain["password"] == PASSWORD
    assert plain["sealed_password"] is None


def test_a_device_with_a_sealing_key_never_gets_a_password_in_the_clear(central):
    joined = central.join()
    central.http.patch(f"/api/sites/{joined.site_id}", json={"allow_plaintext_credentials": True}).raise_for_status()
    add_domain(central, joined.site_id)
    response = joined.post()
    assert response.json()["domain_credentials"][0]["password"] is None
    assert PASSWORD not in response.text


def test_an_appliance_that_awaits_approval_gets_nothing_until_it_is_approved(central, make_device):
    first = central.join()
    add_domain(central, first.site_id)
    code = central.provision(site_id=first.site_id)["provision_code"]
    device = make_device()
    enrolment = device.claim(central, code).json()
    second = type(first)(central, device, enrolment)
    reply = second.check_in(completed={})
    assert reply["domain_credentials"] == []
    assert reply["awaiting"] == ["approval"]
    assert reply["trigger_enumeration"] is False
    listed = central.call("GET", f"/api/sites/{first.site_id}/domain-credentials", second.key).json()["items"]
    assert listed == []
    path = f"/api/sites/{first.site_id}/appliances/{second.id}/approve"
    assert central.http.post(path).json()["state"] == "active"
    # It is proven by the first, so the second may have it, once it is told.
    credential = first.check_in()["domain_credentials"][0]
    first.check_in(credential_states=[state(first, credential, "proven")])
    after = second.check_in(completed={}, credentials_version=reply["credentials_version"])
    assert open_sealed(second, after["domain_credentials"][0], "service_account", "corp.example") == PASSWORD
    assert after["trigger_enumeration"] is True


def test_an_unproven_version_is_leased_to_one_appliance(central):
    first = central.join()
    second = central.join(site_id=first.site_id)
    stored = add_domain(central, first.site_id)
    assert len(first.check_in()["domain_credentials"]) == 1
    waiting = second.check_in()
    assert waiting["domain_credentials"] == []
    assert waiting["awaiting"] == ["waiting-for-lease"]
    # What one says that was not given it counts for nothing.
    second.check_in(credential_states=[state(second, stored, "refused", "wrong-password")])
    path = f"/api/sites/{first.site_id}/credentials"
    assert central.http.get(path).json()["items"][0]["state"] == "unproven"
    first.check_in(credential_states=[state(first, stored, "proven")])
    assert central.http.get(path).json()["items"][0]["state"] == "proven"
    assert len(second.check_in(credentials_version=waiting["credentials_version"])["domain_credentials"]) == 1


def test_a_lease_passes_on_when_its_holder_is_silent_or_revoked(central):
    first = central.join()
    second = central.join(site_id=first.site_id)
    add_domain(central, first.site_id)
    first.check_in()
    version = second.check_in()["credentials_version"]
    assert second.check_in(credentials_version=version)["domain_credentials"] is None
    central.pass_time(minutes=11)
    assert len(second.check_in(credentials_version=version)["domain_credentials"]) == 1
    assert first.check_in()["domain_credentials"] == []
    central.http.post(f"/api/sites/{first.site_id}/appliances/{second.id}/revoke").raise_for_status()
    assert len(first.check_in()["domain_credentials"]) == 1


def test_who_was_silent_is_told_to_forget_a_version_that_another_one_tries_now(central):
    # Lesson 32: two that hold an unproven password in memory would strike twice.
    first = central.join()
    second = central.join(site_id=first.site_id)
    add_domain(central, first.site_id)
    held = first.check_in()["credentials_version"]
    known = second.check_in()["credentials_version"]
    central.pass_time(minutes=11)
    assert len(second.check_in(credentials_version=known)["domain_credentials"]) == 1
    back = first.check_in(credentials_version=held)
    assert back["domain_credentials"] == []
    assert back["awaiting"] == ["waiting-for-lease"]


def test_a_new_sealing_key_gets_the_password_sealed_anew_and_nothing_for_the_old_key(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    before = joined.check_in(completed={})
    held = before["credentials_version"]
    # The same device with a new sealing key claims again, with its proof.
    old, fresh = joined.device.keys, DevicePrivateKeys.generate()
    joined.device.keys = DevicePrivateKeys(old._signing, fresh._sealing)
    code = central.provision(site_id=joined.site_id)["provision_code"]
    reply = joined.device.claim(central, code)
    assert reply.status_code == 200, reply.text
    assert reply.json()["appliance_id"] == joined.id
    after = joined.check_in(completed={}, credentials_version=held)
    (entry,) = after["domain_credentials"]
    assert entry["version"] == stored["version"]
    assert entry["sealed_password"]["key_id"] != before["domain_credentials"][0]["sealed_password"]["key_id"]
    assert open_sealed(joined, entry, "service_account", "corp.example") == PASSWORD
    joined.device.keys = old
    with pytest.raises(MspError):
        open_sealed(joined, entry, "service_account", "corp.example")


def test_a_refused_credential_goes_to_none_and_the_partner_sees_why_and_retry_is_one_more_version(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    held = joined.check_in(completed={})
    joined.check_in(
        completed={"enumeration": 1, "scan": 1}, credential_states=[state(joined, stored, "refused", "wrong-password")]
    )
    assert joined.check_in(credentials_version=held["credentials_version"])["domain_credentials"] == []
    path = f"/api/sites/{joined.site_id}/credentials"
    (seen,) = central.http.get(path).json()["items"]
    assert (seen["state"], seen["state_code"]) == ("refused", "wrong-password")
    # A late word about the same version changes nothing.
    joined.check_in(credential_states=[state(joined, stored, "proven")])
    assert central.http.get(path).json()["items"][0]["state"] == "refused"
    retried = central.http.post(f"{path}/{stored['id']}/retry").json()
    assert (retried["version"], retried["state"], retried["state_code"]) == (2, "unproven", None)
    reply = joined.check_in(completed={"enumeration": 1, "scan": 1})
    assert reply["domain_credentials"][0]["version"] == 2
    assert (reply["trigger_enumeration"], reply["enumeration_generation"]) == (True, 2)
    assert open_sealed(joined, reply["domain_credentials"][0], "service_account", "corp.example") == PASSWORD
    # The old word, repeated, is about an old version.
    joined.check_in(credential_states=[state(joined, stored, "refused", "wrong-password")])
    assert central.http.get(path).json()["items"][0]["state"] == "unproven"


def test_an_account_that_is_kept_out_keeps_its_credential_and_the_partner_sees_why(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    held = joined.check_in(completed={})
    path = f"/api/sites/{joined.site_id}/credentials"
    for code in ("account-disabled", "logon-hours"):
        reply = joined.check_in(
            credentials_version=held["credentials_version"],
            credential_states=[state(joined, stored, "unproven", code)],
        )
        # Unchanged: it is tried again by itself once the account was mended.
        assert reply["domain_credentials"] is None
        (seen,) = central.http.get(path).json()["items"]
        assert (seen["state"], seen["state_code"]) == ("unproven", code)
    for said, code, wanted in (
        ("proven", None, ("proven", None)),
        # Disabled after it was proven: the partner sees that too, and it stays what it is to the others.
        ("unproven", "account-disabled", ("proven", "account-disabled")),
        ("unproven", None, ("proven", "account-disabled")),
        ("proven", None, ("proven", None)),
    ):
        joined.check_in(credential_states=[state(joined, stored, said, code)])
        (seen,) = central.http.get(path).json()["items"]
        assert (seen["state"], seen["state_code"]) == wanted


def test_a_final_dot_of_a_domain_is_dropped_at_the_edge(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id, domain_name="corp.example.")
    assert stored["domain_name"] == "corp.example"
    (entry,) = joined.check_in(completed={})["domain_credentials"]
    assert open_sealed(joined, entry, "service_account", "corp.example") == PASSWORD


def test_a_rotated_credential_has_a_higher_version_and_the_new_secret(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    joined.check_in()
    path = f"/api/sites/{joined.site_id}/credentials/{stored['id']}"
    rotated = central.http.put(path, json={"password": "next one"})
    assert rotated.json()["version"] == 2
    entry = joined.check_in()["domain_credentials"][0]
    assert open_sealed(joined, entry, "service_account", "corp.example") == "next one"
    assert central.http.put(path, json={"username": "x"}).status_code == 422


def test_no_secret_is_in_the_database_file_and_a_planted_one_would_be_found(central):
    joined = central.join()
    add_domain(central, joined.site_id)
    joined.check_in()
    code = central.provision(client_name="planted-needle")["provision_code"]
    blob = b"".join(path.read_bytes() for path in central.database.parent.glob("central.db*") if path.suffix != ".key")
    for secret in (PASSWORD, joined.key, central.api_key, code, code.replace("-", "")):
        assert secret.encode() not in blob
    assert b"planted-needle" in blob


def test_bad_credentials_are_refused_and_their_password_is_never_repeated(central):
    joined = central.join()
    path = f"/api/sites/{joined.site_id}/credentials"
    for body, place in (
        ({"type": "winrm", "username": "a"}, "host"),
        ({"type": "domain_admin", "username": "a"}, "domain_name"),
        ({"type": "local_admin", "username": "a", "domain_name": "d"}, "domain_name"),
        # Shown to every host, a domain's account would collect a strike at each.
        ({"type": "local_admin", "username": "CORP\\a"}, "username"),
        ({"type": "local_admin", "username": "a@corp.example"}, "username"),
        ({"type": "sudo", "username": "a"}, "type"),
        ({"type": "winrm", "username": "", "host": "h"}, "username"),
        ({"type": "winrm", "username": "a", "host": "h", "port": 99999}, "port"),
        ({"type": "winrm", "username": "a", "host": "h", "trusted_certificates": [{"sha256": "AB"}]}, "trusted"),
    ):
        response = central.http.post(path, json={"password": "s3cret-pw", **body})
        assert response.status_code == 422, body
        assert response.json()["errors"][0]["path"].startswith(place)
        assert "s3cret-pw" not in response.text


def test_every_delivery_of_a_credential_is_in_the_audit(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    joined.check_in()
    entries = central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"]
    delivered = [entry for entry in entries if entry["action"] == "credentials-delivered"]
    assert delivered[0]["actor"] == f"appliance {joined.id}"
    assert delivered[0]["detail"] == {"credentials": {stored["id"]: 1}}
    assert delivered[0]["address"] == "127.0.0.1"


def test_a_read_by_path_is_in_the_audit_every_time_and_the_chain_holds(central):
    joined = central.join()
    add_domain(central, joined.site_id)
    for _ in range(3):
        path = f"/api/sites/{joined.site_id}/domain-credentials"
        assert len(central.call("GET", path, joined.key).json()["items"]) == 1
    entries = structure(
        central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"], tuple[AuditEntry, ...]
    )
    assert [entry.action for entry in entries].count("credentials-delivered") == 3
    assert chain_holds(entries, joined.enrolment["partner"]["id"])


def test_an_appliance_that_awaits_approval_cannot_rewrite_what_the_others_found(central, make_device):
    first = central.join()
    add_domain(central, first.site_id)
    code = central.provision(site_id=first.site_id)["provision_code"]
    device = make_device()
    second = type(first)(central, device, device.claim(central, code).json())
    empty = {
        "kind": "full", "domain_name": "corp.example", "enumeration_time": "2026-01-01T00:00:00Z", "source": "me",
    }  # fmt: skip
    for path, body in (
        ("enumeration-results", {"report_id": "1", "results": empty}),
        ("agent-deployments", {"report_id": "2", "deployments": []}),
        ("scan-results", {"report_id": "3", "results": []}),
        ("runbook-results", {"report_id": "4", "run_id": "r", "results": []}),
    ):
        refused = central.call("POST", f"/api/appliances/{path}", second.key, json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "not-approved")
        # The outbox keeps what may be taken later.
        assert refused.json()["retryable"] is True
    central.http.post(f"/api/sites/{first.site_id}/appliances/{second.id}/approve").raise_for_status()
    body = {"report_id": "3", "results": []}
    assert central.call("POST", "/api/appliances/scan-results", second.key, json=body).status_code == 200


def test_what_fails_inside_is_logged_without_any_secret(central, caplog):
    joined = central.join()
    caplog.set_level("DEBUG")
    engine = create_engine(f"sqlite:///{central.database}")
    with engine.begin() as connection:
        credentials.drop(connection)
    engine.dispose()
    body = {"domain_name": "corp.example", "username": "svc", "password": PASSWORD}
    failed = central.http.post(f"/api/sites/{joined.site_id}/domain-credentials", json=body)
    assert (failed.status_code, failed.json()["code"]) == (500, "internal")
    assert joined.check_in()["domain_credentials"] is None
    # Whoever reads the log finds the request, and nothing that would let them in.
    assert failed.json()["request_id"] in caplog.text
    for secret in (PASSWORD, PASSWORD.encode("unicode_escape").decode(), joined.key, central.api_key):
        assert secret not in caplog.text + failed.text
