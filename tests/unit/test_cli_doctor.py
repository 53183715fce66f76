"""``msp doctor`` as a person meets it: real processes, against an estate that is one too."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msp_sdk.models.finding import STEPS
from msp_sdk.testing.loopback import take_address
from tests.unit.test_cli_deploy import EstateProcess, Person


@pytest.fixture(scope="module")
def estate() -> Iterator[EstateProcess]:
    process = EstateProcess()
    yield process
    machines = process.ask("machines")
    process.close()
    assert [facts["violations"] for facts in machines.values() if facts["violations"]] == []


@pytest.fixture
def person(estate: EstateProcess, tmp_path: Path) -> Person:
    return Person(estate, tmp_path)


def doctor(person: Person, estate: EstateProcess, truth: str, *options: str, **more: str) -> tuple[int, str, str]:
    """The doctor on the first computer of this truth, with no credential unless the options name one."""
    host = f"{estate.names(truth)[0].lower()}.{estate.facts['domain']}"
    return person.msp("doctor", host, "--resolver", estate.facts["dns"], "--host-ca", "ca.pem", *options, **more)


def as_service(estate: EstateProcess) -> list[str]:
    options = ["--user", estate.facts["username"], "--allow-ntlm"]
    for sha256 in estate.facts["certificates"]:
        options += ["--accept-certificate", sha256]
    return options


def attempts(estate: EstateProcess) -> int:
    return sum(len(account["attempts"]) for account in estate.ask("accounts"))


def test_healthy_host_is_fine_without_a_credential_and_no_logon_is_made(estate: EstateProcess, person: Person):
    before = attempts(estate)
    code, out, err = doctor(person, estate, "agent")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  ok ")][:2] == ["name", "dns-servers"]
    assert "Nothing that can be seen without a logon is wrong." in lines[-1]
    assert attempts(estate) == before


def test_remedy_is_the_last_line_and_the_exit_code_is_1(estate: EstateProcess, person: Person):
    code, out, err = doctor(person, estate, "wrong-host")
    assert (code, err) == (1, "")
    result, remedy = out.splitlines()[-2:]
    assert "wrong-host" in result
    assert remedy.startswith("What to do")
    assert "DNS record" in remedy


def test_machines_read_one_document_with_a_finding_for_each_step(estate: EstateProcess, person: Person):
    code, out, _ = doctor(person, estate, "winrm-closed", "--json")
    examined = json.loads(out)
    assert code == 1
    assert [finding["step"] for finding in examined["findings"]] == list(STEPS)
    assert examined["verdict"]["code"] == "winrm-closed"
    assert examined["verdict"]["remedy"]
    signs = next(finding["evidence"]["signs"] for finding in examined["findings"] if finding["step"] == "ports")
    assert {sign["port"]: sign["said"] for sign in signs}[5986] == "refused"


def test_account_of_the_domain_is_proven_and_then_let_in(estate: EstateProcess, person: Person):
    code, out, err = doctor(person, estate, "agent", *as_service(estate))
    assert (code, err) == (0, "")
    assert "The host can be worked with." in out
    assert estate.facts["password"] not in out


def test_wrong_password_is_one_strike_and_the_next_run_says_so(tmp_path: Path):
    # Lesson 32. A person and an estate of their own: others must not find the account refused.
    estate = EstateProcess()
    try:
        person = Person(estate, tmp_path)
        code, out, _ = doctor(person, estate, "agent", *as_service(estate), MSP_PASSWORD="wrong")
        assert code == 1
        assert "wrong-password" in out
        assert estate.strikes == 1
        made = attempts(estate)
        code, out, _ = doctor(person, estate, "agent", *as_service(estate))
        assert code == 1
        assert "--try-again" in out
        assert attempts(estate) == made
        code, out, _ = doctor(person, estate, "agent", *as_service(estate), "--try-again")
        assert code == 0
    finally:
        estate.close()


def test_domain_that_is_not_found_is_a_finding_and_the_other_steps_are_taken(estate: EstateProcess, person: Person):
    made = attempts(estate)
    code, out, _ = doctor(person, estate, "agent", "--user", "svc@nowhere.example")
    assert code == 1
    assert "no-domain" in out.splitlines()[-2]
    assert "WinRM on 5986 offers" in out
    assert attempts(estate) == made


def test_domain_that_is_not_found_is_said_also_where_nobody_logs_on(estate: EstateProcess, person: Person):
    code, out, err = doctor(person, estate, "agent", "--domain", "nowhere.example")
    assert code == 0
    assert "without the domain" in err
    assert "nowhere.example" in err
    assert "Nothing that can be seen" in out


def test_what_is_no_host_is_a_wrong_call(estate: EstateProcess, person: Person):
    code, out, err = person.msp("doctor", "https://srv1")
    assert code == 2
    assert out == ""
    assert "neither a name nor an address" in err


def test_address_has_no_domain(estate: EstateProcess, person: Person):
    code, _, err = person.msp("doctor", "10.1.2.3", "--user", r"CORP\svc")
    assert code == 2
    assert "Give --domain DOMAIN" in err


def test_ctrl_c_ends_it_with_130(estate: EstateProcess, person: Person):
    address = take_address()
    with closing(socket.create_server((address, 5986))):
        # It takes connections and never says a word.
        process = person.start("doctor", address)
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert any("5986 open" in line for line in [*shown, *out.splitlines()])
    assert "Traceback" not in err
