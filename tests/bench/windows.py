"""Scripts on Windows hosts: our client beside plain pywinrm ``run_ps`` and pypsrp's WinRS. Nothing is asserted.

``nox -s bench -- windows`` prints three tables. The hosts are the stand-in's, in a process of their own, and do no work
for a script: what is compared is the client's own. Each measurement is a process of its own, warm before it counts; the
clients take turns, and the smallest of each is shown, since noise only ever adds. Ours includes the logon ledger, which
writes each logon to disk and lets two be in flight.

* requests: what one host costs, for its first script and for each more;
* cost: processor time of the client a host, and hosts a second;
* uploads: 20 MiB by stdin.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from msp_sdk.testing.host_lab import LAB_PASSWORD
from tests.bench.windows_clients import CLIENTS, DOORS

HOSTS = 64
MIB = 2**20


@frozen
class Cost:
    """What a measurement took."""

    cpu_s: float
    wall_s: float
    requests: int
    body_bytes: int


class Bench:
    """The hosts' process, and measurements against it."""

    def __init__(self, hosts: subprocess.Popen[str], folder: Path) -> None:
        self._hosts = hosts
        self.place: dict[str, Any] = {**self._read(), "folder": str(folder), "password": LAB_PASSWORD}

    def _read(self) -> dict[str, Any]:
        assert self._hosts.stdout is not None
        found: dict[str, Any] = json.loads(self._hosts.stdout.readline())
        return found

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._hosts.stdin is not None
        self._hosts.stdin.write(what + "\n")
        self._hosts.stdin.flush()
        return self._read()

    def measure(
        self, client: str, door: str, *, hosts: int = 1, at_once: int = 1, profile: str = "", **work: Any
    ) -> Cost:
        """Let a client work with so many hosts, in a process of its own."""
        given = {"scripts": 1, **self.place, "door": door, "at_once": at_once, **work}
        given["hosts"] = (self.place["hosts"] * -(-hosts // len(self.place["hosts"])))[:hosts]
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "tests.bench.windows_clients", client, *([profile] if profile else [])]
        # The go-ahead comes on a pipe whose number the client knows.
        program = ["sh", "-c", f'exec 3<&{reader}; exec "$@"', "sh", *command]
        with subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(reader,)
        ) as child:
            os.close(reader)
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(given))
            child.stdin.close()
            if child.stdout.readline() != "ready\n":
                message = f"{client} failed over {door}"
                raise SystemExit(message)
            self._ask("zero")
            os.write(writer, b"g")
            os.close(writer)
            said = json.loads(child.stdout.read())
        counted = self._ask("count")
        return Cost(said["cpu_s"], said["wall_s"], counted["requests"], counted["body_bytes"])

    def best(self, rounds: int, *args: Any, **work: Any) -> Cost:
        """The cheapest of some rounds."""
        return min((self.measure(*args, **work) for _ in range(rounds)), key=lambda cost: cost.cpu_s)


@contextmanager
def bench(hosts: int) -> Iterator[Bench]:
    """The hosts in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.windows_hosts", str(hosts), folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield Bench(server, Path(folder))
            finally:
                server.kill()


def row(*cells: object) -> None:
    """One line of a table."""
    sys.stdout.write("".join(f"{cell:<14}" if not at else f"{cell:>14}" for at, cell in enumerate(cells)) + "\n")
    sys.stdout.flush()


def requests(on: Bench) -> None:
    """Requests a host."""
    row("requests", "door", "first script", "each more")
    for door in DOORS[:2]:
        for client in CLIENTS:
            one = on.measure(client, door, scripts=1).requests
            row(client, door, one, (on.measure(client, door, scripts=5).requests - one) / 4)


def costs(on: Bench, rounds: int, doors: Sequence[str], hosts: int) -> None:
    """Processor time and pace."""
    for door in doors:
        row("cost", door, "CPU ms/host", "each more ms", "hosts/s 1", "hosts/s 10", "hosts/s 64")
        for client in CLIENTS:
            alone = on.best(rounds, client, door, hosts=hosts)
            five = on.best(rounds, client, door, hosts=hosts, scripts=5)
            paces = [alone, *(on.best(rounds, client, door, hosts=2 * hosts, at_once=number) for number in (10, 64))]
            counts = (hosts, 2 * hosts, 2 * hosts)
            row(
                client,
                "",
                f"{alone.cpu_s / hosts * 1000:.1f}",
                f"{(five.cpu_s - alone.cpu_s) / hosts / 4 * 1000:.2f}",
                *(f"{count / cost.wall_s:.0f}" for count, cost in zip(counts, paces, strict=True)),
            )


def uploads(on: Bench) -> None:
    """Ours alone: neither of the others sends a file by WinRS."""
    row("20 MiB", "door", "requests", "wire factor", "MB/s", "CPU s")
    for door in DOORS[:2]:
        cost = on.measure("ours", door, scripts=0, upload_bytes=20 * MIB)
        wire = cost.body_bytes / (20 * MIB)
        row("ours", door, cost.requests, f"{wire:.2f}", f"{20 * MIB / cost.wall_s / 1e6:.1f}", f"{cost.cpu_s:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--only", choices=["requests", "costs", "uploads"])
    parser.add_argument("--door", choices=DOORS, action="append")
    parser.add_argument("--profile", metavar="DOOR", help="where our time goes, and nothing else")
    options = parser.parse_args()
    with bench(options.hosts) as on:
        if options.profile:
            on.measure("ours", options.profile, hosts=options.hosts, profile="profile")
            return
        if options.only in (None, "requests"):
            requests(on)
        if options.only in (None, "costs"):
            costs(on, options.rounds, options.door or DOORS, options.hosts)
        if options.only in (None, "uploads"):
            uploads(on)


if __name__ == "__main__":
    main()
