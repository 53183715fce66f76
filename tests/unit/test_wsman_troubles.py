"""Every trouble of the WinRM stand-in: it happens, once or for good, and our client ends rightly and in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from msp_sdk.errors import MspError
from msp_sdk.testing.host_lab import HostLab, RecordingFront
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_faults import TROUBLES
from msp_sdk.testing.wsman_hitches import ANY, IDLE, LOGON, Faults, Hitch
from msp_sdk.windows.scripts import load

OPERATIONS = ("Create", "Command", "Send", "Receive", "Signal", "Delete")


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def ends_as(lab: HostLab, host: WsmanHost, address: str = "") -> str:
    """The reason code of a run; empty when it succeeded."""
    target = lab.target(host)
    if address:
        target = evolve(target, ip_addresses=(address,))
    try:
        (result,) = lab.run(target, lab.local_credential(), load("identify"))
    except MspError as error:
        return error.code
    assert result.value == {"identified": True}
    return ""


@pytest.mark.parametrize("name", TROUBLES)
def test_client_ends_rightly_on_a_host_with_the_trouble_for_good(lab: HostLab, name: str) -> None:
    trouble = TROUBLES[name]
    host = lab.host(http=False)
    trouble.start(host)
    with HostsThread([host]):
        assert ends_as(lab, host) in trouble.ends_as
    assert host.machine.violations == []
    assert host.shells.shells == {}
    if name != "refuse-logons":
        assert lab.local.bad_password_count == 0


# What takes the client's whole patience is tried once, above.
@pytest.mark.parametrize("name", [name for name in TROUBLES if name not in ("silent", "idle-close")])
def test_client_ends_rightly_where_the_trouble_happens_once_and_nothing_is_ever_in_clear(
    lab: HostLab, name: str
) -> None:
    trouble = TROUBLES[name]
    host = lab.host(https=False)
    with HostsThread([host]):
        front = RecordingFront(host)
        trouble.once(host)
        ended = ends_as(lab, host, front.address)
        front.close()
    # "unsealed" comes from the host, and the front records what goes to it.
    front.assert_nothing_in_clear()
    assert host.faults.hitches == [], "it did not happen"
    assert ended or name != "unsealed", "an answer in clear was believed"
    assert ended in {"", *trouble.ends_as}
    assert host.machine.violations == []


def test_each_trouble_says_what_it_does_and_what_is_right() -> None:
    for name, trouble in TROUBLES.items():
        assert trouble.name == name
        assert trouble.does
        assert trouble.ends_as
        assert trouble.hitch.at in (ANY, LOGON, IDLE, *OPERATIONS)


def test_hitch_happens_at_its_operation_after_those_that_pass_and_so_often() -> None:
    faults = Faults(hitches=[Hitch("cut", "Receive", times=2, skip=1)])
    seen = [faults.take(operation) for operation in ("Send", "Receive", "Receive", "Logon", "Receive", "Receive")]
    assert [hitch is not None for hitch in seen] == [False, False, True, False, True, False]
    assert faults.hitches == []


def test_hitch_at_any_operation_leaves_logons_and_silence_alone() -> None:
    faults = Faults(hitches=[Hitch("cut", times=None)])
    assert faults.take(LOGON) is None
    assert faults.quiet_s() == 120.0
    assert faults.take("Delete") is not None
    assert faults.take("Delete") is not None


def test_shell_is_gone_after_a_restart_and_the_service_is_back(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]) as hosts:
        TROUBLES["restart"].once(host, at="Receive")
        assert ends_as(lab, host) in {"", "connection-lost", "winrm-closed"}
        assert host.shells.shells == {}
        hosts.call(host.restart(0.0))
        assert ends_as(lab, host) == ""
