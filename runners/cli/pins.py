"""``msp pins``: certificates of hosts that a person has looked at, where no CA signed them.

``msp pins add HOST`` shows the certificate and asks; ``list`` and ``reset`` do what they say. A pinned host that shows
another certificate is not worked with (``certificate-changed``) until its pin is reset.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from msp_sdk.errors import ConfigError, UnreachableError, WindowsError
from runners.cli.common import ask, can_ask, plain, port_number, print_json, print_line, print_table
from runners.cli.directory import add_resolver_options, host_pins, make_resolver, state_folder

if TYPE_CHECKING:
    from msp_sdk.reachability.doctor_look import CertificateLook

_HTTPS_PORT = 5986
_LOOK_S = 10.0


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("pins", help="certificates of hosts that a person has looked at")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the pinned certificates")
    listing.add_argument("--json", action="store_true", help="one JSON document on stdout")
    listing.set_defaults(run=_list)
    adding = actions.add_parser("add", help="look at a host's certificate, and pin it")
    adding.add_argument("host", metavar="HOST", help="the name by which it is worked with, or its address")
    adding.add_argument("--port", type=port_number, default=_HTTPS_PORT, help=f"of WinRM over HTTPS ({_HTTPS_PORT})")
    adding.add_argument(
        "--sha256", metavar="SHA256", help="what it must be, as you saw it at the host: nothing is asked"
    )
    adding.set_defaults(run=_add)
    add_resolver_options(adding)
    resetting = actions.add_parser("reset", help="forget a host's pin")
    resetting.add_argument("host", metavar="HOST")
    resetting.set_defaults(run=_reset)
    for action in (listing, adding, resetting):
        action.add_argument(
            "--state", metavar="FOLDER", help=f"whose pins: an appliance's state folder (else {state_folder()})"
        )


def _list(options: argparse.Namespace) -> int:
    pins = host_pins(options.state).all()
    if options.json:
        print_json({"items": pins})
    else:
        rows = ((pin.host, pin.pinned_at.isoformat(timespec="seconds"), pin.sha256) for pin in pins)
        print_table(("HOST", "PINNED", "SHA-256"), rows)
    return 0


def _reset(options: argparse.Namespace) -> int:
    if not host_pins(options.state).reset(options.host):
        raise ConfigError(
            f"no certificate is pinned for {plain(options.host)}.", remedy="`msp pins list` shows the pinned hosts."
        )
    print_line(f"The pin of {options.host} is gone.")
    return 0


async def _add(options: argparse.Namespace) -> int:
    from msp_sdk.network.pins import parse_sha256

    wanted = parse_sha256(options.sha256) if options.sha256 else None
    pins = host_pins(options.state)
    before = next((pin for pin in pins.all() if pin.host == options.host.rstrip(".").casefold()), None)
    certificate = await _look(options)
    if wanted is not None and wanted != certificate.sha256:
        raise WindowsError(
            f"{plain(options.host)} shows another certificate, SHA-256 {certificate.sha256}. Nothing was pinned.",
            code="certificate-untrusted",
            remedy="Compare the digest at the host itself.",
        )
    if wanted is None:
        if not can_ask():
            raise ConfigError(
                f"{plain(options.host)} shows a certificate with SHA-256 {certificate.sha256}; nobody is there to ask.",
                remedy="Compare it at the host itself, then give it as --sha256.",
            )
        if not _accepts(options.host, certificate, changed=before is not None):
            raise ConfigError("nothing was pinned.")
    pins.pin(options.host, certificate.sha256)
    print_line(f"{options.host} is worked with as long as it shows this certificate: {certificate.sha256}")
    return 0


def _accepts(host: str, certificate: CertificateLook, *, changed: bool) -> bool:
    digest = certificate.sha256
    lines = [
        f"{plain(host)} shows this certificate:",
        *(["  It is another one than the one pinned before."] if changed else []),
        f"  for      {plain(', '.join(certificate.names) or certificate.subject)}",
        f"  by       {plain(certificate.issuer)}",
        f"  until    {certificate.not_after:%Y-%m-%d}",
        f"  SHA-256  {':'.join(digest[at : at + 2].upper() for at in range(0, len(digest), 2))}",
        "Compare it at the host itself. Send the passwords for this host there, now and later? [y/N] ",
    ]
    return ask("\n".join(lines)).casefold() in ("y", "yes")


async def _look(options: argparse.Namespace) -> CertificateLook:
    """What the host shows; nothing is said to it but a greeting.

    Raises:
        UnreachableError: It shows no certificate.
    """
    from msp_sdk.reachability.doctor_look import look_at_door
    from msp_sdk.windows.doors import Door
    from msp_sdk.windows.identity import is_address

    named = not is_address(options.host)
    addresses = await make_resolver(options).addresses(options.host) if named else (options.host,)
    for address in addresses:
        look = await look_at_door(address, Door(options.port, tls=True), options.host if named else None, _LOOK_S)
        if look.certificate is not None:
            return look.certificate
    raise UnreachableError(
        f"{plain(options.host)} shows no certificate on port {options.port}.",
        code="no-answer" if addresses else "no-address",
        remedy=f"`msp doctor {plain(options.host)}` says why.",
    )
