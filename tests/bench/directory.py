"""Our reading of a directory beside ldapsearch and the other clients of Python. Nothing is asserted.

``nox -s bench -- directory`` prints one table of each kind:

* live: a Samba controller with 10,000 computers over LDAPS; the controller is the bound;
* replay: captured entries from a server that costs nothing, with short lengths and with Windows' long ones; the client
  is the bound, so its processor time (with the start of its interpreter) is what is compared;
* memory: the peak of our reader, of ``stream()`` and of ``enumerate()`` at two sizes of a replay over LDAPS;
* changes: how long until a change of one computer is seen;
* discover: how long ``msp discover`` takes in a network with nothing but DHCP;
* dns: how long the addresses of a thousand names take, beside ``dig``.

All clients of a table take turns in one run; the smallest of each is compared, since noise only ever adds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, COMPUTER_FILTER
from msp_sdk.testing.certificates import EstateCA
from tests.bench import finding
from tests.bench.ldap_clients import CLIENTS, LIVE_ONLY, MEMORY_CLIENTS, NEEDS
from tests.lab.controller import ADDRESS, CONTROLLER, SambaLab, run_samba_script, samba_controller
from tests.lab.following import follower, read_raw

BENCH = Path(__file__).parent
BASE = "DC=northvalley,DC=test"
MANY = 10_000
C_CLIENT = "ldapsearch"
PAGE = 1000
REPLAY_NAME = "replay.northvalley.test"

Place = dict[str, Any]


@frozen
class Cost:
    """What one run of a client took, with the start of its process."""

    wall_s: float
    cpu_s: float
    count: int
    peak_rss_kib: int = 0


def run_client(name: str, place: Place, prefix: Sequence[str] = ()) -> Cost:
    """Let a client read once, in a process of its own."""
    if name == C_CLIENT:
        command, said = _ldapsearch(place), b""
    else:
        command, said = [sys.executable, str(BENCH / "ldap_clients.py"), name], json.dumps(place).encode()
    # What ldapsearch prints goes nowhere, so that no disk is measured; its entries were counted once.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        given.write(said)
        given.seek(0)
        began = time.perf_counter()
        child = subprocess.Popen(
            [*prefix, *command], stdin=given, stdout=subprocess.DEVNULL if name == C_CLIENT else out, stderr=errors
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if child.returncode != 0:
            raise SystemExit(f"{name} ended with {child.returncode}:\n{errors.read().decode()[-2000:]}")
        out.seek(0)
        text = out.read()
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s, cpu_s, **(json.loads(text) if text else {"count": 0}))


def count_by_ldapsearch(place: Place, prefix: Sequence[str] = ()) -> int:
    """How many entries ldapsearch sees: the number that all others must have."""
    done = subprocess.run([*prefix, *_ldapsearch(place)], capture_output=True, check=True)
    return done.stdout.startswith(b"dn:") + done.stdout.count(b"\ndn:")


def _ldapsearch(place: Place) -> list[str]:
    scheme = "ldaps" if place["username"] else "ldap"
    bind = ["-D", place["username"], "-y", place["password_file"]] if place["username"] else []
    return [
        *("env", f"LDAPTLS_CACERT={place['ca_file']}", "LDAPTLS_REQCERT=demand", "ldapsearch", "-LLL", "-x", *bind),
        *("-H", f"{scheme}://{place['host']}:{place['port']}", "-E", f"pr={place['page']}/noprompt", "-o"),
        *("ldif-wrap=no", "-b", place["base"], place["filter"], *place["attributes"]),
    ]


def compare(clients: Sequence[str], place: Place, rounds: int, prefix: Sequence[str] = ()) -> dict[str, list[Cost]]:
    """Let the clients take turns, each round in another order."""
    costs: dict[str, list[Cost]] = {name: [] for name in clients}
    expected = count_by_ldapsearch(place, prefix)
    for turn in range(rounds):
        shift = turn % len(clients)
        for name in (*clients[shift:], *clients[:shift]):
            cost = run_client(name, place, prefix)
            if name != C_CLIENT and cost.count != expected:
                raise SystemExit(f"{name} saw {cost.count} entries, ldapsearch saw {expected}")
            costs[name].append(cost)
            print(".", end="", flush=True)
    print("\r", end="")
    return costs


def missing_clients() -> dict[str, str]:
    """Which clients cannot run here, and why."""
    absent = {name: module for name, module in NEEDS.items() if importlib.util.find_spec(module) is None}
    told = {name: f"the package of {module!r} is not installed" for name, module in absent.items()}
    if shutil.which(C_CLIENT) is None:
        told[C_CLIENT] = "ldap-utils is not installed"
    return told


def print_table(title: str, costs: dict[str, list[Cost]]) -> None:
    """Print what each took, and how many times ldapsearch's that is."""
    base = costs.get(C_CLIENT) or next(iter(costs.values()))
    wall, cpu = (min(getattr(cost, kind) for cost in base) for kind in ("wall_s", "cpu_s"))
    print(f"\n{title}\n{len(base)} rounds, taking turns; ratios of the smallest to {C_CLIENT}'s\n")
    print(f"{'client':<18}{'wall min':>10}{'median':>9}{'ratio':>8}{'cpu min':>10}{'median':>9}{'ratio':>8}")
    for name, runs in sorted(costs.items(), key=lambda item: min(cost.wall_s for cost in item[1])):
        walls, cpus = [cost.wall_s for cost in runs], [cost.cpu_s for cost in runs]
        print(
            f"{name:<18}{min(walls):>9.2f}s{statistics.median(walls):>8.2f}s{min(walls) / wall:>7.2f}x"
            f"{min(cpus):>9.2f}s{statistics.median(cpus):>8.2f}s{min(cpus) / cpu:>7.1f}x"
        )


def live(lab: SambaLab, folder: Path, rounds: int, clients: Sequence[str]) -> None:
    """Everybody against the same running controller."""
    place = lab_place(lab, folder)
    prefix = ("ip", "netns", "exec", lab.namespace)
    costs = compare(clients, place, rounds, prefix)
    print_table(f"LIVE: Samba, {MANY} computers, LDAPS, pages of {PAGE}, {len(COMPUTER_ATTRIBUTES)} attributes", costs)


def lab_place(lab: SambaLab, folder: Path) -> Place:
    """The running controller as clients need to know it."""
    ca_file, password_file = folder / "ca.pem", folder / "password"
    ca_file.write_text(lab.ca_pem, encoding="ascii")
    descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(lab.password)
    return _place(CONTROLLER, 636) | {
        "addresses": [ADDRESS],
        "username": lab.username,
        "password": lab.password,
        "password_file": str(password_file),
        "ca_file": str(ca_file),
        "ca_pem": lab.ca_pem,
        "ledger": str(folder / "logons.db"),
    }


def _place(host: str, port: int) -> Place:
    return {
        "host": host,
        "port": port,
        "addresses": [host],
        "page": PAGE,
        "base": BASE,
        "filter": COMPUTER_FILTER,
        "attributes": list(COMPUTER_ATTRIBUTES),
        "username": "",
        "password": "",
        "ca_file": "/dev/null",
    }


@contextmanager
def replay(captured: Path, entries: int, lengths: str, tls: Path | None = None) -> Iterator[Place]:
    """A running replay server, in clear, or with the certificate in a folder."""
    command = [sys.executable, str(BENCH / "replay_server.py"), str(captured), str(entries), lengths]
    command += [] if tls is None else [str(tls)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield _place("127.0.0.1", int(server.stdout.readline()))
        server.stdin.close()


def replayed(captured: Path, entries: int, rounds: int, clients: Sequence[str]) -> None:
    """Everybody against the replay, with both kinds of lengths."""
    chosen = [name for name in clients if name not in LIVE_ONLY]
    for lengths in ("short", "long"):
        with replay(captured, entries, lengths) as place:
            # Once before it counts: the server prepares its pages.
            run_client(chosen[0], place)
            costs = compare(chosen, place, rounds)
        print_table(f"REPLAY: {entries} captured entries, {lengths} lengths, in clear on loopback", costs)
        if "ldap3 tuned" in costs:
            tuned = min(cost.cpu_s for cost in costs["ldap3 tuned"])
            for name in ("ours, entries", "ours, computers"):
                if name in costs:
                    ours = min(cost.cpu_s for cost in costs[name])
                    print(f"ldap3 tuned needs {tuned / ours:.1f} times the processor time of {name}")


def memory(captured: Path, folder: Path) -> None:
    """Our peaks at two sizes: what reads page by page stays flat, what keeps every computer grows by each of them."""
    sizes = (MANY, 10 * MANY)
    print("\nMEMORY: peak resident size of the process, and what each further entry adds\n")
    print(f"{'client':<18}" + "".join(f"{size:>16} entries" for size in sizes) + f"{'bytes an entry':>18}")
    ca = EstateCA.make("Replay CA")
    ca.issue([REPLAY_NAME]).write(folder / "tls", "server")
    for name in ("ours, computers", *MEMORY_CLIENTS):
        peaks = []
        for size in sizes:
            with replay(captured, size, "long", folder / "tls") as place:
                cost = run_client(name, replay_place(place, ca, folder))
            peaks.append(cost.peak_rss_kib * 1024)
        row = "".join(f"{peak / 2**20:>20.1f} MiB" for peak in peaks)
        print(f"{name:<18}{row}{(peaks[1] - peaks[0]) / (sizes[1] - sizes[0]):>18.0f}")
    print(f"\nthe larger replay is the smaller one's entries {sizes[1] // sizes[0]} times over")


def replay_place(place: Place, ca: EstateCA, folder: Path) -> Place:
    """A replay over LDAPS, as whoever logs on must know it. It believes every password."""
    logon = {"username": "svc@northvalley.test", "password": "any", "ledger": str(folder / "replayed.db")}
    door = {"doors": ["ldaps"], "ldaps_port": place["port"]}
    known = {"host": REPLAY_NAME, "addresses": [place["host"]], "ca_pem": ca.pem.decode("ascii"), "options": door}
    return place | logon | known


def changes(lab: SambaLab, folder: Path, times: int) -> None:
    """How long our enumerator takes to see a change that was made."""
    with follower(lab, folder) as (first, ask):
        took = []
        for number in range(times):
            name = f"PC{100 + number:05}$"
            order = {"do": "set", "account": name, "values": {"operatingSystem": f"Windows 11 Pro {number}"}}
            run_samba_script(lab.folder, order)
            seen = ask("changes")
            if name not in seen["changed"]:
                raise SystemExit(f"the change of {name} was not seen: {seen}")
            took.append(seen["took_s"] * 1000)
    print(f"\nCHANGES: one computer of {first['count']} changed, {times} times, read from {first['source']}\n")
    print(
        f"seen after {min(took):.0f} ms at best, {statistics.median(took):.0f} ms median, {max(took):.0f} ms at worst"
    )


@contextmanager
def _real_parts() -> Iterator[None]:
    try:
        yield
    except pytest.skip.Exception as error:
        raise SystemExit(f"nothing can be measured here: {error}") from None


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- directory", description=(__doc__ or "").splitlines()[0])
    parts = ("live", "replay", "memory", "changes", "discover", "dns")
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(parts)}; none means all", default=parts)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=30_000, help="how many are replayed")
    parser.add_argument("--only", action="append", default=[], metavar="CLIENT", help="leave out the other clients")
    asked = parser.parse_args()
    left_out = missing_clients()
    everybody = [name for name in (C_CLIENT, *CLIENTS) if name not in left_out]
    clients = [name for name in everybody if name in (*asked.only, C_CLIENT)] if asked.only else everybody
    with _real_parts(), samba_controller(computers=MANY) as lab, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "live" in asked.parts:
            live(lab, folder, asked.rounds, clients)
        if "changes" in asked.parts:
            changes(lab, folder, 20)
        if "discover" in asked.parts:
            finding.discover(lab, asked.rounds)
        if "dns" in asked.parts:
            finding.look_up(lab, folder, asked.rounds)
        _, captured = read_raw(lab, folder, "paged")
        if "replay" in asked.parts:
            replayed(captured, asked.entries, asked.rounds, clients)
        if "memory" in asked.parts:
            memory(captured, folder)
    for client, why in left_out.items():
        print(f"\n{client} was left out: {why}.")


if __name__ == "__main__":
    main()
