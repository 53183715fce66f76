"""What Central refused for good and has not got in another way since: a loss that somebody must hear of.

It is kept over restarts. A report that says all there is to say of its matter heals what an older one left open. Others
speak of some computers or hosts alone: after a lost one the matter stands until it is said anew, or is no more.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from msp_sdk.errors import WireError
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.wire.converter import dumps, loads

REPORT_REFUSED = "report-refused"
ENTRIES_REFUSED = "entries-refused"


@frozen
class Matter:
    """What a report is about.

    Attributes:
        name: Such as ``enumeration:corp.example``, ``deployment:<rollout>`` or ``targets``.
        is_whole: It says all there is to say of it.
    """

    name: str
    is_whole: bool = False


# Lists whose entries speak for themselves. Central judges the others entry by entry.
_LISTS = {"DeploymentReport": "deployments", "ScanReport": "results", "RunbookReport": "results"}
_LONGEST_SHOWN = 80
_WHOLE = frozenset({"TargetsReport", "DiscoveryReport"})


def enumeration_matter(domain_name: str) -> str:
    """The name of what an enumeration of this domain is about."""
    return f"{ENUMERATION}:{domain_name.casefold()}"


def deployment_matter(rollout_id: str) -> str:
    """The name of what the outcomes of this rollout are about."""
    return f"deployment:{rollout_id}"


def matter_of(kind: str, content: bytes) -> Matter:
    """What a report is about.

    Args:
        kind: The name of its model.
        content: As it is kept; what cannot be read is about its kind.
    """
    plain = Matter(kind.removesuffix("Report").lower(), is_whole=kind in _WHOLE)
    if kind not in ("EnumerationReport", "DeploymentReport"):
        return plain
    try:
        data: Any = loads(content)
        if kind == "DeploymentReport":
            return Matter(deployment_matter(data.get("rollout_id") or ""))
        results = data.get("results")
        domain_name = (results or data["failed"]).get("domain_name") or ""
        # That there is no domain to read is all there is to say of none.
        return Matter(enumeration_matter(domain_name), results["kind"] == "full" if results else not domain_name)
    except (WireError, AttributeError, KeyError, TypeError):
        return plain


@frozen
class Rest:
    """A report without some of its entries, and whose these were: the path that Central named, and the host."""

    content: bytes
    left_out: tuple[str, ...]


def without_named(kind: str, content: bytes, problem: Mapping[str, object]) -> Rest | None:
    """A report without the entries that Central named when it refused all of it; each speaks for its own host.

    Args:
        kind: The name of its model.
        content: As it is kept.
        problem: Central's answer.

    Returns:
        None where no entry is named, or nothing would be left.
    """
    name, errors = _LISTS.get(kind), problem.get("errors")
    if name is None or not isinstance(errors, list):
        return None
    paths = [str(error.get("path")) for error in errors if isinstance(error, Mapping)]
    places = {int(found[1]): path for path in paths if (found := re.match(rf"{name}\[(\d+)\]", path))}
    data: Any = loads(content)
    rest = [entry for number, entry in enumerate(data[name]) if number not in places]
    if not rest or len(rest) == len(data[name]):
        return None
    left_out = (f"{places[number]} of {_host_of(data[name][number])}" for number in sorted(places))
    return Rest(dumps({**data, name: rest}), tuple(left_out))


def _host_of(entry: object) -> str:
    """What an entry calls its host, fit for a log: it may be just what Central could not hold."""
    return ascii(entry.get("hostname") if isinstance(entry, dict) else None)[:_LONGEST_SHOWN]


class Refusals:
    """What stands refused, by the name of the matter, as codes.

    Args:
        path: The file; absent means nothing, and so does a damaged one.
        write: Writes a file whole.
    """

    def __init__(self, path: Path, write: Callable[[Path, bytes], None]) -> None:
        self._path = path
        self._write = write
        self._standing = _load(path)
        self._changing = threading.Lock()

    @property
    def standing(self) -> Mapping[str, str]:
        """By the name of the matter, ``report-refused`` or ``entries-refused``; empty when all is well."""
        return dict(self._standing)

    def note(self, matter: Matter, code: str) -> None:
        """Something of this matter was refused; a whole report weighs more than some of its entries."""
        with self._changing:
            if self._standing.get(matter.name) not in (code, REPORT_REFUSED):
                self._save({**self._standing, matter.name: code})

    def heal(self, matter: Matter) -> None:
        """Central has all of this matter, if the report was a whole one."""
        if matter.is_whole:
            self.clear(matter.name)

    def clear(self, name: str) -> None:
        """The matter of this name is no more, or is about to be said anew."""
        with self._changing:
            if name in self._standing:
                self._save({other: code for other, code in self._standing.items() if other != name})

    def _save(self, standing: dict[str, str]) -> None:
        # Written first: where that fails, the next report says it again.
        self._write(self._path, json.dumps(standing).encode())
        self._standing = standing


def _load(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(code) for name, code in data.items()} if isinstance(data, dict) else {}
