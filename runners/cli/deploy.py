"""``msp deploy``: plan, show, ask, apply. A host's trouble is that host's.

The exit code is 1 if one failed, or if one that was named on the command line is not done.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import aclosing
from typing import Any

from msp_sdk.errors import ConfigError
from runners.cli.common import ask, print_json, print_table, progress
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
        if plan.pending and not options.yes and ask("Apply this plan? [y/N] ").casefold() not in ("y", "yes"):
            return 1
        outcomes = []
        with progress("deploying", total=len(plan.actions)) as advance:
            async with aclosing(deployer.apply(plan)) as applied:
                async for outcome in applied:
                    outcomes.append(outcome)
                    advance()
    if options.json:
        print_json({"outcomes": outcomes, "skipped": merged.skipped})
    else:
        print_table(
            ("HOST", "STATE", "VERSION", "REASON", "DETAIL", "WHAT TO DO"),
            (
                (
                    outcome.hostname,
                    outcome.state,
                    outcome.agent_version,
                    outcome.error.code if outcome.error else None,
                    outcome.error.detail if outcome.error else None,
                    outcome.error.remedy if outcome.error else None,
                )
                for outcome in outcomes
            ),
        )
    if options.hosts and (merged.skipped or any(outcome.state != "done" for outcome in outcomes)):
        # These very hosts were asked for; of a whole domain some are always asleep.
        return 1
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0
