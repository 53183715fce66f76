"""What Central refused for good and has not got in another way since: a loss that somebody must hear of.

It is kept over restarts. A report heals what an older one of the same matter left open; of a directory only a full one
does, since the changes after a lost one do not hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from msp_sdk.errors import WireError
from msp_sdk.models.generation import ENUMERATION
from msp_sdk.wire.converter import loads

REPORT_REFUSED = "report-refused"
ENTRIES_REFUSED = "entries-refused"


@frozen
class Matter:
    """What a report is about.

    Attributes:
        name: Such as ``enumeration:corp.example`` or ``targets``.
        is_whole: It says all there is to say of it.
    """

    name: str
    is_whole: bool = True


def enumeration_matter(domain_name: str) -> str:
    """The name of what an enumeration of this domain is about."""
    return f"{ENUMERATION}:{domain_name.casefold()}"


def matter_of(kind: str, content: bytes) -> Matter:
    """What a report is about.

    Args:
        kind: The name of its model.
        content: As it is kept; what cannot be read is about its kind.
    """
    plain = Matter(kind.removesuffix("Report").lower())
    if kind != "EnumerationReport":
        return plain
    try:
        data: Any = loads(content)
        results = data.get("results")
        said = results or data["failed"]
        return Matter(
            enumeration_matter(said.get("domain_name") or ""), results is not None and results["kind"] == "full"
        )
    except (WireError, AttributeError, KeyError, TypeError):
        return plain


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

    @property
    def standing(self) -> Mapping[str, str]:
        """By the name of the matter, ``report-refused`` or ``entries-refused``; empty when all is well."""
        return dict(self._standing)

    def note(self, matter: Matter, code: str) -> None:
        """Something of this matter was refused; a whole report weighs more than some of its entries."""
        if self._standing.get(matter.name) not in (code, REPORT_REFUSED):
            self._save({**self._standing, matter.name: code})

    def heal(self, matter: Matter) -> None:
        """Central has all of this matter, if the report was a whole one."""
        if matter.is_whole and matter.name in self._standing:
            self._save({name: code for name, code in self._standing.items() if name != matter.name})

    def _save(self, standing: dict[str, str]) -> None:
        self._standing = standing
        self._write(self._path, json.dumps(standing).encode())


def _load(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(code) for name, code in data.items()} if isinstance(data, dict) else {}
