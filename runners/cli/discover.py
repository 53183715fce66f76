"""``msp discover``: which Active Directory domain is here, and how sure that is. No credential."""

from __future__ import annotations

import argparse
from typing import Any

from runners.cli.common import print_json, print_line, progress
from runners.cli.directory import add_resolver_options, make_discoverer


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("discover", help="find the domain; no credential is needed")
    add_resolver_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_discover)


async def _discover(options: argparse.Namespace) -> int:
    with progress("looking for a domain"):
        found = await make_discoverer(options).discover()
    if options.json:
        print_json(found)
        return 0
    if not found.domains:
        print_line("no domain was found")
    for domain in found.domains:
        print_line(f"{domain.name}  confidence {domain.confidence}")
        for controller in domain.controllers:
            print_line(f"  controller   {controller.fqdn}:{controller.port}  {', '.join(controller.addresses) or '-'}")
        for certificate in domain.certificates:
            print_line(f"  certificate  {certificate.controller}  {certificate.sha256}")
        for entry in domain.evidence:
            print_line(f"  {entry.kind:<12} {entry.source}: {entry.detail}")
    if not found.domains:
        for entry in found.evidence:
            print_line(f"  {entry.kind:<12} {entry.source}: {entry.detail}")
    return 0
