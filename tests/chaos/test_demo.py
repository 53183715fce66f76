"""``msp demo`` as a person runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runners.cli.demo_world import compare, compare_machines
from runners.cli.hosts import HostLine
from tests.real import do_without, need

pytestmark = pytest.mark.slow
DEMO = [sys.executable, "-m", "runners.cli", "demo"]


def alone() -> list[str]:
    """A prefix that runs a command as an ordinary user in a namespace with nothing but loopback."""
    if os.geteuid() != 0:
        return ["unshare", "-Urn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    # The interpreter may lie where only root reads; to read is all that this user may beyond others.
    user = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+dac_read_search"
    user += " --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search --no-new-privs"
    return ["unshare", "-n", "sh", "-c", f'ip link set lo up && exec {user} "$@"', "sh"]


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text:
            found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that the demo's processes carry in their environment, so that they can be found."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.owner() == "root" and parent != Path("/") and os.geteuid() == 0 and "pytest" in str(parent):
            parent.chmod(0o755)
    return folder


def environ(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def test_demo_ends_complete_as_an_ordinary_user_with_nothing_but_loopback(home: Path) -> None:
    need("unshare", "ip")
    ended = subprocess.run(
        [*alone(), *DEMO, "--exit-when-complete", "--computers", "12"],
        env=environ(home),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    if ended.returncode and "unshare" in ended.stderr:
        do_without(f"this kernel lends no namespace: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "RECEPTION-99 is listed as new" in ended.stdout
    assert "RECEPTION-99 has its agent" in ended.stdout
    assert "each of 13 computers runs the agent or is listed with its true reason" in ended.stdout
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("wait_s", [0.0, 1.5])
def test_interrupted_demo_leaves_nothing_behind(home: Path, wait_s: float) -> None:
    with subprocess.Popen(DEMO, env=environ(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        # From its first file on there is something that it could leave behind.
        until = time.monotonic() + 30
        while not list(home.iterdir()):
            assert demo.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(wait_s)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert b"Traceback" not in errors
    assert processes_of(home) == []
    assert list(home.iterdir()) == []


def test_killed_demo_takes_its_processes_with_it(home: Path) -> None:
    with subprocess.Popen(DEMO, env=environ(home), stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        assert len(processes_of(home)) > 2
        demo.kill()
    for _ in range(100):
        if not processes_of(home):
            return
        time.sleep(0.1)
    assert processes_of(home) == []


def test_demo_shows_a_wrong_password_as_one_strike_and_tells_an_unreachable_controller_from_no_directory(
    home: Path,
) -> None:
    def begin(fault: str) -> subprocess.Popen[str]:
        call = [*DEMO, "--exit-when-complete", "--fault", fault, "--computers", "12"]
        return subprocess.Popen(call, env=environ(home), stdout=subprocess.PIPE, text=True)

    with begin("wrong-password") as wrong, begin("unreachable-controller") as unreachable:
        said, also_said = (demo.communicate(timeout=100)[0] for demo in (wrong, unreachable))
    assert (wrong.returncode, unreachable.returncode) == (1, 1)
    assert "bad-password count of svc-msp in the directory: 1" in said
    assert "was refused: wrong-password" in said
    assert "discovery:unreachable-controller" in also_said
    assert "not complete: no controller of the domain answers" in also_said


TRUTH = [{"name": "SRV1", "truth": "agent"}, {"name": "PC1", "truth": "no-answer"}]
SAID = (HostLine("srv1", "server", "agent"), HostLine("pc1", "workstation", "waiting", "no-answer"))


def test_the_demos_own_check_passes_only_for_the_truth() -> None:
    assert compare(SAID, TRUTH) == []
    assert len(compare(SAID[:1], TRUTH)) == 1
    assert len(compare((SAID[0], HostLine("pc1", "workstation", "waiting", "winrm-closed")), TRUTH)) == 1
    assert len(compare((*SAID, HostLine("ghost", "server", "agent")), TRUTH)) == 1
    running = {"agent_running": True, "violations": []}
    assert compare_machines({"SRV1": running}, TRUTH) == []
    assert len(compare_machines({}, TRUTH)) == 1
    assert len(compare_machines({"SRV1": running, "PC1": running}, TRUTH)) == 1
    assert len(compare_machines({"SRV1": {**running, "violations": ["in clear"]}}, TRUTH)) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--computers", "3"], "an estate has 12 to"),
        (["--folder", "/proc/nowhere"], "cannot be used"),
        (["--fault", "unknown"], "invalid choice"),
    ],
)
def test_demo_that_cannot_begin_says_why_in_a_line(arguments: list[str], told: str) -> None:
    ended = subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_demo_begins_only_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "central.db").touch()
    ended = subprocess.run([*DEMO, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "is not empty" in ended.stderr


def test_demo_on_a_taken_port_says_so_and_leaves_nothing_behind(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*DEMO, "--port", port], env=environ(home), capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 1
    assert "cannot be bound" in ended.stderr
    assert processes_of(home) == []
    assert list(home.iterdir()) == []
