"""The fixtures for tests of others: what they start ends with a test, and a test of a program that did harm fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import asyncio
import socket
import threading

import pytest

from msp_sdk import LogonError, Secret
from msp_sdk.windows.scripts import Script, load

CLEAR = b"POST /wsman HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 12\\r\\n\\r\\n<s:Envelope>"


def say_in_clear(host):
    with socket.create_connection((host.address, 5985)) as sock:
        sock.sendall(CLEAR)
        sock.recv(100)


def show_twice(lab, host):
    for version in (1, 2):
        wrong = lab.local_credential("wrong", version=version)
        with pytest.raises(LogonError):
            lab.run(lab.target(host), wrong, load("identify"))


def test_good(msp_lab, msp_host, msp_credential):
    (result,) = msp_lab.run(msp_lab.target(msp_host), msp_credential, load("identify"))
    assert result.host.computer_name == "SRV1"


def test_harm_envelope_in_clear(msp_host):
    say_in_clear(msp_host)


def test_harm_envelope_in_clear_at_a_site(msp_estate):
    estate = msp_estate(3)
    say_in_clear(next(host for host in estate.hosts.values() if host.http_port))


def test_harm_unknown_script(msp_lab, msp_host, msp_credential):
    with pytest.raises(Exception):
        msp_lab.run(msp_lab.target(msp_host), msp_credential, Script("mine", 1, "param($Parameters)", "0" * 64, False))


def test_harm_password_shown_again(msp_lab, msp_host):
    show_twice(msp_lab, msp_host)


def test_good_where_it_was_meant(msp_lab, msp_host):
    show_twice(msp_lab, msp_host)
    say_in_clear(msp_host)
    msp_lab.local.attempts.clear()
    msp_host.machine.violations.clear()


def test_good_site_in_which_computers_come_and_go(msp_estate):
    estate = msp_estate(7, computers=12, faults={"silent": 2})
    other = msp_estate(7, computers=12, faults={"silent": 2})
    assert [entry.name for entry in estate.plan] == [entry.name for entry in other.plan]
    assert estate.network != other.network
    msp_estate.call(estate.join("RECEPTION-9"))
    assert estate.computer_facts()[-1]["truth"] == "new"


def test_good_nothing_is_left():
    assert [each.name for each in threading.enumerate() if each.name.startswith("msp-testing")] == []
"""


def test_program_that_does_harm_fails_its_test_and_what_was_started_ends(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["msp_sdk.testing.pytest_plugin"]\n')
    (tmp_path / "test_program.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-W", "error"]
    result = subprocess.run(
        command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False
    )
    ends = [line.split(" - ")[0].split("::") for line in result.stdout.splitlines() if "test_program.py::" in line]
    ended = {name: how for how, name in ((first.split()[0], name) for first, *_, name in ends) if how != "PASSED"}
    passed = {name for first, *_, name in ends if first.startswith("PASSED")}
    assert set(ended) == {name for name in passed if "_harm_" in name}, result.stdout
    assert set(ended.values()) == {"ERROR"}, result.stdout
    assert len(passed) == TESTS.count("def test_")
    for said in ("SRV1: an envelope in clear", "an unregistered script", "shown to SRV1 again"):
        assert said in result.stdout


def test_plugin_is_for_who_asks(pytestconfig: pytest.Config) -> None:
    assert not pytestconfig.pluginmanager.has_plugin("msp_sdk.testing.pytest_plugin")
