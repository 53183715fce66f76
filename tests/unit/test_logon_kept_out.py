"""Accounts that are kept out although their password was not refused: tried again by themselves, and seldom."""

from __future__ import annotations

import pytest

from msp_sdk.errors import LogonNotAllowedError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import KEPT_OUT_S, LedgerOptions, LogonLedger
from msp_sdk.secret import Secret

IMPATIENT = LedgerOptions(wait_s=0.0)
DC = {"place": "controller", "host": "DC1.corp.example"}
HOST = {"place": "host", "host": "srv1.corp.example"}


def domain_credential() -> Credential:
    return Credential("c1", 1, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")


def code_of_refusal(ledger: LogonLedger, credential: Credential, **where: str) -> str:
    with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(credential, **where):
        pytest.fail("the attempt was allowed")
    return caught.value.code


def keep_out(ledger: LogonLedger, credential: Credential, code: str = "account-disabled") -> None:
    with ledger.attempt(credential, **DC) as attempt:
        attempt.kept_out(code)


def test_an_account_that_is_kept_out_with_a_right_password_is_tried_once_an_hour_and_not_more(tmp_path):
    now = [1_700_000_000.0]
    ledger = LogonLedger(tmp_path / "logons.db", options=IMPATIENT, clock=lambda: now[0])
    for _ in range(3):
        keep_out(ledger, domain_credential())
        for where in (DC, {"place": "controller", "host": "dc2"}, HOST):
            assert code_of_refusal(ledger, domain_credential(), **where) == "account-disabled"
        now[0] += KEPT_OUT_S - 1
        with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(domain_credential(), **DC):
            pytest.fail("the attempt was allowed")
        assert caught.value.retryable
        now[0] += 1
        # Only a controller may judge it.
        assert code_of_refusal(ledger, domain_credential(), **HOST) == "credential-unproven"
    with ledger.attempt(domain_credential(), **DC) as attempt:
        attempt.succeeded()
    state = ledger.state(domain_credential())
    assert (state.state, state.code) == ("proven", None)


def test_an_account_that_is_kept_out_is_told_as_unproven_with_its_reason(tmp_path):
    ledger = LogonLedger(tmp_path / "logons.db", options=IMPATIENT)
    # Central takes a refused version away from everybody; this one heals by itself.
    keep_out(ledger, domain_credential(), "logon-hours")
    state = ledger.state(domain_credential())
    assert (state.state, state.code) == ("unproven", "logon-hours")


def test_a_wrong_password_after_an_account_was_kept_out_is_final(tmp_path):
    now = [1_700_000_000.0]
    ledger = LogonLedger(tmp_path / "logons.db", options=IMPATIENT, clock=lambda: now[0])
    keep_out(ledger, domain_credential())
    now[0] += KEPT_OUT_S
    with ledger.attempt(domain_credential(), **DC) as attempt:
        assert attempt.refused("wrong-password") == "refused"
    now[0] += KEPT_OUT_S
    assert code_of_refusal(ledger, domain_credential(), **DC) == "wrong-password"


@pytest.mark.parametrize("host_takes_it", [True, False])
def test_what_a_host_says_late_does_not_end_the_hour_of_an_account_that_is_kept_out(tmp_path, host_takes_it):
    ledger = LogonLedger(tmp_path / "logons.db", options=IMPATIENT)
    with ledger.attempt(domain_credential(), **DC) as attempt:
        attempt.succeeded()
    with ledger.attempt(domain_credential(), **HOST) as late:
        keep_out(ledger, domain_credential())
        if host_takes_it:
            late.succeeded()
        else:
            late.refused("wrong-password")
    assert code_of_refusal(ledger, domain_credential(), **DC) == "account-disabled"
    assert ledger.state(domain_credential()).code == "account-disabled"


def test_what_is_refused_is_not_revived_by_an_account_that_is_kept_out(tmp_path):
    now = [1_700_000_000.0]
    ledger = LogonLedger(tmp_path / "logons.db", options=LedgerOptions(in_flight=2, wait_s=0.0), clock=lambda: now[0])
    with ledger.attempt(domain_credential(), **DC) as first:
        first.succeeded()
    with ledger.attempt(domain_credential(), **DC) as late:
        with ledger.attempt(domain_credential(), **DC) as other:
            other.refused("wrong-password")
        late.kept_out("account-disabled")
    now[0] += KEPT_OUT_S
    assert code_of_refusal(ledger, domain_credential(), **DC) == "wrong-password"


def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer(tmp_path):
    now = [1_700_000_000.0]
    ledger = LogonLedger(tmp_path / "logons.db", options=IMPATIENT, clock=lambda: now[0])
    keep_out(ledger, domain_credential())
    now[0] -= 30 * 24 * 3600
    with ledger.attempt(domain_credential(), **DC) as attempt:
        attempt.succeeded()
