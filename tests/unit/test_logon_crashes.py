"""Attempts whose end nobody recorded, across processes; and versions that had theirs under another id."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from msp_sdk.errors import LogonNotAllowedError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret

DYING = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from msp_sdk.models.credential import Credential
    from msp_sdk.network.logons import LogonLedger

    credential = Credential("c1", 1, "service_account", "svc@corp.example", lambda: None, "corp.example")
    with LogonLedger(Path(sys.argv[1])).attempt(credential, place="controller", host="dc1"):
        os._exit(1)
    """
)


def domain_credential() -> Credential:
    return Credential("c1", 1, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")


def test_two_processes_that_died_at_a_logon_are_told_before_and_after_the_next_one_asks(tmp_path):
    path = tmp_path / "logons.db"
    credential = domain_credential()
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", DYING, str(path)], check=False).returncode == 1
    ledger = LogonLedger(path)
    for _ in range(2):
        state = ledger.state(credential)
        assert (state.state, state.code) == ("refused", "logon-outcome-unknown")
        with (
            pytest.raises(LogonNotAllowedError) as caught,
            ledger.attempt(credential, place="controller", host="dc1"),
        ):
            pytest.fail("a third attempt was allowed")
        assert caught.value.code == "logon-outcome-unknown"


def test_a_version_that_was_refused_under_another_id_has_had_its_attempt(tmp_path):
    ledger = LogonLedger(tmp_path / "logons.db")
    ledger.refuse(domain_credential(), "wrong-password")
    state = ledger.state(domain_credential())
    assert (state.state, state.code) == ("refused", "wrong-password")
    with (
        pytest.raises(LogonNotAllowedError) as caught,
        ledger.attempt(domain_credential(), place="controller", host="dc1"),
    ):
        pytest.fail("the attempt was allowed")
    assert caught.value.code == "wrong-password"
