r"""Which command lines a Wine host runs, and what their exit codes are on Windows. No I/O.

Wine's stubs of PowerShell, certutil, icacls, netsh, schtasks and others succeed at everything, so what is not listed
here is refused. What is listed was seen to do its work; of ``sc`` and ``msiexec`` only the exit code counts.

Example:
    >>> allow("sc query MspTestAgent").kind
    'sc query'
    >>> windows_code("sc query", 1, service_exists=False)
    1060
"""

from __future__ import annotations

import re

from attrs import frozen

from tests.wine.package import DATA_FOLDER, PROGRAM_FOLDER, REGISTRY_KEY, SERVICE, UNINSTALL_KEY

STAGE_FOLDER = r"C:\Stage"


class NotAllowedError(Exception):
    """A command line that is not listed."""


class UnknownCodeError(Exception):
    """An exit code of Wine whose meaning on Windows we do not know."""


@frozen
class Allowed:
    """A command line that is run.

    Attributes:
        kind: The name of its rule.
        line: As it was given.
        shows: Its output is Windows' too, or our own program's; else it is dropped.
        package: The file name of the package that it installs, in the stage folder; else empty.
    """

    kind: str
    line: str
    shows: bool
    package: str = ""


def _any_of(*texts: str) -> str:
    return "(?:" + "|".join(re.escape(text) for text in texts) + ")"


# No name may start with a dot, and none holds a separator: nothing leads out of the three folders.
_NAME = r"\w[\w-]*(?:\.\w[\w-]*)+"
_STAGED = rf'"{re.escape(STAGE_FOLDER)}\\{_NAME}"'
_FILE = rf'"{_any_of(STAGE_FOLDER, PROGRAM_FOLDER, DATA_FOLDER)}\\{_NAME}"'
_GUID = r"\{[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}\}"
_KEY = rf'"(?:{re.escape(REGISTRY_KEY)}|{re.escape(UNINSTALL_KEY)}\\{_GUID})"'
_OWN_KEY = rf'"{re.escape(REGISTRY_KEY)}"'
_URL = r"https://[\w.:/-]+"
_AGENT = rf'"{_any_of(STAGE_FOLDER, PROGRAM_FOLDER)}\\agent\.exe"'
_SWITCHES = "/qn /norestart"

_SHOWS = ("reg query", "type", "agent")
_RULES = tuple(
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in (
        (
            "install",
            rf'msiexec /i "{re.escape(STAGE_FOLDER)}\\(?P<package>{_NAME})" {_SWITCHES}(?: CENTRAL_URL="{_URL}")?',
        ),
        ("remove", rf"msiexec /x {_GUID} {_SWITCHES}"),
        ("sc create", rf"sc create {SERVICE} binPath= {_STAGED} start= (?:auto|demand)"),
        ("sc start", rf"sc start {SERVICE}"),
        ("sc stop", rf"sc stop {SERVICE}"),
        ("sc delete", rf"sc delete {SERVICE}"),
        ("sc query", rf"sc query {SERVICE}"),
        ("reg query", rf"reg query {_KEY}(?: /v \w+)?"),
        ("reg add", rf'reg add {_OWN_KEY} /v \w+ /t REG_SZ /d "(?:{_URL})?" /f'),
        ("copy", rf"copy /y {_FILE} {_FILE}"),
        ("del", rf"del {_FILE}"),
        ("type", rf"type {_FILE}"),
        ("agent", rf"{_AGENT} (?:state|version)"),
    )
)

# Wine's exit code -> Windows'. Wine's were measured with Wine 8.0; Windows' are of
# [msi] learn.microsoft.com/windows/win32/msi/error-codes,
# [win32] Windows' winerror.h, which our own program and reg.exe and sc.exe end with; that sc.exe does is [from memory].
_CODES: dict[tuple[str, int], int] = {
    ("install", 0): 0,
    ("install", 2): 1619,  # [msi] ERROR_INSTALL_PACKAGE_OPEN_FAILED: there is no such file
    ("install", 1603): 1603,  # [msi] ERROR_INSTALL_FAILURE: a launch condition, such as a newer version
    ("remove", 0): 0,
    ("remove", 1605): 1605,  # [msi] ERROR_UNKNOWN_PRODUCT
    ("sc create", 0): 0,
    ("sc start", 0): 0,
    ("sc stop", 0): 0,
    ("sc delete", 0): 0,
    ("sc query", 0): 0,
    ("reg query", 0): 0,
    ("reg query", 1): 1,  # [from memory] reg.exe ends with 0 or 1
    ("reg add", 0): 0,
    ("copy", 0): 0,
    ("copy", 1): 1,  # [from memory] as the next three
    ("del", 0): 0,  # also when there is no such file, on both
    ("type", 0): 0,
    ("type", 1): 1,
    ("agent", 0): 0,
    ("agent", 1060): 1060,  # [win32] ERROR_SERVICE_DOES_NOT_EXIST
}
_FUNCTION_FAILED = 1627
_SC_FAILED = 1


def allow(line: str) -> Allowed:
    """The rule for a command line.

    Raises:
        NotAllowedError: There is none.
    """
    for kind, pattern in _RULES:
        found = pattern.fullmatch(line)
        if found:
            return Allowed(kind, line, kind in _SHOWS, found.groupdict().get("package") or "")
    raise NotAllowedError(line)


def windows_code(kind: str, code: int, *, package_readable: bool = True, service_exists: bool = True) -> int:
    """The exit code that Windows has for Wine's.

    Args:
        kind: As :class:`Allowed` has it.
        code: Wine's, all of its bits.
        package_readable: Another reader than Wine's can open the package.
        service_exists: As it was before the command.

    Raises:
        UnknownCodeError: It could mean several things, or nobody has looked what it means.
    """
    if kind == "install" and code == _FUNCTION_FAILED:
        # Wine's one answer for a package that it cannot read and for any action that failed.
        return 1603 if package_readable else 1620  # [msi] ERROR_INSTALL_FAILURE, ERROR_INSTALL_PACKAGE_INVALID
    if kind == "sc create" and code == _SC_FAILED and service_exists:
        return 1073  # [win32] ERROR_SERVICE_EXISTS
    if kind.startswith("sc ") and kind != "sc create" and code == _SC_FAILED and not service_exists:
        return 1060  # [win32] ERROR_SERVICE_DOES_NOT_EXIST
    try:
        return _CODES[kind, code]
    except KeyError:
        raise UnknownCodeError(f"{kind}: {code}") from None
