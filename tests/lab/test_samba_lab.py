"""The lab itself, by foreign tools: what our clients are tested against is a real, working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.real import need

pytestmark = pytest.mark.samba


def test_ldapsearch_reads_the_directory_over_verified_tls(samba, tmp_path):
    need("ldapsearch")
    password = tmp_path / "password"
    password.write_text(samba.password, encoding="ascii")
    ca = tmp_path / "ca.pem"
    ca.write_text(samba.ca_pem, encoding="ascii")
    found = samba.run(
        *("env", f"LDAPTLS_CACERT={ca}", "LDAPTLS_REQCERT=demand", "ldapsearch", "-LLL", "-x"),
        *("-H", "ldaps://dc1.northvalley.test", "-D", samba.username, "-y", str(password)),
        *("-b", "DC=northvalley,DC=test", "(objectCategory=computer)", "sAMAccountName"),
    )
    assert found.returncode == 0, found.stderr
    names = {line.split()[1] for line in found.stdout.splitlines() if line.startswith("sAMAccountName:")}
    assert names == {"DC1$", "FILE1$", "SQL1$", "FRONTDESK1$", "XRAY1$", "OLDSRV$", "PRESTAGED1$", "LINUX1$"}


def test_wrong_password_of_a_foreign_tool_counts_once(samba, tmp_path):
    need("ldapsearch")
    samba.reset_bad_password_count("svc-msp")
    password = tmp_path / "password"
    password.write_text("not-this-one", encoding="ascii")
    refused = samba.run(
        *("env", "LDAPTLS_REQCERT=never", "ldapsearch", "-x", "-H", "ldaps://dc1.northvalley.test"),
        *("-D", samba.username, "-y", str(password), "-b", "", "-s", "base"),
    )
    assert "data 52e" in refused.stderr
    assert samba.bad_password_count("svc-msp") == 1
    samba.reset_bad_password_count("svc-msp")
    assert samba.bad_password_count("svc-msp") == 0


def test_nothing_of_the_controller_listens_outside_its_namespace(samba):
    listening = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    assert "10.99.0.1/" not in listening
    assert Path(f"/etc/netns/{samba.namespace}/resolv.conf").exists()
