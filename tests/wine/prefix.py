"""Wine prefixes: a virtual host each, cloned from one template, without a display, and gone when we are.

Facts of Wine 8 that this leans on: a new prefix takes ten seconds and 695 MB, nearly all of it copies of its own
libraries, which a clone shares by hard links; a prefix has to be booted before any of its output is read, or its
service manager inherits the pipe and holds it open; a Unix exit code keeps eight bits only, so a batch file writes the
whole one down; a child of a command has the command's environment, which is how all of them are found again.

:class:`WineRoom` ends everything, however we end: a shell waits for the end of a pipe that only we hold.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

_REAPER = """
read -r _
for prefix in "$1"/*/; do WINEPREFIX="${prefix%/}" wineserver -k; done
rm -rf "$1"
"""
_BATCHES = "msp-run"
_JOB = "MSP_JOB"
_ENDS_IN_S = 10.0


class WineRoom:
    """A folder with one template and the prefixes cloned from it. Use it as a context."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(mkdtemp(prefix="msp-wine-", dir=folder))
        self._numbers = itertools.count(1)
        self._reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # In a session of its own: Ctrl-C is for us, and it works afterwards.
        self._reaper = subprocess.Popen(
            ["sh", "-c", _REAPER, "sh", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *ended: object) -> None:
        assert self._reaper is not None
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()

    def build_template(self) -> Path:
        """Make the prefix that all others are cloned from, about ten seconds.

        Raises:
            subprocess.CalledProcessError: Wine could not.
        """
        template = self.folder / "template"
        home = self.folder / "home"
        home.mkdir()
        _quietly(template, "wineboot", "--init")
        _quietly(template, "wineserver", "--wait")
        # What leads out of the prefix: the whole file system as Z:, and the devices.
        for device in (template / "dosdevices").iterdir():
            if device.name != "c:":
                device.unlink()
        return template

    @contextmanager
    def prefix(self, template: Path) -> Iterator[WinePrefix]:
        """A booted clone of the template, as long as the context stands."""
        prefix = WinePrefix(self.folder / f"host-{next(self._numbers)}")
        shared = str(template / "drive_c" / "windows")

        def copy(source: str, target: str) -> None:
            if source.startswith(shared):
                os.link(source, target)
            else:
                shutil.copy2(source, target)

        shutil.copytree(template, prefix.folder, symlinks=True, copy_function=copy)
        try:
            prefix.boot()
            yield prefix
        finally:
            prefix.end()


class WinePrefix:
    """A booted Wine of its own. Make one with :meth:`WineRoom.prefix`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = _environment(folder)

    def boot(self) -> None:
        """Start its service manager, with nothing of ours in its hands."""
        (self.path("C:\\") / _BATCHES).mkdir()
        _quietly(self.folder, "wineserver", "--persistent")
        _quietly(self.folder, "wine", "cmd", "/c", "rem")

    def stop(self) -> None:
        """End all that runs in it; its registry is then in its files."""
        with suppress(subprocess.CalledProcessError):
            # It says so when there was nothing left to end.
            _quietly(self.folder, "wineserver", "--kill")

    def end(self) -> None:
        """End all that runs in it, and remove it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, path: str) -> Path:
        r"""Where a path such as ``C:\Stage\agent.msi`` lies. Unlike on Windows, the case of its letters counts."""
        return self.folder / "drive_c" / path.removeprefix("C:\\").replace("\\", "/")

    async def run(self, line: str) -> tuple[int, bytes]:
        """Run one line in ``cmd``: its whole exit code, and what it wrote to its standard output.

        When this is cancelled, all processes that came of the line are killed, as Windows does with a shell's.

        Raises:
            RuntimeError: It ended without an exit code.
        """
        job = uuid.uuid4().hex
        batch, code, output = (self.path(rf"C:\{_BATCHES}\{job}.{ending}") for ending in ("bat", "code", "out"))
        # In a batch file quotes stay what they are. `echo 1>file` would redirect handle 1, so the file comes first.
        batch.write_bytes(f"@echo off\r\n{line}\r\n>C:\\{_BATCHES}\\{job}.code echo %errorlevel%\r\n".encode("ascii"))
        try:
            with output.open("wb") as written:
                process = await asyncio.create_subprocess_exec(
                    *("wine", "cmd", "/c", rf"C:\{_BATCHES}\{job}.bat"),
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.DEVNULL,
                    cwd=self.path("C:\\"),
                    env={**self._environment, _JOB: job},
                    start_new_session=True,
                )
            try:
                await process.wait()
            except asyncio.CancelledError:
                self.kill(job)
                await process.wait()
                raise
            text = code.read_text(encoding="ascii").strip() if code.exists() else ""
            if not text.isdecimal():
                message = f"no exit code of {line!r}"
                raise RuntimeError(message)
            return int(text), output.read_bytes()
        finally:
            for file in (batch, code, output):
                file.unlink(missing_ok=True)

    def kill(self, job: str) -> None:
        """Kill all processes that came of a command, at once."""
        until = time.monotonic() + _ENDS_IN_S
        while (left := find_processes(f"{_JOB}={job}")) and time.monotonic() < until:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.01)


def is_running(prefix: WinePrefix, program: str) -> bool:
    """True when a program such as ``msiexec`` runs in a prefix."""
    for number in find_processes(f"WINEPREFIX={prefix.folder}"):
        with suppress(OSError):
            if program.encode() in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[0]:
                return True
    return False


def find_processes(entry: str) -> list[int]:
    """The processes that have an entry such as ``NAME=value`` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        # It ends, is another user's, or is no process at all.
        with suppress(OSError):
            if folder.name.isdecimal() and entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _quietly(prefix: Path, *command: str) -> None:
    """Run a program of Wine, out of the reach of Ctrl-C and with no handle of ours.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=prefix.parent,
        env=_environment(prefix),
        start_new_session=True,
        check=True,
    )


def _environment(prefix: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(prefix.parent / "home"),
        "LANG": "C.UTF-8",
        "WINEPREFIX": str(prefix),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        # No .NET, no browser, and no entries in anybody's menu.
        "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=d",
    }
