"""Samba's own netlogon client beside ours: at a real controller, and at the stand-in."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from msp_sdk.discovery.netlogon import ControllerFlags
from msp_sdk.testing.directory_spec import DirectorySpec
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.netlogon import NetlogonServer

pytestmark = pytest.mark.samba

SYSTEM_PYTHON = "/usr/bin/python3"
STAND_IN = take_address()
# Samba's names of what ours calls so.
FIELDS = {
    "forest": "forest",
    "dns_domain": "domain_name",
    "pdc_dns_name": "controller",
    "domain_name": "netbios_name",
    "pdc_name": "netbios_controller",
    "server_site": "ad_site",
    "client_site": "client_site",
    "domain_uuid": "domain_guid",
    "server_type": "flags",
}
FOREIGN = """
import json, sys
from samba import param
from samba.dcerpc import nbt
from samba.net import Net
domain, address, fields = sys.argv[1:]
found = Net(creds=None, lp=param.LoadParm()).finddc(domain=domain, address=address, flags=nbt.NBT_SERVER_LDAP)
print(json.dumps({name: str(getattr(found, name)) for name in json.loads(fields)}))
"""
OURS = """
import asyncio, json, sys
from msp_sdk.discovery.cldap import ping
domain, address, fields = sys.argv[1:]
answer = asyncio.run(ping(address, 389, domain))
print(json.dumps({theirs: str(getattr(answer, ours)) for theirs, ours in json.loads(fields).items()}))
"""


def judge(ours: subprocess.CompletedProcess[str], foreign: subprocess.CompletedProcess[str]) -> None:
    assert (ours.returncode, foreign.returncode) == (0, 0), ours.stderr + foreign.stderr
    said, expected = json.loads(ours.stdout), json.loads(foreign.stdout)
    assert int(said.pop("server_type")) == int(expected.pop("server_type")) & sum(ControllerFlags)
    assert {key: value.lower() for key, value in said.items()} == {
        key: value.lower() for key, value in expected.items()
    }
    assert all(said[name] for name in ("forest", "dns_domain", "pdc_dns_name", "domain_name", "server_site"))


def test_our_ping_of_a_real_controller_says_what_sambas_own_says(samba):
    asked = ("northvalley.test", "10.99.0.1", json.dumps(FIELDS))
    judge(samba.run(sys.executable, "-c", OURS, *asked), samba.run(SYSTEM_PYTHON, "-c", FOREIGN, *asked))


@pytest.mark.anyio
async def test_sambas_own_client_reads_the_stand_in_as_ours_does(samba):
    spec = DirectorySpec("clinic.northvalley.test", "CLINIC", forest="northvalley.test", ad_site="Lausanne")

    def run(python: str, code: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-c", code, spec.domain, STAND_IN, json.dumps(FIELDS)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    async with NetlogonServer(spec, address=STAND_IN, port=389, sites={"127.0.0.0/8": "Basel"}):
        ours = await asyncio.to_thread(run, sys.executable, OURS)
        foreign = await asyncio.to_thread(run, SYSTEM_PYTHON, FOREIGN)
    judge(ours, foreign)
    assert json.loads(ours.stdout)["client_site"] == "Basel"
