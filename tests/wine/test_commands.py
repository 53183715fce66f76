"""The list of what a Wine host runs, and the table of exit codes."""

from __future__ import annotations

import pytest

from tests.wine.commands import NotAllowedError, UnknownCodeError, allow, windows_code
from tests.wine.package import DATA_FOLDER, PROGRAM, REGISTRY_KEY, UNINSTALL_KEY

pytestmark = pytest.mark.wine

GUID = "{0E2F4618-AD8E-5E42-940E-BF723EE498E3}"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (r'msiexec /i "C:\Stage\agent-1.0.0.msi" /qn /norestart', "install"),
        (r'msiexec /i "C:\Stage\a.msi" /qn /norestart CENTRAL_URL="https://central.example:8443/s-1"', "install"),
        (f"msiexec /x {GUID} /qn /norestart", "remove"),
        ('sc create MspTestAgent binPath= "C:\\Stage\\agent.exe" start= auto', "sc create"),
        ("sc query MspTestAgent", "sc query"),
        (f'reg query "{UNINSTALL_KEY}\\{GUID}" /v DisplayVersion', "reg query"),
        (f'reg add "{REGISTRY_KEY}" /v CentralUrl /t REG_SZ /d "" /f', "reg add"),
        (rf'copy /y "C:\Stage\agent.exe" "{PROGRAM}"', "copy"),
        (rf'del "{DATA_FOLDER}\heartbeat.log"', "del"),
        (f'"{PROGRAM}" state', "agent"),
    ],
)
def test_what_is_listed_is_known_by_its_rule(line, kind):
    assert allow(line).kind == kind


@pytest.mark.parametrize(
    "line",
    [
        "",
        "powershell -NoProfile -Command exit 1",
        r"certutil -hashfile C:\Stage\agent.msi SHA256",
        r'icacls "C:\Stage" /inheritance:r',
        "sc config MspTestAgent start= disabled",
        "sc query Spooler",
        "sc query MspTestAgent & del *",
        "sc query MspTestAgent\n",
        "sc query MspTestAgent\r\nnetsh",
        'sc create MspTestAgent binPath= "C:\\windows\\system32\\cmd.exe" start= auto',
        r'msiexec /i "C:\Stage\a.msi"',
        r'msiexec /i "C:\Stage\a.msi" /qn /norestart TARGETDIR="C:\x"',
        r'msiexec /i "C:\Stage\a.msi" /qn /norestart CENTRAL_URL="http://central.example"',
        r'msiexec /i "C:\Stage\a.msi" /qn /norestart CENTRAL_URL="https://x" & y"',
        r'msiexec /i "Z:\tmp\a.msi" /qn /norestart',
        r'msiexec /x "C:\Stage\a.msi" /qn /norestart',
        r'del "C:\Stage\..\windows\win.ini"',
        r'del "C:\Stage\..ini"',
        r'del "C:\Stage\*.msi"',
        r'del "C:\Stage\%PATH%.msi"',
        r'type "C:\windows\win.ini"',
        r'reg add "HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Run" /v x /t REG_SZ /d "" /f',
        rf'reg add "{UNINSTALL_KEY}\{GUID}" /v x /t REG_SZ /d "" /f',
        rf'"{PROGRAM}"',
        rf'"{PROGRAM}" state | more',
    ],
)
def test_what_is_not_listed_is_refused(line):
    with pytest.raises(NotAllowedError):
        allow(line)


def test_one_code_of_wine_is_two_of_windows():
    assert windows_code("install", 1627, package_readable=False) == 1620
    assert windows_code("install", 1627, package_readable=True) == 1603
    assert windows_code("sc start", 1, service_exists=False) == 1060
    assert windows_code("sc create", 1, service_exists=True) == 1073


@pytest.mark.parametrize(
    ("kind", "code", "exists"),
    [
        # It could run already, be disabled, or its program could be gone.
        ("sc start", 1, True),
        ("sc create", 1, False),
        # cmd does not know the program; Windows' cmd says it in other ways.
        ("agent", 9009, True),
        ("install", 1618, True),
        ("no such rule", 0, True),
    ],
)
def test_a_code_that_nobody_has_looked_at_is_not_passed_on(kind, code, exists):
    with pytest.raises(UnknownCodeError):
        windows_code(kind, code, service_exists=exists)
