"""Connections to the ledger's file that are kept: used again, but only for that very file and in that very process."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from msp_sdk.errors import ConfigError
from msp_sdk.models.credential import Credential
from msp_sdk.network.kept_connections import KeptConnections
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret

CREDENTIAL = Credential("c", 1, "winrm", "admin", lambda: Secret("x"), host="pc1")


def refuse(ledger: LogonLedger) -> None:
    with ledger.attempt(CREDENTIAL, place="host", host="pc1") as attempt:
        attempt.refused("wrong-password")


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False)


def test_connection_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    kept, connection = KeptConnections(path), opened(path)
    assert kept.take() is None
    kept.give_back(connection)
    assert kept.take() is connection
    assert kept.take() is None


def test_connection_to_a_file_that_was_replaced_is_closed_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    kept, connection = KeptConnections(path), opened(path)
    kept.give_back(connection)
    other = tmp_path / "b.db"
    other.touch()
    other.replace(path)
    assert kept.take() is None
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


def test_ledger_whose_file_was_restored_reads_the_restored_one(tmp_path: Path) -> None:
    ledger, other = LogonLedger(tmp_path / "a.db"), LogonLedger(tmp_path / "b.db")
    refuse(other)
    assert ledger.state(CREDENTIAL).state == "unproven"
    other.__dict__.clear()
    for end in ("", "-wal", "-shm"):
        source = tmp_path / f"b.db{end}"
        if source.exists():
            source.replace(tmp_path / f"a.db{end}")
    assert ledger.state(CREDENTIAL).state == "refused"


def test_ledger_that_was_removed_lets_nobody_log_on_by_what_it_remembers(tmp_path: Path) -> None:
    ledger = LogonLedger(tmp_path / "a.db")
    refuse(ledger)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ConfigError):
        refuse(ledger)


def child(ledger: LogonLedger, queue: multiprocessing.Queue) -> None:
    refuse(ledger)
    queue.put(ledger.state(CREDENTIAL).state)


def test_forked_child_opens_its_own_and_leaves_its_parents_alone(tmp_path: Path) -> None:
    ledger = LogonLedger(tmp_path / "a.db")
    assert ledger.state(CREDENTIAL).state == "unproven"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(ledger, queue))
    process.start()
    assert queue.get(timeout=10) == "refused"
    process.join(10)
    assert ledger.state(CREDENTIAL).state == "refused"
