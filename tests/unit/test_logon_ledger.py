"""The logon ledger: what may log on, and what it remembers. Accounts lock, so each rule has its test."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from msp_sdk.errors import ConfigError, LogonNotAllowedError, NotAuthorisedHereError, StateError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import REASONS
from msp_sdk.network.logons import LedgerOptions, LogonLedger
from msp_sdk.secret import Secret

IMPATIENT = LedgerOptions(wait_s=0.0)
PATIENT = LedgerOptions(wait_s=20.0)
DC = {"place": "controller", "host": "DC1.corp.example"}
HOST = {"place": "host", "host": "srv1.corp.example"}


def domain_credential(version: int = 1, id: str = "c1") -> Credential:  # noqa: A002 (the model's name)
    return Credential(id, version, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")


def local_credential(version: int = 1) -> Credential:
    return Credential("l1", version, "local_admin", r".\admin", lambda: Secret("x"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "logons.db"


@pytest.fixture
def ledger(path):
    return LogonLedger(path, options=IMPATIENT)


def succeed(ledger: LogonLedger, credential: Credential, **where: str) -> None:
    with ledger.attempt(credential, **where) as attempt:
        attempt.succeeded()


def refuse(ledger: LogonLedger, credential: Credential, code: str = "wrong-password", **where: str) -> str:
    with ledger.attempt(credential, **where) as attempt:
        return attempt.refused(code)


def code_of_refusal(ledger: LogonLedger, credential: Credential, **where: str) -> str:
    """Ask for a logon that must not be allowed; nothing may be sent, so the block must not run."""
    with pytest.raises((LogonNotAllowedError, NotAuthorisedHereError)) as caught, ledger.attempt(credential, **where):
        pytest.fail("the attempt was allowed")
    return caught.value.code


# The file.


def test_the_file_is_for_its_owner_alone_and_holds_no_secret(path):
    password = "Tr0ub4dor&3-unmistakable"
    ledger = LogonLedger(path, options=IMPATIENT)
    typed = Credential.typed("admin@corp.example", Secret(password), domain_name="corp.example")
    refuse(ledger, typed, **DC)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for file in path.parent.iterdir():
        assert password.encode() not in file.read_bytes()


def test_a_file_that_is_no_ledger_is_a_clear_error(path):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever it may be" * 50)
    with pytest.raises(ConfigError):
        LogonLedger(path)


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        LogonLedger(tmp_path / "file" / "logons.db")


def test_the_attempt_is_on_disk_before_the_block_runs(ledger, path):
    with ledger.attempt(domain_credential(), **DC) as attempt:
        with sqlite3.connect(path) as connection:
            rows = connection.execute("SELECT key, host, place FROM attempt").fetchall()
        connection.close()
        assert rows == [("c1:1", "dc1.corp.example", "controller")]
        attempt.succeeded()


def test_a_ledger_that_is_lost_allows_nothing_and_says_so(ledger, path):
    shutil.rmtree(path.parent)
    with pytest.raises(ConfigError), ledger.attempt(domain_credential(), **DC):
        pytest.fail("the attempt was allowed")
    with pytest.raises(ConfigError):
        ledger.state(domain_credential())


# A version that has not yet succeeded.


def test_a_domain_credential_is_proven_at_a_controller_before_any_host_sees_it(ledger):
    # lesson 32
    assert code_of_refusal(ledger, domain_credential(), **HOST) == "credential-unproven"
    succeed(ledger, domain_credential(), **DC)
    succeed(ledger, domain_credential(), **HOST)


def test_a_local_credential_is_proven_at_its_first_host(ledger):
    succeed(ledger, local_credential(), **HOST)
    assert ledger.state(local_credential()).state == "proven"


def test_an_unproven_version_makes_one_logon_at_a_time(ledger):
    with ledger.attempt(domain_credential(), **DC) as attempt:
        assert code_of_refusal(ledger, domain_credential(), place="controller", host="dc2") == "logons-in-flight"
        attempt.succeeded()
    succeed(ledger, domain_credential(), place="controller", host="dc2")


def test_the_first_wrong_password_stops_the_version_everywhere(ledger, path):
    # lesson 32: one wrong password is one strike, however many hosts wait.
    assert refuse(ledger, domain_credential(), **DC) == "refused"
    elsewhere = LogonLedger(path, options=IMPATIENT)
    for where in (DC, HOST, {"place": "controller", "host": "dc2"}, {"place": "host", "host": "10.0.0.9"}):
        assert code_of_refusal(elsewhere, domain_credential(), **where) == "wrong-password"
    state = elsewhere.state(domain_credential())
    assert (state.state, state.code) == ("refused", "wrong-password")


def test_a_local_password_refused_at_its_first_host_is_tried_at_no_other(ledger):
    assert refuse(ledger, local_credential(), **HOST) == "refused"
    assert code_of_refusal(ledger, local_credential(), place="host", host="srv2") == "wrong-password"


def test_the_true_reason_of_a_refusal_is_kept(ledger):
    # lesson 28
    refuse(ledger, domain_credential(), "account-locked", **DC)
    with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(domain_credential(), **DC):
        pytest.fail("the attempt was allowed")
    assert caught.value.code == "account-locked"
    assert caught.value.remedy == REASONS["account-locked"].remedy
    assert not caught.value.retryable


def test_a_new_version_begins_anew(ledger):
    refuse(ledger, domain_credential(1), **DC)
    succeed(ledger, domain_credential(2), **DC)
    assert code_of_refusal(ledger, domain_credential(1), **DC) == "wrong-password"
    assert ledger.state(domain_credential(2)).state == "proven"


def test_credentials_do_not_share_strikes(ledger):
    refuse(ledger, domain_credential(id="c1"), **DC)
    succeed(ledger, domain_credential(id="c2"), **DC)


def test_an_attempt_that_never_sent_anything_is_no_strike(ledger):
    for _ in range(5):
        with ledger.attempt(domain_credential(), **DC) as attempt:
            attempt.not_sent()
    assert ledger.state(domain_credential()).state == "unproven"
    succeed(ledger, domain_credential(), **DC)


# A version that was proven.


def test_logons_in_flight_of_a_proven_version_are_limited(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=0.0))
    succeed(ledger, domain_credential(), **DC)
    with (
        ledger.attempt(domain_credential(), place="host", host="a") as first,
        ledger.attempt(domain_credential(), place="host", host="b") as second,
    ):
        with pytest.raises(LogonNotAllowedError) as caught, ledger.attempt(domain_credential(), **HOST):
            pytest.fail("the attempt was allowed")
        assert (caught.value.code, caught.value.retryable) == ("logons-in-flight", True)
        first.succeeded()
        succeed(ledger, domain_credential(), **HOST)
        second.succeeded()


def test_a_host_that_refuses_pauses_the_version_until_a_controller_proves_it_again(ledger):
    succeed(ledger, domain_credential(), **DC)
    assert refuse(ledger, domain_credential(), place="host", host="SRV1") == "paused"
    assert code_of_refusal(ledger, domain_credential(), place="host", host="srv2") == "credential-paused"
    assert ledger.state(domain_credential()).state == "unproven"

    succeed(ledger, domain_credential(), **DC)
    assert code_of_refusal(ledger, domain_credential(), place="host", host="srv1") == "not-authorised-here"
    succeed(ledger, domain_credential(), place="host", host="srv2")


def test_a_password_that_was_changed_meanwhile_costs_two_strikes_and_no_more(ledger):
    succeed(ledger, domain_credential(), **DC)
    assert refuse(ledger, domain_credential(), **HOST) == "paused"
    assert refuse(ledger, domain_credential(), **DC) == "refused"
    assert code_of_refusal(ledger, domain_credential(), **DC) == "wrong-password"
    assert code_of_refusal(ledger, domain_credential(), place="host", host="srv9") == "wrong-password"


def test_two_hosts_that_refuse_at_once_are_both_marked_by_one_proof(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=0.0))
    succeed(ledger, domain_credential(), **DC)
    with (
        ledger.attempt(domain_credential(), place="host", host="a") as first,
        ledger.attempt(domain_credential(), place="host", host="b") as second,
    ):
        assert first.refused("wrong-password") == "paused"
        assert second.refused("wrong-password") == "paused"
    succeed(ledger, domain_credential(), **DC)
    for host in ("a", "b"):
        assert code_of_refusal(ledger, domain_credential(), place="host", host=host) == "not-authorised-here"


def test_a_success_in_flight_at_a_host_does_not_end_a_pause(path):
    # It may have begun before the password was changed; only a controller says what the password is now.
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=0.0))
    succeed(ledger, domain_credential(), **DC)
    with ledger.attempt(domain_credential(), place="host", host="slow") as slow:
        assert refuse(ledger, domain_credential(), place="host", host="srv1") == "paused"
        slow.succeeded()
    assert code_of_refusal(ledger, domain_credential(), place="host", host="srv1") == "credential-paused"


def test_a_proven_local_password_refused_by_one_host_is_that_hosts_affair(ledger):
    succeed(ledger, local_credential(), **HOST)
    assert refuse(ledger, local_credential(), place="host", host="srv2") == "not-authorised-here"
    assert code_of_refusal(ledger, local_credential(), place="host", host="srv2") == "not-authorised-here"
    succeed(ledger, local_credential(), place="host", host="srv3")


def test_a_success_in_flight_does_not_revive_a_refused_version(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=0.0))
    succeed(ledger, domain_credential(), **DC)
    with ledger.attempt(domain_credential(), **HOST) as late:
        assert refuse(ledger, domain_credential(), **DC) == "refused"
        late.succeeded()
    assert ledger.state(domain_credential()).state == "refused"
    assert code_of_refusal(ledger, domain_credential(), **DC) == "wrong-password"


def test_a_refusal_in_flight_after_the_end_stays_the_end(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=0.0))
    succeed(ledger, domain_credential(), **DC)
    with ledger.attempt(domain_credential(), **HOST) as late:
        refuse(ledger, domain_credential(), **DC)
        assert late.refused("wrong-password") == "refused"


# Ends that nobody recorded.


def test_an_attempt_without_an_end_is_repeated_once_and_never_twice(ledger):
    for _ in range(2):
        with ledger.attempt(domain_credential(), **DC):
            pass
    assert code_of_refusal(ledger, domain_credential(), **DC) == "logon-outcome-unknown"
    state = ledger.state(domain_credential())
    assert (state.state, state.code) == ("refused", "logon-outcome-unknown")


def test_an_error_in_the_block_is_an_unknown_end_and_comes_through(ledger):
    with pytest.raises(ZeroDivisionError), ledger.attempt(domain_credential(), **DC):
        raise ZeroDivisionError
    succeed(ledger, domain_credential(), **DC)
    # A success clears what was unknown before.
    with ledger.attempt(domain_credential(), **DC):
        pass
    succeed(ledger, domain_credential(), **DC)


def test_unknown_ends_at_one_host_of_a_proven_version_stop_that_host_alone(ledger):
    succeed(ledger, domain_credential(), **DC)
    for _ in range(2):
        with ledger.attempt(domain_credential(), **HOST):
            pass
    assert code_of_refusal(ledger, domain_credential(), **HOST) == "logon-outcome-unknown"
    succeed(ledger, domain_credential(), place="host", host="srv2")
    assert ledger.state(domain_credential()).state == "proven"


def test_an_end_is_said_once(ledger):
    with ledger.attempt(domain_credential(), **DC) as attempt:
        attempt.succeeded()
        for again in (attempt.succeeded, attempt.not_sent, lambda: attempt.refused("wrong-password")):
            with pytest.raises(StateError):
                again()
    assert ledger.state(domain_credential()).state == "proven"


CRASHER = """
import sys
from pathlib import Path
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LedgerOptions, LogonLedger
from msp_sdk.secret import Secret
ledger = LogonLedger(Path(sys.argv[1]), options=LedgerOptions(wait_s=0.0))
credential = Credential("c1", 1, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")
with ledger.attempt(credential, place="controller", host="dc1"):
    print("in", flush=True)
    sys.stdin.read()
"""


@contextmanager
def a_process_in_an_attempt(path):
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_is_repeated_once_and_never_twice(ledger, path):
    for _ in range(2):
        with a_process_in_an_attempt(path) as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert code_of_refusal(ledger, domain_credential(), **DC) == "logon-outcome-unknown"


def test_after_one_kill_the_logon_goes_on(ledger, path):
    with a_process_in_an_attempt(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    succeed(ledger, domain_credential(), **DC)
    assert ledger.state(domain_credential()).state == "proven"


def test_another_process_in_an_attempt_keeps_us_waiting(ledger, path):
    with a_process_in_an_attempt(path):
        assert code_of_refusal(ledger, domain_credential(), **DC) == "logons-in-flight"


def test_a_stopped_process_is_not_taken_for_a_dead_one(ledger, path):
    with a_process_in_an_attempt(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert code_of_refusal(ledger, domain_credential(), **DC) == "logons-in-flight"
        os.kill(process.pid, signal.SIGCONT)


# A person's retry, and typed credentials.


def test_retry_of_a_typed_credential_is_exactly_one_more_attempt(ledger):
    typed = Credential.typed("ADMIN@corp.example", Secret("x"), domain_name="Corp.Example")
    refuse(ledger, typed, **DC)
    same = Credential.typed("admin@CORP.example", Secret("y"), domain_name="corp.example")
    assert code_of_refusal(ledger, same, **DC) == "wrong-password"
    ledger.allow_one_more(same)
    refuse(ledger, same, **DC)
    assert code_of_refusal(ledger, same, **DC) == "wrong-password"


def test_a_credential_typed_anew_is_proven_anew(ledger):
    typed = Credential.typed("admin@corp.example", Secret("x"), domain_name="corp.example")
    succeed(ledger, typed, **DC)
    ledger.begin_typed(typed)
    assert code_of_refusal(ledger, typed, **HOST) == "credential-unproven"


def test_typing_it_anew_does_not_undo_a_refusal(ledger):
    typed = Credential.typed("admin@corp.example", Secret("x"), domain_name="corp.example")
    refuse(ledger, typed, **DC)
    ledger.begin_typed(typed)
    assert code_of_refusal(ledger, typed, **DC) == "wrong-password"


def test_an_unknown_credential_is_unproven(ledger):
    state = ledger.state(domain_credential(7))
    assert (state.id, state.version, state.state, state.code) == ("c1", 7, "unproven", None)
    assert state.at.tzinfo is not None


# Races.


def test_threads_racing_with_a_wrong_password_cost_one_strike(path):
    # lesson 32: a breaker per host opens too late when many threads are in flight.
    ledger = LogonLedger(path, options=PATIENT)
    strikes: list[str] = []
    together = threading.Barrier(16)

    def log_on(number: int) -> str:
        together.wait()
        try:
            with ledger.attempt(domain_credential(), place="controller", host=f"dc{number}") as attempt:
                strikes.append(attempt.host)
                time.sleep(0.02)
                attempt.refused("wrong-password")
        except LogonNotAllowedError as error:
            return error.code
        return "struck"

    with ThreadPoolExecutor(16) as pool:
        ends = sorted(pool.map(log_on, range(16)))
    assert len(strikes) == 1
    assert ends == ["struck"] + ["wrong-password"] * 15


def test_threads_never_have_more_in_flight_than_allowed_and_all_get_their_turn(path):
    ledger = LogonLedger(path, options=LedgerOptions(in_flight=2, wait_s=30.0))
    succeed(ledger, domain_credential(), **DC)
    lock = threading.Lock()
    now = most = 0

    def log_on(number: int) -> None:
        nonlocal now, most
        with ledger.attempt(domain_credential(), place="host", host=f"srv{number}") as attempt:
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1
            attempt.succeeded()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(log_on, range(16)))
    assert most <= 2


RACER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from msp_sdk.errors import LogonNotAllowedError
    from msp_sdk.models.credential import Credential
    from msp_sdk.network.logons import LedgerOptions, LogonLedger
    from msp_sdk.secret import Secret
    ledger = LogonLedger(Path(sys.argv[1]), options=LedgerOptions(wait_s=20.0))
    credential = Credential("c1", 1, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")
    print("ready", flush=True)
    sys.stdin.read()
    try:
        with ledger.attempt(credential, place="controller", host="dc1") as attempt:
            time.sleep(0.05)
            attempt.refused("wrong-password")
            print("struck")
    except LogonNotAllowedError as error:
        print(error.code)
    """
)


def test_processes_racing_with_a_wrong_password_cost_one_strike(path):
    LogonLedger(path)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    ends = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert ends == ["struck"] + ["wrong-password"] * 3


@pytest.mark.parametrize("end", ["refused", "unknown"])
def test_a_logon_that_ends_after_its_version_was_forgotten_is_still_counted(tmp_path, end):
    # A person asks for one more attempt while another process is at it.
    ledger = LogonLedger(tmp_path / "logons.db")
    credential = Credential.typed("svc@corp.example", Secret("x"))
    with ledger.attempt(credential, place="controller", host="dc1") as attempt:
        ledger.allow_one_more(credential)
        if end == "refused":
            attempt.refused("wrong-password")
    if end == "unknown":
        with ledger.attempt(credential, place="controller", host="dc1"):
            pass
    with pytest.raises(LogonNotAllowedError), ledger.attempt(credential, place="controller", host="dc2"):
        pass
