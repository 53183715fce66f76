"""Wine and the agent's packages. Collected only by ``nox -s wine``, or when this folder or ``-m wine`` is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from msp_sdk.testing.certificates import EstateCA
from tests.real import need
from tests.wine.authenticode import PUBLISHER, sign
from tests.wine.host import WineHost, wine_host
from tests.wine.package import AgentPackage, build_package, build_program
from tests.wine.prefix import WineRoom

PROGRAMS = ("wine", "wineboot", "wineserver", "wixl", "msibuild", "msiinfo", "osslsigncode", "x86_64-w64-mingw32-gcc")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True, to pass by, unless these tests are asked for."""
    asked = any("wine" in Path(argument.partition("::")[0]).parts for argument in config.args)
    return None if asked or "wine" in config.option.markexpr else True


@pytest.fixture(scope="session")
def tools() -> None:
    need(*PROGRAMS)


@pytest.fixture(scope="session")
def room(tools, tmp_path_factory) -> Iterator[WineRoom]:
    with WineRoom(tmp_path_factory.mktemp("wine")) as room:
        yield room


@pytest.fixture(scope="session")
def template(room) -> Iterator[Path]:
    """The prefix that every host is cloned from."""
    template = room.build_template()
    before = stamps(template)
    yield template
    assert stamps(template) == before, "a host has written through a link into the template"


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file below a folder."""
    return {path: ((seen := path.lstat()).st_size, seen.st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def host(room, template) -> Iterator[WineHost]:
    """A host of its own; what it must never be asked fails the test."""
    with room.prefix(template) as prefix, wine_host(prefix) as host:
        yield host
        assert host.machine.violations == []


@pytest.fixture(scope="session")
def ca() -> EstateCA:
    return EstateCA.make("Msp Test CA")


@pytest.fixture(scope="session")
def packages(tools, tmp_path_factory, ca) -> dict[str, AgentPackage]:
    """Two versions, both signed, and the program inside signed too; by version."""
    folder = tmp_path_factory.mktemp("packages")
    signer = ca.issue_signer(PUBLISHER)
    found = {}
    for version in ("1.0.0", "2.0.0"):
        program = sign(build_program(folder, version), folder / f"signed-{version}.exe", signer)
        package = build_package(folder, version, program)
        path = sign(package.path, folder / f"signed-{version}.msi", signer)
        found[version] = AgentPackage(path, program, version, package.product_code)
    return found
