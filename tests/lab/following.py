"""Talk with ``inside_big.py`` in a controller's namespace: our reader and our enumerator, asked from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.controller import ADDRESS, HERE, SambaLab

SCRIPT = str(HERE / "inside_big.py")
Ask = Callable[[str], dict[str, Any]]


def order_of(lab: SambaLab, folder: Path, **more: Any) -> dict[str, Any]:
    """What ``inside_big.py`` must know; ``folder`` keeps the ledger."""
    return {
        "dns": ADDRESS,
        "username": lab.username,
        "password": lab.password,
        "trusted": [{"ca_pem": lab.ca_pem}],
        "ledger": str(folder / "logons.db"),
        **more,
    }


def read_raw(lab: SambaLab, folder: Path, reader: str, **more: Any) -> tuple[dict[str, Any], Path]:
    """Read every computer by one of our readers: what it said of itself, and the file with a JSON entry a line."""
    file = folder / f"{reader}.jsonl"
    order = order_of(lab, folder, reader=reader, file=str(file), **more)
    done = lab.run(sys.executable, SCRIPT, "raw", stdin=f"{json.dumps(order)}\n")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in said, said
    return said, file


@contextmanager
def follower(lab: SambaLab, folder: Path, **more: Any) -> Iterator[tuple[dict[str, Any], Ask]]:
    """Our enumerator with the directory read in full, and a way to ask it what changed since."""
    command = ["ip", "netns", "exec", lab.namespace, sys.executable, SCRIPT, "follow"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str) -> dict[str, Any]:
            stdin.write(f"{line}\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline() or '{"error": "it ended"}')
            assert "error" not in answer, answer
            return answer

        try:
            yield ask(json.dumps(order_of(lab, folder, **more))), ask
        finally:
            stdin.close()
            # It has something to say at its end.
            stdout.read()
