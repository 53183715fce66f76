"""Long enumeration reports as NDJSON: a header line, a computer a line, a last line that counts and digests them.

``{"count", "sha256"}`` is over the exact computer lines with their newlines, before compression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, frozen

from msp_sdk.errors import WireError
from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults
from msp_sdk.wire.converter import dumps, loads, structure, unstructure

MEDIA_TYPE = "application/x-ndjson"
_ARRAYS = ("servers", "workstations", "others", "removed")


@frozen
class NdjsonHeader:
    """The first line: who reports, and all of the results but the arrays."""

    report_id: str
    results: EnumerationResults


@frozen
class NdjsonEnd:
    """The last line."""

    count: int
    sha256: str


def render_report(report: EnumerationReport) -> Iterator[bytes]:
    """The lines of a report, each with its newline.

    Raises:
        WireError: The report holds no results. Not retryable.
    """
    if report.results is None:
        raise WireError("only results are sent as NDJSON.", path="results")
    results: dict[str, Any] = unstructure(evolve(report.results, servers=(), workstations=(), others=()))
    for name in _ARRAYS[:3]:
        del results[name]
    yield dumps({"report_id": report.report_id, "results": results}) + b"\n"
    digest = hashlib.sha256()
    count = 0
    for computer in report.results.computers:
        line = dumps(computer) + b"\n"
        digest.update(line)
        count += 1
        yield line
    yield dumps({"count": count, "sha256": digest.hexdigest()}) + b"\n"


class NdjsonReader:
    """Reads a report line by line; nothing is believed before :meth:`finish`.

    Feed whole lines without their newline. The first is the header, the last the end.
    """

    def __init__(self) -> None:
        self.header: NdjsonHeader | None = None
        self.end: NdjsonEnd | None = None
        self._digest = hashlib.sha256()
        self._count = 0

    def read(self, line: bytes) -> Computer | None:
        """Take one line; returns the computer it holds, or None for header and end.

        Raises:
            WireError: The line does not fit. Not retryable.
        """
        data = loads(line)
        if self.end is not None:
            raise WireError("there are lines after the end.", path=f"line {self._count + 3}", code="report-incomplete")
        if self.header is None:
            self.header = structure(data, NdjsonHeader)
            return None
        if isinstance(data, dict) and set(data) == {"count", "sha256"}:
            self.end = structure(data, NdjsonEnd)
            return None
        self._count += 1
        self._digest.update(line + b"\n")
        return structure(data, Computer)

    def finish(self) -> NdjsonHeader:
        """The header of a report that came whole.

        Raises:
            WireError: It stopped half-way or is not what its last line says. Not retryable.
        """
        if self.header is None or self.end is None:
            raise WireError("the report stopped half-way.", code="report-incomplete")
        if self.end.count != self._count or self.end.sha256 != self._digest.hexdigest():
            raise WireError("the report is not what its last line says.", code="report-incomplete")
        return self.header


def split_roles(results: EnumerationResults, computers: Iterable[Computer]) -> EnumerationResults:
    """The results with their arrays filled from the lines."""
    listed = tuple(computers)
    return evolve(
        results,
        servers=tuple(computer for computer in listed if computer.is_server),
        workstations=tuple(computer for computer in listed if computer.is_workstation),
        others=tuple(computer for computer in listed if computer.role == "other"),
    )
