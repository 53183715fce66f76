"""Long enumeration reports: a stream of lines, perhaps compressed, that is believed only when it came whole.

The lines go to a file that has no name while they are checked and counted; then they are read again into one
transaction. So memory stays small, the writer is not held while a slow line delivers, and half a report changes
nothing. Every limit counts decompressed bytes, and a decompressor never gives more than is asked of it.
"""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import AsyncIterator
from typing import IO, Any

from central_app.bodies import check_plain
from central_app.computers.scope import ReportScope, scope_of_report
from msp_sdk.errors import WireError
from msp_sdk.models.computer import Computer
from msp_sdk.wire.converter import loads, structure, unstructure
from msp_sdk.wire.ndjson import NdjsonHeader, NdjsonReader

LONGEST_BYTES = 256 * 1024 * 1024
LONGEST_LINE_BYTES = 1024 * 1024
# Below this a report stays in memory.
SPOOL_BYTES = 4 * 1024 * 1024
STEP_BYTES = 64 * 1024
BATCH_COUNT = 500
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


class SpooledReport:
    """A report that came whole: its header, what it speaks for, and its computers to be read once more."""

    def __init__(self, header: NdjsonHeader, scope: ReportScope, spool: IO[bytes]) -> None:
        self.header = header
        self.scope = scope
        self._spool = spool

    async def batches(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The computers in small batches, in the report's order."""
        self._spool.seek(0)
        batch: list[dict[str, Any]] = []
        for line in self._spool:
            # Through the model, so that what it does not know is not kept, as with a report in one document.
            data = unstructure(structure(loads(line), Computer))
            check_plain(data)
            batch.append(data)
            if len(batch) == BATCH_COUNT:
                yield batch
                batch = []
                # Others want the loop too.
                await asyncio.sleep(0)
        if batch:
            yield batch

    def close(self) -> None:
        """Drop the file."""
        self._spool.close()


async def spool_report(chunks: AsyncIterator[bytes]) -> SpooledReport:
    """Read a report to its end and check it; nothing of it is kept when it is not whole.

    Args:
        chunks: The decompressed stream; lines need not end where chunks do.

    Raises:
        WireError: It stopped half-way or is not what its last line says (``report-incomplete``), or does not fit.
    """
    # Unnamed and for us alone: it is gone when it is closed, or when we are.
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (it outlives this function)
    try:
        return SpooledReport(*await _check_into(spool, chunks), spool)
    except BaseException:
        spool.close()
        raise


async def _check_into(spool: IO[bytes], chunks: AsyncIterator[bytes]) -> tuple[NdjsonHeader, ReportScope]:
    reader = NdjsonReader()
    scope = ReportScope()
    pending = b""
    async for chunk in chunks:
        lines = (pending + chunk).split(b"\n")
        pending = lines.pop()
        if len(pending) > LONGEST_LINE_BYTES:
            raise WireError("a line is too long.", code="too-large")
        for line in lines:
            if reader.header is None:
                scope = scope_of_report(loads(line))
            if reader.read(line) is not None:
                spool.write(line + b"\n")
        await asyncio.sleep(0)
    if pending:
        try:
            reader.read(pending)
        except WireError as error:
            raise WireError("the report stopped within a line.", code="report-incomplete") from error
    return reader.finish(), scope
