"""A domain in small for tests of what works on hosts: accounts, a ledger, a CA, hosts, and a front that listens in.

Example:
    >>> lab = HostLab(folder)  # doctest: +SKIP
    >>> host = lab.host("SRV1")
    >>> with HostsThread([host]):
    ...     results = lab.run(lab.target(host), lab.local_credential(), load("identify"))
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve

from msp_sdk.models.credential import Credential
from msp_sdk.models.target import Target
from msp_sdk.network.kdcs import Kdcs
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.windows.scripts import Script
from msp_sdk.windows.shell import HostPolicy, ScriptResult, ShellOptions, WindowsShells

LAB_PASSWORD = "S3cret-'\"$`:pä"
_OPTIONS = ShellOptions(threads=8, connect_s=1.0, quiet_s=1.0, identify_s=5.0)

Prove = Callable[[Credential], Awaitable[None]]


class HostLab:
    r"""One domain ``corp.example``, its accounts, one ledger, and hosts on addresses of their own.

    ``CORP\svc`` administers every host, ``CORP\plain`` none; ``.\admin`` is local to ``SRV1``.
    """

    def __init__(self, folder: Path) -> None:
        self.ca = EstateCA.make("Corp CA")
        self.service = Account("svc", LAB_PASSWORD, "CORP", dns_domain="corp.example", administers=frozenset({"*"}))
        self.local = Account("admin", LAB_PASSWORD, "SRV1", administers=frozenset({"srv1"}))
        self.plain = Account("plain", LAB_PASSWORD, "CORP", dns_domain="corp.example")
        self.accounts = Accounts([self.service, self.local, self.plain])
        self.ledger = LogonLedger(folder / "ledger.db")

    def host(
        self, name: str = "SRV1", *, http: bool = True, https: bool = True, certificate_name: str | None = None
    ) -> WsmanHost:
        """A member of the domain, not yet started."""
        return WsmanHost(
            Machine(name, domain="CORP", dns_domain="corp.example"),
            self.accounts,
            address=take_address(),
            http_port=5985 if http else None,
            https_port=5986 if https else None,
            certificate=self.ca.issue([certificate_name or f"{name.lower()}.corp.example"]),
        )

    def target(self, host: WsmanHost, name: str | None = None, **changes: Any) -> Target:
        """The target that ``host`` is; ``name`` makes it another one at the same address."""
        name = name or host.machine.name
        target = Target(
            hostname=name,
            role="server",
            fqdn=f"{name.lower()}.corp.example",
            domain_name="corp.example",
            ip_addresses=(host.address,),
        )
        return evolve(target, **changes)

    def domain_credential(self, password: str = LAB_PASSWORD, **changes: Any) -> Credential:
        """``svc`` of the domain, unproven until :meth:`prove`."""
        credential = Credential(
            "c1", 1, "service_account", "svc@corp.example", lambda: Secret(password), domain_name="corp.example"
        )
        return evolve(credential, **changes)

    def local_credential(self, password: str = LAB_PASSWORD, **changes: Any) -> Credential:
        """``admin`` of SRV1."""
        return evolve(Credential("c2", 1, "local_admin", r".\admin", lambda: Secret(password)), **changes)

    def prove(self, credential: Credential) -> None:
        """Let a controller have taken the password."""
        with self.ledger.attempt(credential, place="controller", host="dc1") as attempt:
            attempt.succeeded()

    def shells(
        self,
        *,
        policy: HostPolicy | None = None,
        prove: Prove | None = None,
        kdcs: Kdcs | None = None,
        options: ShellOptions | None = None,
    ) -> WindowsShells:
        """Shells with short times that trust the lab's CA."""
        believed = policy or HostPolicy(trusted_cas=(self.ca.pem.decode(),))
        return WindowsShells(self.ledger, policy=lambda: believed, prove=prove, kdcs=kdcs, options=options or _OPTIONS)

    def run(
        self,
        target: Target,
        credential: Credential,
        *scripts: Script,
        parameters: Mapping[str, object] | None = None,
        payload: bytes = b"",
        **shells: Any,
    ) -> list[ScriptResult]:
        """Open, run the scripts one after the other, close."""

        async def go() -> list[ScriptResult]:
            factory = self.shells(**shells)
            try:
                async with factory.open(target, credential) as shell:
                    return [
                        await shell.run(script, parameters or {}, deadline_s=10, payload=payload) for script in scripts
                    ]
            finally:
                await factory.aclose()

        return asyncio.run(go())


class RecordingFront:
    """Stands before a host's door, records what comes in, passes it on, and breaks connections when asked.

    Attributes:
        address: Where it listens, on the host's port.
        recorded: All bytes that came in.
        reset_next: So many connections are broken at their first bytes.
    """

    def __init__(self, host: WsmanHost, port: int = 5985) -> None:
        self.recorded = bytearray()
        self.reset_next = 0
        self.connection_count = 0
        self._to = (host.address, port)
        self._server = socket.create_server((take_address(), port))
        self.address: str = self._server.getsockname()[0]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connection_count += 1
                upstream = socket.create_connection(self._to)
                threading.Thread(target=self._pump, args=(client, upstream, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, record: bool) -> None:  # noqa: FBT001 (a thread's argument)
        with suppress(OSError):
            while data := source.recv(65536):
                if record:
                    self.recorded += data
                    if self.reset_next:
                        self.reset_next -= 1
                        break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def assert_nothing_in_clear(self) -> None:
        """Fail on anything of an envelope, a script or a password.

        Raises:
            AssertionError: There is such a thing, or nothing was recorded at all.
        """
        found = [word for word in _CLEAR_WORDS if word in self.recorded]
        if found or not self.recorded:
            raise AssertionError(found or "nothing was recorded")


_CLEAR_WORDS = (b"Envelope", b"powershell", b"http://schemas", b"EncodedCommand", LAB_PASSWORD.encode())
