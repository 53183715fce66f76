"""Clients that are not ours work with the WinRM stand-in as they do with Windows, and get what our own client gets.

Each registered script is run by pywinrm and by pypsrp, sealed over HTTP and bound to the channel over TLS.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from pypsrp.exceptions import WinRMTransportError as PsrpTransportError
from pypsrp.exceptions import WSManFaultError
from pypsrp.shell import Process, WinRS
from pypsrp.wsman import WSMan
from winrm.exceptions import WinRMTransportError
from winrm.protocol import Protocol

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers)
from msp_sdk.errors import MspError
from msp_sdk.network import kerberos
from msp_sdk.testing import kdc as real_kdc
from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab
from msp_sdk.testing.kdc import RealKdc
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_kerberos import KerberosKeys
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND
from msp_sdk.windows.scripts import load, names
from tests.contract.foreign_clients import HOSTNAME, PAYLOAD, Outcome, by_pypsrp, by_pywinrm, example, stdin
from tests.real import do_without

USER = r"SRV1\admin"


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


@pytest.fixture
def ca(lab: HostLab, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(lab.ca.pem)
    return file


def new_host(lab: HostLab) -> WsmanHost:
    """A machine as each one is at first, with both doors and a certificate for its address too."""
    address = take_address()
    machine = Machine("SRV1", domain="CORP", dns_domain="corp.example", sid="S-1-5-21-1-2-3-1104", is_controller=True)
    certificate = lab.ca.issue([HOSTNAME], [address])
    return WsmanHost(machine, lab.accounts, address=address, certificate=certificate)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What our own client gets, script by script, from a new machine."""
    lab = HostLab(tmp_path_factory.mktemp("ours"))
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


@pytest.mark.parametrize("door", ["http", "tls"])
@pytest.mark.parametrize("client", ["pywinrm-ntlm", "pypsrp-ntlm", "pypsrp-negotiate"])
def test_every_script_gives_a_foreign_client_what_it_gives_ours(
    lab: HostLab, ca: Path, ours: list[Outcome], client: str, door: str
) -> None:
    host = new_host(lab)
    library, _, auth = client.partition("-")
    run = by_pywinrm if library == "pywinrm" else by_pypsrp
    with HostsThread([host]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = list(run(host.address, ca, tls=door == "tls", auth=auth, username=USER, password=LAB_PASSWORD))
    assert theirs == ours
    assert [name for name, _ in theirs] == list(names())
    assert host.machine.violations == []
    assert host.shells.shells == {}


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKdc]:
    if not kerberos.is_installed():
        do_without("the extra `kerberos` is not installed")
    if not real_kdc.is_installed():
        do_without("krb5-kdc and krb5-admin-server are not installed")
    with RealKdc(tmp_path_factory.mktemp("kdc") / "kdc", "CORP.EXAMPLE", address=take_address()) as kdc:
        kdc.add_user("svc", LAB_PASSWORD)
        # pypsrp asks for the one, pywinrm for the other.
        kdc.add_service(f"host/{HOSTNAME}", f"HTTP/{HOSTNAME}")
        (kdc.folder / "client.conf").write_text(
            "[libdefaults]\ndefault_realm = CORP.EXAMPLE\nrdns = false\ndns_canonicalize_hostname = false\n"
            "dns_lookup_kdc = false\nudp_preference_limit = 1\n"
            f"[realms]\nCORP.EXAMPLE = {{\nkdc = {kdc.address}:{kdc.port}\n}}\n"
            "[domain_realm]\n.corp.example = CORP.EXAMPLE\n"
        )
        yield kdc


@pytest.mark.parametrize("door", ["http", "tls"])
@pytest.mark.parametrize("client", ["pywinrm", "pypsrp"])
def test_every_script_gives_a_foreign_client_with_a_ticket_what_it_gives_ours(
    lab: HostLab, ca: Path, kdc: RealKdc, ours: list[Outcome], client: str, door: str
) -> None:
    if client == "pywinrm" and importlib.util.find_spec("kerberos") is None:
        do_without("pykerberos, which pywinrm needs for tickets, is not installed")
    host = new_host(lab)
    host.logons.kerberos = KerberosKeys(kdc.keytab)
    with HostsThread([host]):
        done = subprocess.run(
            [sys.executable, "-m", "tests.contract.foreign_clients", client, host.address, door, ca],
            env={
                **os.environ,
                "KRB5_CONFIG": str(kdc.folder / "client.conf"),
                "KRB5CCNAME": f"FILE:{ca.parent / 'tickets'}",
                "TEST_USER": "svc@CORP.EXAMPLE",
                "TEST_PASSWORD": LAB_PASSWORD,
            },
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert [tuple(row) for row in json.loads(done.stdout)] == ours
    assert {user for user, _ in host.logons.kerberos.taken} == {"svc"}
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
