"""Settings of Central, and the rules about them that decide whether it may start."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from central_app.database.connection import sqlite_path
from msp_sdk.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HIGHEST_PORT = 65535
DEFAULT_DATABASE = "sqlite:///central.db"
DATABASE_VARIABLE = "MSP_CENTRAL_DATABASE"
KEY_FILE_VARIABLE = "MSP_CENTRAL_KEY_FILE"


@frozen
class CentralSettings:
    """How Central runs. Make it with :func:`make_settings`, which checks it.

    Attributes:
        port: 0 takes a free one.
        behind_proxy: Who may connect; their ``X-Forwarded-For`` is believed. Empty: nobody is a proxy.
        public_url: How appliances and browsers reach Central; None: the bound scheme, host and port.
        claims_per_minute_address: Claims that one address may try, and as many logins.
        claims_per_minute_code: Claims of one provision code.
        reports_per_minute_appliance: Reports of one appliance; its check-ins do not count.
    """

    database: str = DEFAULT_DATABASE
    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: tuple[Network, ...] = ()
    public_url: str | None = None
    key_file: Path | None = None
    claims_per_minute_address: int = 120
    claims_per_minute_code: int = 20
    reports_per_minute_appliance: int = 600

    @property
    def vault_key_path(self) -> Path:
        """Where the vault's key is: beside the SQLite file, if nothing else is said."""
        if self.key_file is not None:
            return self.key_file
        path = sqlite_path(self.database)
        return path.with_name(f"{path.name}.key")

    def endpoint(self, port: int) -> str:
        """``api_endpoint`` for the port that was bound; never from a ``Host`` header."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        scheme = "https" if self.tls_cert is not None else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


def make_settings(
    environ: Mapping[str, str],
    *,
    database: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    behind_proxy: Iterable[str] = (),
    public_url: str | None = None,
    claims_per_minute_address: int = 120,
    claims_per_minute_code: int = 20,
    reports_per_minute_appliance: int = 600,
) -> CentralSettings:
    """Settings from arguments and the environment, checked.

    Raises:
        ConfigError: They contradict each other or are not safe. Not retryable.
    """
    settings = CentralSettings(
        database=database or environ.get(DATABASE_VARIABLE) or DEFAULT_DATABASE,
        host=host,
        port=port,
        tls_cert=Path(tls_cert) if tls_cert else None,
        tls_key=Path(tls_key) if tls_key else None,
        behind_proxy=tuple(_parse_network(text) for text in behind_proxy),
        public_url=public_url,
        key_file=Path(environ[KEY_FILE_VARIABLE]) if environ.get(KEY_FILE_VARIABLE) else None,
        claims_per_minute_address=claims_per_minute_address,
        claims_per_minute_code=claims_per_minute_code,
        reports_per_minute_appliance=reports_per_minute_appliance,
    )
    sqlite_path(settings.database)
    return settings


def check_bind(settings: CentralSettings) -> None:
    """Refuse to serve where it would not be safe, or where nobody could find us.

    Raises:
        ConfigError: With what to add. Not retryable.
    """
    if not 0 <= settings.port <= HIGHEST_PORT:
        raise ConfigError(f"{settings.port} is no port.", remedy=f"Give --port 0 to {HIGHEST_PORT}.")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("TLS needs both a certificate and its key.", remedy="Give --tls-cert and --tls-key.")
    if settings.tls_cert is not None and settings.behind_proxy:
        raise ConfigError("TLS ends either here or at the proxy.", remedy="Drop --tls-cert or --behind-proxy.")
    if settings.public_url is not None:
        _check_public_url(settings.public_url)
    if not is_loopback(settings.host) and settings.tls_cert is None and not settings.behind_proxy:
        raise ConfigError(
            f"without TLS Central listens on loopback only, not on {settings.host}.",
            code="insecure-bind",
            remedy="Give --tls-cert and --tls-key, or --behind-proxy.",
        )
    if _is_wildcard(settings.host) and settings.public_url is None:
        raise ConfigError(
            "on a wildcard address Central does not know how it is reached.",
            code="public-url-missing",
            remedy="Give --public-url.",
        )


def is_loopback(host: str) -> bool:
    """True for a host that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_is_secure(endpoint: str) -> bool:
    """Session cookies are ``Secure``, unless the public URL is http to loopback."""
    parts = urlsplit(endpoint)
    return not (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        pass
    try:
        # "0" and "0.0" are spellings of it, too.
        return not any(socket.inet_aton(host))
    except OSError:
        return host == ""


def _parse_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(f"{text!r} is not a network such as 10.0.0.0/24.", remedy="Correct --behind-proxy.") from None


def _is_public_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
    # Routes begin at the root, and a password in it would travel with every code.
    bare = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username or parts.password)
    return named and bare and (parts.scheme == "https" or plain)


def _check_public_url(url: str) -> None:
    if not _is_public_url(url):
        raise ConfigError(
            "the public URL is not https://HOST[:PORT], nor http to loopback.",
            code="insecure-url",
            remedy="Give --public-url https://….",
        )
