"""Run by ``nox -s wheel`` with the interpreter of a clean environment: what was installed is whole.

Takes the source tree's folder as its argument, to compare with; imports nothing from it.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("msp_sdk", "runners", "central_app")
# What needs a package that no extra brings.
NEEDS = {"msp_sdk.testing.pytest_plugin": "pytest"}


def main() -> None:
    """Fail with a sentence, or say how much was checked."""
    source = Path(sys.argv[1]).resolve()
    count = 0
    for name in PACKAGES:
        package = importlib.import_module(name)
        installed = Path(package.__path__[0]).resolve()
        if source in installed.parents:
            sys.exit(f"{name} was imported from the source tree, not from the wheel")
        missing = sorted(
            str(path.relative_to(source))
            for path in (source / name).rglob("*")
            if path.is_file()
            and "__pycache__" not in path.parts
            and not (installed / path.relative_to(source / name)).is_file()
        )
        if missing:
            sys.exit(f"the wheel lacks {', '.join(missing)}")
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            # Migrations are run by Alembic, not imported; a __main__ may run when it is imported.
            if ".migrations." in module.name or module.name.endswith(".__main__"):
                continue
            needed = NEEDS.get(module.name)
            if needed is not None and importlib.util.find_spec(needed) is None:
                continue
            importlib.import_module(module.name)
            count += 1
    if not (Path(importlib.import_module("msp_sdk").__path__[0]) / "py.typed").is_file():
        sys.exit("py.typed is missing")
    names = {entry.name for entry in metadata.entry_points(group="console_scripts")}
    if "msp" not in names:
        sys.exit("the command msp is missing")
    sys.stdout.write(f"{count} modules imported from {metadata.version('msp-sdk')}, nothing is missing\n")


if __name__ == "__main__":
    main()
