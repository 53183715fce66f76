"""``msp probe HOST…``: which WinRM door of a host stands open, and if none, what that says."""

from __future__ import annotations

import argparse
from typing import Any

from runners.cli.common import print_json, print_table, progress
from runners.cli.directory import add_resolver_options, make_resolver


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("probe", help="is a host's WinRM reachable, and if not, why")
    parser.add_argument("hosts", metavar="HOST", nargs="+", help="name or address")
    add_resolver_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_probe)


async def _probe(options: argparse.Namespace) -> int:
    from msp_sdk.models.reason import remedy_of
    from msp_sdk.models.target import Target
    from msp_sdk.reachability import ReachabilityProber

    prober = ReachabilityProber(resolve=make_resolver(options).addresses)
    names = list(dict.fromkeys(options.hosts))
    found = {}
    with progress("probing", total=len(names)) as advance:
        async for target in prober.probe([Target(hostname=name, role="other") for name in names]):
            found[target.hostname] = target
            advance()
    targets = [found[name] for name in names]
    if options.json:
        print_json({"items": targets})
    else:
        print_table(
            ("HOST", "ADDRESS", "DOORS", "REASON", "WHAT TO DO"),
            (
                (
                    target.hostname,
                    ", ".join(target.ip_addresses),
                    ", ".join(map(str, target.doors)),
                    target.unreachable_reason,
                    remedy_of(target.unreachable_reason) if target.unreachable_reason else None,
                )
                for target in targets
            ),
        )
    return 0 if all(target.reachable for target in targets) else 1
