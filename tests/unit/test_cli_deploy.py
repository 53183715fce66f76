"""``msp plan`` and ``msp deploy`` as a person meets them: real processes, against an estate that is one too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.wire.converter import decode_bytes

MSP = [sys.executable, "-m", "runners.cli"]


class EstateProcess:
    """An estate of sixteen computers, asked over its stdin and stdout."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "msp_sdk.testing.estate", "--computers", "16", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts: dict[str, Any] = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def names(self, truth: str) -> list[str]:
        return [entry["name"] for entry in self.facts["computers"] if entry["truth"] == truth]

    @property
    def strikes(self) -> int:
        return sum(account["bad_password_count"] for account in self.ask("accounts"))


class Person:
    """Somebody with a shell, a folder, and what the estate's owner told."""

    def __init__(self, estate: EstateProcess, folder: Path) -> None:
        facts = estate.facts
        self.folder = folder
        package = facts["package"]
        (folder / "agent.exe").write_bytes(decode_bytes(facts["package_content"]))
        (folder / "manifest.json").write_text(json.dumps(package["manifest"]))
        (folder / "ca.pem").write_text(facts["ca_pem"])
        self.package = ["--package", "agent.exe", "--manifest", "manifest.json", "--package-version"]
        self.package += [package["version"], "--host-ca", "ca.pem", "--allow-ntlm"]
        self.domain = ["--domain", facts["domain"], "--resolver", facts["dns"], "--user", facts["username"]]
        for sha256 in facts["certificates"]:
            self.domain += ["--accept-certificate", sha256]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
        self.environ = {**kept, "XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)}
        self.environ["MSP_PASSWORD"] = facts["password"]

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*MSP, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**self.environ, **more},
        )

    def msp(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err

    def of_domain(self, command: str, *arguments: str, **more: str) -> tuple[int, str, str]:
        return self.msp(command, *arguments, *self.package, *self.domain, **more)


@pytest.fixture
def estate() -> Iterator[EstateProcess]:
    process = EstateProcess()
    yield process
    machines = process.ask("machines")
    process.close()
    assert [facts["violations"] for facts in machines.values() if facts["violations"]] == []


@pytest.fixture
def person(estate: EstateProcess, tmp_path: Path) -> Person:
    return Person(estate, tmp_path)


def test_domain_is_planned_without_a_touch_then_deployed_and_then_up_to_date(estate: EstateProcess, person: Person):
    code, out, err = person.of_domain("plan", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    told = {entry["target"]["hostname"].upper() for entry in plan["actions"]}
    told |= {entry["hostname"].upper() for entry in plan["skipped"]}
    # Nothing is skipped in silence: each computer of the estate has its line.
    assert told == {entry["name"] for entry in estate.facts["computers"]}
    assert not any(facts["agent_running"] for facts in estate.ask("machines").values())
    silent = [entry for entry in plan["actions"] if entry["reason"] == "no-answer"]
    assert silent
    assert all("5986 and 5985 gave no answer" in entry["detail"] for entry in silent)

    code, out, err = person.of_domain("deploy", "--yes", "--json")
    assert (code, err) == (0, "")
    outcomes = {entry["hostname"].upper(): entry for entry in json.loads(out)["outcomes"]}
    assert {name for name, entry in outcomes.items() if entry["state"] == "done"} == set(estate.names("agent"))
    running = {name for name, facts in estate.ask("machines").items() if facts["agent_running"]}
    assert running == set(estate.names("agent"))

    code, out, _ = person.of_domain("plan")
    assert code == 0
    assert out.count("up-to-date") == len(running)
    assert "0 hosts to change" in out
    assert estate.strikes == 0
    assert estate.facts["password"] not in out


def test_named_host_that_the_directory_does_not_hold_is_a_wrong_call(estate: EstateProcess, person: Person):
    good = estate.names("agent")[0]
    code, _, err = person.of_domain("deploy", good, "TYPO1", "--yes")
    assert code == 2
    assert "TYPO1" in err
    assert not any(facts["agent_running"] for facts in estate.ask("machines").values())


def test_named_host_that_is_no_target_is_listed_with_its_reason_and_fails_the_call(
    estate: EstateProcess, person: Person
):
    (disabled,) = estate.names("disabled-account")[:1]
    code, out, _ = person.of_domain("deploy", disabled, "--yes")
    assert code == 1
    assert "disabled-account" in out


def test_only_the_named_host_is_deployed_to(estate: EstateProcess, person: Person):
    name = estate.names("agent")[0]
    code, out, _ = person.of_domain("deploy", name.lower(), "--yes", "--json")
    assert code == 0
    assert [entry["hostname"].upper() for entry in json.loads(out)["outcomes"]] == [name]
    machines = estate.ask("machines")
    assert [host for host, facts in machines.items() if facts["scripts"]] == [name]


def test_wrong_password_is_one_strike_and_the_next_run_says_so(estate: EstateProcess, person: Person):
    # Lesson 32.
    code, _, err = person.of_domain("deploy", "--yes", MSP_PASSWORD="wrong")
    assert code == 1
    assert estate.strikes == 1
    code, _, err = person.of_domain("deploy", "--yes")
    assert code == 1
    assert "--try-again" in err
    assert estate.strikes == 1
    assert person.of_domain("deploy", "--yes", "--try-again")[0] == 0


def test_nobody_to_ask_is_a_wrong_call_and_touches_nothing(estate: EstateProcess, person: Person):
    code, _, err = person.of_domain("deploy")
    assert code == 2
    assert "--yes" in err
    assert estate.ask("accounts")[0]["attempts"] == []


def test_domain_account_without_a_domain_is_shown_to_no_host(estate: EstateProcess, person: Person):
    name = estate.names("agent")[0]
    code, _, err = person.msp("deploy", name, *person.package, "--user", estate.facts["username"], "--yes")
    assert code == 2
    assert "--domain" in err
    assert estate.ask("accounts")[0]["attempts"] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_deployment_that_was_killed_is_finished_by_the_next_one(tmp_path: Path, number: int):
    # Slow enough to be in the middle when the signal comes.
    estate = EstateProcess("--delay", "0.6")
    try:
        person = Person(estate, tmp_path)
        names = estate.names("agent")
        first = person.start("deploy", *names, "--yes", *person.package, *person.domain)
        until = time.monotonic() + 30
        while not any("agent-stage" in facts["scripts"] for facts in estate.ask("machines").values()):
            assert time.monotonic() < until
            time.sleep(0.05)
        first.send_signal(number)
        first.communicate(timeout=20)
        assert first.returncode == (130 if number == signal.SIGINT else -number)
        code, out, err = person.of_domain("deploy", *names, "--yes", "--json")
        assert (code, err) == (0, "")
        done = {entry["hostname"].upper() for entry in json.loads(out)["outcomes"] if entry["state"] == "done"}
        assert done == set(names)
        assert estate.strikes == 0
    finally:
        estate.close()
