"""Agent packages: any Windows agent described by data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen


@frozen
class PackageManifest:
    """How the agent is installed and recognised.

    Attributes:
        kind: ``service-exe``: one executable that is registered as a Windows service.
        service_name: The service's short name.
        install_folder: Absolute, without a trailing backslash; ``%ProgramFiles%`` is understood.
        file_name: The executable's name in that folder.
        config_name: The configuration's name in that folder; None when the agent has none.
        config: The configuration, written as JSON without a byte-order mark. Holds no secret.
    """

    service_name: str
    display_name: str
    install_folder: str
    file_name: str
    kind: Literal["service-exe"] = "service-exe"
    config_name: str | None = None
    config: Mapping[str, object] = field(factory=dict)


@frozen
class AgentPackage:
    """An agent in one version. ``sha256`` is over the file, lower-case hex."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    manifest: PackageManifest
    uploaded: bool = False
    created_at: datetime | None = None
