"""``msp discover``, ``enumerate`` and ``probe`` against an estate that runs as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from msp_sdk.wire.converter import decode_bytes

MSP = [sys.executable, "-m", "runners.cli"]


class Estate:
    """The process, and what it says of itself."""

    def __init__(self, process):
        self.process = process
        self.facts = json.loads(process.stdout.readline())

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    @property
    def attempts(self):
        """How many logons the directory has seen, right and wrong."""
        return sum(self._of(account["attempts"]) for account in self.ask("accounts"))

    @staticmethod
    def _of(attempts):
        return attempts if isinstance(attempts, int) else len(attempts)

    @property
    def bad_passwords(self):
        return sum(account["bad_password_count"] for account in self.ask("accounts"))


@pytest.fixture
def estate():
    process = subprocess.Popen(
        [sys.executable, "-m", "msp_sdk.testing.estate", "--computers", "12"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Estate(process)
    finally:
        process.communicate(timeout=20)


@pytest.fixture
def environ(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path), "TERM": "xterm"}


@pytest.fixture
def msp(environ, tmp_path):
    def run(*arguments, code=0, **more):
        result = subprocess.run(
            [*MSP, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**environ, **more},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    return run


def reading(estate, *more):
    """The call that enumerates the estate, without a certificate."""
    facts = estate.facts
    return ("enumerate", facts["domain"], "--user", facts["username"], "--resolver", facts["dns"], *more)


def accepting(estate):
    return [word for digest in estate.facts["certificates"] for word in ("--accept-certificate", digest)]


class Terminal:
    """``msp`` on a terminal of its own."""

    def __init__(self, environ, folder, arguments):
        self.child, self.descriptor = pty.fork()
        if self.child == 0:
            os.chdir(folder)
            os.execve(sys.executable, [*MSP, *arguments], environ)  # noqa: S606 (a terminal of its own)
        self.seen = ""

    def answer(self, question, answer, timeout_s=30.0):
        """Wait for a question that was not yet answered, and answer it."""
        start, until = len(self.seen), time.monotonic() + timeout_s
        while question not in self.seen[start:]:
            assert self._read(until), f"{question!r} did not come: {self.seen!r}"
        os.write(self.descriptor, answer.encode() + b"\n")

    def end(self, timeout_s=30.0):
        """Wait for its end; returns the exit code."""
        until = time.monotonic() + timeout_s
        while self._read(until):
            pass
        assert time.monotonic() < until, f"it does not end: {self.seen!r}"
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    def _read(self, until):
        if not select.select([self.descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        try:
            got = os.read(self.descriptor, 65536)
        except OSError:
            return False
        self.seen += got.decode(errors="replace")
        return bool(got)


def test_discover_finds_the_domain_and_shows_the_certificates(estate, msp):
    facts = estate.facts
    call = ("discover", "--resolver", facts["dns"], "--search", facts["domain"])
    found = json.loads(msp(*call, "--json").stdout)
    assert [domain["name"] for domain in found["domains"]] == [facts["domain"]]
    shown = msp(*call)
    assert all(digest in shown.stdout for digest in facts["certificates"])
    assert shown.stderr == ""
    assert estate.attempts == 0


def test_discover_finds_nothing_and_that_is_a_result(estate, msp):
    result = msp("discover", "--resolver", estate.facts["dns"], "--search", "elsewhere.example")
    assert "no domain was found" in result.stdout


def test_enumerate_gives_one_document_with_every_computer(estate, msp):
    call = reading(estate, "--json", *accepting(estate))
    result = msp(*call, MSP_PASSWORD=estate.facts["password"])
    document = json.loads(result.stdout)
    assert document["domain_name"] == estate.facts["domain"]
    assert {entry["hostname"].casefold() for entry in document["computers"]} == {
        computer["name"].casefold() for computer in estate.facts["computers"]
    }
    assert document["other_domains"] == []
    assert result.stderr == ""
    assert estate.attempts == 1


def test_enumerate_reads_by_the_ca_and_by_a_password_file(estate, msp, tmp_path):
    (tmp_path / "password").write_text(estate.facts["password"] + "\n")
    (tmp_path / "ca.pem").write_text(estate.facts["ca_pem"])
    result = msp(*reading(estate, "--ca", "ca.pem", "--password-file", "password", "--stale-after", "3000"))
    assert " stale" not in result.stdout
    assert f"{len(estate.facts['computers'])} computers from" in result.stdout
    # What was passed over is said in a pipe too, in one line.
    (line,) = result.stderr.splitlines()
    assert line.startswith("passed over: ")
    assert "kerberos (kdc-unreachable)" in line


def test_a_mark_at_the_head_of_a_password_file_is_no_part_of_the_password(estate, msp, tmp_path):
    # Notepad writes one, and it would cost a strike.
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbf" + estate.facts["password"].encode() + b"\r\n")
    msp(*reading(estate, *accepting(estate), "--password-file", "password"))


def test_enumerate_refuses_an_unknown_certificate_in_a_pipe(estate, msp):
    result = msp(*reading(estate), code=1, MSP_PASSWORD=estate.facts["password"])
    (line,) = result.stderr.splitlines()
    assert "No password was sent" in line
    assert "--accept-certificate" in line
    assert any(digest in line for digest in estate.facts["certificates"])
    assert estate.attempts == 0


def test_another_certificate_than_the_listed_one_is_refused_in_the_same_words(estate, msp, tmp_path):
    result = msp(*reading(estate, "--accept-certificate", "ab" * 32), code=1, MSP_PASSWORD=estate.facts["password"])
    assert "--accept-certificate" in result.stderr
    (tmp_path / "agent.exe").write_bytes(decode_bytes(estate.facts["package_content"]))
    (tmp_path / "manifest.json").write_text(json.dumps(estate.facts["package"]["manifest"]))
    _, domain, *more = reading(estate, "--accept-certificate", "ab" * 32)
    package = ("--package", "agent.exe", "--manifest", "manifest.json", "--package-version", "1")
    planned = msp("plan", "--domain", domain, *more, *package, code=1, MSP_PASSWORD=estate.facts["password"])
    assert "--accept-certificate" in planned.stderr
    assert estate.attempts == 0


def test_an_unknown_certificate_is_shown_asked_once_and_pinned(estate, environ, msp, tmp_path):
    terminal = Terminal(environ, tmp_path, reading(estate))
    for _ in estate.facts["certificates"]:
        terminal.answer("[y/N] ", "y")
    terminal.answer("Password of", estate.facts["password"])
    assert terminal.end() == 0, terminal.seen
    assert estate.facts["password"] not in terminal.seen
    for digest in estate.facts["certificates"]:
        shown = ":".join(digest[start : start + 2].upper() for start in range(0, 64, 2))
        assert terminal.seen.count(shown) == 1

    # From now on nobody is asked: not on a terminal, nor in a pipe.
    again = Terminal(environ, tmp_path, reading(estate))
    again.answer("Password of", estate.facts["password"])
    assert again.end() == 0, again.seen
    assert "[y/N]" not in again.seen
    msp(*reading(estate), MSP_PASSWORD=estate.facts["password"])
    assert estate.attempts == 3


def test_a_certificate_that_nobody_accepts_gets_no_password_and_asks_for_none(estate, environ, tmp_path):
    terminal = Terminal(environ, tmp_path, reading(estate))
    for _ in estate.facts["certificates"]:
        terminal.answer("[y/N] ", "")
    assert terminal.end() == 1
    assert "Password of" not in terminal.seen
    assert estate.attempts == 0


def test_a_changed_certificate_is_told_from_a_first_one(estate, environ, tmp_path):
    state = tmp_path / "state" / "msp"
    state.mkdir(parents=True)
    (state / "certificates.json").write_text(json.dumps({estate.facts["domain"]: ["ab" * 32]}))
    terminal = Terminal(environ, tmp_path, reading(estate))
    for _ in estate.facts["certificates"]:
        terminal.answer("none of those accepted", "")
    assert terminal.end() == 1
    assert "Password of" not in terminal.seen
    assert estate.attempts == 0


def test_damaged_pins_are_said_and_nothing_is_sent(estate, msp, tmp_path):
    state = tmp_path / "state" / "msp"
    state.mkdir(parents=True)
    for damage in ("{", "[]", '{"a": 1}'):
        (state / "certificates.json").write_text(damage)
        result = msp(*reading(estate), code=2, MSP_PASSWORD="x")
        assert "certificates.json" in result.stderr
    assert estate.attempts == 0


def test_a_refused_password_needs_try_again_and_each_try_is_one_bind(estate, msp):
    # Accounts lock: lesson 32.
    call = reading(estate, *accepting(estate))
    first = msp(*call, code=1, MSP_PASSWORD="not-the-password")
    assert len(first.stderr.splitlines()) == 1
    assert "not-the-password" not in first.stderr
    assert (estate.attempts, estate.bad_passwords) == (1, 1)

    # Neither the same nor the right password is sent until a person says so.
    for password in ("not-the-password", estate.facts["password"]):
        refused = msp(*call, code=1, MSP_PASSWORD=password)
        assert "--try-again" in refused.stderr
    assert estate.attempts == 1

    msp(*call, "--try-again", code=1, MSP_PASSWORD="still-not-it")
    assert (estate.attempts, estate.bad_passwords) == (2, 2)
    msp(*call, code=1, MSP_PASSWORD="still-not-it")
    assert estate.attempts == 2

    msp(*call, "--try-again", MSP_PASSWORD=estate.facts["password"])
    msp(*call, MSP_PASSWORD=estate.facts["password"])
    assert estate.attempts == 4


def test_an_account_that_is_kept_out_is_tried_again_when_a_person_has_mended_it(estate, msp):
    call = reading(estate, *accepting(estate))
    estate.ask("disable-account")
    said = msp(*call, code=1, MSP_PASSWORD=estate.facts["password"])
    assert "disabled" in said.stderr
    attempts = estate.attempts
    assert "--try-again" in msp(*call, code=1, MSP_PASSWORD=estate.facts["password"]).stderr
    assert estate.attempts == attempts
    msp(*call, "--try-again", code=1, MSP_PASSWORD=estate.facts["password"])
    assert (estate.attempts, estate.bad_passwords) == (attempts + 1, 0)


def test_a_try_that_gets_no_further_than_its_options_does_not_forget_the_refusal(estate, msp):
    call = reading(estate, *accepting(estate))
    msp(*call, code=1, MSP_PASSWORD="not-the-password")
    msp(*call, "--try-again", "--password-file", "missing", code=2)
    msp(*reading(estate), "--try-again", code=1, MSP_PASSWORD="not-the-password")
    assert "--try-again" in msp(*call, code=1, MSP_PASSWORD="not-the-password").stderr
    assert estate.attempts == 1


def test_a_server_by_hand_replaces_discovery(estate, msp):
    facts = estate.facts
    found = json.loads(msp("discover", "--resolver", facts["dns"], "--search", facts["domain"], "--json").stdout)
    controller = found["domains"][0]["controllers"][0]
    server = f"{controller['addresses'][0]}:{controller['port']}"
    call = ("enumerate", facts["domain"], "--user", facts["username"], "--server", server, "--json", *accepting(estate))
    document = json.loads(msp(*call, MSP_PASSWORD=facts["password"]).stdout)
    assert len(document["computers"]) == len(facts["computers"])


def test_a_domain_that_is_not_there_is_one_line(estate, msp):
    call = ("enumerate", "elsewhere.example", "--user", "u", "--resolver", estate.facts["dns"])
    result = msp(*call, code=1, MSP_PASSWORD="x")
    assert "--resolver" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_probe_says_which_door_is_open_and_why_none_is(estate, msp):
    facts = estate.facts
    names = {computer["truth"]: f"{computer['name'].lower()}.{facts['domain']}" for computer in facts["computers"]}
    result = msp("probe", names["agent"], names["winrm-closed"], "--resolver", facts["dns"], "--json", code=1)
    good, bad = json.loads(result.stdout)["items"]
    assert good["reachable"] is True
    assert good["doors"]
    assert bad["unreachable_reason"] == "winrm-closed"
    assert result.stderr == ""
    assert msp("probe", names["agent"], "--resolver", facts["dns"]).stdout.startswith("HOST")


def test_a_terminal_sees_progress(estate, environ, tmp_path):
    facts = estate.facts
    terminal = Terminal(environ, tmp_path, ("discover", "--resolver", facts["dns"], "--search", facts["domain"]))
    assert terminal.end() == 0
    assert "looking for a domain" in terminal.seen
