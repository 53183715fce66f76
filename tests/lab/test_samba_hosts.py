"""Kerberos to a host with the tickets of a real controller's KDC, which carry a PAC and know UPNs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.network.kerberos import is_installed
from tests.real import do_without

pytestmark = pytest.mark.samba

INSIDE = Path(__file__).with_name("inside_hosts.py")
ACCOUNT = "svc-msp"


@pytest.fixture(scope="module")
def keytab(samba, tmp_path_factory) -> Path:
    """The keys of the controller's own account: the host that we play has its name."""
    if not is_installed():
        do_without("the extra `kerberos` is not installed")
    file = tmp_path_factory.mktemp("keys") / "dc1.keytab"
    settings = samba.folder / "etc" / "smb.conf"
    done = samba.run("samba-tool", "domain", "exportkeytab", str(file), "--principal=DC1$", f"--configfile={settings}")
    assert done.returncode == 0, done.stderr
    file.chmod(0o600)
    return file


@pytest.fixture
def log_on(samba, keytab):
    def call(**more: Any) -> dict[str, Any]:
        order = {"username": samba.username, "password": samba.password, "keytab": str(keytab), "door": "https", **more}
        done = samba.run(sys.executable, str(INSIDE), stdin=json.dumps(order))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return call


@pytest.mark.parametrize("door", ["http", "https"])
@pytest.mark.parametrize("username", ["svc-msp@northvalley.test", r"NORTHVALLEY\svc-msp"])
def test_a_controllers_ticket_logs_on_to_a_host(log_on, door, username):
    found = log_on(door=door, username=username)
    assert found == {"host": "DC1", "attempts": [["DC1", "ticket"]], "state": "proven"}, found


def test_a_wrong_password_is_one_strike_at_the_controller_and_nothing_at_the_host(samba, log_on):
    # Lesson 32.
    samba.reset_bad_password_count(ACCOUNT)
    found = log_on(password="not-this-one")
    assert (found["code"], found["attempts"], found["state"]) == ("wrong-password", [], "refused")
    assert samba.bad_password_count(ACCOUNT) == 1


def test_a_host_that_the_directory_does_not_know_is_told_by_its_name(log_on):
    found = log_on(door="http", fqdn="nobody.northvalley.test")
    assert found["code"] == "ntlm-not-allowed", found
    assert "The KDC does not know this service" in found["detail"]
