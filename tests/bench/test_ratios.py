"""First ratios, within one run: what our layers cost over the bare thing below them. Measured, never asserted.

Run by ``nox -s bench``; read the table's ratio in brackets, since absolute times belong to a machine.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing

import pytest

from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import dumps, loads, structure

COMPUTERS = 500


@pytest.fixture(scope="module")
def documents() -> list[bytes]:
    """What a site of this size reports, a computer a document."""
    return [
        dumps(
            Computer(
                object_guid=str(uuid.UUID(int=number)),
                sam_account_name=f"PC{number}$",
                hostname=f"pc{number}",
                role="workstation",
                is_server=False,
                is_workstation=True,
                is_domain_controller=False,
                sid=f"S-1-5-21-1-2-3-{number}",
                fqdn=f"pc{number}.corp.example",
                domain_name="corp.example",
                ip_addresses=(f"10.0.{number // 250}.{number % 250}",),
                os_name="Windows 11 Pro",
                os_version="10.0 (22631)",
                reachable=True,
                doors=(5985, 5986),
            )
        )
        for number in range(COMPUTERS)
    ]


@pytest.mark.benchmark(group="read 500 computers")
def test_plain_json_reads(benchmark, documents):
    benchmark(lambda: [json.loads(document) for document in documents])


@pytest.mark.benchmark(group="read 500 computers")
def test_our_converter_reads_and_checks(benchmark, documents):
    benchmark(lambda: [structure(loads(document), Computer) for document in documents])


@pytest.mark.benchmark(group="write 500 computers")
def test_plain_json_writes(benchmark, documents):
    plain = [json.loads(document) for document in documents]
    benchmark(lambda: [json.dumps(entry, separators=(",", ":")).encode() for entry in plain])


@pytest.mark.benchmark(group="write 500 computers")
def test_our_converter_writes(benchmark, documents):
    values = [structure(loads(document), Computer) for document in documents]
    benchmark(lambda: [dumps(value) for value in values])


@pytest.mark.benchmark(group="two durable writes of a logon")
def test_bare_sqlite_writes_twice(benchmark, tmp_path):
    path = tmp_path / "bare.db"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    with closing(connect()) as connection:
        connection.execute("CREATE TABLE attempt (id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL)")

        def begin_and_end() -> None:
            connection.execute("INSERT INTO attempt (host) VALUES ('dc1')")
            connection.execute("DELETE FROM attempt")

        benchmark(begin_and_end)


@pytest.mark.benchmark(group="two durable writes of a logon")
def test_ledger_allows_and_records_a_logon(benchmark, tmp_path):
    ledger = LogonLedger(tmp_path / "logons.db")
    credential = Credential("c", 1, "service_account", "svc", lambda: Secret("x"), "corp.example")

    def log_on() -> None:
        with ledger.attempt(credential, place="controller", host="dc1") as attempt:
            attempt.succeeded()

    benchmark(log_on)
