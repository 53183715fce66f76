"""What the bench compares is the same work: every client reads every entry of the replay, with all lengths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.directory import C_CLIENT, count_by_ldapsearch, missing_clients, replay, run_client
from tests.bench.ldap_clients import CLIENTS, LIVE_ONLY

ENTRIES = 1207


@pytest.fixture(scope="module")
def captured(tmp_path_factory) -> Path:
    """Seven entries, which the replay repeats."""
    file = tmp_path_factory.mktemp("replay") / "capture.jsonl"
    lines = [
        {
            "dn": f"CN=PC{number},DC=x",
            "attributes": {
                "samaccountname": [b"PC$".hex()],
                "objectguid": [bytes([number] * 16).hex()],
                # Longer than a short length can say.
                "operatingsystem": [("Windows 11 " * 20).encode().hex()],
            },
        }
        for number in range(7)
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="ascii")
    return file


@pytest.mark.parametrize("lengths", ["short", "long"])
def test_every_client_reads_every_entry_of_the_replay(captured, lengths):
    missing = missing_clients()
    with replay(captured, ENTRIES, lengths) as place:
        if C_CLIENT not in missing:
            assert count_by_ldapsearch(place) == ENTRIES
        for name in CLIENTS:
            if name not in missing and name not in LIVE_ONLY:
                assert run_client(name, place).count == ENTRIES, name
