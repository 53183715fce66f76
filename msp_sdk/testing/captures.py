"""What real Windows answers to the registered scripts: recorded once, kept as files, counted, compared.

The stand-in's answers are written by hand. A capture is the answer of a real host to one script, with the digest of
the script's text; it counts until that text changes. ``msp testing capture HOST`` records one of each script that
only reads and is harmless with the example of its contract; what writes is never run.

A capture's file is one JSON object::

    {"script": "scan-firewall", "version": 2, "sha256": "…", "captured_at": "2026-01-05T08:00:00Z",
     "windows": "10.0.17763.0", "powershell": "5.1.17763.5830", "names": "made up",
     "host": {…}, "input": {…}, "output": {…}}

Nothing in it proves that a Windows was asked: put into the folder only what you have captured from one.

Example:
    >>> plan = capture_plan()
    >>> [script.name for script in plan.scripts][:2], dict(plan.left_out)["agent-install"]
    (['agent-state', 'directory-computers'], 'it writes')
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from msp_sdk.errors import ConfigError, ScriptFailedError
from msp_sdk.testing.made_up_names import MadeUpNames
from msp_sdk.windows.scripts import Script, load, names
from msp_sdk.windows.shell import WindowsShell

_KEYS = {
    **dict.fromkeys(("script", "sha256", "captured_at", "windows", "powershell", "names"), str),
    "version": int,
    "host": dict,
    "input": dict,
    "output": dict,
}
_DEADLINE_S = 120.0


@frozen
class CapturePlan:
    """Which scripts are run, and which are not and why; each by name."""

    scripts: tuple[Script, ...]
    left_out: tuple[tuple[str, str], ...]


def capture_plan() -> CapturePlan:
    """What a capture runs: all scripts that only read and are harmless with the example of their contract."""
    scripts: list[Script] = []
    left_out: list[tuple[str, str]] = []
    for script in map(load, names()):
        if script.writes:
            left_out.append((script.name, "it writes"))
        elif script.contract is None or not script.contract.harmless:
            left_out.append((script.name, "its contract does not call it harmless"))
        else:
            scripts.append(script)
    return CapturePlan(tuple(scripts), tuple(left_out))


@frozen
class Capture:
    """An answer of a host to a script; see the module.

    Attributes:
        windows: The build, such as ``10.0.17763.0``.
        names: ``made up``, or ``kept`` when names and SIDs are the host's own.
        host: What the host said of itself, as :class:`~msp_sdk.windows.identity.HostIdentity` has it.
        input: Parameters; without the run's id.
        output: The value that came back.
    """

    script: str
    version: int
    sha256: str
    captured_at: str
    windows: str
    powershell: str
    names: str
    host: Mapping[str, object]
    input: Mapping[str, object]
    output: Mapping[str, object]

    @property
    def is_stale(self) -> bool:
        """True when the script was changed since, or is none any more."""
        return self.script not in names() or load(self.script).sha256 != self.sha256

    @property
    def file_name(self) -> str:
        """One a script and build."""
        return f"{self.script}-{self.windows}.json"

    def render(self) -> str:
        """The text of its file."""
        document = {name: getattr(self, name) for name in Capture.__annotations__}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@frozen
class NotCaptured:
    """A script that failed on the host, by name, and why."""

    script: str
    code: str
    detail: str


async def capture_host(
    shell: WindowsShell, now: datetime, *, username: str | None = None, keep_names: bool = False
) -> AsyncGenerator[Capture | NotCaptured, None]:
    """Run what may be run on a host, one script after the other.

    Args:
        shell: Open.
        now: For the date; aware UTC.
        username: Of the account, to be replaced where it comes up.
        keep_names: Record the host's own names and SIDs.

    Yields:
        A capture a script, or why that script failed there (one whose answer does not fit its contract, too); the
        next one is run all the same.

    Raises:
        WindowsError: The host was lost.
    """
    made_up = MadeUpNames(await shell.identify(), username)
    for script in capture_plan().scripts:
        contract = script.contract
        assert contract is not None  # noqa: S101 (the plan has only such)
        given = made_up.localise(contract.example_input)
        assert isinstance(given, dict)  # noqa: S101 (an object stays one)
        try:
            result = await shell.run(script, given, deadline_s=_DEADLINE_S)
        except ScriptFailedError as error:
            yield NotCaptured(script.name, error.code, error.detail)
            continue
        kept = {"host": asdict(result.host), "input": given, "output": dict(result.value)}
        shown: Any = kept if keep_names else made_up.replace(kept)
        yield Capture(
            script=script.name,
            version=script.version,
            sha256=script.sha256,
            captured_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            windows=result.host.os_version,
            powershell=result.host.powershell_version,
            names="kept" if keep_names else "made up",
            host=shown["host"],
            input=shown["input"],
            output=shown["output"],
        )


def read_capture(path: Path) -> Capture:
    """A capture from its file.

    Raises:
        ConfigError: It cannot be read, or is no capture.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the capture {path.name} cannot be read.") from error
    if not isinstance(document, dict) or set(document) != set(_KEYS):
        raise ConfigError(f"{path.name} is no capture: its keys are not {', '.join(sorted(_KEYS))}.")
    for name, kind in _KEYS.items():
        if not isinstance(document[name], kind):
            raise ConfigError(f"{path.name} is no capture: {name} is no {kind.__name__}.")
    return Capture(**document)


def read_captures(folder: Path) -> tuple[Capture, ...]:
    """All captures of a folder and those below it, by file; empty when there are none.

    Raises:
        ConfigError: One of them is none.
    """
    return tuple(read_capture(path) for path in sorted(folder.rglob("*.json")))


@frozen
class CaptureCount:
    """Of the contracts of all scripts: how many stand on a real answer, and how many on what we wrote.

    Attributes:
        captured: Scripts with a capture of their present text.
        by_hand: All others.
        stale: Captures, by script and build, whose script was changed since.
    """

    captured: int
    by_hand: int
    stale: tuple[str, ...]

    def render(self) -> str:
        """One sentence."""
        text = f"script contracts: {self.captured} captured from Windows, {self.by_hand} written by hand"
        if self.stale:
            text += f"; stale, since the script was changed: {', '.join(self.stale)}"
        return text


def count_captures(captures: Iterable[Capture]) -> CaptureCount:
    """Count."""
    found = list(captures)
    fresh = {capture.script for capture in found if not capture.is_stale}
    stale = sorted(f"{capture.script} ({capture.windows})" for capture in found if capture.is_stale)
    return CaptureCount(len(fresh), len(names()) - len(fresh), tuple(stale))
