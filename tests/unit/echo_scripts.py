"""Two scripts that only tests know, one that reads and one that writes, and what a stand-in host answers to them."""

from __future__ import annotations

import hashlib

from msp_sdk.testing.windows_host import Machine, answers
from msp_sdk.windows.scripts import Script


def _script(name: str, *, writes: bool) -> Script:
    text = f"param($Parameters)\n# {name}\n"
    return Script(name, 1, text, hashlib.sha256(text.encode()).hexdigest(), writes)


ECHO, WRITE = _script("test-echo", writes=False), _script("test-write", writes=True)


@answers("test-echo", sha256=ECHO.sha256)
def _echo(machine: Machine, parameters, payload: bytes):
    return {"parameters": parameters, "payload_bytes": len(payload), "sum": sum(payload)}


@answers("test-write", sha256=WRITE.sha256)
def _write(machine: Machine, parameters, payload: bytes):
    machine.notes["written"] = machine.notes.get("written", 0) + 1
    return {"written": machine.notes["written"]}
