"""How long it takes to find things: a domain from nothing but a DHCP lease, and a thousand names beside ``dig``."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab import dhcp_lab
from tests.lab.controller import ADDRESS, DOMAIN, SambaLab, run_samba_script
from tests.real import need

SITE = "Default-First-Site-Name"
CLIENT = "dhclient"
SILENT = "10.98.0.77"
NAMES = 1000
KINDS = ("A", "AAAA")
PARALLEL_DIGS = 20
LOOKUPS = Path(__file__).with_name("lookups.py")


def discover(lab: SambaLab, times: int) -> None:
    """``msp discover --json`` in a namespace that knows nothing but a lease."""
    need(*dhcp_lab.PROGRAMS, CLIENT)
    dhcp_lab.define_site(lab.folder, SITE)
    servers = {
        "the controller is the DNS server": ADDRESS,
        "a second DNS server is dead": f"{ADDRESS},{SILENT}",
        "the first of two DNS servers is dead": f"{SILENT},{ADDRESS}",
    }
    print(f"\nDISCOVER: msp discover --json on a lease of {CLIENT}, {times} times; with the start of the interpreter\n")
    print(f"{'':<40}{'min':>8}{'median':>8}{'max':>8}")
    with dhcp_lab.open_dhcp_lab(lab.namespace) as cable:
        for title, dns in servers.items():
            took_s = []
            with cable.server(f"--dhcp-option=6,{dns}", f"--dhcp-option=15,{DOMAIN}"):
                for _ in range(times):
                    told = cable.discover(CLIENT, "--json")
                    (domain,) = told.document["domains"]
                    said = (domain["name"], domain["forest"], domain["netbios_name"], domain["ad_site"])
                    if said != (DOMAIN, DOMAIN, DOMAIN.partition(".")[0].upper(), SITE) or not domain["controllers"]:
                        raise SystemExit(f"this is not the domain: {domain}")
                    took_s.append(told.took_s)
            _print_row(title, took_s)


def look_up(lab: SambaLab, folder: Path, rounds: int) -> None:
    """The addresses of a thousand names, of both kinds, from the controller's DNS."""
    need("dig", "xargs")
    run_samba_script(lab.folder, {"do": "addresses", "count": NAMES})
    names = [f"host{number:04}.{DOMAIN}" for number in range(NAMES)]
    questions, order = folder / "questions", folder / "lookups.json"
    questions.write_text("".join(f"{name} {kind}\n" for name in names for kind in KINDS), encoding="ascii")
    order.write_text(json.dumps({"server": ADDRESS, "names": names}), encoding="ascii")
    dig = (shutil.which("dig") or "dig", f"@{ADDRESS}", "+short")
    share = str(len(KINDS) * NAMES // PARALLEL_DIGS * 2)
    ways = {
        "ours: with_addresses": (sys.executable, str(LOOKUPS), str(order)),
        "dig, one after another": (*dig, "-f", str(questions)),
        f"dig, {PARALLEL_DIGS} at a time": ("xargs", "-a", str(questions), "-n", share, "-P", str(PARALLEL_DIGS), *dig),
    }
    took_s: dict[str, list[float]] = {title: [] for title in ways}
    for _ in range(rounds):
        for title, command in ways.items():
            took_s[title].append(_seconds(lab, title, command))
    print(f"\nDNS: A and AAAA of {NAMES} names from Samba's DNS, {rounds} rounds, with the start of the process\n")
    print(f"{'':<40}{'min':>8}{'median':>8}{'max':>8}")
    for title, each in took_s.items():
        _print_row(title, each)


def _seconds(lab: SambaLab, title: str, command: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        ["ip", "netns", "exec", lab.namespace, *command], capture_output=True, text=True, timeout=120, check=False
    )
    took_s = time.perf_counter() - began
    found = [line for line in done.stdout.splitlines() if line.startswith("10.")]
    if done.returncode != 0 or len(found) != NAMES:
        raise SystemExit(f"{title} found {len(found)} of {NAMES} addresses: {done.stderr[-2000:]}")
    return took_s


def _print_row(title: str, took_s: Sequence[float]) -> None:
    print(f"{title:<40}{min(took_s):>7.2f}s{statistics.median(took_s):>7.2f}s{max(took_s):>7.2f}s")
