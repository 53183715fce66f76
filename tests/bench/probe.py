"""Our prober beside nmap's connect scan, in a network of the bench's own. Nothing is asserted but that both are right.

``nox -s bench -- probe`` makes two namespaces and a cable. Behind it 20,000 addresses answer (one door open, one
refused), or a quarter of them drops everything. Both look at the same doors with the same patience, one after the
other in each round; the smallest of the rounds is compared, since noise only ever adds. Wall and processor time are
those of a whole process, with its start. Our pace (200 connects a second a site) is lifted here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import frozen

from tests.lab.two_networks import THEIRS, Cable, two_networks
from tests.real import need

ROOT = Path(__file__).parents[2]
CLIENT = Path(__file__).with_name("probe_client.py")
OPEN, CLOSED = 5986, 5985
LIVE, SILENT = "10.77", "10.78"
# nmap at its best: by its defaults a few thousand silent hosts take it more than ten minutes. By its own patience it
# gives a silent door a few times the round trip that it measured, here 0.1 s, and asks once more.
NMAP = ("-T4", "--min-hostgroup", "4096", "--min-parallelism", "1000")
PEER = "nmap, as patient"

# Accepts and closes, as many as come.
LISTENER = r"""
import select, socket, sys
door = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
door.setblocking(False)
print("ready", flush=True)
while sys.stdin not in select.select([door, sys.stdin], [], [])[0]:
    for _ in range(1000):
        try:
            door.accept()[0].close()
        except BlockingIOError:
            break
"""


@frozen
class Cost:
    """What one run took, with the start of its process, and what it found."""

    wall_s: float
    cpu_s: float
    found: Mapping[str, int]


def address(network: str, number: int) -> str:
    """The address of one of a network's hosts."""
    return f"{network}.{number // 250}.{1 + number % 250}"


@contextmanager
def open_network() -> Iterator[Cable]:
    """A cable behind which all of one network answers, and all of another is silent."""
    with two_networks() as cable:
        for network in (LIVE, SILENT):
            # By a router: no table of neighbours holds 20,000 entries.
            cable.ip(cable.here, "route", "add", f"{network}.0.0/16", "via", THEIRS)
        cable.ip(cable.there, "route", "add", "local", f"{LIVE}.0.0/16", "dev", "lo")
        cable.ip(cable.there, "route", "add", "blackhole", f"{SILENT}.0.0/16")
        command = cable.command(cable.there, sys.executable, "-c", LISTENER, str(OPEN))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            try:
                yield cable
            finally:
                listener.communicate("")


def run(cable: Cable, command: Sequence[str]) -> tuple[float, float, str]:
    """Wall and processor seconds of a command in the network, and its output."""
    with tempfile.TemporaryFile(mode="w+") as out:
        began = time.perf_counter()
        child = subprocess.Popen(
            cable.command(cable.here, *command),
            stdout=out,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command[0]} ended with {child.returncode}")
        out.seek(0)
        return wall_s, usage.ru_utime + usage.ru_stime, out.read()


def run_ours(cable: Cable, way: str, file: Path, timeout_s: float) -> Cost:
    """Our prober."""
    command = (sys.executable, str(CLIENT), way, str(file), str(timeout_s), str(OPEN), str(CLOSED))
    wall_s, cpu_s, said = run(cable, command)
    return Cost(wall_s, cpu_s, json.loads(said))


def run_nmap(cable: Cable, file: Path, options: Sequence[str]) -> Cost:
    """Nmap's connect scan, of the same doors."""
    command = ("nmap", "-sT", "-n", "-Pn", "-p", f"{OPEN},{CLOSED}", *options, "-iL", str(file), "-oG", "-")
    wall_s, cpu_s, said = run(cable, command)
    names = {"open": "open", "closed": "refused", "filtered": "silent"}
    found = Counter(names[state] for state in re.findall(r"\d+/(open|closed|filtered)/tcp", said))
    # Ports that are all alike are told in sum ("Ignored State: closed (2)").
    for state, count in re.findall(r"Ignored State: (\w+) \((\d+)\)", said):
        found[names[state]] += int(count)
    return Cost(wall_s, cpu_s, found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- probe", description=__doc__)
    parser.add_argument("--addresses", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds of patience of both")
    options = parser.parse_args()
    need("ip", "nmap")
    print(f"nmap: -sT -n -Pn {' '.join(NMAP)}; as patient: --max-retries 0 and --min-rtt-timeout as ours")
    with tempfile.TemporaryDirectory() as folder, open_network() as cable:
        file = Path(folder) / "addresses"
        for title, silent_count in (("all live", 0), ("a quarter silent", options.addresses // 4)):
            costs = compare(cable, file, (options.addresses - silent_count, silent_count), options)
            print_table(f"{options.addresses} addresses, 2 ports, {options.timeout} s of patience, {title}", costs)


def compare(cable: Cable, file: Path, counts: tuple[int, int], options: argparse.Namespace) -> dict[str, list[Cost]]:
    """Let each way look at so many live and silent hosts, in turns; what finds something else is told."""
    live, silent = counts
    addresses = [address(LIVE, number) for number in range(live)]
    addresses += [address(SILENT, number) for number in range(silent)]
    random.Random(7).shuffle(addresses)  # noqa: S311 (the same order each time)
    file.write_text("\n".join(addresses) + "\n", encoding="ascii")
    doors = Counter({"open": live, "refused": live, "silent": 2 * silent})
    hosts = Counter({"open": live, "no-answer": silent})
    patience = f"{int(options.timeout * 1000)}ms"
    ways: dict[str, tuple[Counter[str], Callable[[], Cost]]] = {
        "ours": (doors, partial(run_ours, cable, "doors", file, options.timeout)),
        PEER: (
            doors,
            partial(run_nmap, cable, file, (*NMAP, "--max-retries", "0", "--min-rtt-timeout", patience)),
        ),
        "nmap, by its own patience": (doors, partial(run_nmap, cable, file, (*NMAP, "--max-retries", "1"))),
        "ours, with verdicts": (hosts, partial(run_ours, cable, "hosts", file, options.timeout)),
    }
    if not silent:
        ways["nmap -T4"] = (doors, partial(run_nmap, cable, file, ("-T4",)))
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (wanted, measure) in ways.items():
            cost = measure()
            if Counter(cost.found) != wanted:
                print(f"WRONG: {name} found {dict(cost.found)}, and there is {dict(wanted)}")
            costs[name].append(cost)
    return costs


def print_table(title: str, costs: Mapping[str, Sequence[Cost]]) -> None:
    """The smallest of each, and each in parts of nmap's that waits as long as we do."""
    print(f"\n{title}: wall and processor seconds, best of {len(next(iter(costs.values())))}\n")
    best = {name: (min(cost.wall_s for cost in each), min(cost.cpu_s for cost in each)) for name, each in costs.items()}
    width = max(map(len, best))
    peer_wall_s, peer_cpu_s = best[PEER]
    print(f"{'':<{width}}{'wall':>8}{'cpu':>8}{'beside ' + PEER + ': wall':>31}{'cpu':>6}")
    for name, (wall_s, cpu_s) in best.items():
        print(f"{name:<{width}}{wall_s:>8.2f}{cpu_s:>8.2f}{wall_s / peer_wall_s:>31.2f}{cpu_s / peer_cpu_s:>6.2f}")


if __name__ == "__main__":
    main()
