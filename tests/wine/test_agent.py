"""The agent's package on a host whose installer and service manager are Wine's, worked with over WS-Management."""

from __future__ import annotations

import time

import pytest

from tests.wine.commands import STAGE_FOLDER
from tests.wine.package import (
    DATA_FOLDER,
    HEARTBEAT,
    PROGRAM,
    PROGRAM_FOLDER,
    REGISTRY_KEY,
    SERVICE,
    UNINSTALL_KEY,
)
from tests.wine.prefix import is_running

pytestmark = [pytest.mark.slow, pytest.mark.wine]

URL = "https://central.example/site-1"
RUNNING, STOPPED = "4 0", "1 0"
STOPPED_WITHOUT_URL = "1 2"


def install(host, package, url=None):
    host.stage(package.path, f"agent-{package.version}.msi")
    given = f' CENTRAL_URL="{url}"' if url else ""
    code, _ = host.run(rf'msiexec /i "{STAGE_FOLDER}\agent-{package.version}.msi" /qn /norestart{given}')
    return code


def agent(host, what):
    """What the program says through Windows' own functions."""
    return host.run(f'"{PROGRAM}" {what}')


def eventually(ask, wanted, within_s=20):
    """The first answer that is wanted; the last one when there was none in time."""
    until = time.monotonic() + within_s
    while not wanted(answer := ask()) and time.monotonic() < until:
        time.sleep(0.2)
    return answer


def beats(host, version):
    """The newest line of the heartbeat's log, once it is of this version."""

    def last():
        code, text = host.run(f'type "{HEARTBEAT}"')
        return text.splitlines()[-1] if code == 0 and text else ""

    return eventually(last, lambda line: f" {version} " in line)


def state_of(host, packages):
    """All that an install leaves: service, values, products, program and its digest."""
    products = [
        package.version
        for package in packages.values()
        if host.run(rf'reg query "{UNINSTALL_KEY}\{package.product_code}" /v DisplayVersion')[0] == 0
    ]
    folder = host.prefix.path(PROGRAM_FOLDER)
    files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    service = agent(host, "state") if files else host.run(f"sc query {SERVICE}")[0]
    return products, host.run(f'reg query "{REGISTRY_KEY}"'), service, files


def test_an_installed_agent_runs_and_beats_for_its_site(host, packages):
    assert install(host, packages["1.0.0"], URL) == 0
    assert agent(host, "version") == (0, "1.0.0")
    assert agent(host, "state") == (0, RUNNING)
    assert beats(host, "1.0.0").endswith(f" 1.0.0 {URL}")
    assert host.prefix.path(PROGRAM).read_bytes() == packages["1.0.0"].program.read_bytes()


def test_an_upgrade_keeps_the_site_and_runs_the_new_version(host, packages):
    assert install(host, packages["1.0.0"], URL) == 0
    assert install(host, packages["2.0.0"]) == 0
    # "The service runs" says nothing of which one does: lesson 41.
    assert agent(host, "version") == (0, "2.0.0")
    assert agent(host, "state") == (0, RUNNING)
    assert beats(host, "2.0.0").endswith(f" 2.0.0 {URL}")
    products, *_ = state_of(host, packages)
    assert products == ["2.0.0"]


def test_a_given_site_wins_over_the_kept_one(host, packages):
    assert install(host, packages["1.0.0"], URL) == 0
    assert install(host, packages["2.0.0"], "https://central.example/other") == 0
    assert beats(host, "2.0.0").endswith(" 2.0.0 https://central.example/other")


def test_a_first_install_without_a_site_is_refused_and_leaves_nothing(host, packages):
    assert install(host, packages["1.0.0"]) == 1603
    assert state_of(host, packages) == ([], (1, ""), 1060, None)


def test_a_broken_package_leaves_the_old_version_running(host, packages):
    assert install(host, packages["1.0.0"], URL) == 0
    before = state_of(host, packages)
    whole = packages["2.0.0"].path.read_bytes()
    for size in (len(whole) // 2, 1000, 0):
        host.prefix.path(rf"{STAGE_FOLDER}\cut.msi").write_bytes(whole[:size])
        assert host.run(rf'msiexec /i "{STAGE_FOLDER}\cut.msi" /qn /norestart')[0] == 1620
    assert host.run(rf'msiexec /i "{STAGE_FOLDER}\none.msi" /qn /norestart')[0] == 1619
    assert state_of(host, packages) == before
    assert before[2] == (0, RUNNING)


def test_an_older_version_is_refused_and_the_new_one_stays(host, packages):
    assert install(host, packages["2.0.0"], URL) == 0
    before = state_of(host, packages)
    assert install(host, packages["1.0.0"], URL) == 1603
    assert state_of(host, packages) == before


def test_a_removal_leaves_nothing(host, packages):
    package = packages["1.0.0"]
    remove = f"msiexec /x {package.product_code} /qn /norestart"
    assert host.run(remove)[0] == 1605
    assert install(host, package, URL) == 0
    assert beats(host, "1.0.0")
    # The search below would find it.
    assert host.prefix.path(DATA_FOLDER).exists()
    assert host.run(remove)[0] == 0
    assert state_of(host, packages) == ([], (1, ""), 1060, None)
    assert host.run(remove)[0] == 1605
    host.prefix.stop()
    names = [path for path in host.prefix.folder.rglob("*") if "msp test" in path.name.lower()]
    registry = (host.prefix.folder / "system.reg").read_text(encoding="latin-1")
    assert (names, "Msp Test" in registry, SERVICE in registry) == ([], False, False)


def test_a_service_without_a_site_stops_with_its_code_and_with_one_runs_and_stops(host, packages):
    host.stage(packages["1.0.0"].program, "agent.exe")
    program = rf"{STAGE_FOLDER}\agent.exe"

    def state():
        return host.run(f'"{program}" state')

    assert state() == (1060, "")
    assert host.run(f"sc start {SERVICE}")[0] == 1060
    create = f'sc create {SERVICE} binPath= "{program}" start= demand'
    assert [host.run(create)[0], host.run(create)[0]] == [0, 1073]
    # Both say that it was started; only its state says what became of it.
    assert host.run(f"sc start {SERVICE}")[0] == 0
    assert eventually(state, lambda answer: answer[1].startswith("1")) == (0, STOPPED_WITHOUT_URL)
    assert host.run(f'reg add "{REGISTRY_KEY}" /v CentralUrl /t REG_SZ /d "{URL}" /f')[0] == 0
    assert host.run(f"sc start {SERVICE}")[0] == 0
    assert eventually(state, lambda answer: answer[1].startswith("4")) == (0, RUNNING)
    assert host.run(f"sc stop {SERVICE}")[0] == 0
    assert eventually(state, lambda answer: answer[1].startswith("1")) == (0, STOPPED)
    assert [host.run(f"sc delete {SERVICE}")[0], host.run(f"sc delete {SERVICE}")[0]] == [0, 1060]


@pytest.mark.parametrize("old", [None, "1.0.0"], ids=["first", "upgrade"])
def test_an_install_that_died_with_its_shell_is_made_whole_by_a_second_one(host, packages, old):
    # lesson 55: closing the shell kills the installer half-way.
    new = packages["2.0.0"]
    if old:
        assert install(host, packages[old], URL) == 0
    whole = new.program.read_bytes()
    program = host.prefix.path(PROGRAM)
    host.stage(new.path, "agent-2.0.0.msi")
    client = host.client()
    shell = client.open_shell()
    client.run_command(shell, rf'msiexec /i "{STAGE_FOLDER}\agent-2.0.0.msi" /qn /norestart CENTRAL_URL="{URL}"')
    until = time.monotonic() + 30
    while not (program.exists() and program.read_bytes() == whole) and time.monotonic() < until:
        time.sleep(0.002)
    assert is_running(host.prefix, "msiexec")
    client.close_shell(shell)
    assert not is_running(host.prefix, "msiexec")
    products, *_ = state_of(host, packages)
    assert "2.0.0" not in products, "it was over before it was killed"
    assert install(host, new, URL) == 0
    again = state_of(host, packages)
    assert again[0] == ["2.0.0"]
    assert again[2:] == ((0, RUNNING), {"agent.exe": whole})
    assert beats(host, "2.0.0").endswith(f" 2.0.0 {URL}")
    assert host.run(f"msiexec /x {new.product_code} /qn /norestart")[0] == 0
    assert state_of(host, packages) == ([], (1, ""), 1060, None)
