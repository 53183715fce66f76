"""``msp appliance``: claim a code, run the daemon."""

from __future__ import annotations

import argparse
import os
from typing import Any

from msp_sdk.errors import ConfigError, WireError
from runners.cli.common import print_line, read_line


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("appliance", help="claim a provision code, run the daemon")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    claim = actions.add_parser("claim", help="claim a provision code and write the config")
    claim.add_argument("code", metavar="CODE", help="as it is shown, or - to read it from stdin")
    claim.add_argument("--central", metavar="URL", help="Central's address; else MSP_CENTRAL")
    _add_common(claim)
    claim.set_defaults(run=_claim)

    run = actions.add_parser("run", help="the daemon (systemd: Type=notify)")
    run.add_argument("--once", action="store_true", help="one pass, then end")
    run.add_argument("--central", metavar="URL", help="where an unclaimed appliance claims; else MSP_CENTRAL")
    run.add_argument("--resolver", metavar="HOST[:PORT]", action="append", default=[], help="replaces resolv.conf")
    run.add_argument("--search", metavar="DOMAIN", action="append", default=[], help="replaces search domains")
    _add_common(run)
    run.set_defaults(run=_run)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="default /var/lib/msp/config.yaml")
    parser.add_argument("--central-ca", metavar="FILE", help="CAs to trust for Central instead of the system's")


async def _claim(options: argparse.Namespace) -> int:
    from msp_sdk.models.provision import parse_code
    from runners.appliance.claiming import claim
    from runners.appliance.settings import read_settings

    settings = read_settings(os.environ, config=options.config, central=options.central, ca_file=options.central_ca)
    try:
        code = parse_code(read_line() if options.code == "-" else options.code)
    except WireError as error:
        raise ConfigError(error.detail, code=error.code, remedy=error.remedy) from error
    enrolment = await claim(settings, code)
    print_line(f"claimed for {enrolment.partner.brand_name}: {enrolment.appliance_id}")
    print_line(f"written to {settings.config}")
    return 0


async def _run(options: argparse.Namespace) -> int:
    from runners.appliance.daemon import run_appliance
    from runners.appliance.settings import read_settings

    settings = read_settings(
        os.environ,
        config=options.config,
        central=options.central,
        resolvers=tuple(options.resolver),
        search=tuple(options.search),
        ca_file=options.central_ca,
    )
    await run_appliance(settings, once=options.once)
    return 0
