"""Deploying to virtual machines over real WinRM: plan, apply, trouble, and doing it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from attrs import evolve

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.deployment import AgentDeployer, DeployOptions, render_config
from msp_sdk.errors import ConfigError, DeploymentError, DigestMismatchError
from msp_sdk.models.credential import Credential
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.rollout import Outcome, RolloutPlan
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.builders import HostGroup, build_agent_package, build_hosts
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine, handlers
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.windows.scripts import load, names
from msp_sdk.windows.shell import WindowsShells

FOLDER = r"C:\Program Files\MSP Demo Agent"
OLD, OLD_FILE = build_agent_package("1.0.0", size_bytes=5000)
NEW, NEW_FILE = build_agent_package("1.1.0", size_bytes=5000)


class Held:
    """The credentials that a test holds."""

    def __init__(self, *credentials: Credential) -> None:
        self._credentials = {entry.id: entry for entry in credentials}

    def credential(self, credential_id: str) -> Credential | None:
        return self._credentials.get(credential_id)


class Site:
    """Hosts that run, and a ledger; each call makes a deployer of its own, as a new process would."""

    def __init__(self, group: HostGroup, folder: Path) -> None:
        self.group = group
        self.machine = group.hosts[0].machine
        self.ledger = folder / "ledger"
        self.credential = group.credential

    def run(self, work, package: AgentPackage = NEW, content: bytes | None = NEW_FILE, **options):
        async def main():
            shells = WindowsShells(LogonLedger(self.ledger))
            try:
                file = None if content is None else lambda: content
                held = Held(self.credential)
                deployer = AgentDeployer(
                    package, shell=shells, credentials=held, file=file, options=DeployOptions(**options)
                )
                return await work(deployer)
            finally:
                await shells.aclose()

        return asyncio.run(main())

    def plan(self, targets=None, package: AgentPackage = NEW, action="install") -> RolloutPlan:
        chosen = self.group.targets if targets is None else targets
        return self.run(lambda deployer: deployer.plan(chosen, action=action), package)

    def apply(self, plan: RolloutPlan, content: bytes | None = NEW_FILE, run_id: str = "run-1") -> list[Outcome]:
        async def collect(deployer: AgentDeployer) -> list[Outcome]:
            return [outcome async for outcome in deployer.apply(plan, run_id=run_id)]

        return self.run(collect, plan.package, content)

    def deploy(self, package: AgentPackage = NEW, content: bytes = NEW_FILE) -> Outcome:
        (outcome,) = self.apply(self.plan(package=package), content)
        return outcome

    def action(self) -> tuple[str, str]:
        (entry,) = self.plan().actions
        return entry.action, entry.reason


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    group = build_hosts(["SRV1"])
    with HostsThread(group.hosts):
        yield Site(group, tmp_path)
    assert [violation for host in group.hosts for violation in host.machine.violations] == []


def wrote(machine: Machine) -> list[str]:
    return [call.script for call in machine.calls if load(call.script).writes]


def service_state(machine: Machine) -> str | None:
    service = machine.services.find("MspDemoAgent")
    return service.state if service else None


def test_agent_is_installed_configured_and_running(site: Site):
    outcome = site.deploy()
    assert (outcome.state, outcome.action, outcome.method, outcome.agent_version) == (
        "done",
        "install",
        "push",
        "1.1.0",
    )
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == NEW_FILE
    assert service_state(site.machine) == "running"
    assert [entry.path for entry in site.machine.files.under(r"C:\ProgramData\msp")] == []


def test_plan_of_an_up_to_date_host_says_nothing_to_do_and_writes_nothing(site: Site):
    site.deploy()
    site.machine.calls.clear()
    plan = site.plan()
    assert [(entry.action, entry.reason) for entry in plan.actions] == [("nothing", "up-to-date")]
    assert plan.pending == ()
    (outcome,) = site.apply(plan, content=None)
    assert (outcome.state, outcome.success, outcome.action, outcome.agent_version) == ("done", True, "nothing", "1.1.0")
    assert wrote(site.machine) == []


def test_plan_touches_nothing(site: Site):
    assert site.action() == ("install", "not-installed")
    assert wrote(site.machine) == []


def test_older_version_is_upgraded(site: Site):
    site.deploy(OLD, OLD_FILE)
    assert site.action() == ("upgrade", "older-version")
    assert site.deploy().agent_version == "1.1.0"


def test_newer_version_is_left_alone(site: Site):
    site.deploy()
    (entry,) = site.plan(package=OLD).actions
    assert (entry.action, entry.reason) == ("skip", "newer-version")
    (outcome,) = site.apply(site.plan(package=OLD), OLD_FILE)
    assert (outcome.state, outcome.error and outcome.error.code) == ("skipped", "newer-version")
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == NEW_FILE


def test_configuration_is_utf8_without_byte_order_mark_and_compared_byte_by_byte(site: Site):
    # Lesson 43.
    site.deploy()
    written = site.machine.files.read(rf"{FOLDER}\config.json")
    assert written == render_config(NEW.manifest)
    assert written.startswith(b"{")
    assert "Zürich".encode() in written
    site.machine.files.write(rf"{FOLDER}\config.json", b"\xef\xbb\xbf" + written)
    assert site.action() == ("reconfigure", "config-differs")
    outcome = site.deploy()
    assert (outcome.action, outcome.method) == ("reconfigure", "none")
    assert site.machine.files.read(rf"{FOLDER}\config.json") == written


def test_running_service_alone_is_not_taken_for_deployed(site: Site):
    # Lesson 41: right version in the file's information, service runs, another file.
    site.deploy()
    site.machine.files.write(rf"{FOLDER}\agent.exe", build_agent_package("1.1.0", name="other", size_bytes=5000)[1])
    assert site.action() == ("repair", "digest-mismatch")
    assert site.deploy().state == "done"
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == NEW_FILE


def test_stopped_service_and_missing_file_are_repaired(site: Site):
    site.deploy()
    site.machine.stop_service("MspDemoAgent")
    assert site.action() == ("repair", "service-stopped")
    assert site.deploy().state == "done"
    site.machine.files.delete(rf"{FOLDER}\agent.exe")
    assert site.action() == ("repair", "not-installed")
    assert site.deploy().state == "done"
    assert service_state(site.machine) == "running"


@pytest.mark.parametrize("at", ["staged", "stopped", "swapped"])
def test_upgrade_that_was_cut_off_is_finished_by_applying_the_plan_again(site: Site, at: str):
    site.deploy(OLD, OLD_FILE)
    plan = site.plan()
    site.machine.notes["power_cut_at"] = at
    (first,) = site.apply(plan)
    assert (first.state, first.success) == ("waiting", False)
    site.machine.calls.clear()
    (second,) = site.apply(plan)
    assert (second.state, second.agent_version) == ("done", "1.1.0")
    # What was delivered is not delivered again.
    assert "agent-stage" not in wrote(site.machine)
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == NEW_FILE
    assert service_state(site.machine) == "running"
    site.machine.calls.clear()
    (third,) = site.apply(plan)
    assert third.state == "done"
    assert wrote(site.machine) == []


@pytest.mark.parametrize("operation", ["Send", "Command", "Receive"])
def test_connection_that_breaks_in_the_middle_is_finished_by_the_next_run(site: Site, operation: str):
    site.deploy(OLD, OLD_FILE)
    plan = site.plan()
    # The shell mends what it safely can; whatever it cannot, the next run does.
    site.group.hosts[0].faults.drop_after = [operation] * 4
    (first,) = site.apply(plan)
    assert first.state in ("done", "waiting"), first.error
    site.group.hosts[0].faults.drop_after = []
    (second,) = site.apply(plan)
    assert (second.state, second.agent_version) == ("done", "1.1.0")
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == NEW_FILE
    assert service_state(site.machine) == "running"


def test_other_bytes_than_were_sent_are_never_installed(site: Site):
    # Lesson 44.
    site.machine.notes["staged_garbage"] = True
    outcome = site.deploy()
    assert (outcome.state, outcome.step, outcome.error and outcome.error.code) == (
        "failed",
        "deliver",
        "digest-mismatch",
    )
    assert not site.machine.files.exists(rf"{FOLDER}\agent.exe")
    assert site.deploy().state == "done"


def test_antivirus_that_takes_the_file_is_named(site: Site):
    package, content = build_agent_package("1.1.0", flagged=True, size_bytes=5000)
    outcome = site.deploy(package, content)
    assert (outcome.state, outcome.error and outcome.error.code) == ("failed", "blocked-by-antivirus")
    assert outcome.error is not None
    assert "antivirus" in outcome.error.remedy


def test_agent_that_does_not_start_is_rolled_back_to_the_one_before(site: Site):
    # Lesson 42.
    site.deploy(OLD, OLD_FILE)
    package, content = build_agent_package("1.1.0", start_failure="it ended with code 1067.", size_bytes=5000)
    outcome = site.deploy(package, content)
    assert (outcome.state, outcome.step, outcome.error and outcome.error.code) == (
        "failed",
        "install",
        "install-failed",
    )
    assert outcome.error is not None
    assert "1067" in outcome.error.detail
    assert "rolled back" in outcome.error.detail
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == OLD_FILE
    assert service_state(site.machine) == "running"


@pytest.mark.parametrize("at", ["swapped", "configured"])
def test_agent_that_does_not_start_is_rolled_back_also_when_a_run_was_cut_off_after_the_swap(site: Site, at: str):
    # Lesson 42: the run that finds the swap done is not the one that did it.
    old_config = evolve(OLD, manifest=evolve(OLD.manifest, config={"site": "old"}))
    site.deploy(old_config, OLD_FILE)
    package, content = build_agent_package("1.1.0", start_failure="it ended with code 1067.", size_bytes=5000)
    plan = site.plan(package=package)
    site.machine.notes["power_cut_at"] = at
    (first,) = site.apply(plan, content)
    assert first.state == "waiting"
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == content
    (second,) = site.apply(plan, content)
    assert (second.state, second.error and second.error.code) == ("failed", "install-failed")
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == OLD_FILE
    assert site.machine.files.read(rf"{FOLDER}\config.json") == render_config(old_config.manifest)
    assert service_state(site.machine) == "running"
    # A good version after it goes in as ever, and nothing is left beside it.
    assert site.deploy().state == "done"
    assert {entry.path for entry in site.machine.files.under(FOLDER)} == {
        rf"{FOLDER}\agent.exe",
        rf"{FOLDER}\config.json",
    }


def test_third_version_after_a_cut_off_run_rolls_back_to_the_one_that_was_seen_running(site: Site):
    site.deploy(OLD, OLD_FILE)
    plan = site.plan()
    site.machine.notes["power_cut_at"] = "swapped"
    site.apply(plan)
    package, content = build_agent_package("1.2.0", start_failure="it ended.", size_bytes=5000)
    assert site.deploy(package, content).state == "failed"
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == OLD_FILE
    assert service_state(site.machine) == "running"


def test_disabled_service_is_repaired_by_enabling_it(site: Site):
    site.deploy()
    service = site.machine.services.find("MspDemoAgent")
    assert service is not None
    service.start, service.state = "disabled", "stopped"
    assert site.deploy().state == "done"
    assert (service.start, service.state) == ("auto", "running")


def test_first_agent_that_does_not_start_leaves_nothing_behind(site: Site):
    package, content = build_agent_package("1.1.0", start_failure="it ended.", size_bytes=5000)
    assert site.deploy(package, content).state == "failed"
    assert not site.machine.files.under(FOLDER)
    assert service_state(site.machine) is None


def test_full_disk_is_told_before_anything_is_sent(site: Site):
    site.machine.disk_free_bytes = 1000
    outcome = site.deploy()
    assert (outcome.state, outcome.error and outcome.error.code) == ("failed", "disk-full")
    assert wrote(site.machine) == []


def test_file_that_somebody_else_put_there_since_the_plan_is_not_replaced(site: Site):
    site.deploy(OLD, OLD_FILE)
    plan = site.plan()
    foreign = build_agent_package("1.0.5", size_bytes=5000)[1]
    site.machine.files.write(rf"{FOLDER}\agent.exe", foreign)
    site.machine.calls.clear()
    (outcome,) = site.apply(plan)
    assert (outcome.state, outcome.error and outcome.error.code) == ("skipped", "changed-since-plan")
    assert wrote(site.machine) == []
    assert site.machine.files.read(rf"{FOLDER}\agent.exe") == foreign


def test_wrong_host_gets_nothing_written(site: Site):
    # Lesson 54: a stale record led to another machine.
    stale = evolve(site.group.targets[0], hostname="SRV9", fqdn="srv9.corp.example")
    (entry,) = site.plan([stale]).actions
    assert (entry.action, entry.reason) == ("skip", "wrong-host")
    install = evolve(entry, action="install", reason="not-installed")
    (outcome,) = site.apply(RolloutPlan(NEW, (install,)))
    assert (outcome.state, outcome.step, outcome.error and outcome.error.code) == ("skipped", "connect", "wrong-host")
    assert wrote(site.machine) == []


def test_each_host_has_its_own_reason_and_stops_no_other(site: Site):
    good = site.group.targets[0]
    targets = [
        evolve(good, hostname="asleep", reachable=False, unreachable_reason="no-answer", ip_addresses=()),
        evolve(good, hostname="closed", ip_addresses=(take_address(),)),
        evolve(good, hostname="poor", credential_id=None),
        evolve(good, hostname="gone", credential_id="deleted"),
        good,
    ]
    plan = site.plan(targets)
    assert [entry.reason for entry in plan.actions] == [
        "no-answer",
        "winrm-closed",
        "no-credential",
        "no-credential",
        "not-installed",
    ]
    outcomes = {outcome.hostname: outcome for outcome in site.apply(plan)}
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "asleep": "waiting",
        "closed": "waiting",
        "poor": "skipped",
        "gone": "skipped",
        "SRV1": "done",
    }
    assert all(outcome.error and outcome.error.remedy for name, outcome in outcomes.items() if name != "SRV1")


def test_wrong_password_stops_the_credential_for_every_host(tmp_path: Path):
    # Lesson 32: one strike, whatever the number of hosts.
    group = build_hosts([f"SRV{number}" for number in range(1, 6)])
    with HostsThread(group.hosts):
        site = Site(group, tmp_path)
        site.credential = evolve(group.credential, opener=lambda: Secret("wrong"))
        plan = site.plan()
        accounts = group.hosts[0].accounts.all
    assert {entry.reason for entry in plan.actions} == {"wrong-password"}
    assert sum(account.bad_password_count for account in accounts) == 1


def test_removal_takes_everything_away_and_again_does_nothing(site: Site):
    site.deploy()
    plan = site.plan(action="remove")
    assert [(entry.action, entry.reason) for entry in plan.actions] == [("remove", "removal-asked")]
    (outcome,) = site.apply(plan, content=None)
    assert (outcome.state, outcome.action) == ("done", "remove")
    assert not site.machine.files.under(FOLDER)
    assert service_state(site.machine) is None
    assert [entry.action for entry in site.plan(action="remove").actions] == ["nothing"]
    (again,) = site.apply(plan, content=None)
    assert again.state == "done"


def test_wrong_or_missing_file_of_ours_is_told_before_any_host_is_touched(site: Site):
    plan = site.plan()
    site.machine.calls.clear()
    with pytest.raises(DigestMismatchError):
        site.apply(plan, OLD_FILE)
    with pytest.raises(DeploymentError) as missing:
        site.apply(plan, None)
    assert missing.value.code == "package-missing"
    assert site.machine.calls == []


def test_run_id_that_is_a_path_is_refused(site: Site):
    plan = site.plan()
    for run_id in ("", r"..\..\Windows", "a" * 65, "a\n"):
        with pytest.raises(ConfigError):
            site.apply(plan, run_id=run_id)


def test_apply_that_is_left_early_is_finished_by_the_next_one(tmp_path: Path):
    group = build_hosts([f"SRV{number}" for number in range(1, 5)])
    with HostsThread(group.hosts):
        site = Site(group, tmp_path)
        plan = site.plan()

        async def first_only(deployer: AgentDeployer) -> None:
            async with aclosing(deployer.apply(plan, run_id="run-1")) as outcomes:
                async for _ in outcomes:
                    return

        site.run(first_only)
        outcomes = site.apply(plan)
    assert [outcome.state for outcome in outcomes] == ["done"] * 4
    for host in group.hosts:
        assert service_state(host.machine) == "running"
        assert host.machine.violations == []


def test_no_secret_is_in_plan_or_outcome(site: Site):
    plan = site.plan()
    text = repr(plan) + repr(site.apply(plan))
    assert site.credential.open().reveal() not in text


def test_every_script_has_its_handler_for_exactly_this_text():
    bound = {entry.script: entry.sha256 for entry in handlers()}
    changed = {name: load(name).sha256 for name in names() if bound.get(name) != load(name).sha256}
    assert not changed, (
        "these scripts have changed, or are new: read them again beside their handlers in msp_sdk.testing, "
        f"then write the new digests there: {changed}"
    )


def test_scripts_have_no_localised_text_and_no_splicing():
    # Lessons 58 and 40.
    for name in names():
        text = load(name).text.casefold()
        for word in ("administrators", "invoke-expression", "iex ", "net user", "wmic", "write-host"):
            assert word not in text, (name, word)


def test_target_without_any_address_and_unknown_name_has_a_reason(site: Site):
    (entry,) = site.plan([Target("nowhere", "server", credential_id="local")]).actions
    assert entry.action == "skip"
    assert entry.reason in ("no-address", "no-answer")
