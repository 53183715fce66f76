"""Child processes of the demo: each dies with us, and says on stderr what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msp_sdk.errors import StateError

_PR_SET_PDEATHSIG = 1
_STOP_S = 8.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int) -> None:
    """Linux ends the child when the demo ends, however that happens. Source: prctl(2)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It ended before we asked.
        os._exit(1)


class Child:
    """A process of ours: a Python module, its output in a log file, its stdin and stdout ours to use."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._drain: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, name: str, module: str, arguments: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> Child:
        """Start ``python -m module``. Secrets go through its stdin or environment, never through ``arguments``."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environ or {})},
                # A Ctrl-C on the terminal is for us: we end our children in order.
                start_new_session=True,
                preexec_fn=functools.partial(_die_with, os.getpid()),
                limit=2**24,
            )
        return cls(name, process, log)

    async def ask(self, line: bytes = b"") -> bytes:
        """Write a line to the process and read one line of its answer.

        Raises:
            StateError: It has ended; the message holds the last line of its log.
        """
        assert self.process.stdin is not None  # noqa: S101 (we asked for pipes)
        assert self.process.stdout is not None  # noqa: S101
        if line:
            with contextlib.suppress(ConnectionError):
                self.process.stdin.write(line + b"\n")
                await self.process.stdin.drain()
        answer = await self.process.stdout.readline()
        if not answer:
            raise StateError(f"{self.name} ended too early: {self.last_words()}", code="process-ended")
        return answer.rstrip(b"\n")

    async def finish(self, text: bytes) -> bytes:
        """Give the process its whole input and wait for its end; returns what it printed.

        Raises:
            StateError: It failed.
        """
        try:
            output, _ = await self.process.communicate(text)
        except BaseException:
            # Interrupted: it must not go on in a folder that is about to be removed.
            await self.stop()
            raise
        if self.process.returncode:
            raise StateError(f"{self.name} failed: {self.last_words()}", code="process-failed")
        return output

    def drain(self) -> None:
        """Throw away what it prints from now on, so that a full pipe never stops it. Ends with the process."""

        async def read_on() -> None:
            assert self.process.stdout is not None  # noqa: S101
            while await self.process.stdout.read(65536):
                pass

        self._drain = asyncio.create_task(read_on())

    def last_words(self) -> str:
        """The last line that it wrote to its log."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix("msp: ") if lines else f"it said nothing (exit code {self.process.returncode})"

    async def kill(self) -> None:
        """End it as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """End it: politely first, then not."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), _STOP_S)
        except TimeoutError:
            await self.kill()
