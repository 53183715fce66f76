"""The one door to every check of this project. ``nox`` alone runs the tests; ``nox -l`` lists the rest.

The real parts (Samba, Chromium) are used where they are installed; where they are missing their tests are skipped
with the reason, or fail when ``MSP_REQUIRE_REAL=1``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

HERE = Path(__file__).parent
USED_EXTRAS = "central,appliance,testing"
# What the tests need besides the package. Versions are those of the `dev` extra in pyproject.toml.
TEST_TOOLS = (
    "anyio>=4",
    "hypothesis>=6.100",
    "playwright>=1.49",
    "psutil>=6",
    "pypsrp>=0.9",
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "tree-sitter>=0.25",
    "tree-sitter-powershell>=0.26",
)
LINT_TOOLS = ("ruff>=0.8", "import-linter>=2.1", "towncrier>=24.8")
TYPE_TOOLS = ("mypy>=1.13", "types-PyYAML", "types-psutil", "types-requests", *TEST_TOOLS)
# What we are measured against; no test needs them. They are built here, from C, with Debian's headers.
BENCH_PEERS = ("python-ldap>=3.4", "bonsai>=1.5")
BENCH_HEADERS = "gcc python3-dev libldap-dev libsasl2-dev"
# What Wine's tests run, and Debian's package of each.
WINE_PROGRAMS = {
    "wine": "wine",
    "/usr/lib/wine/wine64": "wine64",
    "msiinfo": "msitools",
    "wixl": "wixl",
    "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64-win32",
    "osslsigncode": "osslsigncode",
}
DOC_TOOLS = ("zensical", "mkdocstrings-python>=1.12")


def install_package(session: nox.Session, *tools: str, extras: str = USED_EXTRAS) -> None:
    session.install("-e", f".[{extras}]", *tools)


def test_extras(session: nox.Session) -> str:
    """With the extra for Kerberos, where it can be built; with ``MSP_REQUIRE_REAL=1`` it must be."""
    if shutil.which("krb5-config") or os.environ.get("MSP_REQUIRE_REAL") == "1":
        return f"{USED_EXTRAS},kerberos"
    session.log("krb5-config is not installed (libkrb5-dev): the tests of Kerberos are skipped")
    return USED_EXTRAS


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; arguments after ``--`` go to pytest."""
    extras = test_extras(session)
    # pywinrm as its users have it for Kerberos; ours needs none of that.
    foreign = ("pywinrm[kerberos]",) if "kerberos" in extras else ()
    install_package(session, *TEST_TOOLS, *foreign, extras=extras)
    # They wait for real servers more than they compute; a file stays together, because its tests share a controller.
    # In the order of their names the slow ones, of few tests each, come before the many quick ones of `unit`.
    # The many processes that they start read compiled files, also where the shell's environment wants none written.
    session.run(
        "pytest",
        *(session.posargs or ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")),
        env={"PYTHONDONTWRITEBYTECODE": ""},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, the floors, and the change fragments."""
    install_package(session, *LINT_TOOLS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    # A fragment with a wrong name or kind would silently be left out of the changelog.
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    kinds = {"added", "changed", "fixed", "removed", "security", "wire"}
    for fragment in sorted((HERE / "docs" / "changes.d").iterdir()):
        kind = fragment.name.split(".")[1:2]
        if fragment.suffix != ".md" or not kinds.issuperset(kind):
            session.error(f"{fragment} is no change fragment: NAME.KIND.md with a kind of {sorted(kinds)}")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the packages, and of what a user of the library writes (``tests/typing``)."""
    install_package(session, *TYPE_TOOLS)
    session.run("mypy")
    session.run("mypy", *(str(path) for path in sorted((HERE / "tests" / "typing").glob("*.py"))))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``site/``; a broken link is an error."""
    session.install(*DOC_TOOLS)
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def demo(session: nox.Session) -> None:
    """The whole job on this machine, to its end, on the extras that a user installs and nothing else."""
    install_package(session)
    session.run("msp", "demo", "--exit-when-complete", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios within one run; nothing is asserted. ``nox -s bench -- directory`` runs that one alone."""
    chosen, options = (session.posargs[0], session.posargs[1:]) if session.posargs else ("", ())
    if chosen not in ("", "ratios", "directory", "probe", "windows"):
        session.error("`nox -s bench -- ` takes ratios, directory, probe or windows; --help after it tells more")
    install_package(session, *TEST_TOOLS)
    if chosen in ("", "ratios"):
        session.run("pytest", "tests/bench", "--benchmark-only", "--benchmark-group-by=group", *options)
    if chosen in ("", "directory"):
        for peer in BENCH_PEERS:
            try:
                session.run("python", "-m", "pip", "install", "-q", peer, silent=True)
            except nox.command.CommandFailed:
                # Its output says why; the bench says again what it did without.
                session.warn(f"{peer} is left out. To build it: apt-get install -y {BENCH_HEADERS}")
        session.run("python", "-m", "tests.bench.directory", *options)
    if chosen in ("", "probe"):
        session.run("python", "-m", "tests.bench.probe", *options)
    if chosen in ("", "windows"):
        session.run("python", "-m", "tests.bench.windows", *options)


@nox.session
def wine(session: nox.Session) -> None:
    """The agent's package in Wine: built, signed, installed, upgraded, removed. No part of the other sessions."""
    missing = [package for program, package in WINE_PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        reason = f"not installed: apt-get install -y --no-install-recommends {' '.join(missing)}"
        session.error(reason) if os.environ.get("MSP_REQUIRE_REAL") == "1" else session.skip(reason)
    install_package(session, *TEST_TOOLS)
    session.run("pytest", "tests/wine", *session.posargs)


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """The built wheel in a clean environment, used from another folder: a flat layout hides packaging faults."""
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder)
        session.install("build", "hatchling>=1.25")
        session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, silent=True)
        (built,) = elsewhere.glob("*.whl")
        session.run("python", "-m", "venv", str(elsewhere / "clean"), silent=True)
        programs = elsewhere / "clean" / ("Scripts" if os.name == "nt" else "bin")
        python = str(programs / "python")
        session.run(python, "-m", "pip", "install", "-q", f"{built}[{USED_EXTRAS}]", external=True)
        shutil.copy(HERE / "tests" / "check_wheel.py", elsewhere)
        with session.chdir(elsewhere):
            # -I: neither this folder nor the environment puts the source tree on the path.
            session.run(python, "-I", "check_wheel.py", str(HERE), external=True)
            session.run(str(programs / "msp"), "--help", external=True, silent=True)
