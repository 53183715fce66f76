"""The same account with the same password under several ids: one logon, and one refusal."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest

from tests.stored_credentials import PASSWORD, add, add_domain, state


def break_secrets(central, *stored):
    with closing(sqlite3.connect(central.database, timeout=20)) as connection, connection:
        for each in stored:
            connection.execute("update credentials set ciphertext = x'00' where id = ?", (each["id"],))


def test_a_refused_account_is_refused_under_every_id_that_it_was_stored_under_with_the_same_password(central):
    # Lesson 32: each id has strikes of its own, the account has not.
    joined = central.join()
    stored = add_domain(central, joined.site_id, username="svc@corp.example")
    add_domain(
        central, joined.site_id, username="CORP\\SVC", credential_type="domain_admin", domain_name="Corp.Example"
    )
    add_domain(central, joined.site_id, username="svc", password="another one")
    add_domain(central, joined.site_id, username="svc@corp.example", domain_name="other.example")
    joined.check_in(completed={})
    joined.check_in(credential_states=[state(joined, stored, "refused", "wrong-password")])
    seen = central.http.get(f"/api/sites/{joined.site_id}/credentials").json()["items"]
    assert [row["state"] for row in seen] == ["refused", "refused", "unproven", "unproven"]
    entries = central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"]
    (compared,) = [entry for entry in entries if entry["action"] == "credentials-compared"]
    assert compared["actor"] == f"appliance {joined.id}"
    # The three of this account were opened, the other domain's was not.
    assert compared["detail"] == {"credentials": {row["id"]: 1 for row in seen[:3]}}


@pytest.mark.parametrize("broken", [(1,), (0,), (0, 1)], ids=["another", "its-own", "both"])
def test_a_refusal_is_of_every_id_of_the_account_whose_secret_may_be_the_same_since_one_does_not_open(central, broken):
    # What does not open may have been sealed to somebody before.
    joined = central.join()
    path = f"/api/sites/{joined.site_id}/credentials"
    stored = [add_domain(central, joined.site_id, username=name) for name in ("svc@corp.example", "svc")]
    joined.check_in(completed={})
    break_secrets(central, *(stored[number] for number in broken))
    reply = joined.check_in(credential_states=[state(joined, stored[0], "refused", "wrong-password")])
    assert "central:notes" not in reply["awaiting"]
    assert [row["state"] for row in central.http.get(path).json()["items"]] == ["refused", "refused"]


@pytest.mark.parametrize("way", ["create", "rotate"])
def test_what_was_refused_is_refused_under_an_id_that_gets_it_later_until_a_person_retries(central, way):
    joined = central.join()
    path = f"/api/sites/{joined.site_id}/credentials"
    stored = add_domain(central, joined.site_id, username="svc@corp.example")
    other = add_domain(central, joined.site_id, username="svc", password="another one")
    joined.check_in(completed={})
    joined.check_in(credential_states=[state(joined, stored, "refused", "wrong-password")])
    if way == "create":
        again = add_domain(
            central, joined.site_id, username="CORP\\SVC", credential_type="domain_admin", domain_name="Corp.Example"
        )
    else:
        again = central.http.put(f"{path}/{other['id']}", json={"password": PASSWORD}).json()
    assert (again["state"], again["state_code"]) == ("refused", "wrong-password")
    assert again["state_at"]
    held = [row["id"] for row in joined.check_in(completed={})["domain_credentials"]]
    assert held == ([other["id"]] if way == "create" else [])
    # Who had it opened is in the audit, and the partner's events tell the refusal.
    entries = central.http.get(f"/api/audit?site_id={joined.site_id}").json()["items"]
    compared = [entry for entry in entries if entry["action"] == "credentials-compared"][-1]
    assert compared["detail"] == {"credentials": {stored["id"]: 1}}
    assert compared["actor"] == next(entry["actor"] for entry in entries if entry["action"] == "credential-created")
    with closing(sqlite3.connect(central.database, timeout=20)) as connection:
        events = connection.execute("select data from events where type = 'credential-refused' order by sequence")
        told = [json.loads(data)["credential_id"] for (data,) in events]
    assert told == [stored["id"], again["id"]]
    retried = central.http.post(f"{path}/{again['id']}/retry").json()
    assert (retried["version"], retried["state"]) == (again["version"] + 1, "unproven")
    assert again["id"] in [row["id"] for row in joined.check_in(completed={})["domain_credentials"]]
    joined.check_in(credential_states=[state(joined, retried, "refused", "wrong-password")])
    assert again["id"] not in [row["id"] for row in joined.check_in(completed={})["domain_credentials"]]


def test_what_is_stored_beside_a_refused_secret_that_does_not_open_waits_for_a_person(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    joined.check_in(completed={})
    joined.check_in(credential_states=[state(joined, stored, "refused", "wrong-password")])
    break_secrets(central, stored)
    assert add_domain(central, joined.site_id, password="another one")["state"] == "refused"
    # Another account, or a host's own, is none of its business.
    assert add_domain(central, joined.site_id, username="CORP\\other")["state"] == "unproven"
    assert add(central, joined.site_id, type="local_admin", username="svc-msp")["state"] == "unproven"


def test_a_refused_password_that_is_typed_anew_under_its_own_id_gets_one_more_try(central):
    joined = central.join()
    stored = add_domain(central, joined.site_id)
    joined.check_in(completed={})
    joined.check_in(credential_states=[state(joined, stored, "refused", "wrong-password")])
    path = f"/api/sites/{joined.site_id}/credentials/{stored['id']}"
    again = central.http.put(path, json={"password": PASSWORD}).json()
    assert (again["version"], again["state"], again["state_code"]) == (2, "unproven", None)


def test_accounts_of_hosts_are_each_hosts_own_whatever_their_names_and_passwords(central):
    joined = central.join()
    first = add(central, joined.site_id, type="winrm", host="srv1")
    joined.check_in(completed={})
    add(central, joined.site_id, type="winrm", host="srv2")
    joined.check_in(credential_states=[state(joined, first, "refused", "wrong-password")])
    add(central, joined.site_id, type="winrm", host="srv3")
    seen = central.http.get(f"/api/sites/{joined.site_id}/credentials").json()["items"]
    assert [row["state"] for row in seen] == ["refused", "unproven", "unproven"]


def test_a_refusal_is_of_its_own_site_and_of_no_other_ones_credential(central):
    first, second = central.join(), central.join()
    assert first.site_id != second.site_id
    with central.client(central.new_partner_key("fabrikam")) as stranger:
        elsewhere = stranger.post("/api/sites", json={"name": "Clinic"}).json()["site_id"]
        sites = [(central, first.site_id), (central, second.site_id), (SimpleNamespace(http=stranger), elsewhere)]
        stored, *_ = [add_domain(owner, site_id) for owner, site_id in sites]
        first.check_in(completed={})
        first.check_in(credential_states=[state(first, stored, "refused", "wrong-password")])
        # Nor does what is stored there afterwards inherit it.
        later = [add_domain(owner, site_id)["state"] for owner, site_id in sites]
        seen = [owner.http.get(f"/api/sites/{site_id}/credentials").json()["items"] for owner, site_id in sites]
        audits = [owner.http.get(f"/api/audit?site_id={site_id}").json()["items"] for owner, site_id in sites]
    assert later == ["refused", "unproven", "unproven"]
    assert [[row["state"] for row in rows] for rows in seen] == [["refused"] * 2, ["unproven"] * 2, ["unproven"] * 2]
    compared = [[entry["action"] for entry in entries].count("credentials-compared") for entries in audits]
    assert compared == [1, 0, 0]
