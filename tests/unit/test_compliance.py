"""Scanning virtual machines over real WinRM, and judging what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import evolve

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.compliance import CHECKS, ComplianceScanner
from msp_sdk.compliance.checks import judge_defender, judge_firewall
from msp_sdk.models.compliance import CheckResult
from msp_sdk.models.credential import Credential
from msp_sdk.models.target import Target
from msp_sdk.network.logons import LogonLedger
from msp_sdk.testing.builders import build_hosts
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShells

GOOD_DEFENDER = {
    "present": True,
    "antivirus_enabled": True,
    "real_time_protection": True,
    "signature_age_days": 0,
    "tamper_protection": True,
    "other_products": None,
}


class OneCredential:
    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def credential(self, credential_id: str) -> Credential | None:
        return self._credential if credential_id == self._credential.id else None


def scan(folder: Path, credential: Credential, targets: list[Target]) -> list[CheckResult]:
    async def main() -> list[CheckResult]:
        shells = WindowsShells(LogonLedger(folder / "ledger"))
        try:
            scanner = ComplianceScanner(shell=shells, credentials=OneCredential(credential))
            return [result async for result in scanner.scan(targets)]
        finally:
            await shells.aclose()

    return asyncio.run(main())


def test_results_are_kept_by_host_and_check(tmp_path: Path):
    # Lesson 52: the failure of one host does not vanish behind another's.
    group = build_hosts(["SRV1", "SRV2"])
    group.machine("SRV2").firewall["Public"] = False
    group.machine("SRV2").defender.signature_age_days = 30
    with HostsThread(group.hosts):
        results = scan(tmp_path, group.credential, list(group.targets))
    assert {(result.hostname, result.check): result.status for result in results} == {
        ("SRV1", "firewall"): "pass",
        ("SRV1", "defender"): "pass",
        ("SRV2", "firewall"): "fail",
        ("SRV2", "defender"): "warning",
    }
    assert all(result.controls for result in results)
    for host in group.hosts:
        assert host.machine.violations == []
        assert not any(load(call.script).writes for call in host.machine.calls)


def test_host_that_cannot_be_asked_has_error_results_with_the_reason(tmp_path: Path):
    group = build_hosts(["SRV1"])
    good = group.targets[0]
    targets = [
        evolve(good, hostname="asleep", reachable=False, unreachable_reason="no-answer"),
        evolve(good, hostname="closed", ip_addresses=(take_address(),)),
        evolve(good, hostname="poor", credential_id=None),
        evolve(good, hostname="other"),
    ]
    with HostsThread(group.hosts):
        results = scan(tmp_path, group.credential, targets)
    assert {(result.hostname, result.status, result.evidence["reason"]) for result in results} == {
        ("asleep", "error", "no-answer"),
        ("closed", "error", "winrm-closed"),
        ("poor", "error", "no-credential"),
        ("other", "error", "wrong-host"),
    }
    assert len(results) == len(targets) * len(CHECKS)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({"profiles": [{"name": "Domain", "enabled": True}], "service_state": "running"}, "pass"),
        ({"profiles": [{"name": "Domain", "enabled": False}], "service_state": "running"}, "fail"),
        ({"profiles": [{"name": "Domain", "enabled": True}], "service_state": "stopped"}, "fail"),
        ({"profiles": [], "service_state": "running"}, "error"),
        # Its service knows the profiles: while it does not run there are none to tell.
        ({"profiles": [], "service_state": "stopped"}, "fail"),
        ({"profiles": [{"name": "Domain", "enabled": "True"}]}, "error"),
        ({}, "error"),
    ],
)
def test_firewall_is_judged(value: dict[str, object], status: str):
    assert judge_firewall(value, "server").status == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "pass"),
        ({"real_time_protection": False}, "fail"),
        ({"antivirus_enabled": False}, "fail"),
        ({"signature_age_days": 8}, "warning"),
        ({"signature_age_days": None}, "warning"),
        ({"tamper_protection": False}, "warning"),
        ({"tamper_protection": None}, "warning"),
        ({"present": False}, "fail"),
        ({"present": False, "other_products": ["Sophos"]}, "not_applicable"),
        ({"present": True, "antivirus_enabled": False, "other_products": ["Sophos"]}, "not_applicable"),
        ({"present": None}, "error"),
        ({"real_time_protection": None}, "error"),
    ],
)
def test_defender_is_judged(change: dict[str, object], status: str):
    assert judge_defender({**GOOD_DEFENDER, **change}, "workstation").status == status
