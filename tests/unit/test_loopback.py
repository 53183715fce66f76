"""Addresses of stand-ins: nobody else's, however many processes take some."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.loopback import bind_both, claim_network, take_address
from msp_sdk.testing.wsman import HostsThread

OTHER_PROCESS = """
import sys
from pathlib import Path
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.wsman import HostsThread

lab = HostLab(Path(sys.argv[1]))
hosts = [lab.host(f"PC{number}", https=False) for number in range(20)]
with HostsThread(hosts):
    print(*(host.address for host in hosts), flush=True)
    sys.stdin.read()
"""


def test_two_processes_run_their_hosts_side_by_side(tmp_path):
    lab = HostLab(tmp_path)
    ours = [lab.host(f"PC{number}", https=False) for number in range(20)]
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    with (
        HostsThread(ours),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        theirs = other.stdout.readline().split()
        other.communicate()
    assert other.returncode == 0
    assert len(theirs) == 20
    assert {host.address for host in ours}.isdisjoint(theirs)


def test_address_is_given_out_once():
    taken = [take_address() for _ in range(600)]
    assert len(set(taken)) == 600


def test_claim_ends_with_its_context():
    with claim_network() as first, claim_network() as second:
        assert first != second
    held = []
    for _ in range(400):  # more often than there are networks
        with claim_network() as network:
            held.append(network)
    assert all(64 <= network < 214 for network in held)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_number_that_is_taken_for_one_protocol_is_not_taken_for_both(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        # So many are taken for UDP that some of the first attempts fail.
        for _ in range(600):
            taken = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            taken.bind((address, 0))
        for _ in range(500):
            tcp, udp = bind_both(address)
            with tcp, udp:
                assert tcp.getsockname() == udp.getsockname()
        with pytest.raises(OSError, match="in use"):
            bind_both(address, taken.getsockname()[1])
