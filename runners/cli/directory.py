"""What the directory commands share: options, the domain, the credential, certificates that a person looks at."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msp_sdk.errors import ConfigError, DirectoryError, LogonNotAllowedError
from runners.cli.common import read_password, read_text_file

if TYPE_CHECKING:
    from msp_sdk.discovery import DomainDiscoverer
    from msp_sdk.models.credential import Credential, TrustedCertificate
    from msp_sdk.models.domain import Domain
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.network.resolver import Resolver


def add_resolver_options(parser: argparse.ArgumentParser) -> None:
    """``--resolver`` and ``--search``."""
    parser.add_argument("--resolver", metavar="ADDRESS[:PORT]", action="append", default=[], help="DNS server to ask")
    parser.add_argument("--search", metavar="DOMAIN", action="append", default=[], help="domain to look for")


def add_directory_options(parser: argparse.ArgumentParser) -> None:
    """Everything that reading a directory takes."""
    add_resolver_options(parser)
    parser.add_argument("--user", metavar="USER", required=True, help=r"user@domain or DOMAIN\user")
    parser.add_argument("--password-file", metavar="FILE", help="else MSP_PASSWORD, else a prompt")
    parser.add_argument("--server", metavar="HOST[:PORT]", help="a controller, instead of discovery")
    parser.add_argument("--ca", metavar="FILE", help="PEM of the CA that signed the controllers' certificates")
    parser.add_argument("--accept-certificate", metavar="SHA256", action="append", default=[])
    parser.add_argument("--try-again", action="store_true", help="one more attempt after a refusal")


def state_folder() -> Path:
    """Where the command line keeps its ledger and pins."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "msp"


def open_ledger() -> LogonLedger:
    """The command line's logon ledger; the same one that the library takes by itself."""
    from msp_sdk.enumeration import default_ledger_path
    from msp_sdk.network.logons import LogonLedger

    return LogonLedger(default_ledger_path())


def make_resolver(options: argparse.Namespace) -> Resolver:
    """The resolver that the options name, else the system's."""
    from msp_sdk.network.resolver import Resolver, parse_server

    servers = tuple(parse_server(entry) for entry in options.resolver)
    return Resolver(servers or None, search=tuple(options.search))


def make_discoverer(options: argparse.Namespace) -> DomainDiscoverer:
    """A discoverer with the options' resolvers and domains."""
    from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
    from msp_sdk.network.resolver import parse_server

    servers = tuple(parse_server(entry) for entry in options.resolver)
    return DomainDiscoverer(options=DiscoveryOptions(resolvers=servers, search=tuple(options.search)))


async def find_domain(options: argparse.Namespace, name: str) -> Domain:
    """The domain, by ``--server`` or by discovery.

    Raises:
        DirectoryError: It was not found.
        ConfigError: ``--server`` is malformed.
    """
    from datetime import UTC, datetime

    from msp_sdk.models.domain import Domain, DomainController
    from msp_sdk.network.resolver import render_server

    if options.server:
        host, _, port = options.server.rpartition(":") if options.server.count(":") == 1 else (options.server, "", "")
        if port and not port.isdigit():
            raise ConfigError(f"{options.server!r} is no HOST[:PORT].")
        resolver = make_resolver(options)
        addresses = (host,) if _is_address(host) else await resolver.addresses(host)
        controller = DomainController(host, int(port) if port else 389, addresses)
        return Domain(
            name,
            (controller,),
            datetime.now(UTC),
            dns_servers=tuple(render_server(entry) for entry in resolver.servers),
        )
    options.search = [name]
    found = await make_discoverer(options).discover()
    for domain in found.domains:
        if domain.name.casefold() == name.casefold():
            return domain
    tried = "; ".join(f"{entry.source}: {entry.detail}" for entry in found.evidence[-4:])
    raise DirectoryError(
        f"no controller of {name} was found ({tried}).",
        code="no-domain",
        remedy="Give --resolver ADDRESS of a DNS server of the domain, or --server HOST.",
    )


async def make_credential(options: argparse.Namespace, domain: Domain, ledger: LogonLedger) -> Credential:
    """The typed credential, with the certificates that may see it.

    Raises:
        LogonNotAllowedError: It was refused before and ``--try-again`` is missing; nothing was sent.
        ConfigError: A file or digest is wrong.
    """
    from msp_sdk.models.credential import Credential
    from msp_sdk.secret import Secret

    trusted = await _trusted_certificates(options, domain)
    shape = Credential.typed(options.user, Secret(""), domain_name=domain.name, trusted_certificates=trusted)
    state = ledger.state(shape)
    if options.try_again:
        ledger.allow_one_more(shape)
    elif state.state == "refused":
        raise LogonNotAllowedError(
            f"{options.user} was refused at {state.at:%Y-%m-%d %H:%M} UTC ({state.code}).",
            code=state.code,
            remedy="Accounts lock: give --try-again for exactly one more attempt.",
        )
    password = read_password(options.password_file, f"Password of {options.user}")
    ledger.begin_typed(shape)
    return Credential.typed(options.user, password, domain_name=domain.name, trusted_certificates=trusted)


async def _trusted_certificates(options: argparse.Namespace, domain: Domain) -> tuple[TrustedCertificate, ...]:
    from msp_sdk.models.credential import TrustedCertificate
    from msp_sdk.network.pins import parse_sha256

    listed = [TrustedCertificate(sha256=parse_sha256(text)) for text in options.accept_certificate]
    if options.ca:
        listed.append(TrustedCertificate(ca_pem=read_text_file(options.ca)))
    pins = _load_pins()
    listed += [TrustedCertificate(sha256=digest) for digest in pins.get(domain.name.casefold(), ())]
    if listed or not sys.stdin.isatty() or not sys.stderr.isatty():
        return tuple(listed)
    for certificate in await _see_certificates(domain):
        sys.stderr.write(f"{certificate.controller} shows an unknown certificate:\n  {_colons(certificate.sha256)}\n")
        sys.stderr.write("Compare it with the controller's. Send the password there, now and later? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().casefold() in ("y", "yes"):
            listed.append(TrustedCertificate(sha256=certificate.sha256))
            _keep_pin(domain.name.casefold(), certificate.sha256)
    return tuple(listed)


async def _see_certificates(domain: Domain) -> Any:
    import asyncio

    from msp_sdk.directory.session import DirectoryOptions, see_certificate

    seen = []
    for controller in domain.controllers:
        with contextlib.suppress(DirectoryError):
            seen.append(await asyncio.to_thread(see_certificate, controller, DirectoryOptions()))
    return seen


def _colons(digest: str) -> str:
    return ":".join(digest[start : start + 2].upper() for start in range(0, len(digest), 2))


def _pins_file() -> Path:
    return state_folder() / "certificates.json"


def _load_pins() -> Mapping[str, tuple[str, ...]]:
    try:
        data = json.loads(_pins_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{_pins_file()} cannot be read: {type(error).__name__}.", remedy="Repair or remove it."
        ) from error
    return {str(domain): tuple(map(str, digests)) for domain, digests in data.items()}


def _keep_pin(domain: str, digest: str) -> None:
    from msp_sdk.provisioning.config import write_atomically

    pins = dict(_load_pins())
    pins[domain] = tuple(sorted({*pins.get(domain, ()), digest}))
    write_atomically(_pins_file(), json.dumps(pins).encode())


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
