"""What the directory commands share: options, the domain, the credential, certificates that a person looks at."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msp_sdk.errors import BindRejectedError, ConfigError, DirectoryError, LogonNotAllowedError
from runners.cli.common import ask, can_ask, plain, read_password, read_text_file

if TYPE_CHECKING:
    from msp_sdk.directory.session import DirectoryOptions
    from msp_sdk.discovery import DomainDiscoverer
    from msp_sdk.enumeration import ControllerFailure
    from msp_sdk.models.credential import Credential, TrustedCertificate
    from msp_sdk.models.domain import Domain, DomainController, SeenCertificate
    from msp_sdk.network.excluded import ExcludedNetworks
    from msp_sdk.network.host_pins import HostPins
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.network.resolver import Resolver


T = TypeVar("T")

_LDAP_PORT = 389
_MAX_PORT = 65535


def add_resolver_options(parser: argparse.ArgumentParser) -> None:
    """``--resolver`` and ``--search``."""
    parser.add_argument("--resolver", metavar="ADDRESS[:PORT]", action="append", default=[], help="DNS server to ask")
    parser.add_argument("--search", metavar="DOMAIN", action="append", default=[], help="domain to look for")


def add_directory_options(parser: argparse.ArgumentParser, *, user_required: bool = True) -> None:
    """Everything that reading a directory takes."""
    add_resolver_options(parser)
    parser.add_argument("--user", metavar="USER", required=user_required, help=r"user@domain or DOMAIN\user")
    parser.add_argument("--password-file", metavar="FILE", help="else MSP_PASSWORD, else a prompt")
    parser.add_argument("--server", metavar="HOST[:PORT]", help="a controller, instead of discovery")
    parser.add_argument("--ca", metavar="FILE", help="PEM of the CA that signed the controllers' certificates")
    parser.add_argument("--accept-certificate", metavar="SHA256", action="append", default=[])
    parser.add_argument("--try-again", action="store_true", help="one more attempt after a refusal")
    parser.add_argument(
        "--allow-ntlm", action="store_true", help="NTLM inside its own encryption where neither Kerberos nor TLS is had"
    )


def directory_options(options: argparse.Namespace) -> DirectoryOptions:
    """How a directory is opened."""
    from msp_sdk.directory.session import DirectoryOptions

    return DirectoryOptions(allow_ntlm=options.allow_ntlm)


def tell_passed_over(failures: Sequence[ControllerFailure], *, quietly: bool) -> None:
    """Say which controllers and doors were passed over: a line each at a terminal, one line in all elsewhere.

    Args:
        failures: In their order.
        quietly: A program reads: a document is asked for, which may hold them.
    """
    named = [(f"{entry.controller} {entry.door}".strip(), entry) for entry in failures]
    if sys.stderr.isatty():
        for name, entry in named:
            sys.stderr.write(f"{plain(f'passed over: {name} ({entry.code}): {entry.detail}')}\n")
    elif named and not quietly:
        shown = ", ".join(f"{name} ({entry.code})" for name, entry in named)
        sys.stderr.write(f"{plain(f'passed over: {shown}')}\n")


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


def make_discoverer(options: argparse.Namespace, excluded: ExcludedNetworks | None = None) -> DomainDiscoverer:
    """A discoverer with the options' resolvers and domains."""
    from attrs import evolve

    from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
    from msp_sdk.network.resolver import parse_server

    servers = tuple(parse_server(entry) for entry in options.resolver)
    how = DiscoveryOptions(resolvers=servers, search=tuple(options.search))
    if excluded is not None:
        how = evolve(how, doors=evolve(how.doors, excluded=excluded))
    return DomainDiscoverer(options=how)


async def find_domain(options: argparse.Namespace, name: str, excluded: ExcludedNetworks | None = None) -> Domain:
    """The domain, by ``--server`` or by discovery.

    Raises:
        DirectoryError: It was not found.
        ConfigError: ``--server`` is malformed.
    """
    from datetime import UTC, datetime

    from msp_sdk.models.domain import Domain, DomainController, without_final_dot
    from msp_sdk.network.resolver import render_server

    name = without_final_dot(name)
    if options.server:
        host, port = _parse_controller(options.server)
        resolver = make_resolver(options)
        addresses = (host,) if _is_address(host) else await resolver.addresses(host)
        controller = DomainController(host, port, addresses)
        return Domain(
            name,
            (controller,),
            datetime.now(UTC),
            netbios_name=await _netbios_name(controller, name) if "\\" in options.user else None,
            dns_servers=tuple(render_server(entry) for entry in resolver.servers),
        )
    options.search = [name]
    found = await make_discoverer(options, excluded).discover()
    for domain in found.domains:
        if domain.name.casefold() == name.casefold():
            return domain
    tried = "; ".join(f"{entry.source}: {entry.detail}" for entry in found.evidence[-4:])
    raise DirectoryError(
        f"no controller of {name} was found ({tried}).",
        code="no-domain",
        remedy="Give --resolver ADDRESS of a DNS server of the domain, or --server HOST.",
    )


async def _netbios_name(controller: DomainController, name: str) -> str | None:
    r"""The domain's short name, which says whether ``DOMAIN\user`` is one of its own; None where nobody tells it."""
    from msp_sdk.directory.doors import LDAP_PORT, TLS_PORTS
    from msp_sdk.discovery.cldap import ping
    from msp_sdk.errors import DiscoveryError

    port = LDAP_PORT if controller.port in TLS_PORTS else controller.port
    for address in controller.addresses:
        with contextlib.suppress(DiscoveryError):
            answer = await ping(address, port, name)
            if answer is not None and answer.domain_name == name.casefold():
                return answer.netbios_name or None
    return None


async def make_credential(options: argparse.Namespace, domain: Domain, ledger: LogonLedger) -> Credential:
    """The typed credential, with the certificates that may see it.

    Raises:
        LogonNotAllowedError: It was refused before, or kept out within the hour, and ``--try-again`` is missing;
            nothing was sent.
        DirectoryError: No certificate may see it, or no controller shows one; nothing was sent.
        ConfigError: A file or digest is wrong.
    """
    from datetime import UTC, datetime, timedelta

    from attrs import evolve

    from msp_sdk.models.credential import Credential
    from msp_sdk.models.reason import ACCOUNT_REASONS
    from msp_sdk.network.logons import KEPT_OUT_S
    from msp_sdk.secret import Secret

    shape = Credential.typed(options.user, Secret(""), domain_name=domain.name, netbios_name=domain.netbios_name)
    state = ledger.state(shape)
    if state.state == "refused" and not options.try_again:
        raise LogonNotAllowedError(
            f"{options.user} was refused at {state.at:%Y-%m-%d %H:%M} UTC ({state.code}).",
            code=state.code,
            remedy="Accounts lock: give --try-again for exactly one more attempt.",
        )
    is_fresh = datetime.now(UTC) - state.at < timedelta(seconds=KEPT_OUT_S)
    if state.code in ACCOUNT_REASONS and is_fresh and not options.try_again:
        raise LogonNotAllowedError(
            f"{options.user} was not let in at {state.at:%Y-%m-%d %H:%M} UTC ({state.code}).",
            code=state.code,
            remedy="Mend the account, then give --try-again, or wait an hour.",
            retryable=True,
        )
    trusted = await _trusted_certificates(options, domain, shape)
    password = read_password(options.password_file, f"Password of {options.user}")
    # Only now: a refusal must not be forgotten by a call that gets no further than its options.
    if options.try_again:
        ledger.allow_one_more(shape)
    ledger.begin_typed(shape)
    return evolve(shape, opener=lambda: password, trusted_certificates=trusted)


@contextlib.contextmanager
def telling_how_to_trust() -> Iterator[None]:
    """An untrusted certificate, told in the words of the command line."""
    try:
        yield
    except BindRejectedError as error:
        if error.code != "certificate-untrusted":
            raise
        raise BindRejectedError(error.detail, code=error.code, remedy=_HOW_TO_TRUST, context=error.context) from error


_HOW_TO_TRUST = "Compare it with the controller's, then give --accept-certificate SHA256, or --ca FILE."


async def asking_for_trust(domain: Domain, credential: Credential, work: Callable[[Credential], Awaitable[T]]) -> T:
    """Do some work; where only a certificate that nobody knows is in its way, ask a person about it and do it again.

    Raises:
        BindRejectedError: Nobody can be asked, or the answer is no; told in the words of the command line.
    """
    from attrs import evolve

    with telling_how_to_trust():
        pins = _load_pins().get(domain.name.casefold(), ())
        listed = credential.trusted_certificates
        # What was named on the command line is all that may be used; pins may grow.
        named = any(entry.ca_pem or entry.sha256 not in pins for entry in listed)
        try:
            return await work(credential)
        except BindRejectedError as error:
            if named or not can_ask() or "certificate-untrusted" not in str(error.context.get("doors", error.code)):
                raise
        accepted = await _ask_about_certificates(domain, listed)
        return await work(evolve(credential, trusted_certificates=accepted))


async def _kerberos_applies(domain: Domain, shape: Credential, options: argparse.Namespace) -> bool:
    """Whether some controller can be asked without a certificate."""
    from msp_sdk.directory.sealed_logon import kerberos_applies
    from msp_sdk.network.threads import ThreadPool

    pool = ThreadPool("kerberos", 1)
    try:
        for controller in domain.controllers:
            if await pool.run(kerberos_applies, controller, shape, directory_options(options)):
                return True
    finally:
        pool.close()
    return False


async def _trusted_certificates(
    options: argparse.Namespace, domain: Domain, shape: Credential
) -> tuple[TrustedCertificate, ...]:
    from msp_sdk.models.credential import TrustedCertificate
    from msp_sdk.network.pins import parse_sha256

    listed = [TrustedCertificate(sha256=parse_sha256(text)) for text in options.accept_certificate]
    if options.ca:
        listed.append(TrustedCertificate(ca_pem=read_text_file(options.ca)))
    pins = _load_pins().get(domain.name.casefold(), ())
    listed += [TrustedCertificate(sha256=digest) for digest in pins]
    named = len(listed) > len(pins)
    if named or (pins and not can_ask()):
        return tuple(listed)
    if await _kerberos_applies(domain, shape, options):
        return tuple(listed)
    return await _ask_about_certificates(domain, listed)


async def _ask_about_certificates(
    domain: Domain, known: Sequence[TrustedCertificate]
) -> tuple[TrustedCertificate, ...]:
    """Show the controllers' certificates that are not known, and ask; the accepted ones are kept.

    Raises:
        BindRejectedError: None may see a password.
        DirectoryError: No controller shows one.
    """
    from msp_sdk.models.credential import TrustedCertificate

    listed = list(known)
    pins = [entry.sha256 for entry in listed if entry.sha256]
    seen = await _see_certificates(domain)
    unknown = {entry.sha256: entry for entry in reversed(seen) if entry.sha256 not in pins}
    if not can_ask():
        shown = ", ".join(f"{entry.controller} (SHA-256 {entry.sha256})" for entry in unknown.values())
        raise BindRejectedError(
            f"nobody has accepted the certificate of {shown}. No password was sent.",
            code="certificate-untrusted",
            remedy=_HOW_TO_TRUST,
        )
    for certificate in reversed(unknown.values()):
        if _accepts(certificate, changed=bool(pins)):
            listed.append(TrustedCertificate(sha256=certificate.sha256))
            _keep_pin(domain.name.casefold(), certificate.sha256)
    if {entry.sha256 for entry in seen}.isdisjoint(entry.sha256 for entry in listed):
        raise BindRejectedError(
            "no certificate was accepted. No password was sent.", code="certificate-untrusted", remedy=_HOW_TO_TRUST
        )
    return tuple(listed)


def _accepts(certificate: SeenCertificate, *, changed: bool) -> bool:
    """Show a certificate to a person and ask, once."""
    more = "\n  It is none of those accepted for this domain before." if changed else ""
    answer = ask(
        f"{plain(certificate.controller)} shows an unknown certificate:{more}\n  {_colons(certificate.sha256)}\n"
        "Compare it with the controller's. Send the password there, now and later? [y/N] "
    )
    return answer.casefold() in ("y", "yes")


async def _see_certificates(domain: Domain) -> Sequence[SeenCertificate]:
    """What the controllers show; one that is dead does not hide another.

    Raises:
        DirectoryError: None of them shows one.
    """
    from msp_sdk.directory.session import DirectoryOptions, see_certificate
    from msp_sdk.network.threads import ThreadPool

    seen: list[SeenCertificate] = []
    failure = DirectoryError(f"there is no controller of {domain.name} to ask.", code="unreachable-controller")
    pool = ThreadPool("certificates", 1)
    try:
        for controller in domain.controllers:
            try:
                seen.append(await pool.run(see_certificate, controller, DirectoryOptions()))
            except DirectoryError as error:
                failure = error
    finally:
        pool.close()
    if not seen:
        raise failure
    return seen


def _colons(digest: str) -> str:
    return ":".join(digest[start : start + 2].upper() for start in range(0, len(digest), 2))


def host_pins(folder: str | None = None) -> HostPins:
    """The hosts' certificates that a person has pinned, of the command line or of an appliance's state folder."""
    from msp_sdk.network.host_pins import FILE_NAME, HostPins
    from msp_sdk.provisioning.config import write_atomically

    def write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, content)

    return HostPins((Path(folder) if folder else state_folder()) / FILE_NAME, write)


def _pins_file() -> Path:
    return state_folder() / "certificates.json"


def _load_pins() -> Mapping[str, tuple[str, ...]]:
    try:
        data = json.loads(_pins_file().read_text(encoding="utf-8"))
        return {str(domain): tuple(map(str, digests)) for domain, digests in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{_pins_file()} cannot be read: {type(error).__name__}.", remedy="Repair or remove it."
        ) from error


def _keep_pin(domain: str, digest: str) -> None:
    from msp_sdk.provisioning.config import write_atomically

    pins = dict(_load_pins())
    pins[domain] = tuple(sorted({*pins.get(domain, ()), digest}))
    write_atomically(_pins_file(), json.dumps(pins).encode())


def _parse_controller(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, an address of either kind, or [V6]:PORT."""
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdigit() else 0 if port else _LDAP_PORT
    if not host or not 0 < number <= _MAX_PORT:
        raise ConfigError(f"{text!r} is no controller.", remedy="Give --server HOST or HOST:PORT.")
    return host, number


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
