"""The whole daemon on a real directory: Samba is the domain, the stand-in's hosts are its machines.

All of it runs in the controller's network namespace: Samba on the ports of a controller, WinRM on 5985 and 5986 of
addresses that its DNS names, Central and the appliance as processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.network.kerberos import is_installed
from tests.lab.controller import ADDRESS, SambaLab, samba_controller

pytestmark = [pytest.mark.samba, pytest.mark.slow]

HOSTS = ("10.99.0.11", "10.99.0.12", "10.99.0.21", "10.99.0.31")


@pytest.fixture(scope="module")
def lab() -> Iterator[SambaLab]:
    """A controller of its own: a computer joins it."""
    with samba_controller() as lab:
        for address in HOSTS:
            command = ["ip", "-n", lab.namespace, "addr", "add", f"{address}/32", "dev", "lo"]
            subprocess.run(command, check=True, capture_output=True)
        yield lab


def tell(lab: SambaLab, story: str, work: Path) -> dict[str, Any]:
    """Let a story happen in the namespace, and return what it tells."""
    given = {
        "work": str(work),
        "folder": str(lab.folder),
        "dns": f"{ADDRESS}:53",
        "certificate_sha256": lab.certificate_sha256,
        "username": lab.username,
        "password": lab.password,
    }
    module = "tests.chaos.inside_samba_world"
    done = lab.run(sys.executable, "-m", module, story, stdin=json.dumps(given), timeout_s=170)
    logs = "".join(f"\n--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(work.glob("*.log")))
    assert done.returncode == 0, f"{done.stderr[-3000:]}{logs}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_daemon_walks_from_code_to_complete_on_a_real_directory_and_takes_in_who_joins(lab, tmp_path):
    told = tell(lab, "walk", tmp_path)
    assert told["mistakes"] == []
    assert told["mistakes_after"] == []
    assert told["phase"] == "complete"
    # The one that was under way, the one that sees it, and the one after which Central has the report.
    assert told["check_ins_until_listed"] <= 3
    assert told["strikes"] == 0
    # Hosts with keys of their own are logged on to by Kerberos, by HTTP as by HTTPS: none of them sees a password.
    if is_installed():
        assert told["by_ticket"] == ["FILE1", "JOINED1", "SQL1"]


def test_wrong_password_costs_one_strike_at_a_real_controller_whatever_doors_it_has(lab, tmp_path):
    # lesson 32: counted by Samba, in its database.
    lab.reset_bad_password_count("svc-msp")
    told = tell(lab, "wrong-password", tmp_path)
    assert told["strikes"] == [1, 1, 2]
    assert told["at_hosts"] == {"bad_password_count": 0, "attempts": []}
