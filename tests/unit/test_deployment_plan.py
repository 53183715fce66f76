"""What is done to a host, decided from what was found there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from attrs import evolve

from msp_sdk.deployment import load_package, render_config
from msp_sdk.deployment.plan import (
    before_opening,
    decide,
    is_foreign_change,
    read_state,
    state_without_touch,
    version_key,
)
from msp_sdk.deployment.verification import verify
from msp_sdk.errors import DeploymentError, InstallFailedError, ScriptFailedError
from msp_sdk.models.package import AgentPackage, PackageManifest
from msp_sdk.models.reason import REASONS
from msp_sdk.models.rollout import AgentState
from msp_sdk.models.target import Target

MANIFEST = PackageManifest(
    "Agent", "Agent", r"%ProgramFiles%\Agent", "agent.exe", config_name="c.json", config={"a": 1}
)
PACKAGE = AgentPackage("agent", "1.10.0", "a" * 64, 10, MANIFEST)
WANTED = hashlib.sha256(render_config(MANIFEST) or b"").hexdigest()
RIGHT = AgentState(True, "1.10.0", "a" * 64, WANTED, "running")
ANSWER = {
    "installed": True,
    "version": "1.10.0",
    "file_sha256": "a" * 64,
    "config_sha256": WANTED,
    "service_state": "running",
    "service_path_ok": True,
    "staged_sha256": None,
    "disk_free_bytes": 5,
}


@pytest.mark.parametrize(
    ("observed", "action", "reason"),
    [
        (AgentState(), "install", "not-installed"),
        (AgentState(service_state="stopped"), "repair", "not-installed"),
        (RIGHT, "nothing", "up-to-date"),
        (evolve(RIGHT, service_state="stopped"), "repair", "service-stopped"),
        (evolve(RIGHT, service_state=None), "repair", "service-stopped"),
        (evolve(RIGHT, config_sha256="b" * 64), "reconfigure", "config-differs"),
        (evolve(RIGHT, config_sha256=None), "reconfigure", "config-differs"),
        (evolve(RIGHT, file_sha256="b" * 64), "repair", "digest-mismatch"),
        (evolve(RIGHT, file_sha256="b" * 64, version="1.9.9"), "upgrade", "older-version"),
        (evolve(RIGHT, file_sha256="b" * 64, version=None), "upgrade", "older-version"),
        (evolve(RIGHT, file_sha256="b" * 64, version="1.10.0.1"), "skip", "newer-version"),
    ],
)
def test_action_follows_from_what_is_there(observed: AgentState, action: str, reason: str):
    found = decide(PACKAGE, observed)
    assert (found.action, found.reason) == (action, reason)
    assert reason in REASONS


def test_removal_is_wished_only_where_something_is_there():
    assert decide(PACKAGE, RIGHT, "remove").action == "remove"
    assert decide(PACKAGE, AgentState(service_state="stopped"), "remove").action == "remove"
    assert decide(PACKAGE, AgentState(), "remove").action == "nothing"


@pytest.mark.parametrize(
    ("older", "newer"), [("1.9", "1.10"), ("", "0.1"), ("1.0.0", "1.0.1"), ("2.0.0-rc1", "2.0.1"), ("x", "1")]
)
def test_versions_compare_as_numbers(older: str, newer: str):
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1, 2, 0, 7 (build 5)", "1.2.0.7"),
        ("v1.2", "1.2"),
        ("10.0.17763.1 (WinBuild.160101.0800)", "10.0.17763.1"),
        ("1.2.0-rc1", "1.2"),
        ("dev build", ""),
        ("", ""),
    ],
)
def test_version_is_its_first_group_of_numbers(text: str, version: str):
    # What stands behind it must not make an older version look newer, so that it is never upgraded.
    assert version_key(text) == version_key(version)


def test_program_that_carries_no_version_is_known_by_its_digest():
    verify(PACKAGE, evolve(RIGHT, version=None))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"unreachable_reason": "no-answer"}, "at 10.0.0.5, ports 5986 and 5985 gave no answer"),
        ({"unreachable_reason": "winrm-closed"}, "at 10.0.0.5, ports 5986 and 5985 refused"),
        ({"unreachable_reason": "winrm-closed", "port": 8443}, "at 10.0.0.5, port 8443 refused"),
        ({"unreachable_reason": "winrm-closed", "use_ssl": True, "doors": (5985,)}, "5985 stood open, but 5986 is"),
        ({"unreachable_reason": "no-address", "ip_addresses": ()}, "no address of it was known"),
    ],
)
def test_host_out_of_reach_is_told_with_its_doors(target: dict[str, object], words: str):
    known = Target("SRV1", "server", ip_addresses=("10.0.0.5",), reachable=False)
    trouble = before_opening(evolve(known, **target), has_credential=True)
    assert trouble is not None
    assert words in trouble.detail


def test_version_with_zeros_at_its_end_is_the_same():
    assert version_key("1.2") == version_key("1.2.0.0") == version_key("1.2.0+build5")


def test_only_a_third_file_counts_as_changed_by_somebody_else():
    planned = AgentState(installed=True, file_sha256="b" * 64)
    for digest, foreign in (("b" * 64, False), ("a" * 64, False), (None, False), ("c" * 64, True)):
        assert is_foreign_change(PACKAGE, planned, evolve(planned, file_sha256=digest)) is foreign


@pytest.mark.parametrize(
    "change",
    [
        {"file_sha256": "b" * 64},
        {"version": "1.9"},
        {"config_sha256": None},
        {"service_state": "stopped"},
        {"service_state": None},
    ],
)
def test_verification_looks_at_version_file_configuration_and_service(change: dict[str, object]):
    # Lesson 41.
    verify(PACKAGE, RIGHT)
    with pytest.raises(InstallFailedError) as failed:
        verify(PACKAGE, evolve(RIGHT, **change))
    assert failed.value.code == "verification-failed"


def test_answer_of_the_host_is_read():
    assert read_state(ANSWER) == (RIGHT, None, 5)
    elsewhere, _, _ = read_state({**ANSWER, "service_path_ok": False})
    assert decide(PACKAGE, elsewhere).action == "repair"


@pytest.mark.parametrize("name", ["installed", "version", "file_sha256", "service_state", "disk_free_bytes"])
def test_incomplete_answer_is_an_error_and_not_an_absent_agent(name: str):
    # Lesson 24's rule: an error is never shown as empty.
    with pytest.raises(ScriptFailedError):
        read_state({**ANSWER, name: [1]})


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("no-answer", "waiting"),
        ("winrm-closed", "waiting"),
        ("credential-paused", "waiting"),
        ("wrong-host", "skipped"),
        ("wrong-password", "skipped"),
        ("no-credential", "skipped"),
        ("internal", "failed"),
        ("script-failed", "failed"),
    ],
)
def test_host_that_may_come_back_waits_one_where_something_broke_failed_and_any_other_is_skipped(code: str, state: str):
    assert state_without_touch(code) == state


def test_configuration_is_the_same_bytes_whatever_the_order_of_its_keys():
    one = evolve(MANIFEST, config={"b": "ä", "a": 1})
    two = evolve(MANIFEST, config={"a": 1, "b": "ä"})
    assert render_config(one) == render_config(two)
    assert json.loads(render_config(one) or b"") == {"a": 1, "b": "ä"}
    assert render_config(evolve(MANIFEST, config_name=None)) is None


def test_package_file_is_checked_before_it_goes_anywhere(tmp_path: Path):
    with pytest.raises(DeploymentError) as missing:
        load_package(PACKAGE, tmp_path / "nothing.exe")
    assert missing.value.code == "package-missing"
    (tmp_path / "agent.exe").write_bytes(b"MZ")
    with pytest.raises(DeploymentError) as other:
        load_package(PACKAGE, tmp_path / "agent.exe")
    assert other.value.code == "digest-mismatch"
