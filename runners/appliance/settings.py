"""The daemon's settings: from arguments first, then the environment, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.resolver import DnsServer, parse_server
from msp_sdk.provisioning import DEFAULT_PATH
from msp_sdk.secret import Secret


@frozen
class ApplianceSettings:
    """Where the daemon keeps its things and whom it asks.

    Attributes:
        config: ``config.yaml``; state, keys and the outbox live beside it.
        central: Where a claim goes; later the enrolment says it.
        code: A provision code to claim when there is no config.
        resolvers: DNS servers that replace resolv.conf and leases, as (host, port); empty means: the system's.
        search: Search domains that replace those of resolv.conf and leases.
        ca_file: CAs to trust for Central instead of the system's.
        sweep: Look for Windows hosts in the appliance's own subnets too; a person asks for it.
        excluded: Networks and addresses that discovery, sweep and probing never touch.
    """

    config: Path = DEFAULT_PATH
    central: str | None = None
    code: Secret | None = field(default=None, repr=False)
    resolvers: tuple[DnsServer, ...] = ()
    search: tuple[str, ...] = ()
    ca_file: str | None = None
    sweep: bool = False
    excluded: ExcludedNetworks = field(factory=ExcludedNetworks)

    @property
    def state_folder(self) -> Path:
        """Where everything but the config is kept."""
        return self.config.parent / "state"

    @property
    def outbox_folder(self) -> Path:
        """Where reports wait for Central."""
        return self.config.parent / "outbox"

    @property
    def keys_file(self) -> Path:
        """The device's private keys."""
        return self.config.parent / "device.key"


def read_settings(
    environ: Mapping[str, str],
    *,
    config: str | None = None,
    central: str | None = None,
    resolvers: tuple[str, ...] = (),
    search: tuple[str, ...] = (),
    ca_file: str | None = None,
) -> ApplianceSettings:
    """Put the settings together.

    Environment: ``MSP_CONFIG``, ``MSP_CENTRAL``, ``MSP_PROVISION_CODE``, ``MSP_RESOLVERS`` and ``MSP_SEARCH`` (both
    separated by commas), ``MSP_CENTRAL_CA``, ``MSP_SWEEP`` (``1`` means yes), ``MSP_EXCLUDED`` (networks and addresses,
    separated by commas).

    Raises:
        ConfigError: A resolver or an excluded network is malformed.
    """
    code = environ.get("MSP_PROVISION_CODE")
    return ApplianceSettings(
        config=Path(config or environ.get("MSP_CONFIG") or DEFAULT_PATH),
        central=central or environ.get("MSP_CENTRAL") or None,
        code=Secret(code) if code else None,
        resolvers=tuple(parse_server(entry) for entry in resolvers or _words(environ.get("MSP_RESOLVERS", ""))),
        search=search or _words(environ.get("MSP_SEARCH", "")),
        ca_file=ca_file or environ.get("MSP_CENTRAL_CA") or None,
        sweep=environ.get("MSP_SWEEP") == "1",
        excluded=ExcludedNetworks.parse(_words(environ.get("MSP_EXCLUDED", ""))),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
