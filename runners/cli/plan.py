"""``msp plan``: what a deployment would do to each host, and why. Touches nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from runners.cli.common import print_json, print_table
from runners.cli.fleet import add_fleet_options, open_fleet

if TYPE_CHECKING:
    from msp_sdk.models.rollout import RolloutPlan
    from msp_sdk.models.target import MergeResult


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("plan", help="what a deployment would do; touches nothing")
    add_fleet_options(parser)
    parser.set_defaults(run=_plan)


async def _plan(options: argparse.Namespace) -> int:
    async with open_fleet(options) as (deployer, merged):
        plan = await deployer.plan(merged.targets)
    if options.json:
        print_json({"actions": plan.actions, "skipped": merged.skipped})
    else:
        print_plan(plan, merged)
    return 0


def print_plan(plan: RolloutPlan, merged: MergeResult) -> None:
    """The plan as a table; what is left out stands at its end, with its reason."""
    rows = [(entry.target.hostname, entry.action, entry.reason, entry.detail) for entry in plan.actions]
    rows += [(entry.hostname, "skip", entry.reason, entry.detail) for entry in merged.skipped]
    print_table(("HOST", "ACTION", "REASON", "DETAIL"), rows)
    print(f"{len(plan.pending)} hosts to change, {len(rows) - len(plan.pending)} to leave as they are")
