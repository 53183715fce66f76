r"""Files for a host that cannot fetch them: in parts, through the stdin of a script, appended there and resumed.

The host keeps what has arrived. After a lost connection, or in another run of the program, it says how many bytes it
holds with which digest, and only the rest is sent; what does not belong to the file is given up. The whole is believed
once the host has read it back with the right SHA-256.

Of a part the messages grow from 100 kB to what the host takes (see :class:`msp_sdk.windows.link.ShellOptions`).

Example:
    >>> uploads = Uploads()
    >>> done = await uploads.send(shell, content, upload_id="agent-1", file_name="agent.exe")  # doctest: +SKIP
    >>> done.path  # doctest: +SKIP
    'C:\\ProgramData\\msp\\uploads\\agent-1\\agent.exe'
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from attrs import frozen

from msp_sdk.errors import DigestMismatchError, MspError, ScriptFailedError, UnreachableError
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShell

Progress = Callable[[int, int], None]

_TRIES = 3


@frozen
class Uploaded:
    """A file that lies on a host.

    Attributes:
        path: Where; SYSTEM and administrators alone may read it. It is taken away after a week.
        size_bytes: All of it.
        sha256: As the host read it back.
        resumed_bytes: How much had been there before.
    """

    path: str
    size_bytes: int
    sha256: str
    resumed_bytes: int


class Uploads:
    """Sends files; use one for a process.

    Args:
        at_once: How many are under way together; more wait for their turn.
        part_bytes: What one run of the script carries; a lost connection costs at most so much.
        part_s: How long a part may take.
    """

    def __init__(self, *, at_once: int = 4, part_bytes: int = 4 * 2**20, part_s: float = 300.0) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._part_bytes = part_bytes
        self._part_s = part_s

    async def send(
        self,
        shell: WindowsShell,
        content: bytes,
        *,
        upload_id: str,
        file_name: str,
        progress: Progress | None = None,
    ) -> Uploaded:
        """Bring a file to a host, or what is missing of it.

        Args:
            shell: Open.
            content: The file.
            upload_id: Names its folder: 1 to 64 letters, digits and hyphens. The same one resumes.
            file_name: Letters, digits, dots, hyphens and underscores.
            progress: Called with the bytes that the host holds and those of the whole, after each part.

        Raises:
            DigestMismatchError: What lay there at the end was another file; it was given up.
            ScriptFailedError: ``disk-full``, ``blocked-by-antivirus``, or what :meth:`WindowsShell.run` says.
            MspError: As :meth:`WindowsShell.run`. What has arrived stays for the next call.
        """
        async with self._turns:
            return await _Sending(self, shell, content, upload_id, file_name, progress or _silent).go()

    @property
    def part_bytes(self) -> int:
        """What one run of the script carries."""
        return self._part_bytes

    @property
    def part_s(self) -> float:
        """How long a part may take."""
        return self._part_s


def _silent(held: int, whole: int) -> None:
    del held, whole


class _Sending:
    """One upload under way."""

    def __init__(
        self, uploads: Uploads, shell: WindowsShell, content: bytes, upload_id: str, file_name: str, progress: Progress
    ) -> None:
        self._uploads = uploads
        self._shell = shell
        self._content = memoryview(content)
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._place = {"upload_id": upload_id, "file_name": file_name}
        self._progress = progress

    async def go(self) -> Uploaded:
        resumed = held = await self._ask()
        whole, losses = len(self._content), 0
        while True:
            try:
                answer = await self._part(held)
            except (UnreachableError, ScriptFailedError) as error:
                losses += 1
                if losses >= _TRIES or error.code not in ("connection-lost", "no-answer", "outcome-unknown"):
                    raise
                held = await self._ask()
                continue
            arrived = int(str(answer["held_bytes"]))
            self._progress(arrived, whole)
            if answer["held_sha256"] == self._sha256 and arrived == whole:
                return Uploaded(str(answer["path"]), whole, self._sha256, resumed)
            if arrived <= held or arrived > whole:
                # Somebody else writes there, or the host forgets: it is not gone on with for ever.
                losses += 1
                if losses >= _TRIES:
                    message = f"the host holds {arrived} bytes after a part that ended at another place."
                    raise ScriptFailedError(message)
            held = arrived

    async def _ask(self) -> int:
        """How much of this very file the host holds; what is of another one is given up."""
        try:
            answer = await self._run(offset=None)
        except DigestMismatchError:
            # It was as long, and another; the host has given it up.
            return 0
        held = int(str(answer["held_bytes"]))
        if hashlib.sha256(self._content[:held]).hexdigest() == answer["held_sha256"] and held <= len(self._content):
            return held
        await self._run(offset=None, restart=True)
        return 0

    async def _part(self, offset: int) -> dict[str, object]:
        return await self._run(offset=offset, payload=bytes(self._content[offset : offset + self._uploads.part_bytes]))

    async def _run(self, *, offset: int | None, restart: bool = False, payload: bytes = b"") -> dict[str, object]:
        parameters = {
            **self._place,
            "offset": offset,
            "size_bytes": len(self._content),
            "sha256": self._sha256,
            "restart": restart,
        }
        try:
            result = await self._shell.run(load("upload"), parameters, deadline_s=self._uploads.part_s, payload=payload)
        except MspError as error:
            if error.code == "digest-mismatch":
                raise DigestMismatchError(error.detail) from error
            raise
        return dict(result.value)
