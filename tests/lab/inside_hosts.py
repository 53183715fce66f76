"""A host that takes the tickets of a real controller's KDC, inside the lab's namespace: one order in, its end out."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from attrs import evolve

from msp_sdk.errors import MspError
from msp_sdk.models.credential import Credential
from msp_sdk.network.kdcs import Kdc
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_kerberos import KerberosKeys
from msp_sdk.windows.scripts import load

DOMAIN = "northvalley.test"
CONTROLLER = "10.99.0.1"


def log_on(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Log on to a host with the controller's own name and keys, and ask it who it is."""
    lab = HostLab(folder)
    account = Account("svc-msp", "", "NORTHVALLEY", dns_domain=DOMAIN, administers=frozenset({"*"}))
    host = WsmanHost(
        Machine("DC1", domain="NORTHVALLEY", dns_domain=DOMAIN),
        Accounts([account]),
        address=take_address(),
        certificate=lab.ca.issue([f"dc1.{DOMAIN}"]),
        http_port=5985 if given["door"] == "http" else None,
    )
    host.logons.kerberos = KerberosKeys(Path(given["keytab"]))
    credential = Credential(
        "c1", 1, "service_account", given["username"], lambda: Secret(given["password"]), domain_name=DOMAIN
    )
    target = evolve(lab.target(host), fqdn=given.get("fqdn", f"dc1.{DOMAIN}"), domain_name=DOMAIN)
    if given["door"] == "http":
        target = evolve(target, port=5985)
    kdcs = (Kdc(CONTROLLER, DOMAIN, netbios_name="NORTHVALLEY", name=f"dc1.{DOMAIN}"),)
    found: dict[str, Any] = {}
    with HostsThread([host]):
        try:
            (result,) = lab.run(target, credential, load("identify"), kdcs=lambda _: kdcs)
            found["host"] = result.host.computer_name
        except MspError as error:
            found |= {"error": type(error).__name__, "code": error.code, "detail": error.detail}
    return {**found, "attempts": account.attempts, "state": lab.ledger.state(credential).state}


def main() -> None:
    """One order."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(log_on(json.loads(sys.stdin.read()), Path(folder))))


if __name__ == "__main__":
    main()
