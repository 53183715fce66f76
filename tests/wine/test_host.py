"""What a Wine host refuses, what osslsigncode says of our packages, and that nothing of Wine stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msp_sdk.testing.certificates import EstateCA
from tests.wine.authenticode import flip_byte, judge
from tests.wine.commands import STAGE_FOLDER
from tests.wine.package import SERVICE, build_program
from tests.wine.prefix import find_processes

pytestmark = [pytest.mark.slow, pytest.mark.wine]

ROOT = Path(__file__).parents[2]


def test_a_command_that_is_not_listed_runs_nothing_and_is_a_violation(host):
    marker = host.prefix.path(r"C:\marker.txt")
    # Wine's own answer to the second one would be 0.
    for line in (r"copy C:\windows\win.ini C:\marker.txt", "powershell -Command exit 1"):
        assert host.run(line) == (255, "")
        assert host.machine.violations.pop() == f"a command that is not listed: {line}"
    assert not marker.exists()


def test_an_exit_code_that_nobody_has_looked_at_is_a_violation(host, packages):
    # lesson 47: a stand-in fails closed.
    program = host.stage(packages["1.0.0"].program, "agent.exe")
    assert host.run(f'sc create {SERVICE} binPath= "{program}" start= demand')[0] == 0
    host.prefix.path(program).unlink()
    assert host.run(f"sc start {SERVICE}") == (255, "")
    assert host.machine.violations.pop() == "an unknown end: sc start: 1"


def test_a_command_line_never_goes_in_clear(host):
    host.run(f"sc query {SERVICE}")
    assert host.endpoint.http_port == 5985
    # Real pywinrm over HTTP, and the endpoint has seen no envelope but sealed ones.
    assert host.endpoint.operations == ["Create", "Command", "Receive", "Signal"]
    assert host.machine.violations == []


def test_a_tampered_an_unsigned_and_a_strange_package_are_told_from_the_good_one(packages, ca, tmp_path):
    package = packages["1.0.0"]
    unsigned = build_program(tmp_path, "1.0.0")
    inside = flip_byte(package.path, tmp_path / "flipped.msi", inside=b"MSCF")
    program = flip_byte(package.program, tmp_path / "flipped.exe", inside=b".text")
    assert [judge(path, ca) for path in (package.path, package.program)] == ["valid", "valid"]
    assert [judge(path, ca) for path in (inside, program)] == ["digest-mismatch", "digest-mismatch"]
    assert [judge(path, ca) for path in (unsigned, unsigned_of(package.path))] == ["not-signed", "not-signed"]
    assert judge(package.path, EstateCA.make("Somebody")) == "untrusted"


def unsigned_of(path: Path) -> Path:
    return path.with_name(path.name.replace("signed-", "agent-"))


def test_wine_installs_a_tampered_package_so_the_signature_has_to_be_judged_before(host, packages, ca, tmp_path):
    package = packages["1.0.0"]
    # Any byte of it, such as in a text of the installer's tables: the package stays whole and does another thing.
    tampered = tmp_path / "tampered.msi"
    tampered.write_bytes(package.path.read_bytes().replace(b"A newer version is", b"An older version i"))
    assert judge(tampered, ca) == "digest-mismatch"
    host.stage(tampered, "tampered.msi")
    line = rf'msiexec /i "{STAGE_FOLDER}\tampered.msi" /qn /norestart CENTRAL_URL="https://central.example"'
    assert host.run(line)[0] == 0


_HOLDER = """
import signal, sys
from pathlib import Path
from tests.wine.prefix import WineRoom
# A shell's background job starts with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with WineRoom(Path(sys.argv[1])) as room, room.prefix(Path(sys.argv[2])) as prefix:
    print(prefix.folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_wine_outlives_us(template, tmp_path, ending):
    # Beside the template: a link cannot lead to another file system.
    room = tmp_path
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(room), str(template)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with holder:
        assert holder.stdout is not None
        prefix = holder.stdout.readline().decode().strip()
        wine = f"WINEPREFIX={prefix}"
        assert len(find_processes(wine)) > 2
        holder.send_signal(ending)
        holder.wait(30)
        until = time.monotonic() + 30
        while (find_processes(wine) or list(room.iterdir())) and time.monotonic() < until:
            time.sleep(0.05)
    assert (find_processes(wine), list(room.iterdir())) == ([], [])
