"""The WinRM endpoint of the estate, asked by plain pywinrm: it lets in what Windows lets in, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import warnings
from pathlib import Path

import pytest
import winrm
from winrm.exceptions import InvalidCredentialsError, WinRMOperationTimeoutError, WinRMTransportError, WSManFaultError
from winrm.protocol import Protocol

from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab, RecordingFront
from msp_sdk.testing.powershell import User, run_script
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_faults import TROUBLES
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND, encode_input
from msp_sdk.windows.scripts import load


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def client(host: WsmanHost, user: str = r"CORP\svc", password: str = LAB_PASSWORD, **settings) -> Protocol:
    settings.setdefault("endpoint", f"http://{host.address}:5985/wsman")
    times = {"read_timeout_sec": 6, "operation_timeout_sec": 1, "ca_trust_path": None, "proxy": None}
    return Protocol(transport="ntlm", username=user, password=password, **times, **settings)


@pytest.mark.parametrize("user", [r"CORP\svc", r"corp.example\svc", "svc@corp.example", r"SRV1\admin", r".\admin"])
def test_each_spelling_of_an_account_is_let_in(lab: HostLab, user: str) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        protocol = client(host, user)
        protocol.close_shell(protocol.open_shell())
    assert host.machine.violations == []


@pytest.mark.parametrize("user", [r"CORP\nobody", r"OTHER\svc", r"CORP\admin"])
def test_unknown_account_is_refused(lab: HostLab, user: str) -> None:
    host = lab.host(https=False)
    with HostsThread([host]), pytest.raises(InvalidCredentialsError):
        client(host, user).open_shell()
    assert lab.service.attempts == []


def test_third_wrong_password_locks_the_account_for_the_right_one_too(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        for password in ("wrong", "wrong", "wrong", LAB_PASSWORD):
            with pytest.raises(InvalidCredentialsError):
                client(host, password=password).open_shell()
    assert lab.service.bad_password_count == 3
    assert lab.service.attempts[-1] == ("SRV1", "775")


def test_tls_without_channel_binding_is_refused_and_with_it_let_in(lab: HostLab, tmp_path: Path) -> None:
    host = lab.host(http=False, certificate_name="localhost")
    assert host.certificate is not None
    settings = {"endpoint": f"https://{host.address}:5986/wsman", "server_cert_validation": "ignore"}
    with HostsThread([host]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidCredentialsError):
            client(host, send_cbt=False, **settings).open_shell()
        assert lab.service.bad_password_count == 0
        assert client(host, **settings).open_shell()


def test_pywinrm_unfenced_speaks_in_clear_after_a_reset_and_the_front_sees_it(lab: HostLab) -> None:
    # Lesson 34: this is the defect that our transport fences; the recording front has to catch it.
    host = lab.host(https=False)
    with HostsThread([host]):
        front = RecordingFront(host)
        front.reset_next = 1
        protocol = client(host, endpoint=f"http://{front.address}:5985/wsman")
        with pytest.raises(Exception, match="Connection aborted"):
            protocol.open_shell()
        with pytest.raises((WinRMTransportError, winrm.exceptions.WinRMError)):
            protocol.open_shell()
        front.close()
    with pytest.raises(AssertionError, match="Envelope"):
        front.assert_nothing_in_clear()
    assert "an envelope in clear" in host.machine.violations


def test_command_line_other_than_the_bootstrap_runs_nothing_and_is_a_violation(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        protocol = client(host)
        shell = protocol.open_shell()
        command = protocol.run_command(shell, "ipconfig", ["/all"])
        stdout, _, code = protocol.get_command_output(shell, command)
    assert (stdout, code) == (b"", 255)
    assert any("ipconfig" in violation for violation in host.machine.violations)


def test_quiet_command_is_an_operation_timeout_and_a_deleted_shell_is_gone(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        protocol = client(host)
        shell = protocol.open_shell()
        command = protocol.run_command(shell, COMMAND, ARGUMENTS, console_mode_stdin=False, skip_cmd_shell=True)
        with pytest.raises(WinRMOperationTimeoutError):
            protocol.get_command_output_raw(shell, command)
        protocol.close_shell(shell, close_session=False)
        with pytest.raises(WSManFaultError) as caught:
            protocol.run_command(shell, COMMAND)
        assert caught.value.wsman_fault_code == 2150858843


def test_quotas_are_faults(lab: HostLab) -> None:
    host = lab.host(https=False)
    host.shells.quotas.shells_per_user = 1
    with HostsThread([host]):
        protocol = client(host)
        shell = protocol.open_shell()
        with pytest.raises(WSManFaultError) as caught:
            protocol.open_shell()
        assert caught.value.wsman_fault_code == 2150859173
        host.shells.quotas.max_envelope_bytes = 1000
        with pytest.raises(WinRMTransportError) as large:
            protocol.run_command(shell, "x" * 2000)
        assert large.value.code == 413


def test_unknown_option_and_action_are_faults(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        protocol = client(host)
        with pytest.raises(WSManFaultError):
            protocol.open_shell(idle_timeout="3600")
        with pytest.raises(WSManFaultError):
            protocol.send_message("<nonsense/>")


def test_quiet_connection_is_closed(lab: HostLab) -> None:
    host = lab.host(https=False)
    host.faults.idle_close_s = 0.2
    with HostsThread([host]):
        connection = http.client.HTTPConnection(host.address, 5985)
        connection.request("POST", "/wsman")
        assert connection.getresponse().read() == b""
        assert connection.sock is not None
        connection.sock.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.sock.recv(1) == b""
        connection.close()


def test_trouble_of_one_time_closes_one_quiet_connection(lab: HostLab) -> None:
    host = lab.host(https=False)
    TROUBLES["idle-close"].once(host)
    with HostsThread([host]):
        with socket.create_connection((host.address, 5985), 5) as first:
            assert first.recv(1) == b""
        with socket.create_connection((host.address, 5985), 0.4) as second, pytest.raises(TimeoutError):
            second.recv(1)
    assert host.faults.hitches == []


def test_other_paths_and_methods_are_not_there(lab: HostLab) -> None:
    host = lab.host(https=False)
    with HostsThread([host]):
        for method, path in (("POST", "/other"), ("GET", "/wsman")):
            connection = http.client.HTTPConnection(host.address, 5985)
            connection.request(method, path)
            assert connection.getresponse().status == 404
            connection.close()


def test_stdin_without_its_end_runs_nothing(lab: HostLab) -> None:
    # A payload that was cut off must not be taken for a whole one.
    host = lab.host()
    ((data, _),) = encode_input(load("identify"), {}, "r1", b"payload").pieces(100_000)
    assert run_script(host.machine, data[:-2], User("x")) == b""
    assert host.machine.calls == []
    assert host.machine.violations == ["stdin was cut off."]
