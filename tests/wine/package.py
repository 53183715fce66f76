"""The agent's package, built here: a Windows service in C by mingw-w64, and an MSI around it by wixl.

What it is: ``agent/service.c`` and ``agent/agent.wxs``. The MSI takes the site's URL as the property ``CENTRAL_URL``;
an upgrade without it keeps the old one, a first install without it is refused.

Example:
    >>> program = build_program(folder, "1.0.0")  # doctest: +SKIP
    >>> package = build_package(folder, "1.0.0", program)
    >>> package.product_code
    '{A3F0C0A5-...}'
"""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

from attrs import frozen

SERVICE = "MspTestAgent"
PROGRAM_FOLDER = r"C:\Program Files\Msp Test Agent"
DATA_FOLDER = r"C:\ProgramData\Msp Test Agent"
PROGRAM = rf"{PROGRAM_FOLDER}\agent.exe"
HEARTBEAT = rf"{DATA_FOLDER}\heartbeat.log"
REGISTRY_KEY = r"HKLM\SOFTWARE\Msp Test Agent"
UNINSTALL_KEY = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall"

_SOURCES = Path(__file__).parent / "agent"
_COMPILER = "x86_64-w64-mingw32-gcc"
_PRODUCTS = uuid.UUID("0b8a3c2e-6d1f-4a57-9a55-3f0c5f6f1a77")
_VERSION = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,5}")
# What wixl has no element for. The log, which the service and not the installer has written, goes at the removal.
_REMOVE_LOG = (
    "INSERT INTO RemoveFile (FileKey, Component_, FileName, DirProperty, InstallMode)"
    " VALUES ('RemoveHeartbeat', 'Log', 'heartbeat.log', 'DATA', 2)"
)
_WANT_URL = (
    "INSERT INTO LaunchCondition (Condition, Description)"
    " VALUES ('Installed OR CENTRAL_URL', 'CENTRAL_URL is not given.')"
)


@frozen
class AgentPackage:
    """An MSI and the program inside. ``product_code`` is in braces and upper case; each version has its own."""

    path: Path
    program: Path
    version: str
    product_code: str


def build_program(folder: Path, version: str) -> Path:
    """Compile the service; the path of the program.

    Raises:
        subprocess.CalledProcessError: It does not compile; a warning is an error.
    """
    _check(version)
    program = folder / f"agent-{version}.exe"
    source = str(_SOURCES / "service.c")
    warnings = ("-Wall", "-Wextra", "-Werror")
    named = f'-DAGENT_VERSION="{version}"'
    _run(_COMPILER, "-Os", "-s", *warnings, named, "-o", str(program), source, "-ladvapi32", "-lshell32")
    return program


def build_package(folder: Path, version: str, program: Path) -> AgentPackage:
    """Build the MSI around a program.

    Args:
        folder: Where it is written.
        version: Three numbers; Windows compares no fourth.
        program: What :func:`build_program` has compiled, signed or not.

    Raises:
        subprocess.CalledProcessError: wixl or msibuild refused.
    """
    _check(version)
    path = folder.absolute() / f"agent-{version}.msi"
    code = str(uuid.uuid5(_PRODUCTS, version)).upper()
    defined = {"Version": version, "ProductCode": code, "Program": program.name}
    options = [word for name, value in defined.items() for word in ("-D", f"{name}={value}")]
    # wixl finds a file by a relative path only.
    _run("wixl", "--arch", "x64", *options, "-o", str(path), str(_SOURCES / "agent.wxs"), folder=program.parent)
    _run("msibuild", str(path), "-q", _REMOVE_LOG, "-q", _WANT_URL)
    return AgentPackage(path, program, version, f"{{{code}}}")


def is_readable(package: Path) -> bool:
    """True when msitools, a reader that is not Wine's, can open it and finds a product in it."""
    read = subprocess.run(["msiinfo", "export", str(package), "Property"], capture_output=True, check=False)
    return read.returncode == 0 and b"ProductCode" in read.stdout


def _check(version: str) -> None:
    if not _VERSION.fullmatch(version):
        message = f"no version of three numbers: {version}"
        raise ValueError(message)


def _run(*command: str, folder: Path | None = None) -> None:
    # What they say goes to our own output, for a test to show.
    subprocess.run(command, cwd=folder, check=True)
