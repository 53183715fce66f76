"""``msp probe`` on a real link: who is on, who is not there, and what nothing is ever sent to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.two_networks import THEIRS, Cable, two_networks

ROOT = Path(__file__).parents[2]
SILENT, PINGED, NOBODY, EXCLUDED, FAR, NOWHERE = (
    "10.76.0.3", "10.76.0.4", "10.76.0.9", "10.76.0.5", "10.77.0.1", "10.99.0.1",
)  # fmt: skip

# Prints each IPv4 address that a frame on the cable asks for or goes to, until its stdin ends.
SNIFFER = r"""
import select, socket, sys
cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
cable.bind(("cable", 0))
print("ready", flush=True)
seen = set()
while sys.stdin not in select.select([cable, sys.stdin], [], [])[0] or select.select([cable], [], [], 0)[0]:
    if not select.select([cable], [], [], 0)[0]:
        continue
    frame = cable.recv(2048)
    kind = frame[12:14]
    seen.add(socket.inet_ntoa(frame[38:42] if kind == b"\x08\x06" else frame[30:34]) if kind != b"\x86\xdd" else "v6")
print(*sorted(seen))
"""


@pytest.fixture(scope="module")
def cable():
    """Hosts on the link: one that drops TCP and echo alike, one that drops TCP alone, and one that is excluded."""
    with two_networks() as made:
        there = made.there
        for address in (SILENT, PINGED, EXCLUDED):
            made.ip(there, "addr", "add", f"{address}/24", "dev", "cable")
        made.ip(there, "rule", "add", "from", SILENT, "pref", "10", "type", "blackhole")
        made.ip(there, "rule", "add", "from", PINGED, "ipproto", "tcp", "pref", "11", "type", "blackhole")
        # Beyond the link: a network whose packets end there without a word.
        made.ip(made.here, "route", "add", "10.77.0.0/16", "via", THEIRS)
        made.ip(there, "route", "add", "blackhole", "10.77.0.0/16")
        yield made


def probe(cable: Cable, folder: Path, *words: str) -> dict[str, dict[str, object]]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder)}
    command = cable.command(cable.here, sys.executable, "-m", "runners.cli", "probe", *words, "--json")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return {item["hostname"]: item for item in json.loads(done.stdout)["items"]}


def test_who_is_on_is_told_from_who_is_not_there_and_from_who_is_unknown(cable, tmp_path):
    # Lesson 56.
    found = probe(cable, tmp_path, THEIRS, SILENT, PINGED, NOBODY, FAR, NOWHERE)
    assert {name: (item["unreachable_reason"], item["is_on"]) for name, item in found.items()} == {
        THEIRS: ("winrm-closed", True),
        SILENT: ("winrm-blocked", True),
        PINGED: ("winrm-blocked", True),
        NOBODY: ("not-at-address", False),
        FAR: ("no-answer", False),
        NOWHERE: ("no-route", False),
    }
    said = {name: {sign["kind"]: sign["said"] for sign in item["evidence"]} for name, item in found.items()}
    assert said[SILENT] == {"neighbour": "present", "tcp": "silent", "ping": "silent"}
    assert said[PINGED] == {"neighbour": "present", "tcp": "silent", "ping": "answered"}
    # Where nobody is, nothing more is sent.
    assert said[NOBODY] == {"neighbour": "absent", "tcp": "silent"}
    assert said[FAR] == {"tcp": "silent", "ping": "silent"}


def test_no_frame_goes_to_an_excluded_address_and_no_arp_asks_for_it(cable, tmp_path):
    # Lesson 61. The excluded network holds a host that would answer; its neighbour is looked at meanwhile.
    command = cable.command(cable.there, sys.executable, "-c", SNIFFER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == "ready\n"
        found = probe(
            cable, tmp_path, EXCLUDED, f"::ffff:{EXCLUDED}", PINGED, "--exclude", f"{EXCLUDED}/32,10.88.0.0/16"
        )
        seen = sniffer.communicate("", timeout=20)[0].split()
    assert {found[name]["unreachable_reason"] for name in (EXCLUDED, f"::ffff:{EXCLUDED}")} == {"address-excluded"}
    assert PINGED in seen, "the sniffer hears nothing at all"
    assert EXCLUDED not in seen


def test_what_was_seen_is_not_asked_for_again_until_a_person_wants_it_fresh(cable, tmp_path):
    runs = [probe(cable, tmp_path, THEIRS, *more)[THEIRS]["evidence"] for more in ((), (), ("--fresh",))]
    assert [max(sign["age_s"] for sign in evidence) > 0 for evidence in runs] == [False, True, False]
    assert [[sign["said"] for sign in evidence] for evidence in runs] == [["refused", "refused"]] * 3
