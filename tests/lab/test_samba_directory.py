"""Our clients against a directory that is not ours: a real Samba domain controller."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.controller import run_samba_script
from tests.lab.following import follower

pytestmark = pytest.mark.samba

ACCOUNT = "svc-msp"
DNS = "10.99.0.1"


@pytest.fixture
def given(samba, tmp_path) -> dict[str, Any]:
    """What a customer's form would give: the account and the certificate that was seen and listed."""
    samba.reset_bad_password_count(ACCOUNT)
    return {
        "dns": DNS,
        "username": samba.username,
        "password": samba.password,
        "ledger": str(tmp_path / "logons.sqlite"),
        "trusted": [{"sha256": samba.certificate_sha256}],
    }


def test_controller_is_found_by_srv_through_the_domains_own_dns(samba, given):
    # lesson 22: the lab's names exist nowhere but in the domain's own DNS.
    seen = samba.ask("look", **given)
    assert [(entry["fqdn"], entry["port"]) for entry in seen["controllers"]] == [("dc1.northvalley.test", 389)]
    assert seen["addresses"] == {"dc1": [DNS, "fd99::1"], "file1": ["10.99.0.11"], "oldsrv": [], "nobody": []}


def test_root_dse_is_read_without_a_credential(samba, given):
    root = samba.ask("look", **given)["root_dse"]
    assert (root["domain_name"], root["base_dn"]) == ("northvalley.test", "DC=northvalley,DC=test")
    assert (root["forest"], root["ad_site"]) == ("northvalley.test", "Default-First-Site-Name")
    assert root["dns_host_name"] == "dc1.northvalley.test"


def test_the_certificate_that_is_shown_to_the_partner_is_the_controllers(samba, given):
    seen = samba.ask("look", **given)["certificate"]
    assert seen == {"controller": "dc1.northvalley.test", "sha256": samba.certificate_sha256}


def test_discovery_believes_the_domain_on_evidence(samba, given):
    # lesson 20 and 21: SRV alone is a claim; the controller itself confirms it, and names are read, not guessed.
    found = samba.ask("discover", **given)
    assert "error" not in found, found
    (domain,) = found["domains"]
    assert domain["name"] == "northvalley.test"
    assert domain["base_dn"] == "DC=northvalley,DC=test"
    assert [entry["fqdn"] for entry in domain["controllers"]] == ["dc1.northvalley.test"]
    assert domain["controllers"][0]["addresses"][0] == DNS
    assert domain["confidence"] > 50
    assert len({entry["kind"] for entry in domain["evidence"]}) >= 2
    assert domain["certificates"] == [
        {"controller": "dc1.northvalley.test", "sha256": samba.certificate_sha256},
    ]


def test_a_suffix_that_is_no_domain_is_not_believed(samba, given):
    # lesson 20: any DNS suffix of a provider's router would do otherwise.
    found = samba.ask("discover", **{**given, "search": ["fritz.box", "example.test"]})
    assert "error" not in found, found
    assert found["domains"] == []
    assert found["evidence"]


def test_servers_and_workstations_are_told_apart(samba, given):
    found = samba.ask("enumerate", **given)
    assert "error" not in found, found
    assert {name.upper() for name in found["servers"]} == {"DC1", "FILE1", "SQL1", "OLDSRV"}
    assert {name.upper() for name in found["workstations"]} == {"FRONTDESK1", "XRAY1"}
    assert {name.upper() for name in found["domain_controllers"]} == {"DC1"}
    assert found["netbios_name"] == "NORTHVALLEY"
    assert found["source"].startswith("dc1.northvalley.test ")


def test_nothing_is_left_out_and_what_is_no_target_says_why(samba, given):
    # lesson 25: a Red Hat server with "Enterprise" in its name is no Windows workstation.
    computers = {name.upper(): entry for name, entry in samba.ask("enumerate", **given)["computers"].items()}
    assert set(computers) == {"DC1", "FILE1", "SQL1", "FRONTDESK1", "XRAY1", "OLDSRV", "PRESTAGED1", "LINUX1"}
    reasons = {name: entry["skipped_reason"] for name, entry in computers.items()}
    assert reasons["OLDSRV"] == "disabled-account"
    assert reasons["PRESTAGED1"] == "new"
    assert reasons["LINUX1"] == "not-windows"
    # lesson 61: an imaging station by its name.
    assert reasons["XRAY1"] == "vendor-managed"
    assert [reasons[name] for name in ("FILE1", "SQL1", "FRONTDESK1")] == [None] * 3
    assert computers["OLDSRV"]["enabled"] is False
    assert computers["LINUX1"]["role"] == "other"
    # Listed by its account's name without the dollar sign: it has no other.
    assert computers["PRESTAGED1"]["fqdn"] is None


def test_computers_carry_what_tells_them_apart_and_where_they_are(samba, given):
    computers = {name.upper(): entry for name, entry in samba.ask("enumerate", **given)["computers"].items()}
    file1 = computers["FILE1"]
    assert file1["fqdn"] == "file1.northvalley.test"
    assert file1["ip_addresses"] == ["10.99.0.11"]
    assert file1["os_name"] == "Windows Server 2019 Standard"
    assert file1["sid"].startswith("S-1-5-21-")
    assert file1["stale"] is False
    assert len({entry["object_guid"] for entry in computers.values()}) == len(computers)


@pytest.mark.parametrize("door", ["kerberos", "starttls", "ldaps"])
def test_each_door_lets_the_account_in(samba, given, door):
    found = samba.ask("enumerate", doors=[door], **given)
    assert "error" not in found, found
    assert found["source"] == f"dc1.northvalley.test {door}"


def test_a_certificate_that_a_listed_ca_signed_is_trusted(samba, given):
    found = samba.ask("enumerate", doors=["ldaps"], **{**given, "trusted": [{"ca_pem": samba.ca_pem}]})
    assert "error" not in found, found
    assert len(found["computers"]) == 8


@pytest.mark.parametrize("door", ["starttls", "ldaps"])
@pytest.mark.parametrize("trusted", [[], [{"sha256": "ab" * 32}]])
def test_an_unlisted_certificate_is_refused_before_the_password_leaves(samba, given, trusted, door):
    wrong = {**given, "password": "not-this-one", "trusted": trusted, "doors": [door]}
    (first, second) = samba.ask("enumerate-times", times=2, **wrong)
    assert first["error"] == "BindRejectedError"
    # No logon was made, so none is held against the credential either.
    assert second["error"] == "BindRejectedError"
    assert samba.bad_password_count(ACCOUNT) == 0


def test_a_wrong_password_is_one_strike_and_is_never_sent_again(samba, given):
    # lesson 32
    ends = samba.ask("enumerate-times", times=3, **{**given, "password": "not-this-one"})
    assert [end["error"] for end in ends] == ["LogonRejectedError", "LogonNotAllowedError", "LogonNotAllowedError"]
    assert {end["code"] for end in ends} == {"wrong-password"}
    assert samba.bad_password_count(ACCOUNT) == 1
    # Another process with the same ledger knows it too, even with the right password by now.
    again = samba.ask("enumerate", **given)
    assert (again["error"], again["code"]) == ("LogonNotAllowedError", "wrong-password")
    assert samba.bad_password_count(ACCOUNT) == 1
    # A new version is a new try.
    assert "error" not in samba.ask("enumerate", version=2, **given)


def test_a_user_that_is_unknown_is_not_tried_again_either(samba, given):
    ends = samba.ask("enumerate-times", times=2, **{**given, "username": "nobody@northvalley.test"})
    assert [end["error"] for end in ends] == ["LogonRejectedError", "LogonNotAllowedError"]


def test_a_down_level_name_logs_on_too(samba, given):
    found = samba.ask("enumerate", **{**given, "username": rf"NORTHVALLEY\{ACCOUNT}"})
    assert "error" not in found, found


def test_computers_in_a_unit_that_is_renamed_are_told_though_the_directory_names_none_of_them(samba, tmp_path):
    with ExitStack() as cleanup:
        first, ask = cleanup.enter_context(follower(samba, tmp_path))
        assert first["cursor"]
        run_samba_script(samba.folder, {"do": "rename", "from": "OU=Clinic", "to": "OU=Praxis"})
        cleanup.callback(run_samba_script, samba.folder, {"do": "rename", "from": "OU=Praxis", "to": "OU=Clinic"})
        places = ask("changes")["places"]
        assert set(places.values()) == {"Praxis"}
        assert {"FILE1$", "SQL1$"} <= set(places)
        assert ask("full")["same"] is True
