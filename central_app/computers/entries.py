"""What a report of computers says, entry by entry: what can be held becomes a row, what cannot is refused alone.

Pure rules. One value that no table holds must not cost a site its whole reading, and never passes in silence: whoever
reports hears which entries were refused and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from central_app.bodies import check_plain
from central_app.computers.scope import ReportScope, scope_of_report
from central_app.database.folding import fold
from central_app.problems import ProblemError
from central_app.reports import LONGEST_GUID, LONGEST_ID, check_text, refused_entry
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import RefusedEntry
from msp_sdk.models.computer import Computer, EnumerationReport, EnumerationResults, RemovedComputer
from msp_sdk.wire.converter import structure, unstructure
from msp_sdk.wire.ndjson import ARRAYS

REMOVED = "removed"

# Where an entry stands in its report, and what it says.
Entry = tuple[str, object]


@frozen
class ReportHead:
    """A report without its entries.

    Attributes:
        report_id: Unique for its appliance.
        results: Their lists are empty.
        scope: Of the domain, as the report itself said it.
        domain_name: Folded.
    """

    report_id: str
    results: EnumerationResults
    scope: ReportScope
    domain_name: str


@frozen
class Batch:
    """Some entries of a report, judged.

    Attributes:
        rows: Computers, as columns of a table.
        removed: objectGUIDs of computers that are gone, folded.
        refused: What cannot be held.
        refused_guids: Whose entries these were, folded, as far as they say.
    """

    rows: tuple[Mapping[str, Any], ...] = ()
    removed: tuple[str, ...] = ()
    refused: tuple[RefusedEntry, ...] = ()
    refused_guids: tuple[str, ...] = ()


def read_head(data: Mapping[str, Any]) -> ReportHead:
    """The head of a report of results; its lists are not looked at.

    Args:
        data: The document, or the first line of a long one, as JSON says it.

    Raises:
        WireError, ProblemError: It does not fit, or holds what no table can. Not retryable.
    """
    results = data.get("results")
    if not isinstance(results, Mapping):
        raise WireError("a report holds results.", path="results")
    # The whole, so that an error says where it stands in the report.
    whole = structure({**data, "results": {**results, **dict.fromkeys(ARRAYS, ())}}, EnumerationReport)
    check_plain(unstructure(whole))
    said = whole.results
    assert said is not None  # noqa: S101 (for the type checker)
    return ReportHead(
        report_id=check_text(whole.report_id, "report_id", LONGEST_ID),
        results=said,
        scope=scope_of_report(data),
        domain_name=check_text(said.domain_name, "results.domain_name").casefold(),
    )


def entries_of_document(data: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a report that came as one document, or in the first line of a long one.

    Raises:
        WireError: A list is none. Not retryable.
    """
    results = data["results"]
    for name in ARRAYS:
        listed = results.get(name, [])
        if not isinstance(listed, list):
            path = f"results.{name}"
            raise WireError("the message does not fit.", path=path, errors=((path, "is not a list"),))
        for number, entry in enumerate(listed):
            yield f"results.{name}[{number}]", {REMOVED: entry} if name == REMOVED else entry


def read_entries(entries: Iterable[Entry]) -> Batch:
    """Judge entries, each alone."""
    rows: list[Mapping[str, Any]] = []
    removed: list[str] = []
    refused: list[RefusedEntry] = []
    guids: list[str] = []
    for path, data in entries:
        try:
            if isinstance(data, Mapping) and set(data) == {REMOVED}:
                removed.append(_removed(data[REMOVED]))
            else:
                rows.append(_computer(data))
        except (WireError, ProblemError) as error:
            refused.append(refused_entry(path, error))
            guids += _guid(data)
    return Batch(tuple(rows), tuple(removed), tuple(refused), tuple(guids))


def _computer(data: object) -> dict[str, Any]:
    """A computer as columns of its row. What the model does not know is not kept."""
    computer = structure(data, Computer)
    plain = unstructure(computer)
    check_plain(plain)
    if computer.fqdn is not None:
        check_text(computer.fqdn, "fqdn")
    return {
        "object_guid": check_text(computer.object_guid, "object_guid", LONGEST_GUID).casefold(),
        "hostname": check_text(computer.hostname, "hostname"),
        "fqdn": computer.fqdn,
        "folded_hostname": fold(computer.hostname),
        "folded_fqdn": fold(computer.fqdn),
        "role": computer.role,
        "data": plain,
    }


def _removed(data: object) -> str:
    gone = structure(data, RemovedComputer)
    check_plain(gone.object_guid)
    return check_text(gone.object_guid, "object_guid", LONGEST_GUID).casefold()


def _guid(data: object) -> tuple[str, ...]:
    """Whose entry this was, if it says so in a way that can be looked up."""
    inner = data.get(REMOVED, data) if isinstance(data, Mapping) else None
    guid = inner.get("object_guid") if isinstance(inner, Mapping) else None
    try:
        check_plain(guid)
        return (check_text(guid, "object_guid", LONGEST_GUID).casefold(),) if isinstance(guid, str) else ()
    except (WireError, ProblemError):
        return ()
