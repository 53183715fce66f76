"""Who waits for a logon, in which order, and what the ledger forgets."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from msp_sdk.errors import LogonNotAllowedError, UnreachableError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LedgerOptions, LogonLedger
from msp_sdk.secret import Secret

DC = {"place": "controller", "host": "DC1.corp.example"}
HOST = {"place": "host", "host": "srv1.corp.example"}


def domain_credential(version: int = 1, id: str = "c1") -> Credential:  # noqa: A002 (the model's name)
    return Credential(id, version, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logons.db"


@pytest.fixture
def ledger(path):
    return LogonLedger(path, options=LedgerOptions(wait_s=0.0))


def succeed(ledger: LogonLedger, credential: Credential, **where: str) -> None:
    with ledger.attempt(credential, **where) as attempt:
        attempt.succeeded()


def test_hosts_that_wait_for_their_turn_are_served_in_their_order(path):
    """Two hundred hosts share two logons: nobody is overtaken until his time is up."""
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=1, wait_s=20.0))
    credential = domain_credential()
    succeed(ledger, credential, **DC)
    served: list[int] = []

    def log_on(number: int) -> None:
        with ledger.attempt(credential, place="host", host=f"h{number}") as attempt:
            served.append(number)
            attempt.succeeded()

    with ThreadPoolExecutor(20) as pool:
        with ledger.attempt(credential, place="host", host="first") as attempt:
            waiting = []
            for number in range(20):
                waiting.append(pool.submit(log_on, number))
                time.sleep(0.01)
            attempt.succeeded()
        for each in waiting:
            each.result()
    assert served == list(range(20))


def test_proof_at_a_controller_does_not_wait_behind_hosts_that_wait_for_it(path):
    ledger = LogonLedger(path, options=LedgerOptions(wait_s=5.0))
    credential = domain_credential()
    succeed(ledger, credential, **DC)
    with ledger.attempt(credential, **HOST) as attempt:
        assert attempt.refused("wrong-password") == "paused"
    with ThreadPoolExecutor(4) as pool:
        hosts = [pool.submit(succeed, ledger, credential, place="host", host=f"h{n}") for n in range(4)]
        time.sleep(0.2)
        begun = time.monotonic()
        succeed(ledger, credential, **DC)
        assert time.monotonic() - begun < 2
        for each in hosts:
            each.result()


def test_host_that_runs_out_of_time_is_told_why(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=1, wait_s=0.3))
    credential = domain_credential()
    succeed(ledger, credential, **DC)

    def ask(number: int) -> str:
        try:
            succeed(ledger, credential, place="host", host=f"h{number}")
        except LogonNotAllowedError as error:
            return f"{error.code}, {'later' if error.retryable else 'never'}"
        return "allowed"

    with ThreadPoolExecutor(5) as pool, ledger.attempt(credential, **HOST) as attempt:
        assert {each.result() for each in [pool.submit(ask, n) for n in range(5)]} == {"logons-in-flight, later"}
        attempt.succeeded()


def test_what_hosts_said_of_older_versions_is_forgotten_and_a_refused_version_is_not(path, ledger):
    """The ledger does not grow with every rotation, and an old version that is offered again is still refused."""
    first, second = domain_credential(1), domain_credential(2)
    succeed(ledger, first, **DC)
    with ledger.attempt(first, **HOST) as attempt:
        attempt.refused("wrong-password")
    with ledger.attempt(first, **DC) as attempt:
        attempt.refused("wrong-password")
    succeed(ledger, domain_credential(1, "c1:0"), **DC)
    succeed(ledger, second, **DC)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM host").fetchone() == (0,)
    connection.close()
    with pytest.raises(LogonNotAllowedError), ledger.attempt(first, **DC):
        pass


def end_unknown(ledger: LogonLedger, credential: Credential, host: str) -> None:
    with ledger.attempt(credential, place="host", host=host):
        pass


def test_two_hosts_that_hang_up_at_the_logon_pause_the_version_until_a_controller_proves_it(ledger):
    """Each may have been a strike: a changed password must not cost one at every host that hangs up."""
    credential = domain_credential()
    succeed(ledger, credential, **DC)
    end_unknown(ledger, credential, "h1")
    assert not ledger.is_paused(credential)
    end_unknown(ledger, credential, "h2")
    assert ledger.is_paused(credential)
    with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(credential, place="host", host="h3"):
        pass
    assert (caught.value.code, caught.value.retryable) == ("credential-paused", True)
    succeed(ledger, credential, **DC)
    assert not ledger.is_paused(credential)
    # The password is right, so what was unknown is no reason to pause again; each host may be tried once more.
    succeed(ledger, credential, place="host", host="h1")
    end_unknown(ledger, credential, "h2")
    assert not ledger.is_paused(credential)
    with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(credential, place="host", host="h2"):
        pass
    assert caught.value.code == "logon-outcome-unknown"


def test_one_host_that_hangs_up_twice_is_that_hosts_affair(ledger):
    credential = domain_credential()
    succeed(ledger, credential, **DC)
    end_unknown(ledger, credential, "h1")
    end_unknown(ledger, credential, "h1")
    assert not ledger.is_paused(credential)
    succeed(ledger, credential, place="host", host="h2")


def test_waiting_for_a_turn_ends_when_the_work_is_cancelled(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=1, wait_s=30.0))
    credential = domain_credential()
    succeed(ledger, credential, **DC)
    cancelled = threading.Event()

    def ask(number: int) -> str:
        try:
            with ledger.attempt(credential, place="host", host=f"h{number}", cancelled=cancelled):
                return "allowed"
        except UnreachableError as error:
            return error.code

    with ThreadPoolExecutor(3) as pool, ledger.attempt(credential, **HOST) as attempt:
        waiting = [pool.submit(ask, number) for number in range(3)]
        time.sleep(0.1)
        begun = time.monotonic()
        cancelled.set()
        assert {each.result() for each in waiting} == {"connection-lost"}
        assert time.monotonic() - begun < 5
        attempt.succeeded()
