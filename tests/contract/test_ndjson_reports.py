"""Long reports: streamed, perhaps compressed, all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults
from msp_sdk.wire.ndjson import MEDIA_TYPE, render_report

URL = "/api/appliances/enumeration-results"


@pytest.fixture
def site(central: Any) -> Iterator[SimpleNamespace]:
    """A site with one appliance, and the two who talk to Central about it."""
    joined = central.join()
    with central.client(joined.key) as appliance:
        yield SimpleNamespace(
            central=central, joined=joined, partner=central.http, appliance=appliance, site_id=joined.site_id
        )


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
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "repeated": False})
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


def test_half_of_a_compressed_report_changes_nothing(site: Any) -> None:
    body = gzip.compress(b"".join(lines("e1", 500)))
    answer = send(site, body[: len(body) // 2], **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (422, "report-incomplete")
    assert count(site) == 0


def test_a_wrong_line_refuses_all_of_it(site: Any) -> None:
    whole = lines("e1", 5)
    answer = send(site, b"".join([*whole[:3], b'{"hostname": "X"}\n', *whole[3:]]))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    broken = send(site, b"".join([*whole[:3], b"{\n", *whole[3:]]))
    assert (broken.status_code, broken.json()["code"]) == (400, "bad-json")
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
def test_a_name_that_no_table_holds_refuses_all_of_it(site: Any, name: str) -> None:
    whole = lines("e1", 3)
    whole[2] = whole[2].replace(b'"hostname":"SRV00001"', f'"hostname":"{name}"'.encode())
    digest = hashlib.sha256(b"".join(whole[1:-1])).hexdigest()
    whole[-1] = json.dumps({"count": 3, "sha256": digest}).encode() + b"\n"
    answer = send(site, b"".join(whole))
    # Half a character is no JSON at all.
    assert (answer.status_code, answer.json()["code"]) in ((422, "invalid"), (400, "bad-json")), answer.text
    assert count(site) == 0


def test_changes_as_lines_remove_what_is_gone_and_leave_the_rest(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    whole = lines("e2", 5)
    head = json.loads(whole[0])
    head["results"] |= {"kind": "changes", "removed": [{"object_guid": "guid-0", "reason": "deleted"}]}
    first = json.dumps(head).encode() + b"\n"
    fourth = whole[4:5]
    end = json.dumps({"count": 1, "sha256": hashlib.sha256(fourth[0]).hexdigest()}).encode() + b"\n"
    answer = send(site, b"".join([first, *fourth, end]))
    assert answer.status_code == 200, answer.text
    assert count(site) == 3


def test_lines_of_a_scope_that_no_model_here_knows_mark_nothing_as_vanished(site: Any) -> None:
    assert send(site, b"".join(lines("e1", 3))).status_code == 200
    whole = lines("e2", 1)
    head = json.loads(whole[0])
    head["results"]["scope"] = {"of_tomorrow": ["x"]}
    answer = send(site, b"".join([json.dumps(head).encode() + b"\n", *whole[1:]]))
    assert answer.status_code == 200, answer.text
    assert count(site) == 3
