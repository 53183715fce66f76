"""Guards of the house: what holds for the whole tree, whoever changes it."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import tomllib
import typing
from collections import Counter
from pathlib import Path

import attrs
import pytest

import msp_sdk
from msp_sdk import errors
from msp_sdk.errors import MspError
from msp_sdk.models.compliance import ScanReport
from msp_sdk.models.computer import EnumerationReport
from msp_sdk.models.domain import DiscoveryReport
from msp_sdk.models.reason import REASONS, reason, remedy_of
from msp_sdk.models.rollout import DeploymentReport
from msp_sdk.models.runbook import RunbookReport
from msp_sdk.models.target import TargetsReport
from msp_sdk.secret import Secret
from msp_sdk.wire.routes import ROUTES

ROOT = Path(__file__).parents[2]
PACKAGES = ("msp_sdk", "runners", "central_app")
LINES_AT_MOST = 500
REPORTS = (DiscoveryReport, EnumerationReport, TargetsReport, DeploymentReport, ScanReport, RunbookReport)


def tree(*endings: str) -> list[Path]:
    """The project's own files with one of these endings."""
    folders = [ROOT / name for name in (*PACKAGES, "tests", "docs", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in files if path.suffix in endings and "__pycache__" not in path.parts)


def modules() -> list[str]:
    found = list(PACKAGES)
    for name in PACKAGES:
        found += [module.name for module in pkgutil.walk_packages([str(ROOT / name)], f"{name}.")]
    # Migrations are run by Alembic and need its context; a __main__ may run when it is imported.
    return [name for name in found if ".migrations." not in name and not name.endswith(".__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported(name):
    importlib.import_module(name)


def test_the_public_face_is_exact():
    listed = msp_sdk.__all__
    assert list(listed) == sorted(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert getattr(msp_sdk, name) is not None
    public = {
        name for name, value in vars(msp_sdk).items() if not name.startswith("_") and not inspect.ismodule(value)
    } - {"annotations", "Any", "TYPE_CHECKING"}
    assert public <= set(listed), f"importable but not listed: {sorted(public - set(listed))}"


def test_every_error_stands_in_the_drawn_tree():
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, MspError):
            assert re.search(rf"\b{name}\b", drawn), f"{name} is missing in the docstring of errors.py"


def test_no_error_of_ours_is_defined_beside_the_tree():
    # A child that one package needs inside, such as for its retry policy, is fine; an exported one is not.
    for name in (name for name in modules() if name.startswith("msp_sdk.")):
        module = importlib.import_module(name)
        for symbol, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == name:
                exported = symbol in getattr(importlib.import_module(name.rpartition(".")[0]), "__all__", ())
                assert name == "msp_sdk.errors" or not exported, f"{name}.{symbol} belongs into errors.py"


def test_nothing_is_mocked():
    for path in tree(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert not re.match(r"(unittest\.)?mock\b|pytest_mock\b|monkeytype\b", name), f"{path}: {name}"


def test_no_file_is_longer_than_can_be_read():
    long = {
        str(path.relative_to(ROOT)): count
        for path in tree(".py", ".js", ".css", ".html", ".ps1")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES_AT_MOST
    }
    assert not long


def held_by(kind: object, seen: set[object]) -> set[object]:
    """All types that a value of this kind can hold, through its fields."""
    if kind in seen:
        return seen
    seen.add(kind)
    for argument in typing.get_args(kind):
        held_by(argument, seen)
    if isinstance(kind, type) and attrs.has(kind):
        for entry in attrs.fields(attrs.resolve_types(kind)):
            held_by(entry.type, seen)
    return seen


@pytest.mark.parametrize("report", REPORTS)
def test_no_report_can_hold_a_secret(report):
    # Reports wait on disk until they are acknowledged: lesson 15.
    assert Secret not in held_by(report, set())
    assert len(held_by(report, set())) > 3


def test_the_search_for_secrets_finds_one():
    from msp_sdk.models.checkin import CheckinReply

    assert Secret in held_by(CheckinReply, set())


def test_routes_are_unique_and_spelled_alike():
    assert len(ROUTES) > 30
    doubled = [call for call, count in Counter((route.method, route.path) for route in ROUTES).items() if count > 1]
    assert not doubled
    for route in ROUTES:
        assert re.fullmatch(r"(/([a-z0-9-]+|{[a-z0-9_]+}))+", route.path), route.path
        assert route.method != "GET" or route.idempotent


def test_every_reason_has_a_title_and_a_full_sentence_as_remedy():
    for code, entry in REASONS.items():
        assert code == entry.code
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code), code
        assert entry.title.endswith("."), code
        assert not entry.remedy or entry.remedy.endswith("."), code
        assert reason(code) is entry


def test_no_reason_is_listed_twice():
    from msp_sdk.models import reason as module

    codes = [entry.code for entry in module._TABLE]
    assert len(set(codes)) == len(codes)


def test_an_unknown_reason_is_a_defect_here_and_tolerated_from_a_newer_peer():
    with pytest.raises(MspError):
        reason("no-such-reason")
    assert remedy_of("no-such-reason") == ""


def test_no_tracked_file_tells_of_the_machine_it_was_made_on():
    # Spelled in pieces, so that this file does not find itself.
    told = re.compile("|".join(("/ro" + r"ot/", "/wo" + r"rk/", "/ho" + r"me/\w+/", r"\.py" + "env", "/tm" + r"p/w\b")))
    found = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tree(".py", ".md", ".toml", ".yml", ".yaml", ".js", ".css", ".html", ".ps1", ".ini", ".cfg", "")
        if (match := told.search(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_readme_and_the_build_run_the_same_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^.*\.venv/bin/nox$", readme, re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_nox_and_the_dev_extra_install_the_same_tools():
    nox = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        node.value
        for assignment in nox.body
        if isinstance(assignment, ast.Assign) and getattr(assignment.targets[0], "id", "").endswith("_TOOLS")
        for node in ast.walk(assignment.value)
        if isinstance(node, ast.Constant)
    }
    assert wanted <= {*extras["dev"], *extras["docs"]}
    # A tool of the tests that only the extra has would be missing where nox runs them.
    assert {*extras["dev"], *extras["docs"]} - wanted == {
        "msp-sdk[appliance,central,docs,testing]",
        "nox>=2024.10",
    }


def test_the_readme_imports_what_the_library_exports():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    compile(example, "README.md", "exec")
    if not msp_sdk.__all__:
        pytest.skip("nothing is exported yet")
    imported = {
        alias.name
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.ImportFrom) and node.module == "msp_sdk"
        for alias in node.names
    }
    assert imported <= set(msp_sdk.__all__)


def test_the_build_script_is_a_valid_script():
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_the_reference_lists_every_module_of_its_floors():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    wanted = {
        name
        for name in modules()
        if re.fullmatch(r"msp_sdk\.((models|wire|security|network)\.\w+|errors|secret)", name)
        and not name.rpartition(".")[2].startswith("_")
    }
    assert wanted - shown == set()
    for name in shown:
        importlib.import_module(name)


def test_documents_link_to_documents_that_are_there():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page}: {target}"
