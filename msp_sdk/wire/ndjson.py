"""Long enumeration reports as NDJSON: a header line, an entry a line, a last line that counts and digests them.

An entry is a computer. What is gone stands in the header, as in a document, which any Central understands; where that
makes the line too long, it comes as entries ``{"removed": {"object_guid", "reason"}}``. ``{"count", "sha256"}`` is over
the exact lines of the entries with their newlines, before compression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, frozen

from msp_sdk.errors import WireError
from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults, RemovedComputer
from msp_sdk.wire.converter import dumps, loads, structure, unstructure

MEDIA_TYPE = "application/x-ndjson"
LONGEST_LINE_BYTES = 1024 * 1024
# Each may be longer than a line may be.
ARRAYS = ("servers", "workstations", "others", "removed")


@frozen
class NdjsonEnd:
    """The last line."""

    count: int
    sha256: str


@frozen
class NdjsonEntry:
    """A line between the first and the last.

    Attributes:
        number: From 1; the header is line 0.
        data: As JSON says it; None where it is no JSON.
    """

    number: int
    data: object


def render_report(report: EnumerationReport) -> Iterator[bytes]:
    """The lines of a report, each with its newline.

    Raises:
        WireError: The report holds no results. Not retryable.
    """
    results = report.results
    if results is None:
        raise WireError("only results are sent as NDJSON.", path="results")
    head: dict[str, Any] = unstructure(evolve(results, servers=(), workstations=(), others=()))
    for name in ("servers", "workstations", "others"):
        del head[name]
    first = dumps({"report_id": report.report_id, "results": head})
    gone: tuple[RemovedComputer, ...] = ()
    if len(first) > LONGEST_LINE_BYTES:
        gone = results.removed
        del head["removed"]
        first = dumps({"report_id": report.report_id, "results": head})
    yield first + b"\n"
    digest = hashlib.sha256()
    count = 0
    for entry in (*results.computers, *({"removed": each} for each in gone)):
        line = dumps(entry) + b"\n"
        digest.update(line)
        count += 1
        yield line
    yield dumps({"count": count, "sha256": digest.hexdigest()}) + b"\n"


class NdjsonReader:
    """Tells the lines of a report apart, and knows whether it came whole; what they hold is for others to judge.

    Feed whole lines without their newline. Nothing is to be believed before :meth:`finish`.

    Attributes:
        header: The first line as JSON says it; None before it came.
    """

    def __init__(self) -> None:
        self.header: dict[str, Any] | None = None
        self._end: NdjsonEnd | None = None
        self._digest = hashlib.sha256()
        self._count = 0

    def read(self, line: bytes) -> NdjsonEntry | None:
        """Take one line; returns the entry it holds, or None for header and end.

        Raises:
            WireError: The header is no JSON object, or there are lines after the end. Not retryable.
        """
        if self._end is not None:
            raise WireError(
                "there are lines after the end.", path=f"lines[{self._count + 2}]", code="report-incomplete"
            )
        if self.header is None:
            data = loads(line)
            if not isinstance(data, dict):
                raise WireError("the first line is not an object.", path="lines[0]")
            self.header = data
            return None
        try:
            entry: object = loads(line)
        except WireError:
            entry = None
        if isinstance(entry, dict) and set(entry) == {"count", "sha256"}:
            self._end = structure(entry, NdjsonEnd)
            return None
        self._count += 1
        self._digest.update(line + b"\n")
        return NdjsonEntry(self._count, entry)

    def finish(self) -> None:
        """Make sure that the report came whole.

        Raises:
            WireError: It stopped half-way or is not what its last line says. Not retryable.
        """
        if self.header is None or self._end is None:
            raise WireError("the report stopped half-way.", code="report-incomplete")
        if self._end.count != self._count or self._end.sha256 != self._digest.hexdigest():
            raise WireError("the report is not what its last line says.", code="report-incomplete")


def split_roles(results: EnumerationResults, computers: Iterable[Computer]) -> EnumerationResults:
    """The results with their arrays filled from the lines."""
    listed = tuple(computers)
    return evolve(
        results,
        servers=tuple(computer for computer in listed if computer.is_server),
        workstations=tuple(computer for computer in listed if computer.is_workstation),
        others=tuple(computer for computer in listed if computer.role == "other"),
    )
