"""``msp enumerate DOMAIN``: every computer of a domain, with one credential that may be an ordinary user's."""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runners.cli.common import print_json, print_line, print_table, progress
from runners.cli.directory import (
    add_directory_options,
    asking_for_trust,
    directory_options,
    find_domain,
    make_credential,
    open_ledger,
    tell_passed_over,
)

if TYPE_CHECKING:
    from msp_sdk.enumeration import ControllerFailure, KnownDomain
    from msp_sdk.models.computer import Enumeration, EnumerationChanges
    from msp_sdk.models.credential import Credential

_MOST_DAYS = 3650
_ROLES = ("domain_controller", "server", "workstation", "other")


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("enumerate", help="list every computer of a domain")
    parser.add_argument("domain", metavar="DOMAIN")
    add_directory_options(parser)
    for option, metavar, text in (
        ("--ou", "OU", "only in this container and below: a path such as Clinic/Servers, or its DN"),
        ("--exclude-ou", "OU", "not in this container and below"),
        ("--name", "PATTERN", "only names that fit, such as 'WS*'"),
        ("--exclude-name", "PATTERN", "no names that fit"),
        ("--group", "GROUP", "only members of this group, nested ones too"),
    ):
        parser.add_argument(option, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument("--role", action="append", default=[], choices=_ROLES, help="only this role")
    parser.add_argument(
        "--stale-after", metavar="DAYS", type=_days, help="without a sign of life for longer a computer is stale (90)"
    )
    parser.add_argument("--since", metavar="CURSOR", help="only what has changed since the cursor of a --json before")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_enumerate)


def _days(text: str) -> timedelta:
    days = int(text)
    if not 0 < days <= _MOST_DAYS:
        raise ValueError(text)
    return timedelta(days=days)


async def _enumerate(options: argparse.Namespace) -> int:
    from msp_sdk.enumeration import ADEnumerator, ClassifyRules, EnumerationOptions
    from msp_sdk.errors import DirectoryError
    from msp_sdk.models.computer import EnumerationScope

    scope = EnumerationScope(
        ous=tuple(options.ou),
        excluded_ous=tuple(options.exclude_ou),
        names=tuple(options.name),
        roles=tuple(options.role),
        groups=tuple(options.group),
        excluded_names=tuple(options.exclude_name),
    )
    rules = ClassifyRules() if options.stale_after is None else ClassifyRules(stale_after=options.stale_after)
    with progress(f"finding {options.domain}"):
        domain = await find_domain(options, options.domain)
    ledger = open_ledger()
    credential = await make_credential(options, domain, ledger)
    how = EnumerationOptions(directory=directory_options(options), scope=scope, rules=rules)

    async def read(
        credential: Credential,
    ) -> tuple[Enumeration | None, EnumerationChanges | None, list[ControllerFailure], tuple[KnownDomain, ...] | None]:
        with progress(f"reading {domain.name}"):
            async with ADEnumerator(domain, credential, ledger=ledger, options=how) as enumerator:
                if options.since is not None:
                    return None, await enumerator.changes(since=options.since), enumerator.failures, None
                enumeration = await enumerator.enumerate()
                failures = list(enumerator.failures)
                try:
                    others: tuple[KnownDomain, ...] | None = await enumerator.other_domains()
                except DirectoryError:  # the computers are there: a reading by WinRM, or no right to look
                    others = None
                return enumeration, None, failures, others

    enumeration, changes, failures, others = await asking_for_trust(domain, credential, read)
    tell_passed_over(failures, quietly=options.json)
    passed_over = tuple(failures) if options.json else None
    if changes is not None:
        _show_changes(changes, passed_over)
    if enumeration is not None:
        _show(enumeration, passed_over, others)
    return 0


def _show(
    enumeration: Enumeration,
    passed_over: tuple[ControllerFailure, ...] | None,
    others: tuple[KnownDomain, ...] | None,
) -> None:
    """As a document where ``passed_over`` is given, else as a table. ``others`` is None where nobody could look."""
    if passed_over is not None:
        print_json(
            {
                "domain_name": enumeration.domain_name,
                "source": enumeration.source,
                "enumerated_at": enumeration.enumerated_at,
                "service_accounts_count": enumeration.service_accounts_count,
                "unreadable_count": enumeration.unreadable_count,
                "cursor": enumeration.cursor,
                "scope": enumeration.scope,
                "passed_over": passed_over,
                "other_domains": others,
                "computers": enumeration.computers,
            }
        )
        return
    print_table(
        ("NAME", "ROLE", "OS", "NOT A TARGET BECAUSE"),
        ((entry.hostname, entry.role, entry.os_name, entry.skipped_reason) for entry in enumeration.computers),
    )
    print_line(
        f"{len(enumeration.computers)} computers from {enumeration.source}: {len(enumeration.servers)} servers"
        f" ({len(enumeration.domain_controllers)} of them controllers), {len(enumeration.workstations)} workstations,"
        f" {len(enumeration.others)} others; {enumeration.service_accounts_count} managed service accounts are not"
        " listed"
    )
    if enumeration.unreadable_count:
        print_line(f"{enumeration.unreadable_count} entries are not listed: this account may not read their objectGUID")
    reasons = Counter(entry.skipped_reason for entry in enumeration.computers if entry.skipped_reason)
    if reasons:
        print_line("not targets: " + ", ".join(f"{count} {code}" for code, count in reasons.most_common()))
    if others:
        print_line("other domains, each to be read by itself: " + ", ".join(entry.name for entry in others))


def _show_changes(changes: EnumerationChanges, passed_over: tuple[ControllerFailure, ...] | None) -> None:
    if passed_over is not None:
        print_json(
            {
                "domain_name": changes.domain_name,
                "source": changes.source,
                "enumerated_at": changes.enumerated_at,
                "since": changes.since,
                "cursor": changes.cursor,
                "complete": changes.complete,
                "passed_over": passed_over,
                "changed": changes.changed,
                "removed": changes.removed,
            }
        )
        return
    print_table(
        ("NAME", "ROLE", "OS", "NOT A TARGET BECAUSE"),
        ((entry.hostname, entry.role, entry.os_name, entry.skipped_reason) for entry in changes.changed),
    )
    blind = "" if changes.complete else "; this account does not see all that is gone: a full reading does"
    print_line(f"{len(changes.changed)} changed, {len(changes.removed)} gone, from {changes.source}{blind}")
    print_line(f"cursor: {changes.cursor}")
