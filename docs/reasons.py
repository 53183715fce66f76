"""Writes the table of reasons into ``guides/trouble.md``; with ``--check`` it only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from msp_sdk.models.reason import REASONS

PAGE = Path(__file__).parent / "guides" / "trouble.md"
BEGIN, END = "<!-- reasons: begin -->\n", "<!-- reasons: end -->\n"


def table() -> str:
    """One row a reason, in the order of the code's table."""
    rows = [f"| `{entry.code}` | {entry.title} | {entry.remedy or 'Nothing needs doing.'} |" for entry in REASONS.values()]
    return "\n".join(["", "| code | what is the case | what to do |", "|---|---|---|", *rows, "", ""])


def main() -> int:
    """Write the page, or compare it; returns the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    wanted = f"{head}{BEGIN}{table()}{END}{tail}"
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
