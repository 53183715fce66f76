"""The event stream, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest


def report(site: Any, number: int) -> None:
    result = {"hostname": "SRV1", "check": "firewall", "status": "pass", "checked_at": "2026-01-05T10:00:00Z"}
    answer = site.appliance.post("/api/appliances/scan-results", json={"report_id": f"s{number}", "results": [result]})
    assert answer.status_code == 200, answer.text


@contextmanager
def reported_soon(site: Any, number: int) -> Iterator[None]:
    """A report while the block runs; at its end the report has its answer."""
    later = threading.Timer(0.3, report, (site, number))
    later.start()
    yield
    later.join()


def read(response: httpx.Response, count: int) -> list[tuple[int, dict[str, Any]]]:
    """The next events of a stream, each with its id."""
    found: list[tuple[int, dict[str, Any]]] = []
    number = 0
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            found.append((number, json.loads(line[6:])))
            if len(found) == count:
                break
    return found


def stream(site: Any, last: int | None = None) -> Any:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    return site.partner.stream("GET", f"/api/sites/{site.site_id}/events", headers=headers)


def test_a_stream_resumes_after_the_last_event_and_counts_without_gaps(site: Any) -> None:
    for number in range(3):
        report(site, number)
    with stream(site, 0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        everything = read(response, 3)
    numbers = [number for number, _ in everything]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(event["sequence"] == number for number, event in everything)
    with stream(site, 0) as response:
        known = [event["type"] for _, event in read(response, 5)]
    assert known[-3:] == ["scan-results"] * 3
    with stream(site, 4) as response:
        assert read(response, 1)[0][0] == 5


def test_who_names_no_place_hears_what_happens_from_now_on_and_hears_it_at_once(site: Any) -> None:
    report(site, 1)
    heard: list[float] = []
    with stream(site) as response, reported_soon(site, 2):
        begun = time.monotonic()
        found = read(response, 1)
        heard.append(time.monotonic() - begun)
    assert found[0][1]["type"] == "scan-results"
    assert heard[0] < 1.5


def test_who_was_ahead_of_a_restored_database_hears_what_happens_next(site: Any) -> None:
    with stream(site, 10**17) as response, reported_soon(site, 1):
        assert read(response, 1)[0][1]["type"] == "scan-results"


def test_a_report_that_is_refused_makes_no_event(site: Any) -> None:
    report(site, 1)
    body = {"report_id": "x", "rollout_id": "rollout-of-nobody", "deployments": []}
    assert site.appliance.post("/api/appliances/agent-deployments", json=body).status_code == 422
    report(site, 2)
    with stream(site, 0) as response:
        types = [event["type"] for _, event in read(response, 4)]
    assert types[-2:] == ["scan-results", "scan-results"]


def test_somebody_elses_events_are_not_there(site: Any) -> None:
    assert site.partner.get("/api/sites/site-0000000000000000/events").status_code == 404
    with site.central.client(site.central.new_partner_key("fabrikam")) as other:
        assert other.get(f"/api/sites/{site.site_id}/events").status_code == 404
    assert site.appliance.get(f"/api/sites/{site.site_id}/events").status_code == 401


@pytest.mark.parametrize("end", ["key", "session"])
def test_a_stream_ends_when_its_listener_may_listen_no_more(site: Any, end: str) -> None:
    user = site.partner.post("/api/partners/me/users", json={"email": "t@contoso.example"}).json()
    key = site.partner.post("/api/partners/me/keys", json={"user_id": user["id"]}).json()
    with site.central.client(key["api_key"] if end == "key" else None) as client:
        token = {}
        if end != "key":
            opened = client.post("/api/session", json={"api_key": key["api_key"]})
            token = {"X-CSRF-Token": opened.json()["csrf_token"]}
        with client.stream("GET", f"/api/sites/{site.site_id}/events") as response:
            assert response.status_code == 200
            if end == "key":
                site.partner.delete(f"/api/partners/me/keys/{key['id']}").raise_for_status()
            else:
                with site.central.client() as other:
                    other.cookies = client.cookies
                    other.delete("/api/session", headers=token).raise_for_status()
            time.sleep(1.1)
            report(site, 1)
            assert read(response, 1) == []


def test_a_stream_ends_promptly_when_central_stops(make_central: Any) -> None:
    central = make_central()
    joined = central.join()
    ended: list[float] = []
    ready = threading.Event()

    def listen() -> None:
        with (
            central.client(central.api_key) as client,
            client.stream("GET", f"/api/sites/{joined.site_id}/events", headers={"Last-Event-ID": "0"}) as response,
        ):
            for line in response.iter_lines():
                if line:
                    ready.set()
        ended.append(time.monotonic())

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(10)
    begun = time.monotonic()
    central._loop.call_soon_threadsafe(central.central.stopping.set)
    thread.join(5)
    assert ended
    assert ended[0] - begun < 2
