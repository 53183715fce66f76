"""Sealed logons at a real controller and its KDC: Kerberos and NTLM, refused and taken, and what goes over the wire."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from msp_sdk.network.kerberos import is_installed
from tests.lab.controller import run_samba_script
from tests.real import do_without

pytestmark = pytest.mark.samba

INSIDE = Path(__file__).with_name("inside_logons.py")
ACCOUNT = "svc-msp"
BASE = "DC=northvalley,DC=test"
SCHEMA = "CN=Schema,CN=Configuration,DC=northvalley,DC=test"
ALL_DOORS = ["kerberos", "ldaps", "starttls", "ntlm"]
NORMAL = {"userAccountControl": "512", "accountExpires": "0", "lockoutTime": "0", "badPwdCount": "0"}


@pytest.fixture(autouse=True)
def _kerberos() -> None:
    if not is_installed():
        do_without("the extra `kerberos` is not installed")


@pytest.fixture
def given(samba, tmp_path) -> dict[str, Any]:
    return {
        "username": samba.username,
        "password": samba.password,
        "ledger": str(tmp_path / "logons.sqlite"),
        "trusted": [{"sha256": samba.certificate_sha256}],
        "base": BASE,
        "doors": ALL_DOORS,
        "netbios_name": "NORTHVALLEY",
    }


class Inside:
    """The process that logs on; each order has a ledger and a session of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        self.tell(order)
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "broke" not in found, found["broke"]
        return found


@contextmanager
def inside_of(samba) -> Iterator[Inside]:
    with subprocess.Popen(
        ["ip", "netns", "exec", samba.namespace, sys.executable, str(INSIDE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Inside(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def inside(samba) -> Iterator[Inside]:
    with inside_of(samba) as found:
        yield found


@pytest.fixture
def log_on(inside, given):
    def call(**more: Any) -> dict[str, Any]:
        return inside.ask({**given, **more})

    return call


@pytest.fixture
def strikes(samba):
    """How many wrong passwords the controller has counted since the test began."""
    samba.reset_bad_password_count(ACCOUNT)
    return lambda: samba.bad_password_count(ACCOUNT)


def test_kerberos_is_the_first_door_and_needs_no_certificate(log_on):
    found = log_on(trusted=[])
    (end,) = found["ends"]
    assert (end["source"], end["skipped"], end["certificate"]) == ("dc1.northvalley.test kerberos", [], None)
    assert found["state"] == "proven"


@pytest.mark.parametrize("door", ["kerberos", "ntlm"])
@pytest.mark.parametrize("username", ["svc-msp@northvalley.test", r"NORTHVALLEY\svc-msp", "svc-msp"])
def test_every_way_to_write_a_user_logs_on_sealed(log_on, door, username):
    (end,) = log_on(doors=[door], username=username)["ends"]
    assert end.get("source") == f"dc1.northvalley.test {door}", end


def test_an_account_of_another_domain_is_no_account_of_ours_with_the_same_name(strikes, log_on):
    # The right password of a stranger of the same name, or a strike against him.
    for netbios_name in ("NORTHVALLEY", None):
        for password in ("not-this-one", None):
            more = {} if password is None else {"password": password}
            (end,) = log_on(username=r"OTHER\svc-msp", doors=["kerberos"], netbios_name=netbios_name, **more)["ends"]
            assert end.get("code") == ("other-domain-account" if netbios_name else "netbios-unknown"), end
    assert strikes() == 0


def test_a_final_dot_of_the_domain_changes_nothing(log_on):
    (end,) = log_on(domain="northvalley.test.", username="svc-msp", trusted=[])["ends"]
    assert end.get("source") == "dc1.northvalley.test kerberos", end


@pytest.fixture
def explicit_upn(samba):
    """The account has a UPN of its own making, which is nothing like its name."""
    upn = "front.desk@clinic.example"
    order = {"do": "set", "account": ACCOUNT, "values": {"userPrincipalName": upn}}
    run_samba_script(samba.folder, order)
    yield upn
    run_samba_script(samba.folder, {**order, "values": {"userPrincipalName": f"{ACCOUNT}@northvalley.test"}})


@pytest.mark.parametrize("implicit", [False, True])
def test_a_upn_is_looked_for_by_the_kdc_and_a_wrong_password_costs_its_account_one_strike(
    strikes, log_on, explicit_upn, tmp_path, implicit
):
    upn = f"{ACCOUNT}@northvalley.test" if implicit else explicit_upn
    (end,) = log_on(username=upn, doors=["kerberos"])["ends"]
    assert end.get("source") == "dc1.northvalley.test kerberos", end
    assert "FILE1" in end["names"] or end["count"] > 10
    (end,) = log_on(username=upn, password="not-this-one", ledger=str(tmp_path / "wrong"))["ends"]
    assert end["code"] == "wrong-password"
    assert strikes() == 1


@pytest.mark.parametrize("door", ["kerberos", "ntlm"])
def test_a_thousand_entries_are_read_over_a_sealed_session(log_on, door):
    (sealed,) = log_on(doors=[door], base=SCHEMA)["ends"]
    (tls,) = log_on(doors=["ldaps"], base=SCHEMA)["ends"]
    assert sealed["source"].endswith(door)
    assert sealed["count"] == tls["count"] >= 1000
    assert sealed["names"] == tls["names"]


@pytest.mark.parametrize("door", ["kerberos", "ntlm"])
def test_nothing_of_a_sealed_session_is_in_clear_on_the_wire(samba, log_on, door):
    asked = {"doors": [door], "between": {"389": 99, "88": 99}, "filter": "(objectClass=computer)"}
    found = log_on(**asked)
    (end,) = found["ends"]
    assert "FILE1" in end["names"]
    wire = bytes.fromhex(found["recorded"]["389"]).lower()
    assert len(wire) > 2000
    assert b"file1" not in wire
    assert b"operatingsystem" not in wire
    assert b"objectclass" not in wire
    assert samba.password.lower().encode() not in wire + bytes.fromhex(found["recorded"]["88"]).lower()
    # The recorder does hear what is said in clear.
    assert b"supportedsaslmechanisms" in bytes.fromhex(log_on(**asked, in_clear=True)["recorded"]["389"]).lower()


def test_a_wrong_password_with_every_door_open_costs_one_strike(strikes, log_on):
    # lesson 32: a library that negotiates makes two of it, a second KDC three.
    found = log_on(password="not-this-one", times=3)
    assert [end["error"] for end in found["ends"]] == [
        "LogonRejectedError",
        "LogonNotAllowedError",
        "LogonNotAllowedError",
    ]
    assert {end["code"] for end in found["ends"]} == {"wrong-password"}
    assert found["ends"][0]["password_right"] is False
    assert strikes() == 1


@pytest.mark.parametrize("door", ALL_DOORS)
def test_a_wrong_password_costs_one_strike_at_each_door_alone(strikes, log_on, door):
    # Samba counts none for NTLM with a UPN.
    (end,) = log_on(password="not-this-one", doors=[door], username=r"NORTHVALLEY\svc-msp")["ends"]
    assert (end["error"], end["code"]) == ("LogonRejectedError", "wrong-password")
    assert strikes() == 1


def test_the_command_line_costs_one_strike_too_and_asks_for_no_certificate(samba, strikes, tmp_path):
    def enumerate_(password: str, *more: str) -> subprocess.CompletedProcess[str]:
        return samba.run(
            *("env", f"XDG_STATE_HOME={tmp_path}", f"MSP_PASSWORD={password}", sys.executable, "-m", "runners.cli"),
            *("enumerate", "northvalley.test", "--user", samba.username, "--resolver", "10.99.0.1"),
            *("--server", "dc1.northvalley.test", "--json", *more),
        )

    refused = [enumerate_("not-this-one") for _ in range(2)]
    assert [end.returncode for end in refused] == [1, 1]
    assert "password was refused" in refused[0].stderr
    assert strikes() == 1
    done = enumerate_(samba.password, "--try-again")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == "dc1.northvalley.test kerberos"
    assert done.stderr == ""


def test_a_user_that_the_kdc_does_not_know_is_told_so_and_ends_it(log_on):
    found = log_on(username="nobody@northvalley.test", times=2)
    assert [(end["error"], end["code"]) for end in found["ends"]] == [
        ("LogonRejectedError", "no-such-user"),
        ("LogonNotAllowedError", "no-such-user"),
    ]


@pytest.mark.parametrize(
    ("values", "by_kerberos", "by_tls"),
    [
        ({"userAccountControl": "514"}, "account-revoked", "account-disabled"),
        ({"accountExpires": "130000000000000000"}, "account-revoked", "account-expired"),
        ({"pwdLastSet": "0"}, "password-expired", "must-change-password"),
        ({"lockoutTime": "now", "badPwdCount": "9"}, "account-revoked", "account-locked"),
    ],
    ids=["disabled", "expired", "must-change", "locked"],
)
def test_an_account_that_may_not_log_on_is_told_by_its_own_reason(samba, log_on, tmp_path, values, by_kerberos, by_tls):
    # lesson 28
    now = str(int((time.time() + 11_644_473_600) * 10_000_000))
    values = {name: now if value == "now" else value for name, value in values.items()}
    run_samba_script(samba.folder, {"do": "set", "account": ACCOUNT, "values": values})
    try:
        found = {
            door: log_on(doors=[door], ledger=str(tmp_path / door))["ends"][0] for door in ("kerberos", "ldaps", "ntlm")
        }
    finally:
        back = {**NORMAL, **({"pwdLastSet": "-1"} if "pwdLastSet" in values else {})}
        run_samba_script(samba.folder, {"do": "set", "account": ACCOUNT, "values": back})
    assert {door: end["error"] for door, end in found.items()} == dict.fromkeys(found, "LogonRejectedError")
    assert {door: end["code"] for door, end in found.items()} == {
        "kerberos": by_kerberos,
        "ldaps": by_tls,
        "ntlm": by_tls,
    }


def test_a_kdc_out_of_reach_gives_way_to_tls_and_is_told(log_on):
    # Port 88 is closed at this address; 389 and 636 are forwarded.
    (end,) = log_on(between={"389": 99, "636": 99})["ends"]
    assert end["source"] == "dc1.northvalley.test ldaps"
    assert end["skipped"] == [["kerberos", "kdc-unreachable"]]


def test_a_kdc_that_never_answers_costs_no_attempt(log_on):
    found = log_on(between={"389": 99, "88": 0}, doors=["kerberos"], patience_s=1.5, times=2)
    assert {(end["error"], end["code"]) for end in found["ends"]} == {("BindRejectedError", "kdc-unreachable")}
    assert found["state"] == "unproven"


def test_an_answer_lost_after_the_password_was_used_is_repeated_once_and_never_twice(log_on):
    # The first request asks what is needed, the second carries the proof: its answer is lost.
    ends = [log_on(between={"389": 99, "88": 1, "636": 99}, patience_s=1.5)["ends"][0] for _ in range(3)]
    assert [(end["error"], end["code"]) for end in ends] == [
        ("LogonError", "logon-unanswered"),
        ("LogonError", "logon-unanswered"),
        ("LogonNotAllowedError", "logon-outcome-unknown"),
    ]


def test_a_controller_that_the_kdc_does_not_know_gives_way_and_the_password_stays_proven(log_on):
    found = log_on(fqdn="other.northvalley.test")
    (end,) = found["ends"]
    assert end["source"] == "other.northvalley.test ldaps"
    assert end["skipped"] == [["kerberos", "no-service-principal"]]
    assert found["state"] == "proven"


def test_ntlm_is_used_only_where_it_is_allowed(log_on):
    alone = {"doors": ["kerberos", "ntlm"], "between": {"389": 99}}
    assert log_on(**alone)["ends"][0]["source"] == "dc1.northvalley.test ntlm"
    (end,) = log_on(**alone, allow_ntlm=False)["ends"]
    assert (end["error"], end["code"], end["doors"]) == (
        "DirectoryError",
        "kdc-unreachable",
        {"kerberos": "kdc-unreachable"},
    )


def test_an_interrupt_during_the_kdcs_answer_leaves_no_worker(samba, given):
    order = {**given, "between": {"389": 99, "88": 0}, "doors": ["kerberos"], "patience_s": 30.0}
    with inside_of(samba) as found:
        process = found.process
        found.tell(order)
        until = time.monotonic() + 20
        while not (workers := _workers(process.pid)):
            assert process.poll() is None, "it ended before it asked the KDC"
            assert time.monotonic() < until, "no worker was seen"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        while any(psutil.pid_exists(pid) for pid in workers):
            assert time.monotonic() < until, "a worker outlived its parent"
            time.sleep(0.02)


def _workers(parent: int) -> list[int]:
    """The worker processes of a process."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        # Its words are read whole: a listing may cut them off at the width of some terminal.
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child.pid for word in child.cmdline() if "kerberos_worker" in word]
    return found
