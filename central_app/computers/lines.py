"""Long enumeration reports: a stream of lines, perhaps compressed, that is believed only when it came whole.

The lines are judged as they come, in a thread, and kept apart until the last one has said what they all should be. So
memory stays small, nobody waits while a slow line delivers, and half a report changes nothing. Every limit counts
decompressed bytes, and a decompressor never gives more than is asked of it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from central_app.computers.entries import Batch, Entry, ReportHead, entries_of_document, read_entries, read_head
from msp_sdk.errors import WireError
from msp_sdk.wire.ndjson import LONGEST_LINE_BYTES, NdjsonReader

LONGEST_BYTES = 256 * 1024 * 1024
STEP_BYTES = 64 * 1024
BATCH_COUNT = 250
_GZIP = 31


async def inflate(chunks: AsyncIterator[bytes], longest_bytes: int) -> AsyncIterator[bytes]:
    """Decompress a gzip stream in small steps.

    Args:
        chunks: As they come.
        longest_bytes: How much may come out.

    Raises:
        WireError: Too much comes out (``too-large``), it is not gzip, or it stops half-way. Not retryable.
    """
    machine = zlib.decompressobj(_GZIP)
    count = 0
    async for chunk in chunks:
        rest = chunk
        while rest and not machine.eof:
            try:
                piece = machine.decompress(rest, STEP_BYTES)
            except zlib.error:
                raise WireError("the body is not gzip.", code="bad-request") from None
            rest = machine.unconsumed_tail
            count += len(piece)
            if count > longest_bytes:
                raise WireError(f"a report has at most {longest_bytes} bytes.", code="too-large")
            if piece:
                yield piece
            elif not rest:
                break
    while not machine.eof and (piece := machine.decompress(b"", STEP_BYTES)):
        count += len(piece)
        if count > longest_bytes:
            raise WireError(f"a report has at most {longest_bytes} bytes.", code="too-large")
        yield piece
    if not machine.eof:
        raise WireError("the compressed report stopped half-way.", code="report-incomplete")


async def limit(chunks: AsyncIterator[bytes], longest_bytes: int) -> AsyncIterator[bytes]:
    """Pass a stream on while it is not too long.

    Raises:
        WireError: It is (``too-large``). Not retryable.
    """
    count = 0
    async for chunk in chunks:
        count += len(chunk)
        if count > longest_bytes:
            raise WireError(f"a report has at most {longest_bytes} bytes.", code="too-large")
        yield chunk


class ReportLines:
    """A report as it arrives; nothing of it is to be believed before its :attr:`head`.

    Args:
        chunks: The decompressed stream; lines need not end where chunks do.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._reader = NdjsonReader()
        self._head: ReportHead | None = None

    @property
    def head(self) -> ReportHead:
        """The head of a report that came whole.

        Raises:
            WireError: It stopped half-way or is not what its last line says (``report-incomplete``).
        """
        self._reader.finish()
        assert self._head is not None  # noqa: S101 (a whole report has one)
        return self._head

    async def batches(self) -> AsyncIterator[Batch]:
        """The entries in small batches, in the report's order, each judged in a thread.

        Raises:
            WireError, ProblemError: A line is too long, the head does not fit, or there is something after the end.
        """
        async for lines in self._lines():
            yield await asyncio.to_thread(self._judge, lines)

    def _judge(self, lines: list[bytes]) -> Batch:
        entries: list[Entry] = []
        for line in lines:
            entry = self._reader.read(line)
            if self._head is None and self._reader.header is not None:
                self._head = read_head(self._reader.header)
                # An older appliance names in its first line what is gone.
                entries += entries_of_document(self._reader.header)
            if entry is not None:
                entries.append((f"lines[{entry.number}]", entry.data))
        return read_entries(entries)

    async def _lines(self) -> AsyncIterator[list[bytes]]:
        """Whole lines, some at a time."""
        lines: list[bytes] = []
        pending = b""
        async for chunk in self._chunks:
            whole = (pending + chunk).split(b"\n")
            pending = whole.pop()
            if len(pending) > LONGEST_LINE_BYTES:
                raise WireError("a line is too long.", code="too-large")
            lines += whole
            while len(lines) >= BATCH_COUNT:
                yield lines[:BATCH_COUNT]
                del lines[:BATCH_COUNT]
        # The last line may come without its newline; half of one is no end.
        yield [*lines, pending] if pending else lines
