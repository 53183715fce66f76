"""Clients that are not ours work with the WinRM stand-in as they do with Windows, and get what our own client gets.

Each registered script is run by pywinrm and by pypsrp, sealed over HTTP and bound to the channel over TLS.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pypsrp.exceptions import WinRMTransportError as PsrpTransportError
from pypsrp.exceptions import WSManFaultError
from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan
from winrm.exceptions import WinRMTransportError
from winrm.protocol import Protocol

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers)
from msp_sdk.errors import MspError
from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND, encode_input, parse_envelope
from msp_sdk.windows.scripts import Script, load, names

USER = r"SRV1\admin"
PAYLOAD = b"test"

Outcome = tuple[str, Mapping[str, object] | str]


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def new_host(lab: HostLab) -> WsmanHost:
    """A machine as each one is at first, with both doors and a certificate for its address too."""
    address = take_address()
    machine = Machine("SRV1", domain="CORP", dns_domain="corp.example", sid="S-1-5-21-1-2-3-1104", is_controller=True)
    certificate = lab.ca.issue(["srv1.corp.example"], [address])
    return WsmanHost(machine, lab.accounts, address=address, certificate=certificate)


def example(script: Script) -> dict[str, object]:
    assert script.contract is not None
    return dict(script.contract.example_input)


def stdin(script: Script) -> bytes:
    encoded = encode_input(script, example(script), f"run-{script.name}", PAYLOAD)
    return b"".join(piece for piece, _ in encoded.pieces(10**6))


def outcome(script: Script, stdout: bytes) -> Outcome:
    envelope = parse_envelope(stdout, f"run-{script.name}", script=script.name)
    return (script.name, dict(envelope.value) if envelope.ok else envelope.code)


def ours(lab: HostLab) -> list[Outcome]:
    """What our own client gets, script by script, from a new machine."""
    host = new_host(lab)
    outcomes: list[Outcome] = []
    with HostsThread([host]):
        for script in map(load, names()):
            try:
                (result,) = lab.run(
                    lab.target(host), lab.local_credential(), script, parameters=example(script), payload=PAYLOAD
                )
                outcomes.append((script.name, dict(result.value)))
            except MspError as error:
                outcomes.append((script.name, error.code))
    assert host.machine.violations == []
    return outcomes


def by_pywinrm(host: WsmanHost, ca: Path, *, tls: bool) -> Iterator[Outcome]:
    """One shell for all; each script in a process of its own, since its stdin ends with the script."""
    protocol = Protocol(
        f"https://{host.address}:5986/wsman" if tls else f"http://{host.address}:5985/wsman",
        transport="ntlm",
        username=USER,
        password=LAB_PASSWORD,
        ca_trust_path=str(ca),
        proxy=None,
    )
    shell = protocol.open_shell(codepage=65001)
    for script in map(load, names()):
        command = protocol.run_command(shell, COMMAND, ARGUMENTS, console_mode_stdin=False)
        protocol.send_command_input(shell, command, stdin(script), end=True)
        stdout, stderr, code = protocol.get_command_output(shell, command)
        protocol.cleanup_command(shell, command)
        assert (stderr, code) == (b"", 0)
        yield outcome(script, stdout)
    protocol.close_shell(shell)


def by_pypsrp(host: WsmanHost, ca: Path, *, tls: bool, auth: str) -> Iterator[Outcome]:
    """WinRS with its defaults: through cmd.exe, and nothing said of the console."""
    wsman = WSMan(
        host.address,
        ssl=tls,
        port=5986 if tls else 5985,
        auth=auth,
        username=USER,
        password=LAB_PASSWORD,
        cert_validation=str(ca),
    )
    with wsman, WinRS(wsman) as shell:
        for script in map(load, names()):
            process = Process(shell, COMMAND, list(ARGUMENTS))
            process.begin_invoke()
            process.send(stdin(script), end=True)
            process.end_invoke()
            process.signal(SignalCode.TERMINATE)
            assert (process.stderr, process.rc) == (b"", 0)
            yield outcome(script, process.stdout)


@pytest.mark.parametrize("tls", [False, True], ids=["sealed", "bound"])
@pytest.mark.parametrize("client", ["pywinrm", "pypsrp-ntlm", "pypsrp-negotiate"])
def test_every_script_gives_a_foreign_client_what_it_gives_ours(lab: HostLab, tmp_path: Path, client: str, tls) -> None:
    host = new_host(lab)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(lab.ca.pem)
    with HostsThread([host]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if client == "pywinrm":
            theirs = list(by_pywinrm(host, ca, tls=tls))
        else:
            theirs = list(by_pypsrp(host, ca, tls=tls, auth=client.removeprefix("pypsrp-")))
    assert theirs == ours(lab)
    assert [name for name, _ in theirs] == list(names())
    assert host.machine.violations == []
    assert host.shells.shells == {}


def test_clear_text_of_pywinrm_is_refused_and_seen(lab: HostLab) -> None:
    # Lesson 34: what would make our transport's fence untested is a stand-in that lets it pass.
    host = new_host(lab)
    protocol = Protocol(
        f"http://{host.address}:5985/wsman",
        transport="ntlm",
        username=USER,
        password=LAB_PASSWORD,
        message_encryption="never",
        proxy=None,
        ca_trust_path=None,
    )
    with HostsThread([host]), pytest.raises(WinRMTransportError) as refused:
        protocol.open_shell()
    assert refused.value.code == 500
    assert "an envelope in clear" in host.machine.violations
    assert host.operations == []


def test_clear_text_of_pypsrp_is_refused_and_seen(lab: HostLab) -> None:
    host = new_host(lab)
    wsman = WSMan(
        host.address, ssl=False, port=5985, auth="ntlm", username=USER, password=LAB_PASSWORD, encryption="never"
    )
    with HostsThread([host]), wsman, pytest.raises(PsrpTransportError):
        WinRS(wsman).open()
    assert "an envelope in clear" in host.machine.violations
    assert host.operations == []


def test_pypsrp_reads_our_refusals_with_their_provider(lab: HostLab, tmp_path: Path) -> None:
    host = new_host(lab)
    host.shells.quotas.shells_per_user = 1
    wsman = WSMan(host.address, ssl=False, port=5985, auth="ntlm", username=USER, password=LAB_PASSWORD)
    with HostsThread([host]), wsman, WinRS(wsman) as shell:
        with pytest.raises(WSManFaultError) as unknown:
            Process(shell, COMMAND, id="5C0B8B5C-0000-0000-0000-000000000000").poll_invoke()
        with pytest.raises(WSManFaultError) as nameless:
            Process(shell, COMMAND).poll_invoke()
        with pytest.raises(WSManFaultError) as full:
            WinRS(wsman).open()
    assert (unknown.value.code, unknown.value.machine) == (2150858843, "SRV1")
    assert (nameless.value.code, nameless.value.provider) == (87, "Shell cmd plugin")
    assert (full.value.code, "maximum number of 1 concurrent shells" in str(full.value)) == (2150859173, True)


def test_large_output_comes_in_envelopes_of_the_size_that_the_client_takes(lab: HostLab) -> None:
    host = new_host(lab)
    host.faults.stdout = bytes(range(256)) * 2000
    sizes: list[int] = []
    wsman = WSMan(host.address, 32768, ssl=False, port=5985, auth="ntlm", username=USER, password=LAB_PASSWORD)
    with HostsThread([host]), wsman, WinRS(wsman) as shell:
        process = Process(shell, COMMAND, list(ARGUMENTS))
        process.begin_invoke()
        process.send(stdin(load("identify")), end=True)
        while process.rc is None:
            before = len(process.stdout)
            process.poll_invoke()
            sizes.append(len(process.stdout) - before)
    assert process.stdout == host.faults.stdout
    assert max(sizes) * 4 // 3 <= 32768
    assert len(sizes) >= len(process.stdout) * 4 // 3 // 32768
