"""``msp deploy``: plan, show, ask, apply. A host's trouble is that host's; the exit code is 1 if one failed."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from msp_sdk.errors import ConfigError
from runners.cli.common import print_json, print_table
from runners.cli.fleet import add_fleet_options, open_fleet
from runners.cli.plan import print_plan


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("deploy", help="bring the agent to hosts")
    add_fleet_options(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_deploy)


async def _deploy(options: argparse.Namespace) -> int:
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here.", remedy="Look at `msp plan` first, then give --yes.")
    async with open_fleet(options) as (deployer, merged):
        plan = await deployer.plan(merged.targets)
        if not options.json:
            print_plan(plan, merged)
        if plan.pending and not options.yes and not _confirmed():
            return 1
        outcomes = [outcome async for outcome in deployer.apply(plan)]
    if options.json:
        print_json({"outcomes": outcomes, "skipped": merged.skipped})
    else:
        print_table(
            ("HOST", "STATE", "VERSION", "REASON", "WHAT TO DO"),
            (
                (
                    outcome.hostname,
                    outcome.state,
                    outcome.agent_version,
                    outcome.error.code if outcome.error else None,
                    outcome.error.remedy if outcome.error else None,
                )
                for outcome in outcomes
            ),
        )
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


def _confirmed() -> bool:
    sys.stdout.write("Apply this plan? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
