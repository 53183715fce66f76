"""The database facade, the schema and what happens before Central serves."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, insert, select, update

import central_app.database.upload_tables  # noqa: F401 (its tables join the metadata)
from central_app.database import schema
from central_app.database.connection import DuplicateError, SqliteDatabase
from central_app.database.tables import computers, ended_devices, enumerations, events, metadata, sites
from central_app.opening import bootstrap, migrate, prepare
from central_app.settings import make_settings
from msp_sdk.errors import ConfigError

NOW = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)


def with_database(path, work):
    async def run():
        database = SqliteDatabase(path)
        await database.connect()
        try:
            return await work(database)
        finally:
            await database.disconnect()

    return asyncio.run(run())


def event(sequence):
    return {"site_id": "s", "sequence": sequence, "type": "100%", "at": NOW, "data": {"n": [sequence]}}


@pytest.fixture
def database_file(tmp_path):
    path = tmp_path / "odd %name?.db"
    schema.migrate(path)
    return path


def test_the_migrated_schema_is_the_metadata(database_file):
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(database_file))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_tables_of_a_site_are_led_by_the_site():
    for table in metadata.sorted_tables:
        if "site_id" in table.c:
            assert table.primary_key.columns.keys()[0] == "site_id", table.name


def test_erasing_a_site_knows_all_of_its_tables_whatever_else_was_imported():
    code = """
import central_app.partners.site_service
from central_app.database.tables import metadata
print(*metadata.tables)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == set(metadata.tables)


def test_rows_come_back_as_they_went_in(database_file):
    async def work(database):
        elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
        async with database.transaction() as tx:
            assert await tx.execute(insert(events).values({**event(1), "at": elsewhere})) == 1
            await tx.execute_many(insert(events), [event(2), event(3)])
            changed = update(events).where(events.c.type.like("100%")).values(type="x")
            assert await tx.execute(changed) == 3
        row = await database.fetch_one(select(events).where(events.c.sequence == 1))
        assert row == {"site_id": "s", "sequence": 1, "type": "x", "at": NOW, "data": {"n": [1]}}
        assert row["at"].tzinfo is not None
        assert await database.fetch_one(select(events).where(events.c.sequence == 9)) is None
        assert await database.fetch_all(select(events).where(events.c.sequence == 9)) == []

    with_database(database_file, work)


def test_a_naive_instant_is_never_stored(database_file):
    async def work(database):
        async with database.transaction() as tx:
            with pytest.raises(ValueError, match="time zone"):
                await tx.execute(insert(events).values({**event(1), "at": NOW.replace(tzinfo=None)}))

    with_database(database_file, work)


def test_a_failed_or_cancelled_transaction_leaves_nothing_behind(database_file):
    async def work(database):
        async def fails():
            async with database.transaction() as tx:
                await tx.execute(insert(events).values(event(1)))
                await tx.execute(insert(events).values(event(1)))

        with pytest.raises(DuplicateError):
            await fails()

        async def hangs():
            async with database.transaction() as tx:
                await tx.execute(insert(events).values(event(2)))
                await asyncio.sleep(60)

        for delay_s in (0, 0.001, 0.005, 0.05):
            task = asyncio.ensure_future(hangs())
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with database.transaction() as tx:
                assert await tx.fetch_all(select(events)) == []

    with_database(database_file, work)


def test_a_hundred_writers_at_once_all_succeed(database_file):
    async def work(database):
        async def write(number):
            async with database.transaction() as tx:
                row = await tx.fetch_one(select(events.c.sequence).order_by(events.c.sequence.desc()).limit(1))
                await tx.execute(insert(events).values(event((row["sequence"] if row else 0) + 1)))
            return await database.fetch_one(select(sites.c.site_id))

        await asyncio.gather(*(write(number) for number in range(100)))
        assert len(await database.fetch_all(select(events))) == 100

    with_database(database_file, work)


def _write_fifty(path, start):
    async def work(database):
        for number in range(50):
            async with database.transaction() as tx:
                await tx.fetch_all(select(events.c.sequence))
                await tx.execute(insert(events).values(event(start + number)))

    with_database(path, work)


def test_two_processes_write_beside_each_other(database_file):
    spawn = multiprocessing.get_context("fork")
    # The child runs before this process has any thread.
    other = spawn.Process(target=_write_fifty, args=(database_file, 1000))
    other.start()
    _write_fifty(database_file, 0)
    other.join(30)
    assert other.exitcode == 0

    async def count(database):
        return len(await database.fetch_all(select(events)))

    assert with_database(database_file, count) == 100


def test_an_empty_database_is_made_with_its_key_and_a_lost_key_refuses_the_start(tmp_path):
    settings = make_settings({}, database=f"sqlite:///{tmp_path}/c.db")
    prepare(settings)
    key = settings.vault_key_path
    assert key.stat().st_mode & 0o777 == 0o600
    prepare(settings)
    kept = key.read_text()
    key.unlink()
    with pytest.raises(ConfigError) as caught:
        prepare(settings)
    assert caught.value.code == "vault-key-missing"
    assert not key.exists()
    key.write_text("ab" * 32)
    key.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        prepare(settings)
    assert caught.value.code == "vault-key-differs"
    key.write_text(kept)
    prepare(settings)


def at_version(path, version):
    """A database that another version of Central left behind."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update alembic_version set version_num = ?", (version,))


def refusal(action, settings):
    with pytest.raises(ConfigError) as caught:
        action(settings)
    return caught.value


def test_an_older_schema_is_refused_until_it_is_migrated_and_keeps_its_data(tmp_path):
    settings = make_settings({}, database=f"sqlite:///{tmp_path}/c.db")
    migrate(settings)
    engine = create_engine(settings.database)
    with engine.begin() as connection:
        connection.execute(insert(events).values(event(1)))
        for table in ("ended_devices", "uploads", "uploaded_computers"):
            connection.exec_driver_sql(f"drop table {table}")
        connection.exec_driver_sql("drop index ix_computers_site_id_folded_hostname")
        connection.exec_driver_sql("create index ix_computers_site_id_hostname on computers (site_id, hostname)")
        for column in ("folded_hostname", "folded_fqdn"):
            connection.exec_driver_sql(f"alter table computers drop column {column}")
        for guid, fqdn in (("g1", "'Müller.Example'"), ("g2", "null")):
            connection.exec_driver_sql(
                "insert into computers (site_id, object_guid, domain_name, hostname, fqdn, role, data, appliance_id,"
                " report_id, first_seen_at, reported_at) values ('s', ?, 'd', 'MÜLLER', " + fqdn + ", 'server', '{}',"
                " 'a', 'r', '2026-01-05', '2026-01-05')",
                (guid,),
            )
        connection.exec_driver_sql("alter table appliances drop column delivered")
        connection.exec_driver_sql("alter table appliances add column ad_site varchar(255)")
        for column in ("full", "changes_at", "cursor_sha256"):
            connection.exec_driver_sql(f'alter table enumerations drop column "{column}"')
        for column, kind in (("result", "json"), ("result_at", "datetime"), ("result_generation", "bigint")):
            connection.exec_driver_sql(f"alter table enumerations add column {column} {kind}")
        connection.exec_driver_sql(
            "insert into enumerations (site_id, appliance_id, domain_name, result, full_at)"
            """ values ('s', 'a', 'corp.example', '{"total_servers": 3}', '2026-01-05 10:00:00')"""
        )
    engine.dispose()
    at_version(tmp_path / "c.db", "0001")
    refused = refusal(prepare, settings)
    assert refused.code == "schema-older"
    assert "msp central migrate" in refused.remedy
    migrate(settings)
    prepare(settings)

    async def work(database):
        assert len(await database.fetch_all(select(events))) == 1
        assert await database.fetch_all(select(ended_devices)) == []
        assert (await database.fetch_one(select(enumerations)))["full"] == {"total_servers": 3}
        folded = select(computers.c.folded_hostname, computers.c.folded_fqdn).order_by(computers.c.object_guid)
        found = [tuple(row.values()) for row in await database.fetch_all(folded)]
        assert found == [("müller", "müller.example"), ("müller", None)]

    with_database(tmp_path / "c.db", work)


def test_a_newer_schema_is_refused(tmp_path):
    settings = make_settings({}, database=f"sqlite:///{tmp_path}/c.db")
    migrate(settings)
    at_version(tmp_path / "c.db", "9999")
    for action in (prepare, migrate):
        assert refusal(action, settings).code == "schema-newer"


def test_a_file_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    settings = make_settings({}, database=f"sqlite:///{tmp_path}/c.db")
    with closing(sqlite3.connect(tmp_path / "c.db")) as connection, connection:
        connection.execute("create table sites (name text)")
    before = (tmp_path / "c.db").read_bytes()
    for action in (prepare, migrate):
        refused = refusal(action, settings)
        assert refused.code == "schema-unknown"
        assert refused.remedy
    assert (tmp_path / "c.db").read_bytes() == before
    assert not settings.vault_key_path.exists()
    (tmp_path / "c.db").write_text("this is no database at all, only some text that is long enough")
    for action in (prepare, migrate):
        assert refusal(action, settings).code == "database-failed"


KILLED_WHILE_MIGRATING = """
import os, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
import central_app.database.upload_tables  # noqa: F401 (its tables join the metadata)
from central_app.database import schema

@event.listens_for(Engine, "before_cursor_execute")
def kill(connection, cursor, statement, *others):
    if "CREATE TABLE partner_keys" in statement:
        os._exit(9)

schema.migrate(Path(sys.argv[1]))
"""


def test_a_start_that_is_killed_half_way_through_the_schema_leaves_an_empty_database(tmp_path):
    path = tmp_path / "c.db"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_MIGRATING, path], check=False)
    assert killed.returncode == 9
    assert schema.schema_state(path) == "empty"
    settings = make_settings({}, database=f"sqlite:///{path}")
    prepare(settings)
    assert schema.schema_state(path) == "current"


def test_nobody_else_on_the_machine_can_read_the_database(tmp_path):
    prepare(make_settings({}, database=f"sqlite:///{tmp_path}/c.db"))
    assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o600


def test_a_partner_is_made_once_and_bad_names_are_refused(tmp_path):
    settings = make_settings({}, database=f"sqlite:///{tmp_path}/c.db")
    assert bootstrap(settings, "Contoso IT", "a@b.example").reveal().startswith("pk_partner-")
    for name, email in (("Contoso IT", "a@b.example"), ("", "a@b.example"), ("Other", "nobody")):
        with pytest.raises(ConfigError):
            bootstrap(settings, name, email)


SERVE = """
import sys
from central_app.app import serve
from central_app.settings import make_settings
serve(make_settings({}, database=sys.argv[1], port=0), announce=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_central_stops_quickly_at_a_signal_and_comes_back_with_its_data(tmp_path, number):
    url = f"sqlite:///{tmp_path}/c.db"
    key = bootstrap(make_settings({}, database=url), "Contoso", "a@b.example").reveal()
    for expected in ([], ["Clinic"]):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            address = process.stdout.readline().strip()
            with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:
                assert [site["name"] for site in client.get("/api/sites").json()["items"]] == expected
                if not expected:
                    assert client.post("/api/sites", json={"name": "Clinic"}).status_code == 201
                # The connection is still open: an idle one holds nothing up.
                process.send_signal(number)
                assert process.wait(5) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
            process.communicate()
