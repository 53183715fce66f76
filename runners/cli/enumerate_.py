"""``msp enumerate DOMAIN``: every computer of a domain, with one credential that may be an ordinary user's."""

from __future__ import annotations

import argparse
from typing import Any

from runners.cli.common import print_json, print_line, print_table, progress
from runners.cli.directory import (
    add_directory_options,
    find_domain,
    make_credential,
    open_ledger,
    telling_how_to_trust,
)


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("enumerate", help="list every computer of a domain")
    parser.add_argument("domain", metavar="DOMAIN")
    add_directory_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_enumerate)


async def _enumerate(options: argparse.Namespace) -> int:
    from msp_sdk.enumeration import ADEnumerator

    with progress(f"finding {options.domain}"):
        domain = await find_domain(options, options.domain)
    ledger = open_ledger()
    credential = await make_credential(options, domain, ledger)
    with telling_how_to_trust(), progress(f"reading {domain.name}"):
        async with ADEnumerator(domain, credential, ledger=ledger) as enumerator:
            enumeration = await enumerator.enumerate()
    if options.json:
        print_json(
            {
                "domain_name": enumeration.domain_name,
                "source": enumeration.source,
                "enumerated_at": enumeration.enumerated_at,
                "service_accounts_count": enumeration.service_accounts_count,
                "computers": enumeration.computers,
            }
        )
        return 0
    print_table(
        ("NAME", "ROLE", "OS", "NOT A TARGET BECAUSE"),
        ((entry.hostname, entry.role, entry.os_name, entry.skipped_reason) for entry in enumeration.computers),
    )
    print_line(
        f"{len(enumeration.computers)} computers from {enumeration.source}: {len(enumeration.servers)} servers,"
        f" {len(enumeration.workstations)} workstations, {len(enumeration.others)} others;"
        f" {enumeration.service_accounts_count} managed service accounts are not listed"
    )
    return 0
