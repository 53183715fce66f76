"""The documentation is true: its commands and examples are run, its tables are compared with the code."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import msp_sdk
from msp_sdk.wire.routes import ROUTES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_tutorial_by_hand_runs_word_for_word(tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv" / "bin" / "msp").write_text(f'#!/bin/sh\nexec {sys.executable} -m runners.cli "$@"\n')
    for program in (tmp_path / ".venv" / "bin").iterdir():
        program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    by_hand = "".join(re.findall(r"^```sh\n(.*?)^```", text[text.index("by hand\n") :], re.DOTALL | re.MULTILINE))
    assert "8080" in by_hand
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
    # In a session of its own, so that whatever a fault leaves running can be ended.
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", by_hand.replace("8080", str(port))],
        env={**kept, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            output, errors = shell.communicate(timeout=90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output + errors
    assert "not-windows" in output
    assert "12 computers from" in output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_example_compiles_and_imports_what_is_there(page):
    for example in blocks(page, "python"):
        # Some stand for the body of a coroutine.
        tree = ast.parse(compile_source(example))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "msp_sdk":
                assert {alias.name for alias in node.names} <= set(msp_sdk.__all__), page


def compile_source(example: str) -> str:
    """The example, wrapped where it awaits at the top level."""
    try:
        compile(example, "example", "exec")
    except SyntaxError:
        example = "async def example():\n" + "".join(f"    {line}\n" for line in example.splitlines())
        compile(example, "example", "exec")
    return example


def examples_of_the_library() -> list[str]:
    return [example for example in blocks(DOCS / "guides" / "library.md", "python") if "asyncio.run(" in example]


@pytest.mark.parametrize("number", range(len(examples_of_the_library())))
def test_the_library_examples_run(number, tmp_path):
    # Each is a whole program; what it needs from outside is the estate, whose pieces it finds in the environment.
    result = subprocess.run(
        [sys.executable, "-c", examples_of_the_library()[number]],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("page", ["testing.md", "testing-your-own.md"])
def test_the_tests_of_the_testing_guides_run(page, tmp_path):
    examples = blocks(DOCS / "guides" / page, "python")
    tests = [example for example in examples if "def test_" in example]
    assert tests
    for number, example in enumerate(tests):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    (tmp_path / "conftest.py").write_text("".join(example for example in examples if example not in tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert f"{len(tests)} passed" in result.stdout, result.stdout


def test_the_page_of_reasons_is_the_table():
    result = subprocess.run([sys.executable, "docs/reasons.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert result.returncode == 0, "run: python docs/reasons.py"


def test_the_table_of_faults_is_the_code():
    result = subprocess.run([sys.executable, "docs/faults.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert result.returncode == 0, "run: python docs/faults.py"


def commands() -> set[tuple[str, ...]]:
    """Every command that the documents show, as its words up to the first option or value."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in re.findall(r"(?:^|[ /`|])msp ((?:[a-z][a-z-]+ ?)+)", text, re.MULTILINE):
            found.add(tuple(line.split()))
    return found


def test_every_command_in_the_documents_exists():
    from runners.cli.__main__ import make_parser

    def deepest(words: tuple[str, ...]) -> list[str]:
        """The choices at the place where the words stop being commands; empty when they are all taken."""
        parser = make_parser()
        for word in words:
            choices = next((action.choices for action in parser._actions if hasattr(action.choices, "keys")), None)
            if choices is None:
                return []
            if word not in choices:
                return [word]
            parser = choices[word]
        return []

    shown = commands()
    assert ("central", "serve") in shown
    wrong = {words for words in shown if deepest(words)}
    assert not wrong


def test_every_option_in_the_documents_exists():
    from runners.cli.__main__ import make_parser

    def options(parser) -> set[str]:
        found = set(parser._option_string_actions)
        for action in parser._actions:
            if hasattr(action.choices, "values"):
                for child in action.choices.values():
                    found |= options(child)
        return found

    known = options(make_parser())
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                called = re.search(r"(?:^|[ /|])msp [a-z].*", line)
                if called is not None:
                    used = set(re.findall(r"(?<=\s)--[a-z-]+", called.group().partition("|")[0].partition("$(")[0]))
                    assert used <= known, f"{page.name}: {used - known}"


def test_every_route_is_in_the_protocol():
    protocol = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "protocol").glob("*.md"))
    for route in ROUTES:
        last = [part for part in route.path.split("/") if not part.startswith("{")][-1]
        assert re.search(rf"/{re.escape(last)}\b", protocol), f"{route.method} {route.path}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        if "changes.d" not in page.parts:
            assert str(page.relative_to(DOCS)) in navigation, page


def test_change_fragments_are_named_as_towncrier_wants_them():
    kinds = "added|changed|fixed|removed|security|wire"
    for fragment in (DOCS / "changes.d").iterdir():
        assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({kinds})\.md", fragment.name), fragment.name
        assert fragment.read_text(encoding="utf-8").strip().endswith("."), fragment.name


def wire_models() -> list[tuple[str, type]]:
    """Which page has to name every field of which model."""
    from msp_sdk.models import checkin, compliance, computer, credential, domain, provision, rollout, target

    return [
        ("check-in", checkin.CheckinRequest),
        ("check-in", checkin.CheckinReply),
        ("check-in", credential.SealedSecret),
        ("claim", provision.ProvisionRequest),
        ("claim", provision.ClaimRequest),
        ("claim", provision.ClaimReply),
        ("reports", computer.Computer),
        ("reports", compliance.CheckResult),
        ("reports", rollout.Outcome),
        ("reports", domain.DiscoveredDomain),
        ("partner", target.ManualTarget),
        ("partner", credential.NewDomainCredential),
    ]


@pytest.mark.parametrize(("page", "kind"), wire_models(), ids=lambda value: getattr(value, "__name__", value))
def test_the_protocol_names_every_field(page, kind):
    import attrs

    text = (DOCS / "protocol" / f"{page}.md").read_text(encoding="utf-8")
    missing = [entry.name for entry in attrs.fields(kind) if not re.search(rf"\b{entry.name}\b", text)]
    assert not missing
