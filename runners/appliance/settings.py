"""The daemon's settings: from arguments first, then the environment, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from msp_sdk.errors import ConfigError
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.resolver import DnsServer, parse_server
from msp_sdk.provisioning import DEFAULT_PATH
from msp_sdk.reachability.cache import LIVE_TTL_S, TTL_S
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
        silence_ttl_s: How long an enumeration believes the silence of a host; 0 looks anew each time.
        live_ttl_s: How long it believes a sign of life.
    """

    config: Path = DEFAULT_PATH
    central: str | None = None
    code: Secret | None = field(default=None, repr=False)
    resolvers: tuple[DnsServer, ...] = ()
    search: tuple[str, ...] = ()
    ca_file: str | None = None
    sweep: bool = False
    excluded: ExcludedNetworks = field(factory=ExcludedNetworks)
    silence_ttl_s: float = TTL_S
    live_ttl_s: float = LIVE_TTL_S

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
    separated by commas), ``MSP_SILENCE_TTL`` and ``MSP_LIVE_TTL`` (seconds).

    Raises:
        ConfigError: A resolver, an excluded network or a number of seconds is malformed.
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
        silence_ttl_s=_seconds(environ, "MSP_SILENCE_TTL", TTL_S),
        live_ttl_s=_seconds(environ, "MSP_LIVE_TTL", LIVE_TTL_S),
    )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} is {text!r}, and no number of seconds.", remedy="Write it as 3600.")
    return float(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
