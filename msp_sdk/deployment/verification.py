"""Is the agent really there? "The service runs" is not enough (lesson 41): version, file, configuration, service."""

from __future__ import annotations

from msp_sdk.deployment.package import config_digest
from msp_sdk.deployment.plan import version_key
from msp_sdk.errors import InstallFailedError
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.rollout import AgentState


def verify(package: AgentPackage, observed: AgentState) -> None:
    """Compare what stands on the host with what was wished.

    Raises:
        InstallFailedError: ``verification-failed``; the detail names everything that is not as wished.
    """
    wanted = config_digest(package.manifest)
    troubles = []
    if observed.file_sha256 != package.sha256:
        troubles.append(f"the file has the digest {observed.file_sha256 or 'of nothing'}")
    # Many programs, those built by Go among them, carry no version at all; then the digest alone says which one it is.
    if observed.version and version_key(observed.version) != version_key(package.version):
        troubles.append(f"its version is {observed.version}, not {package.version}")
    if wanted is not None and observed.config_sha256 != wanted:
        troubles.append(
            "the configuration is another one" if observed.config_sha256 else "the configuration is missing"
        )
    if observed.service_state != "running":
        troubles.append(f"the service is {observed.service_state or 'not registered'}")
    if troubles:
        raise InstallFailedError(f"{'; '.join(troubles)}.", code="verification-failed")


def verify_gone(observed: AgentState) -> None:
    """After a removal nothing of the agent is left.

    Raises:
        InstallFailedError: ``verification-failed``.
    """
    if observed.installed or observed.service_state is not None:
        raise InstallFailedError("the file or the service is still there.", code="verification-failed")
