"""What is asked of a host during a deployment: look, deliver, install, remove. Each is one registered script."""

from __future__ import annotations

import base64

from attrs import frozen

from msp_sdk.deployment.package import render_config
from msp_sdk.deployment.plan import read_state
from msp_sdk.errors import DeploymentError, DigestMismatchError, InstallFailedError, ScriptFailedError
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.rollout import AgentState
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShell

# The staged file, the new file and the old one lie there together for a moment.
ROOM_FACTOR = 3
_INSTALL_CODES = frozenset({"install-failed", "blocked-by-antivirus", "changed-since-plan", "disk-full"})


@frozen
class Deadlines:
    """Seconds that a host has for each step."""

    look_s: float = 60.0
    deliver_s: float = 900.0
    # The host's own limits (lock, stop, unlock, start, and the same again to roll back) add up to less: ending the
    # script in the midst of its rolling back would leave a host without its agent.
    install_s: float = 480.0


class AgentOnHost:
    """The agent on one host, through an open shell.

    Args:
        shell: Open; it is this host's identity that has been checked.
        package: What shall be there.
        run_id: Names the staging folder; letters, digits and hyphens.
        deadlines: For each step.
    """

    def __init__(self, shell: WindowsShell, package: AgentPackage, *, run_id: str, deadlines: Deadlines) -> None:
        self._shell = shell
        self._package = package
        self._run_id = run_id
        self._deadlines = deadlines

    def _place(self) -> dict[str, object]:
        manifest = self._package.manifest
        return {
            "service_name": manifest.service_name,
            "install_folder": manifest.install_folder,
            "file_name": manifest.file_name,
            "config_name": manifest.config_name,
        }

    async def look(self) -> tuple[AgentState, str | None, int]:
        """What is there; see :func:`msp_sdk.deployment.plan.read_state`. Touches nothing."""
        parameters = {**self._place(), "stage_id": self._run_id}
        result = await self._shell.run(load("agent-state"), parameters, deadline_s=self._deadlines.look_s)
        return read_state(result.value)

    async def deliver(self, content: bytes, *, free_bytes: int) -> None:
        """Bring the file into this run's staging folder, and hear from the host that it is the right one.

        Raises:
            DeploymentError: No room, or the antivirus took it.
            DigestMismatchError: Another file arrived.
        """
        if free_bytes < ROOM_FACTOR * len(content):
            raise DeploymentError(
                f"{free_bytes} bytes are free, {ROOM_FACTOR * len(content)} are needed.", code="disk-full"
            )
        parameters = {**self._place(), "stage_id": self._run_id, "size_bytes": len(content)}
        try:
            result = await self._shell.run(
                load("agent-stage"), parameters, deadline_s=self._deadlines.deliver_s, payload=content
            )
        except ScriptFailedError as error:
            raise _as_deployment(error) from error
        if result.value.get("sha256") != self._package.sha256:
            raise DigestMismatchError(
                f"{result.value.get('size_bytes')} bytes with the digest {result.value.get('sha256')} arrived."
            )

    async def install(self, *, replaceable: frozenset[str]) -> None:
        """Stop, swap, start; the host rolls back by itself when the service does not start. Safe to repeat.

        Args:
            replaceable: Digests of files that may be replaced; one with another digest is left alone.

        Raises:
            InstallFailedError: The code says why; the host is as it was before where that was possible.
        """
        config = render_config(self._package.manifest)
        parameters = {
            **self._place(),
            "display_name": self._package.manifest.display_name,
            "sha256": self._package.sha256,
            "config": None if config is None else base64.b64encode(config).decode("ascii"),
            "stage_id": self._run_id,
            "known_sha256": sorted(replaceable),
        }
        await self._change("agent-install", parameters)

    async def remove(self) -> None:
        """Take the agent away. Safe to repeat.

        Raises:
            InstallFailedError: The service could not be deleted.
        """
        await self._change("agent-remove", self._place())

    async def _change(self, script: str, parameters: dict[str, object]) -> None:
        try:
            await self._shell.run(load(script), parameters, deadline_s=self._deadlines.install_s)
        except ScriptFailedError as error:
            raise _as_deployment(error) from error


def _as_deployment(error: ScriptFailedError) -> DeploymentError | ScriptFailedError:
    if error.code == "digest-mismatch":
        return DigestMismatchError(error.detail)
    if error.code in _INSTALL_CODES:
        return InstallFailedError(error.detail, code=error.code)
    return error
