"""``msp partner sites scope``: which computers belong to a site, shown or set."""

from __future__ import annotations

import argparse

from msp_sdk.models.scope import SiteScope
from runners.cli.common import open_partner, print_json, print_line

# Option, field, what it takes, what it does.
_LISTS = (
    ("--subnet", "subnets", "NETWORK", "only computers with an address in it, such as 10.0.0.0/24"),
    ("--ad-site", "ad_sites", "NAME", "only computers whose address is of this Active Directory site"),
    ("--ou", "ous", "OU", "only in this container and below: a path such as Clinic/Servers, or its DN"),
    ("--exclude-ou", "excluded_ous", "OU", "not in this container and below"),
    ("--name", "names", "PATTERN", "only names that fit, such as 'WS*'"),
    ("--exclude-name", "excluded_names", "PATTERN", "no names that fit"),
    ("--group", "groups", "GROUP", "only members of this group, nested ones too"),
    ("--vendor-name", "vendor_names", "PATTERN", "names of machines that their vendor manages"),
    ("--vendor-ou", "vendor_ous", "OU", "a container of machines that their vendor manages"),
)
_ROLES = ("domain_controller", "server", "workstation", "other")


def add_scope_options(parser: argparse.ArgumentParser) -> None:
    """Add what makes a scope; each may be given several times."""
    for option, field, metavar, text in _LISTS:
        parser.add_argument(option, dest=field, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument("--role", dest="roles", action="append", default=[], choices=_ROLES, help="only this role")
    parser.add_argument(
        "--stale-after", metavar="DAYS", type=int, help="without a sign of life for longer a computer is stale (90)"
    )


def read_scope(options: argparse.Namespace) -> SiteScope:
    """The scope that the options make; without any it is everything."""
    lists = {field: tuple(getattr(options, field)) for field in (*(entry[1] for entry in _LISTS), "roles")}
    return SiteScope(**lists, stale_after_days=options.stale_after)


async def show_or_set_scope(options: argparse.Namespace) -> None:
    """Show a site's scope; with options, replace all of it by what they say."""
    wanted = read_scope(options)
    async with open_partner(options) as partner:
        if wanted != SiteScope() or options.everything:
            scope = (await partner.change_site(options.site, scope=wanted)).scope
        else:
            scope = (await partner.site(options.site)).scope
    if options.json:
        print_json(scope)
        return
    if scope == SiteScope():
        print_line("everything belongs to the site")
    for option, field, *_ in (*_LISTS, ("--role", "roles")):
        for value in getattr(scope, field):
            print_line(f"{option.removeprefix('--'):13} {value}")
    if scope.stale_after_days is not None:
        print_line(f"stale-after   {scope.stale_after_days} days")
