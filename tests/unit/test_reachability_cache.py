"""What is remembered of hosts, for how long, and what makes it be forgotten."""

from __future__ import annotations

import json

import pytest

from msp_sdk.network.own_networks import parse_routes
from msp_sdk.reachability import ReachabilityCache, Sign
from msp_sdk.reachability.cache import LIFE_KEYS, describe_network

A = "10.0.0.1"
OPEN, REFUSED = Sign("tcp", A, "open", 5986), Sign("tcp", A, "refused", 5985)
ROUTE = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 0002010A 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("sign", "seconds"),
    [
        (OPEN, 300),
        (REFUSED, 300),
        (Sign("ping", A, "answered"), 300),
        (Sign("neighbour", A, "present"), 300),
        (Sign("tcp", A, "silent", 5986), 3600),
        (Sign("neighbour", A, "absent"), 3600),
    ],
)
def test_life_is_believed_for_minutes_and_silence_for_an_hour(sign: Sign, seconds: int):
    clock = Clock()
    cache = ReachabilityCache(clock=clock)
    cache.put(sign)
    clock.now += seconds - 1
    found = cache.get(sign.kind, A, sign.port)
    assert found is not None
    assert (found.said, found.age_s) == (sign.said, seconds - 1)
    clock.now += 1
    assert cache.get(sign.kind, A, sign.port) is None


def test_both_lives_can_be_set():
    clock = Clock()
    cache = ReachabilityCache(ttl_s=20, live_ttl_s=10, clock=clock)
    cache.put(OPEN)
    cache.put(Sign("tcp", A, "silent", 5985))
    clock.now += 15
    assert (cache.get("tcp", A, 5986), cache.get("tcp", A, 5985) is None) == (None, False)


@pytest.mark.parametrize("said", ["failed", "excluded", "unavailable"])
def test_our_own_trouble_is_not_kept_and_ends_what_was_known(said: str):
    cache = ReachabilityCache()
    cache.put(OPEN)
    cache.put(Sign("tcp", A, said, 5986))
    assert cache.get("tcp", A, 5986) is None


def test_silence_beside_a_sign_of_life_does_not_outlive_it():
    """Lesson 56: when the card's sign has grown old, the ping's silence alone would say less than was seen."""
    clock = Clock()
    cache = ReachabilityCache(clock=clock)
    ping, card = Sign("ping", A, "silent"), Sign("neighbour", A, "present")
    cache.put_life(A, [Sign("neighbour", A, "absent"), ping])
    assert cache.get("ping", A) is not None
    cache.put_life(A, [card, Sign("tcp", A, "silent", 135), ping])
    assert cache.get("neighbour", A) is not None
    clock.now += 301
    assert [cache.get(kind, A, port) for kind, port in LIFE_KEYS] == [None, None, None]
    cache.put_life(A, [Sign("neighbour", A, "absent")])
    cache.put_life(A, [Sign("ping", A, "answered")])
    clock.now += 301
    assert cache.get("neighbour", A) is None


def test_another_network_empties_it():
    cache = ReachabilityCache()
    home, elsewhere = (describe_network(parse_routes(ROUTE.replace("0002", net))) for net in ("0002", "0003"))
    cache.notice_network(home)
    cache.put(OPEN)
    cache.notice_network(home)
    assert cache.get("tcp", A, 5986) is not None
    cache.notice_network(elsewhere)
    assert cache.get("tcp", A, 5986) is None


def test_the_next_process_goes_on_with_the_file(tmp_path):
    clock = Clock()
    first, second = ReachabilityCache(clock=clock), ReachabilityCache(clock=clock)
    first.notice_network("home")
    first.put(OPEN)
    first.save(tmp_path / "state" / "cache.json")
    assert (tmp_path / "state" / "cache.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["cache.json"]
    clock.now += 60
    second.load(tmp_path / "state" / "cache.json")
    second.notice_network("home")
    found = second.get("tcp", A, 5986)
    assert found is not None
    assert found.age_s == 60


@pytest.mark.parametrize(
    "change",
    [
        {"boot": "another start of the machine"},
        {"format": 2},
        {"entries": [["soon", {}]]},
        {"entries": [[1000.0, {"kind": "tcp"}]]},
        {"entries": None},
    ],
)
def test_a_file_that_cannot_be_believed_is_no_file(tmp_path, change):
    clock = Clock()
    path = tmp_path / "cache.json"
    cache = ReachabilityCache(clock=clock)
    cache.put(OPEN)
    cache.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    later = ReachabilityCache(clock=clock)
    later.load(path)
    assert later.get("tcp", A, 5986) is None
    for text in ("", "[]", "{", "\0"):
        path.write_text(text)
        later.load(path)
    later.load(tmp_path / "none")
    assert later.get("tcp", A, 5986) is None


def test_a_clock_that_began_anew_makes_nothing_younger():
    clock = Clock()
    cache = ReachabilityCache(clock=clock)
    cache.put(OPEN)
    clock.now = 5.0
    assert cache.get("tcp", A, 5986) is None
