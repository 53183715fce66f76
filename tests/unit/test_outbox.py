"""Reports on disk until they are taken: in order, bounded, idempotent."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from msp_sdk.checkin import Outbox, OutboxOptions, Report
from msp_sdk.errors import ConfigError, NotEnrolledError
from msp_sdk.models.compliance import CheckResult, ScanReport
from msp_sdk.models.computer import (
    Computer,
    EnumerationFailure,
    EnumerationReport,
    EnumerationResults,
    RemovedComputer,
)
from msp_sdk.models.rollout import DeploymentReport, Outcome
from msp_sdk.models.target import TargetsReport
from msp_sdk.wire.http import CentralHttp, HttpOptions
from msp_sdk.wire.ndjson import render_report


class Peer:
    """A Central of a few lines on a real port: takes reports, answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, object]]] = []
        self.taken: list[tuple[str, str, bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = {
                    name.lower(): value
                    for name, value in (line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                }
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                status, document = self.answers.pop(0) if self.answers else (200, {"status": "ok"})
                if status == 200:
                    self.taken.append((head.split()[1], fields.get("content-type", ""), body))
                text = json.dumps(document).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    this = Peer()
    server = await asyncio.start_server(this.serve, "127.0.0.1", 0, limit=2**24)
    this.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield this
    finally:
        server.close()


def http_to(this: Peer) -> CentralHttp:
    return CentralHttp(this.url, options=HttpOptions(attempts=1))


def scan(number: int) -> ScanReport:
    return ScanReport(f"r{number}", (CheckResult("h", "firewall", "pass", datetime(2026, 1, 1, tzinfo=UTC)),))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json"))


def test_reports_survive_a_restart_and_arrive_in_order(tmp_path: Path) -> None:
    """Lesson 15."""

    async def run() -> list[str]:
        Outbox(tmp_path).put(scan(1))
        Outbox(tmp_path).put(scan(2))
        again = Outbox(tmp_path)
        again.put(scan(3))
        async with peer() as this, http_to(this) as http:
            assert await again.flush(http) == 3
            return [json.loads(body)["report_id"] for _, _, body in this.taken]

    assert asyncio.run(run()) == ["r1", "r2", "r3"]
    assert names(tmp_path) == []


def test_report_stays_while_central_cannot_take_it(tmp_path: Path) -> None:
    """Lesson 15: nothing is drained before it is accepted."""

    async def run() -> None:
        outbox = Outbox(tmp_path)
        outbox.put(scan(1))
        async with peer() as this, http_to(this) as http:
            this.answers = [(503, {"code": "unavailable", "retryable": True})]
            assert await outbox.flush(http) == 0
            assert len(outbox) == 1
            this.answers = [(500, {"code": "internal"})]
            assert await outbox.flush(http) == 0
            assert await outbox.flush(http) == 1
        async with http_to(this) as nobody:
            outbox.put(scan(2))
            assert await outbox.flush(nobody) == 0
            assert len(outbox) == 1

    asyncio.run(run())


def test_refused_report_is_put_aside_and_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        outbox.put(scan(1))
        outbox.put(scan(2))
        async with peer() as this, http_to(this) as http:
            this.answers = [(422, {"code": "invalid", "detail": "no"})]
            assert await outbox.flush(http) == 1

    asyncio.run(run())
    assert names(tmp_path / "refused") == ["000000000001-ScanReport.json", "standing.json"]
    assert json.loads((tmp_path / "refused" / "000000000001-ScanReport.reason").read_text())["code"] == "invalid"


def enumeration(
    report_id: str, kind: Literal["full", "changes"], domain_name: str = "corp.example"
) -> EnumerationReport:
    return EnumerationReport(report_id, EnumerationResults(kind, domain_name, datetime(2026, 1, 1, tzinfo=UTC), "dc1"))


def test_what_was_refused_stands_over_a_restart_until_central_has_it_in_another_way(tmp_path: Path) -> None:
    """Nobody looks into a folder: a report that is lost for good must be heard of."""
    refusal: tuple[int, dict[str, object]] = (422, {"code": "invalid", "detail": "no"})
    here = "enumeration:corp.example"

    async def run() -> None:
        async with peer() as this, http_to(this) as http:

            async def after(report: Report, *answers: tuple[int, dict[str, object]]) -> Mapping[str, str]:
                outbox = Outbox(tmp_path)
                outbox.put(report)
                this.answers = list(answers)
                await outbox.flush(http)
                return outbox.refused

            assert await after(scan(1)) == {}
            assert await after(enumeration("e1", "full", "Corp.example"), refusal) == {here: "report-refused"}
            # Changes after a lost report do not hold it, and another domain is another matter.
            assert await after(enumeration("e2", "changes")) == {here: "report-refused"}
            assert await after(enumeration("e3", "full", "branch.example")) == {here: "report-refused"}
            both = {here: "report-refused", "scan": "report-refused"}
            assert await after(scan(2), refusal) == both
            assert await after(enumeration("e4", "full")) == {"scan": "report-refused"}
            # A later report speaks of other hosts.
            assert await after(scan(3)) == {"scan": "report-refused"}
            Outbox(tmp_path).clear_refused("scan")
            assert Outbox(tmp_path).refused == {}
            # That there is no domain to read is all there is to say of none.
            none = EnumerationFailure("no-domain", "none was found")
            assert await after(EnumerationReport("e5", failed=none), refusal) == {"enumeration:": "report-refused"}
            assert await after(EnumerationReport("e6", failed=none)) == {}

    asyncio.run(run())


def test_a_host_that_central_cannot_hold_costs_no_other_one_its_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def outcome(name: str) -> Outcome:
        return Outcome(hostname=name, success=True, state="done", action="install")

    async def run() -> None:
        outbox = Outbox(tmp_path)
        outbox.put(DeploymentReport("p1", tuple(map(outcome, ("A", "B", "C", "D"))), "r1", 1))
        outbox.put(DeploymentReport("p2", (outcome("E"),), "r1", 1))
        errors = [{"path": f"deployments[{number}].hostname", "message": "no"} for number in (0, 2)]
        bad = {"code": "invalid", "detail": "no"}
        async with peer() as this, http_to(this) as http:
            this.answers = [(422, {**bad, "errors": errors[1:]}), (422, {**bad, "errors": errors[:1]})]
            assert await outbox.flush(http) == 2
            sent = [[entry["hostname"] for entry in json.loads(body)["deployments"]] for _, _, body in this.taken]
            assert sent == [["B", "D"], ["E"]]
            assert outbox.refused == {"deployment:r1": "entries-refused"}, "what follows does not make it good"
            this.answers = [(422, {**bad, "errors": [{"path": "rollout_id", "message": "no"}]})]
            outbox.put(DeploymentReport("p3", (outcome("F"),), "r2", 1))
            assert await outbox.flush(http) == 0
            assert outbox.refused["deployment:r2"] == "report-refused"

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    # C was refused first; A is named too, although the second refusal counts in a shorter list.
    assert "deployments[2].hostname of 'C'" in caplog.text
    assert "deployments[0].hostname of 'A'" in caplog.text


def test_entries_that_central_cannot_hold_are_said_and_the_report_counts_as_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        async with peer() as this, http_to(this) as http:
            refused = [{"path": "results.servers[1].os_name", "message": "holds characters that are none"}]
            this.answers = [(200, {"status": "ok", "refused_count": 1, "refused": refused})]
            outbox.put(enumeration("e1", "full"))
            assert await outbox.flush(http) == 1
            assert outbox.refused == {"enumeration:corp.example": "entries-refused"}
            outbox.put(enumeration("e2", "full"))
            assert await outbox.flush(http) == 1
            assert outbox.refused == {}

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "results.servers[1].os_name" in caplog.text


def test_refused_report_does_not_hold_up_the_rest_when_somebody_cleared_away_the_older_ones(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        async with peer() as this, http_to(this) as http:
            this.answers = [(422, {"code": "invalid", "detail": "no"})] * 2
            outbox.put(scan(1))
            await outbox.flush(http)
            shutil.rmtree(tmp_path / "refused")
            outbox.put(scan(2))
            outbox.put(scan(3))
            assert await outbox.flush(http) == 1
            assert len(outbox) == 0

    asyncio.run(run())


def test_everything_stays_when_the_key_has_ended(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        outbox.put(scan(1))
        async with peer() as this, http_to(this) as http:
            this.answers = [(401, {"code": "unauthenticated"})]
            with pytest.raises(NotEnrolledError):
                await outbox.flush(http)
        assert len(outbox) == 1

    asyncio.run(run())


def test_full_outbox_gives_up_the_oldest_of_the_commonest_kind(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, OutboxOptions(longest_count=3))
    outbox.put(TargetsReport("t", 1, ()))
    for number in range(5):
        outbox.put(scan(number))
    assert names(tmp_path) == [
        "000000000001-TargetsReport.json",
        "000000000005-ScanReport.json",
        "000000000006-ScanReport.json",
    ]


def test_long_enumeration_goes_as_ndjson(tmp_path: Path) -> None:
    servers = tuple(
        Computer(f"{number:08d}-0000-0000-0000-000000000000", f"S{number}$", f"S{number}", "server", True, False, False)
        for number in range(2000)
    )
    results = EnumerationResults("full", "corp.example", datetime(2026, 1, 1, tzinfo=UTC), "dc1", servers=servers)

    async def run() -> tuple[str, str, bytes]:
        outbox = Outbox(tmp_path)
        outbox.put(EnumerationReport("e1", results=results))
        async with peer() as this, http_to(this) as http:
            assert await outbox.flush(http) == 1
            return this.taken[0]

    path, content_type, body = asyncio.run(run())
    lines = body.splitlines()
    assert (path, content_type, len(lines)) == ("/api/appliances/enumeration-results", "application/x-ndjson", 2002)
    assert json.loads(lines[-1])["count"] == 2000


@pytest.mark.parametrize(("count", "as_lines"), [(12_000, False), (16_000, True)])
def test_what_is_gone_stands_in_the_first_line_while_that_may_hold_it_as_an_older_central_expects(
    count: int,
    as_lines: bool,  # noqa: FBT001
) -> None:
    gone = tuple(RemovedComputer(f"{number:08d}-0000-0000-0000-000000000000", "deleted") for number in range(count))
    results = EnumerationResults("changes", "corp.example", datetime(2026, 1, 1, tzinfo=UTC), "dc1", removed=gone)
    first, *entries, _ = render_report(EnumerationReport("e1", results=results))
    assert len(first) <= 1024 * 1024 + 1
    head = json.loads(first)["results"]
    assert len(entries if as_lines else head["removed"]) == count
    assert ("removed" in head) is not as_lines


def test_torn_write_is_cleared_away_at_the_start(tmp_path: Path) -> None:
    (tmp_path / ".000000000001-ScanReport.json.new").write_text("{")
    assert len(Outbox(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_strangers_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes-ScanReport.json", "1-Unknown.json", "README.json", "\N{SUPERSCRIPT TWO}-ScanReport.json"):
        (tmp_path / name).write_text("{}")
    outbox = Outbox(tmp_path)
    outbox.put(ScanReport("r1", ()))
    assert len(outbox) == 1


def test_report_that_vanishes_while_it_is_sent_is_no_error(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        for number in range(3):
            outbox.put(ScanReport(f"r{number}", ()))
        async with peer() as central, CentralHttp(central.url) as http:
            sending = asyncio.create_task(outbox.flush(http))
            await asyncio.sleep(0)
            (tmp_path / "000000000002-ScanReport.json").unlink()
            await sending
            assert len(central.taken) in (2, 3)
        assert len(outbox) == 0

    asyncio.run(run())


def test_refused_reports_are_kept_to_be_looked_at_and_not_for_ever(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path, OutboxOptions(refused_count=3))
        async with peer() as central, CentralHttp(central.url) as http:
            for number in range(5):
                outbox.put(ScanReport(f"r{number}", ()))
            central.answers = [(422, {"code": "invalid", "title": "x"})] * 5
            await outbox.flush(http)
        kept = sorted(path.name for path in (tmp_path / "refused").glob("*-*"))
        assert kept == [
            f"{number:012d}-ScanReport.{kind}" for number in (3, 4, 5) for kind in ("json", "reason")
        ]  # fmt: skip

    asyncio.run(run())


def test_lost_report_is_not_covered_by_later_entries_that_were_refused(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        refused = {"status": "ok", "refused_count": 1, "refused": [{"path": "x", "message": "no"}]}
        async with peer() as this, http_to(this) as http:
            this.answers = [(422, {"code": "invalid", "detail": "no"}), (200, refused)]
            outbox.put(enumeration("e1", "changes"))
            outbox.put(enumeration("e2", "changes"))
            assert await outbox.flush(http) == 1
        assert outbox.refused == {"enumeration:corp.example": "report-refused"}

    asyncio.run(run())


def test_what_was_refused_is_still_to_be_said_when_it_could_not_be_noted(tmp_path: Path) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path)
        blocked = tmp_path / "refused" / ".standing.json.new"
        blocked.mkdir(parents=True)
        async with peer() as this, http_to(this) as http:
            this.answers = [(422, {"code": "invalid", "detail": "no"})] * 2
            outbox.put(scan(1))
            with pytest.raises(ConfigError):
                await outbox.flush(http)
            assert len(outbox) == 1
            blocked.rmdir()
            await outbox.flush(http)
        assert Outbox(tmp_path).refused == {"scan": "report-refused"}

    asyncio.run(run())
