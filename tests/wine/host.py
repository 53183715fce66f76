"""A Windows host whose commands run in Wine, behind the estate's WS-Management endpoint.

It is an oracle for one thing: that the agent's package installs, upgrades and goes, and that its service runs. A
command line that is not listed in :mod:`tests.wine.commands` runs nothing: it is a violation of the machine, as is an
exit code that nobody has looked at.

What Wine does NOT prove:

* PowerShell: there is none, so no script of the SDK runs here.
* Windows Installer's own doings: rollback of a failed install, repair, the service that installs (here it is a child
  of the command, and dies with the shell), policies that forbid packages, 1618 (another install runs), 3010 and 1641
  (restart wanted), files in use that are replaced at the next start.
* That Windows believes a signature: Wine installs what is unsigned or tampered with. osslsigncode judges those.
* Rights: everybody is an administrator; no UAC, no access lists, no AppLocker or WDAC, no antivirus.
* The service manager's finer points: delayed start, failure actions, time limits for a start, dependencies, accounts.
* Exit codes and texts of ``sc`` and ``msiexec``: they are mapped by a table, or dropped.
* The code page of a console, long paths, names that differ in case only, 32-bit registry views.
* How fast anything is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import winrm.protocol

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.powershell import Command
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.testing.wsman_shells import ShellService
from tests.wine.commands import STAGE_FOLDER, NotAllowedError, UnknownCodeError, allow, windows_code
from tests.wine.package import SERVICE, is_readable
from tests.wine.prefix import WinePrefix

_PASSWORD = "S3cret-wine"
_REFUSED = 255


class WineRunner:
    """Runs the listed command lines of one machine in its prefix; see :mod:`msp_sdk.testing.powershell`."""

    def __init__(self, machine: Machine, prefix: WinePrefix) -> None:
        self._machine = machine
        self._prefix = prefix

    async def run(self, command: Command) -> int:
        """Run a command to its end; Windows' exit code."""
        line = " ".join((command.command, *command.arguments))
        try:
            allowed = allow(line)
        except NotAllowedError:
            return self._violated(command, f"a command that is not listed: {line[:200]}")
        if command.options.get("WINRS_SKIP_CMD_SHELL", "").upper() == "TRUE":
            return self._violated(command, f"a command without its shell: {line[:200]}")
        readable = is_readable(self._prefix.path(rf"{STAGE_FOLDER}\{allowed.package}")) if allowed.package else True
        try:
            code, output = await self._prefix.run(line)
            # What failed has changed nothing, so this is as it was before.
            exists = allowed.kind.startswith("sc ") and code != 0 and await self._service_exists()
            code = windows_code(allowed.kind, code, package_readable=readable, service_exists=exists)
        except (UnknownCodeError, RuntimeError, OSError) as error:
            return self._violated(command, f"an unknown end: {error}")
        if allowed.shows and code == 0:
            command.stdout.append(output)
        return code

    async def _service_exists(self) -> bool:
        code, _ = await self._prefix.run(f"sc query {SERVICE}")
        return code == 0

    def _violated(self, command: Command, what: str) -> int:
        self._machine.violations.append(what)
        command.stderr.append(what.encode())
        return _REFUSED


class WineHost:
    """A host that is worked with as any other: real pywinrm, NTLM, sealed messages. Make one with :func:`wine_host`."""

    def __init__(self, machine: Machine, prefix: WinePrefix, endpoint: WsmanHost) -> None:
        self.machine = machine
        self.prefix = prefix
        self.endpoint = endpoint
        self._client = self.client()
        self._shell: str | None = None

    def close(self) -> None:
        """Close the shell."""
        if self._shell is not None:
            self._client.close_shell(self._shell)

    def stage(self, package: Path, name: str) -> str:
        """Lay a file into the stage folder, as a delivery does; its path on the host."""
        folder = self.prefix.path(STAGE_FOLDER)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(package.read_bytes())
        return rf"{STAGE_FOLDER}\{name}"

    def client(self) -> winrm.protocol.Protocol:
        """A new client, not yet connected."""
        return winrm.protocol.Protocol(
            f"http://{self.endpoint.address}:{self.endpoint.http_port}/wsman",
            transport="ntlm",
            username=r".\admin",
            password=_PASSWORD,
            message_encryption="always",
            # Nothing of the environment: a proxy would be asked for our loopback.
            proxy=None,
            ca_trust_path=None,
        )

    def run(self, line: str) -> tuple[int, str]:
        """Run one command line through WS-Management, in one shell for all: exit code and output."""
        try:
            if self._shell is None:
                self._client = self.client()
                self._shell = self._client.open_shell()
            command = self._client.run_command(self._shell, line)
            stdout, _, code = self._client.get_command_output(self._shell, command)
            self._client.cleanup_command(self._shell, command)
        except BaseException:
            # Ctrl-C among them: what was cut off in the middle of a sealed message is not spoken to again.
            self._shell = None
            self._client.transport.close_session()
            raise
        return code, stdout.decode("ascii").replace("\r\n", "\n").strip()


@contextmanager
def wine_host(prefix: WinePrefix) -> Iterator[WineHost]:
    """A host on an address of its own, as long as the context stands."""
    machine = Machine("WINE1")
    accounts = Accounts([Account("admin", _PASSWORD, "WINE1", administers=frozenset({"wine1"}))])
    endpoint = WsmanHost(machine, accounts, address=take_address())
    endpoint.shells = ShellService(machine, runner=WineRunner(machine, prefix).run)
    with HostsThread([endpoint]) as hosts:
        try:
            host = WineHost(machine, prefix, endpoint)
            yield host
            host.close()
        finally:
            hosts.call(_end_commands(endpoint.shells))


async def _end_commands(shells: ShellService) -> None:
    """End what still runs, and wait until it has."""
    running = [command.task for shell in shells.shells.values() for command in shell.commands.values() if command.task]
    shells.close()
    await asyncio.gather(*running, return_exceptions=True)
