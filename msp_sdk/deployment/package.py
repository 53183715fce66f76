r"""The package on our side: its file, checked against its digest, and the bytes of its configuration.

Example:
    >>> from msp_sdk.models.package import PackageManifest
    >>> manifest = PackageManifest("agent", "Agent", r"C:\Agent", "agent.exe", config_name="a.json", config={"b": 1})
    >>> render_config(manifest)
    b'{\n  "b": 1\n}\n'
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

from msp_sdk.errors import DeploymentError, DigestMismatchError
from msp_sdk.models.package import AgentPackage, PackageManifest

# Where the package's file comes from: a path, or whatever gives its bytes when they are needed.
PackageFile = Path | Callable[[], bytes]


def load_package(package: AgentPackage, file: PackageFile | None) -> bytes:
    """The package's file, checked before it goes anywhere. Blocks; call it in a thread.

    Raises:
        DeploymentError: The file cannot be had (``package-missing``).
        DigestMismatchError: It is not the one that the package names.
    """
    if file is None:
        raise DeploymentError(f"the file of {package.name} {package.version} is not here.", code="package-missing")
    try:
        content = file.read_bytes() if isinstance(file, Path) else file()
    except OSError as error:
        raise DeploymentError(
            f"the file of {package.name} {package.version} cannot be read: {error}.", code="package-missing"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if not hmac.compare_digest(found, package.sha256):
        raise DigestMismatchError(
            f"the file of {package.name} {package.version} has the digest {found}, not {package.sha256}.",
            remedy="Upload the package again.",
        )
    return content


def render_config(manifest: PackageManifest) -> bytes | None:
    """The configuration as it is written on the host, or None when the agent has none.

    JSON in UTF-8 without a byte-order mark (lesson 43), the same bytes for the same content, so that it is compared
    byte by byte.
    """
    if manifest.config_name is None:
        return None
    return (json.dumps(manifest.config, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def config_digest(manifest: PackageManifest) -> str | None:
    """SHA-256 of the configuration as it is written, lower-case hex; None when the agent has none."""
    content = render_config(manifest)
    return None if content is None else hashlib.sha256(content).hexdigest()
