"""The Windows hosts of a site whose directory is a real Samba: a process of its own, as the estate of the demo is.

The first line of stdin says, as JSON, which machines there are, where they are, and which account administers them.
Then it prints a line of JSON when it is ready and answers ``machines`` and ``accounts``; ``{"name": …}`` is a machine
more. It ends when its stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import msp_sdk.testing.script_handlers  # noqa: F401 (registers who answers our scripts)
from msp_sdk.network.kerberos import is_installed
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.builders import SERVICE_NAME, build_agent_package
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.estate import HTTP_PORT, HTTPS_PORT, SilentHost
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.testing.wsman_kerberos import KerberosKeys
from msp_sdk.wire.converter import encode_bytes, unstructure


class Hosts:
    """The machines that were asked for; ``https`` and ``http`` open WinRM, ``silent`` drops what comes."""

    def __init__(self, order: dict[str, Any], stack: contextlib.AsyncExitStack) -> None:
        self._order = order
        self._stack = stack
        self.ca = EstateCA.make("North Valley hosts CA")
        self.account = Account(
            username=order["username"],
            password=order["password"],
            domain=order["netbios_name"],
            dns_domain=order["domain"],
            administers=frozenset(("*",)),
        )
        self.running: dict[str, WsmanHost] = {}

    async def add(self, planned: dict[str, Any]) -> None:
        """Start one machine."""
        name, address, door = planned["name"], planned["address"], planned["door"]
        if door == "silent":
            self._stack.enter_context(SilentHost(address))
        if door not in ("http", "https"):
            return
        domain = self._order["domain"]
        machine = Machine(
            name=name,
            domain=self._order["netbios_name"],
            dns_domain=domain,
            sid=planned["sid"],
            os_name=planned["os_name"],
        )
        host = WsmanHost(
            machine,
            Accounts([self.account]),
            address=address,
            http_port=HTTP_PORT if door == "http" else None,
            https_port=HTTPS_PORT if door == "https" else None,
            certificate=self.ca.issue([f"{name.lower()}.{domain}"]) if door == "https" else None,
        )
        if is_installed():
            host.logons.kerberos = KerberosKeys(Path(planned["keytab"]))
        self.running[name] = await self._stack.enter_async_context(host)

    def facts(self) -> dict[str, Any]:
        """What the partner knows."""
        package, content = build_agent_package("1.4.0")
        return {
            "domain": self._order["domain"],
            "dns": self._order["dns"],
            "username": self.account.upn,
            "password": self.account.password,
            "certificates": [self._order["certificate_sha256"]],
            "ca_pem": self.ca.pem.decode(),
            "package": unstructure(package),
            "package_content": encode_bytes(content),
            "computers": self._order["truth"],
        }

    def machine_facts(self) -> dict[str, Any]:
        """By name: does the agent run, and what must never have happened."""
        return {
            name: {
                "agent_running": (service := host.machine.services.find(SERVICE_NAME)) is not None
                and service.state == "running",
                "violations": list(host.machine.violations),
                "tickets": len(host.logons.kerberos.taken) if host.logons.kerberos else 0,
            }
            for name, host in self.running.items()
        }


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with contextlib.AsyncExitStack() as stack:
        order = json.loads(await reader.readline())
        hosts = Hosts(order, stack)
        for planned in order["machines"]:
            await hosts.add(planned)
        _say(hosts.facts())
        while line := (await reader.readline()).strip():
            if line == b"machines":
                _say(hosts.machine_facts())
            elif line == b"accounts":
                _say({"bad_password_count": hosts.account.bad_password_count, "attempts": hosts.account.attempts})
            else:
                await hosts.add(json.loads(line))
                _say({"added": True})


def _say(facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve())
