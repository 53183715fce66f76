"""How our docstrings become pages: a Griffe extension, named in ``mkdocs.yml``.

The docstrings say ``Example:`` and use Sphinx roles, which editors understand; the builder knows ``Examples:`` and
plain code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|meth|func|data|mod|exc|attr):`~?([^`]+)`")


def as_code(match: re.Match[str]) -> str:
    """``:class:`~a.b.C``` as `` `C` ``; a name without the tilde is kept whole."""
    name = match.group(1)
    return f"`{name.rpartition('.')[2] if '~' in match.group(0) else name}`"


class OurDocstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Griffe calls this once an object is collected."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = ROLE.sub(as_code, text)
