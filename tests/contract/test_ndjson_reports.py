"""Long reports: streamed, perhaps compressed, all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults, RemovedComputer
from msp_sdk.wire.ndjson import MEDIA_TYPE, render_report

URL = "/api/appliances/enumeration-results"


def lines(report_id: str, count: int) -> list[bytes]:
    servers = tuple(
        Computer(
            object_guid=f"guid-{number}",
            sam_account_name=f"SRV{number:05}$",
            hostname=f"SRV{number:05}",
            role="server",
            is_server=True,
            is_workstation=False,
            is_domain_controller=False,
        )
        for number in range(count)
    )
    results = EnumerationResults(
        "full", "corp.example", datetime(2026, 1, 5, tzinfo=UTC), "dc1 ldaps", generation=1, servers=servers
    )
    return list(render_report(EnumerationReport(report_id, results)))


def send(site: Any, content: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    return site.appliance.post(URL, content=content, headers={"Content-Type": MEDIA_TYPE, **headers}, timeout=60)


def count(site: Any) -> int:
    status = site.partner.get(f"/api/sites/{site.site_id}/deployment-status").json()
    return int(status["details"]["servers_found"])


def test_a_long_report_arrives_whole_whatever_the_chunks(site: Any) -> None:
    body = b"".join(lines("e1", 1200))
    answer = send(site, (body[start : start + 1013] for start in range(0, len(body), 1013)))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"status": "ok", "repeated": False, "refused_count": 0, "refused": []}
    assert count(site) == 1200
    assert send(site, body).json()["repeated"] is True


def test_a_compressed_report_arrives_whole(site: Any) -> None:
    answer = send(site, gzip.compress(b"".join(lines("e1", 700))), **{"Content-Encoding": "gzip"})
    assert answer.status_code == 200, answer.text
    assert count(site) == 700


def test_half_a_report_changes_nothing(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    whole = lines("e2", 10)
    body = b"".join(whole)
    for half in (b"".join(whole[:-1]), b"".join(whole[:5]), body[:-20], body[: len(body) // 2], whole[0], b""):
        answer = send(site, half)
        assert (answer.status_code, answer.json()["code"]) == (422, "report-incomplete"), half[-60:]
    assert count(site) == 3
    # It was not taken, so the whole one is no repeat.
    assert send(site, body).json()["repeated"] is False
    assert count(site) == 10


def test_a_report_that_is_not_what_its_last_line_says_changes_nothing(site: Any) -> None:
    whole = lines("e1", 5)
    swapped = [*whole[:2], whole[2].replace(b"SRV00001", b"SRV99999"), *whole[3:]]
    answer = send(site, b"".join(swapped))
    assert (answer.status_code, answer.json()["code"]) == (422, "report-incomplete")
    assert count(site) == 0


def left_behind(site: Any) -> tuple[int, int]:
    with closing(sqlite3.connect(site.central.database)) as connection:
        return tuple(
            connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("uploads", "uploaded_computers")
        )


def test_whatever_becomes_of_a_report_nothing_is_left_beside_the_list(site: Any) -> None:
    whole = lines("e1", 3000)
    assert send(site, b"".join(whole)).status_code == 200
    assert send(site, b"".join(whole[:-1])).status_code == 422
    assert left_behind(site) == (0, 0)

    def breaks_off() -> Iterator[bytes]:
        yield b"".join(whole[:2000])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        send(site, breaks_off())
    until = time.monotonic() + 20
    while left_behind(site) != (0, 0):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert count(site) == 3000


def test_what_a_central_that_died_left_of_a_report_is_cleared_by_a_later_one(site: Any) -> None:
    with closing(sqlite3.connect(site.central.database, timeout=20)) as connection, connection:
        for name, began in (("dead", "2020-01-01 00:00:00.000000"), ("alive", "2999-01-01 00:00:00.000000")):
            connection.execute("insert into uploads values (?, ?, ?)", (site.site_id, name, began))
            for number in range(2500):
                row = (site.site_id, name, str(number), "H", "h", "server", "{}")
                connection.execute(
                    "insert into uploaded_computers (site_id, upload_id, object_guid, hostname, folded_hostname, role,"
                    " data) values (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    assert left_behind(site) == (1, 2500)
    assert count(site) == 3


def test_a_heartbeat_waits_for_no_report_that_is_arriving(site: Any) -> None:
    """Lesson 16: it is judged and kept as it comes, in short transactions, and nobody sees it before it is whole."""
    whole = lines("e1", 3000)
    beats: list[str] = []

    def slowly() -> Iterator[bytes]:
        yield b"".join(whole[:2001])
        until = time.monotonic() + 20
        while left_behind(site)[1] < 1500:
            assert time.monotonic() < until, "nothing is kept before the report has ended"
            beats.append(site.joined.check_in()["status"])
        assert count(site) == 0
        yield b"".join(whole[2001:])

    assert send(site, slowly()).status_code == 200
    assert set(beats) <= {"ok"}
    assert count(site) == 3000


def test_half_of_a_compressed_report_changes_nothing(site: Any) -> None:
    body = gzip.compress(b"".join(lines("e1", 500)))
    answer = send(site, body[: len(body) // 2], **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (422, "report-incomplete")
    assert count(site) == 0


def with_end(*whole: bytes) -> bytes:
    """The lines, with the end that goes with them."""
    digest = hashlib.sha256(b"".join(whole[1:])).hexdigest()
    end = json.dumps({"count": len(whole) - 1, "sha256": digest}).encode() + b"\n"
    return b"".join([*whole, end])


@pytest.mark.parametrize("wrong", [b'{"hostname": "X"}\n', b"{\n", b"\n", b"[]\n", b"null\n", b'{"removed": 1}\n'])
def test_a_line_that_is_no_computer_is_refused_alone(site: Any, wrong: bytes) -> None:
    whole = lines("e1", 5)[:-1]
    answer = send(site, with_end(*whole[:3], wrong, *whole[3:]))
    assert (answer.status_code, answer.json()["refused_count"]) == (200, 1), answer.text
    assert answer.json()["refused"][0]["path"].startswith("lines[3]")
    assert count(site) == 5
    # The end counts it too: what was not sent so is not what its last line says.
    assert send(site, b"".join([*whole[:3], wrong, *lines("e2", 5)[3:]])).json()["code"] == "report-incomplete"


@pytest.mark.parametrize("head", [b"{}\n", b"null\n", b"[]\n", b"{\n"])
def test_a_first_line_that_is_no_head_refuses_all_of_it(site: Any, head: bytes) -> None:
    answer = send(site, with_end(head, *lines("e1", 2)[1:-1]))
    assert answer.status_code in (400, 422), answer.text
    assert count(site) == 0


def test_what_is_not_gzip_is_a_clear_problem(site: Any) -> None:
    answer = send(site, b"plain text", **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    other = send(site, b"", **{"Content-Encoding": "br"})
    assert (other.status_code, other.json()["code"]) == (415, "unsupported-media-type")


def test_a_decompression_bomb_is_stopped_at_the_limit_of_a_document(site: Any) -> None:
    """64 MiB of blanks in 64 KiB: the count is of decompressed bytes, in small steps."""
    bomb = gzip.compress(b" " * (64 * 1024 * 1024), 9)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = site.appliance.post(URL, content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_a_line_without_an_end_is_stopped(site: Any) -> None:
    bomb = gzip.compress(lines("e1", 0)[0] + b'"' + b"x" * (16 * 1024 * 1024))
    answer = send(site, bomb, **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


@pytest.mark.parametrize("name", ["A\\u0000B", "\\ud800", "", "x" * 300])
def test_a_name_that_no_table_holds_costs_no_other_computer_its_place(site: Any, name: str) -> None:
    whole = lines("e1", 3)[:-1]
    whole[2] = whole[2].replace(b'"hostname":"SRV00001"', f'"hostname":"{name}"'.encode())
    answer = send(site, with_end(*whole))
    assert answer.status_code == 200, answer.text
    # Half a character is no JSON at all.
    assert answer.json()["refused"][0]["path"] in ("lines[2].hostname", "lines[2]")
    assert count(site) == 2


def test_changes_as_lines_remove_what_is_gone_and_leave_the_rest(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    whole = lines("e2", 5)
    head = json.loads(whole[0])
    # An older appliance says in its first line what is gone.
    head["results"] |= {"kind": "changes", "removed": [{"object_guid": "guid-0", "reason": "deleted"}]}
    first = json.dumps(head).encode() + b"\n"
    gone = b'{"removed": {"object_guid": "GUID-1", "reason": "deleted"}}\n'
    answer = send(site, with_end(first, whole[4], whole[5], gone))
    assert answer.status_code == 200, answer.text
    assert count(site) == 3


def test_a_report_of_fifty_thousand_removed_computers_is_taken(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    gone = [*(RemovedComputer(f"{number:036}", "deleted") for number in range(50_000)), RemovedComputer("guid-1", "x")]
    results = EnumerationResults(
        "changes", "corp.example", datetime(2026, 1, 5, tzinfo=UTC), "dc1 ldaps", removed=tuple(gone)
    )
    answer = send(site, b"".join(render_report(EnumerationReport("e2", results))))
    assert answer.status_code == 200, answer.text
    assert count(site) == 2


def test_lines_of_a_scope_that_no_model_here_knows_mark_nothing_as_vanished(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    whole = lines("e2", 1)
    head = json.loads(whole[0])
    head["results"]["scope"] = {"of_tomorrow": ["x"]}
    answer = send(site, b"".join([json.dumps(head).encode() + b"\n", *whole[1:]]))
    assert answer.status_code == 200, answer.text
    assert count(site) == 3
