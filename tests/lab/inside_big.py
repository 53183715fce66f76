"""What a test of the directory of 10,000 does inside its network namespace: see ``inside.py``.

``raw`` writes what the reader gives, byte for byte, to a file; ``follow`` keeps one enumerator and answers line by
line, so that the directory can be changed between two questions.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inside  # beside this file, which is run as a script

from msp_sdk.directory.entry import Entry
from msp_sdk.directory.session import DirectorySession, open_session
from msp_sdk.directory.sync import read_dirsync
from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, COMPUTER_FILTER
from msp_sdk.enumeration.enumerator import ADEnumerator, EnumerationOptions
from msp_sdk.models.domain import DomainController
from msp_sdk.network.logons import LogonLedger

BASE = "DC=northvalley,DC=test"


def paged(session: DirectorySession) -> Iterator[tuple[Entry, ...]]:
    """A full read, page by page."""
    return session.pages(BASE, COMPUTER_FILTER, COMPUTER_ATTRIBUTES)


def dirsync(session: DirectorySession) -> Iterator[tuple[Entry, ...]]:
    """A full read as the first round of DirSync."""
    for found in read_dirsync(session, BASE, COMPUTER_FILTER, COMPUTER_ATTRIBUTES, b""):
        yield found.entries


READERS = {"paged": paged, "dirsync": dirsync}


async def raw(given: dict[str, Any]) -> Any:
    """Read all computers by one reader into a file; a line an entry."""
    domain = await inside._domain(given)
    return await asyncio.to_thread(write_raw, given, domain.controllers[0])


def write_raw(given: dict[str, Any], controller: DomainController) -> dict[str, Any]:
    """As :func:`raw`, in a thread."""
    options = inside.DirectoryOptions(**given.get("options", {}))
    ledger = LogonLedger(Path(given["ledger"]))
    session = open_session(controller, inside.credential_of(given), ledger=ledger, options=options)
    count = 0
    with Path(given["file"]).open("w", encoding="ascii") as file:
        for entry in (entry for page in READERS[given["reader"]](session) for entry in page):
            count += 1
            values = {name: [value.hex() for value in found] for name, found in entry.attributes.items()}
            file.write(json.dumps({"dn": entry.dn, "attributes": values}) + "\n")
    session.close()
    return {"source": session.source, "count": count, "skipped": [str(door) for door in session.skipped_doors]}


async def follow(given: dict[str, Any]) -> Any:
    """Read in full, then answer each ``changes`` on stdin; the kept enumeration follows along."""
    from msp_sdk.models.computer import apply_changes

    ledger = LogonLedger(Path(given["ledger"]))
    directory = inside.DirectoryOptions(**given.get("options", {}))
    options = EnumerationOptions(directory=directory, resolver=inside.resolver_of(given))
    domain = await inside._domain(given)
    async with ADEnumerator(domain, inside.credential_of(given), ledger=ledger, options=options) as enumerator:
        kept = await enumerator.enumerate()
        tell({"count": len(kept.computers), "source": kept.source, "cursor": kept.cursor})
        for line in iter(sys.stdin.readline, ""):
            if line.strip() == "full":
                full = await enumerator.enumerate()
                same = {c.object_guid: c for c in full.computers} == {c.object_guid: c for c in kept.computers}
                tell({"same": same, "count": len(full.computers)})
                continue
            began = time.perf_counter()
            changes = await enumerator.changes(since=kept.cursor)
            took_s = time.perf_counter() - began
            kept = apply_changes(kept, changes)
            tell(
                {
                    "changed": {c.sam_account_name: [c.os_name, c.enabled] for c in changes.changed},
                    "places": {c.sam_account_name: c.ou_path for c in changes.changed},
                    "removed": [str(gone.object_guid) for gone in changes.removed],
                    "complete": changes.complete,
                    "source": changes.source,
                    "took_s": took_s,
                }
            )
    return {"ended": True}


def tell(what: dict[str, Any]) -> None:
    """Answer with one line."""
    print(json.dumps(what), flush=True)  # noqa: T201 (its answers)


SCENARIOS = {"raw": raw, "follow": follow}


def main() -> None:
    """Run the scenario that was asked for: its parameters are the first line of stdin."""
    given = json.loads(sys.stdin.readline())
    try:
        found = asyncio.run(SCENARIOS[sys.argv[1]](given))
    except inside.MspError as error:
        found = {"error": type(error).__name__, "code": error.code, "detail": error.detail}
    tell(found)


if __name__ == "__main__":
    main()
