"""The command line as a person meets it: every test runs the real ``msp`` as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

MSP = [sys.executable, "-m", "runners.cli"]
COMMANDS = {
    "demo",
    "central",
    "partner",
    "appliance",
    "discover",
    "enumerate",
    "probe",
    "doctor",
    "plan",
    "deploy",
    "testing",
}
CODE = "K7QX-0000-0000-0000"


@pytest.fixture
def environ(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


@pytest.fixture
def msp(environ, tmp_path):
    def run(*arguments: object, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MSP, *map(str, arguments)],
            input=text,
            capture_output=True,
            text=True,
            env={**environ, **more},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return run


def said(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr."""
    (line,) = result.stderr.splitlines()
    return line


def read_until(terminal: int, wanted: str, timeout_s: float = 20.0) -> str:
    """What a terminal shows, until something wanted is there."""
    seen = b""
    until = time.monotonic() + timeout_s
    while wanted not in seen.decode(errors="replace"):
        ready, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"{wanted!r} did not come; there is: {seen!r}"
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            raise AssertionError(f"it ended without {wanted!r}: {seen!r}") from None
    return seen.decode(errors="replace")


def test_help_names_what_is_built_and_nothing_else(msp):
    shown = msp("--help")
    assert shown.returncode == 0
    assert set(re.findall(r"^    (\w+)(?: |$)", shown.stdout, re.MULTILINE)) == COMMANDS


def test_help_loads_nothing_heavy(environ):
    heavy = {"httpx", "sanic", "cryptography", "ldap3", "winrm", "rich", "sqlalchemy", "dns", "msp_sdk.testing"}
    code = "import sys, runners.cli.__main__ as m; m.make_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert not heavy & set(loaded.stdout.split())


@pytest.mark.parametrize(
    "call",
    [
        [],
        ["frobnicate"],
        ["central"],
        ["central", "serve", "--port", "port"],
        ["central", "serve", "--port", "99999"],
        ["central", "serve", "--port", "-1"],
        ["central", "bootstrap"],
        ["demo", "--computers", "many"],
        ["partner", "sites", "create"],
        ["partner", "codes", "create", "--uses", "x"],
        ["enumerate", "corp.example"],
        ["probe"],
        ["doctor"],
        ["doctor", "srv1", "srv2"],
        ["appliance", "claim"],
        ["discover", "too", "many"],
    ],
)
def test_a_wrong_call_ends_with_2_and_one_line(msp, call):
    result = msp(*call)
    assert result.returncode == 2
    assert result.stdout == ""
    assert said(result).startswith("msp")
    assert "--help" in said(result)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["partner", "sites", "list"], "MSP_CENTRAL"),
        (["partner", "sites", "list", "--central", "https://central.invalid"], "MSP_API_KEY"),
        (["partner", "sites", "list", "--central", "http://central.invalid", "--key-file", "key"], "https://"),
        (["discover", "--resolver", "dns.example"], "no DNS server"),
        (["enumerate", "corp.example", "--user", "u", "--server", "dc:99999"], "no controller"),
        (["appliance", "claim", CODE, "--config", "config.yaml"], "MSP_CENTRAL"),
        (["appliance", "claim", "K7QX", "--config", "config.yaml"], "16 letters and digits"),
        (["central", "serve", "--host", "0.0.0.0"], "--tls-cert"),  # noqa: S104 (it must be refused)
        (["central", "serve", "--database", "postgresql://db/central"], "sqlite:///"),
        (["central", "bootstrap", "--partner", " ", "--email", "a@b.example"], "--partner"),
    ],
)
def test_a_call_that_cannot_work_says_why_and_what_to_do(msp, tmp_path, call, words):
    (tmp_path / "key").write_text("pk_partner_x\n")
    result = msp(*call)
    assert result.returncode == 2
    assert words in said(result)
    assert not (tmp_path / "config.yaml").exists()


def test_a_dead_central_is_a_failure_in_one_line(msp, tmp_path):
    (tmp_path / "key").write_text("pk_partner_x\n")
    result = msp("partner", "sites", "list", "--central", "http://127.0.0.1:9", "--key-file", "key")
    assert result.returncode == 1
    assert "cannot be reached" in said(result)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_debug_shows_the_trace_wherever_it_stands(msp, place):
    call = ["appliance", "claim", CODE, "--central", "http://127.0.0.1:9", "--config", "config.yaml"]
    result = msp(*(["--debug", *call] if place == "before" else [*call, "--debug"]))
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("msp: ")
    assert CODE.replace("-", "") not in result.stderr


def test_a_password_in_an_argument_is_refused_and_not_repeated(msp):
    # As an abbreviation it would pass for --password-file, and be shown as the name of a missing file.
    for call in (["--password", "hunter2-hunter2"], ["--password=hunter2-hunter2"]):
        result = msp("enumerate", "corp.example", "--user", "u", *call)
        assert result.returncode == 2
        assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"\xff\xfe", "no text"),
        (b"-----BEGIN\nsome key\n", "more than one line"),
        ("folder", "directory"),
    ],
)
def test_a_wrong_password_file_costs_no_strike(msp, tmp_path, content, words):
    path = tmp_path / "password"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    digest = "ab" * 32
    result = msp(
        *("enumerate", "corp.example", "--user", "u", "--server", "127.0.0.1:9"),
        *("--password-file", path, "--accept-certificate", digest),
    )
    assert result.returncode == 2
    assert words in said(result)
    assert "some key" not in result.stderr


def test_a_wrong_digest_of_a_certificate_is_a_wrong_call(msp):
    result = msp("enumerate", "corp.example", "--user", "u", "--server", "127.0.0.1:9", "--accept-certificate", "12")
    assert result.returncode == 2
    assert "64 hex digits" in said(result)


def test_json_is_exactly_one_document(msp):
    found = msp("probe", "127.0.0.1", "127.0.0.2", "--json")
    assert found.returncode == 1  # nothing is open there
    assert [item["hostname"] for item in json.loads(found.stdout)["items"]] == ["127.0.0.1", "127.0.0.2"]
    assert found.stderr == ""


def test_a_network_that_cannot_be_asked_is_an_error_and_no_document(msp):
    result = msp("discover", "--resolver", "127.0.0.1:9", "--search", "corp.example", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert "did not answer" in said(result)


def test_a_reader_that_goes_away_makes_no_noise(environ):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*MSP, "probe", "127.0.0.1", "--json"]
    with os.fdopen(writer, "wb") as output:
        result = subprocess.run(command, env=environ, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    # What was asked for did not arrive, so it is not called done.
    assert (result.returncode, result.stderr) == (1, "")


def test_a_full_disk_is_a_failure_in_one_line(environ):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*MSP, "probe", "127.0.0.1"], env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert "No space left" in said(result)


def test_closed_streams_and_a_narrow_encoding_make_no_trace(environ, tmp_path):
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *MSP, "probe", "127.0.0.1"]
    result = subprocess.run(closed, env=environ, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    narrow = {**environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    named = [*MSP, "appliance", "claim", CODE, "--config", "\N{SNOWMAN}", "--central", "http://127.0.0.1:9"]
    result = subprocess.run(named, env=narrow, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_said_with_the_command_that_installs_it(environ, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sanic'] = None\n")
    result = subprocess.run(
        [*MSP, "central", "serve", "--port", "0"],
        env={**environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "msp-sdk[central]" in said(result)


@pytest.mark.parametrize(
    ("call", "prompt"),
    [
        (["appliance", "claim", "-", "--central", "http://127.0.0.1:9"], ""),
        (
            [
                *("enumerate", "corp.example", "--user", "u", "--server", "127.0.0.1:9"),
                *("--accept-certificate", "ab" * 32),
            ],
            "Password of u: ",
        ),
    ],
)
def test_ctrl_c_at_a_question_ends_it_at_once(environ, tmp_path, call, prompt):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*MSP, *call, *(["--config", "c.yaml"] if "claim" in call else [])], environ)  # noqa: S606 (a terminal of its own)
    try:
        if prompt:
            read_until(terminal, prompt)
        else:
            time.sleep(1.5)
        os.write(terminal, b"\x03")
        until = time.monotonic() + 10
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            assert time.monotonic() < until, "one Ctrl-C is not enough"
            time.sleep(0.05)
        assert os.waitstatus_to_exitcode(ended[1]) == 130
    finally:
        os.close(terminal)


def test_ctrl_c_in_the_middle_ends_with_130(environ, tmp_path):
    # A server that takes the connection and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "password").write_text("never sent")
        process = subprocess.Popen(
            [
                *MSP,
                *("enumerate", "corp.example", "--user", "u", "--server", f"127.0.0.1:{port}"),
                *("--accept-certificate", "ab" * 32, "--password-file", str(tmp_path / "password")),
            ],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            # Its thread waits much longer for an answer.
            output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (130, "", "")


def test_an_unclaimed_appliance_without_a_terminal_waits_and_says_so(environ, tmp_path):
    process = subprocess.Popen(
        [*MSP, "appliance", "run", "--config", str(tmp_path / "config.yaml")],
        env=environ,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "not claimed" in line
    assert "msp appliance claim" in line
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=15)
    assert process.returncode == 0
    assert not (tmp_path / "config.yaml").exists()


def test_a_malformed_code_in_the_environment_ends_the_appliance_with_a_reason(msp, tmp_path):
    result = msp(
        *("appliance", "run", "--config", tmp_path / "config.yaml"),
        MSP_PROVISION_CODE="K7QX",
        MSP_CENTRAL="http://127.0.0.1:9",
    )
    assert result.returncode in (1, 2)
    assert "16 letters and digits" in result.stderr
