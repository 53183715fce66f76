"""Packages of made-up agents, and small groups of virtual machines to deploy them to.

The same arguments give the same bytes; :mod:`msp_sdk.testing.agent_file` tells what is in them.

Example:
    >>> package, content = build_agent_package("1.2.0")
    >>> package.version, package.size_bytes == len(content)
    ('1.2.0', True)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from attrs import frozen

from msp_sdk.models.credential import Credential
from msp_sdk.models.package import AgentPackage, PackageManifest
from msp_sdk.models.target import Target
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.agent_file import AGENT_SIZE_BYTES, build_agent_file
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import WsmanHost

SERVICE_NAME = "MspDemoAgent"


def build_agent_package(
    version: str,
    *,
    name: str = "demo-agent",
    config: Mapping[str, object] | None = None,
    start_failure: str | None = None,
    flagged: bool = False,
    size_bytes: int = AGENT_SIZE_BYTES,
) -> tuple[AgentPackage, bytes]:
    """Make an agent package and its file.

    Args:
        version: Dotted numbers.
        name: Of the package.
        config: What is written beside the agent; the default names a site.
        start_failure: Makes an agent whose service does not start.
        flagged: Makes an agent that the antivirus takes away.
        size_bytes: Of the file.
    """
    content = build_agent_file(version, name=name, start_failure=start_failure, flagged=flagged, size_bytes=size_bytes)
    manifest = PackageManifest(
        service_name=SERVICE_NAME,
        display_name="MSP Demo Agent",
        install_folder=r"%ProgramFiles%\MSP Demo Agent",
        file_name="agent.exe",
        config_name="config.json",
        config={"site": "Zürich", "interval_seconds": 60} if config is None else config,
    )
    package = AgentPackage(
        name=name,
        version=version,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        manifest=manifest,
    )
    return package, content


@frozen
class HostGroup:
    """Virtual machines outside any domain, which one local administrator may log on to.

    Attributes:
        hosts: Not started; give them to a ``HostsThread``.
        credential: The local administrator, for every host.
        targets: One a host, in the same order.
    """

    hosts: tuple[WsmanHost, ...]
    credential: Credential
    targets: tuple[Target, ...]

    def machine(self, name: str) -> Machine:
        """The machine with this name."""
        return next(host.machine for host in self.hosts if host.machine.name == name)


def build_hosts(names: Sequence[str]) -> HostGroup:
    """Make virtual machines with WinRM on 5985 of addresses of their own; ``names`` are NetBIOS names."""
    password = "Local-Zürich-7"
    accounts = Accounts([Account("admin", password, name, administers=frozenset({name.casefold()})) for name in names])
    credential = Credential("local", 1, "local_admin", r".\admin", lambda: Secret(password))
    hosts, targets = [], []
    for name in names:
        address = take_address()
        hosts.append(WsmanHost(Machine(name=name), accounts, address=address, https_port=None))
        targets.append(Target(name, "server", ip_addresses=(address,), credential_id="local"))
    return HostGroup(tuple(hosts), credential, tuple(targets))
