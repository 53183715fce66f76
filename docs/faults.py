"""Writes the table of faults into the guide; with ``--check`` it only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from msp_sdk.testing.estate_faults import LAYERS, TROUBLES

PAGE = Path(__file__).parent / "guides" / "testing-your-own.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->\n"


def render() -> str:
    """The table, in the order of the layers."""
    rows = ["| name | layer | what is the case | right to find |", "|---|---|---|---|"]
    for trouble in sorted(TROUBLES.values(), key=lambda each: LAYERS.index(each.layer)):
        right = [f"`{code}`" for code in (trouble.truth, *trouble.or_else) if code]
        if trouble.truth is None:
            right.insert(0, "all goes well")
        rows.append(f"| `{trouble.name}` | {trouble.layer} | {trouble.says} | {', or '.join(right)} |")
    return "\n" + "\n".join(rows) + "\n\n"


def main() -> int:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.rpartition(END)
    wanted = f"{head}{BEGIN}{render()}{END}{tail}"
    if "--check" in sys.argv[1:]:
        return 0 if text == wanted else 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
