"""``msp discover``: which Active Directory domain is here, and how sure that is. No credential."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runners.cli.common import plain, print_json, print_line, print_table, progress
from runners.cli.directory import add_resolver_options

if TYPE_CHECKING:
    from msp_sdk.models.domain import Domain, DomainController, DomainDiscovery, Evidence, SweptHost

_LEVELS = {2: "2003", 3: "2008", 4: "2008 R2", 5: "2012", 6: "2012 R2", 7: "2016", 10: "2025"}
_CERTAIN, _LIKELY = 85, 60


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("discover", help="find the domain; no credential is needed")
    add_resolver_options(parser)
    parser.add_argument(
        "--sweep", action="store_true", help="look for Windows hosts in our own subnets too (up to /22, slowly)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_discover)


async def _discover(options: argparse.Namespace) -> int:
    from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer

    settings = DiscoveryOptions(resolvers=tuple(options.resolver), search=tuple(options.search), sweep=options.sweep)
    with progress("looking for a domain"):
        found = await DomainDiscoverer(options=settings).discover()
    if options.json:
        print_json(found)
        return 0
    for domain in found.domains:
        _print_domain(domain)
    if not found.domains:
        _print_nothing(found)
    if options.sweep:
        _print_swept(found.swept, found.evidence)
    return 0


def _print_domain(domain: Domain) -> None:
    sure = "certain" if domain.confidence >= _CERTAIN else "likely" if domain.confidence >= _LIKELY else "possible"
    print_line(f"{domain.name}  {sure}, confidence {domain.confidence} of 100")
    for label, value in (
        ("NetBIOS name", domain.netbios_name or "not said"),
        ("forest", domain.forest),
        ("levels", f"domain {_level(domain.functional_level)}, forest {_level(domain.forest_functional_level)}"),
        ("our AD site", domain.ad_site or "none: no subnet is defined for our address"),
        ("DNS servers", ", ".join(domain.dns_servers) or "none of its own answers"),
    ):
        print_line(f"  {label:<13} {plain(value)}")
    print_line("  controllers")
    _indent(
        ("NAME", "SITE", "UP TO", "IS", "OPEN DOORS", "ADDRESSES"),
        (_controller_row(controller) for controller in domain.controllers),
    )
    if domain.certificates:
        print_line("  certificates (SHA-256)")
        _indent((), ((seen.controller, seen.sha256) for seen in domain.certificates))
    print_line("  why")
    _indent((), _lines(entry for entry in domain.evidence if entry.kind not in ("certificate", "doors")))


def _controller_row(controller: DomainController) -> Sequence[object]:
    roles = (
        ("PDC", controller.is_primary),
        ("global catalog", controller.is_global_catalog),
        ("read-only", controller.is_read_only),
    )
    return (
        f"{controller.fqdn}:{controller.port}",
        controller.ad_site,
        None if controller.functional_level is None else _level(controller.functional_level),
        ", ".join(name for name, held in roles if held) or None,
        " ".join(map(str, controller.doors)) or None,
        " ".join(controller.addresses) or None,
    )


def _level(level: int | None) -> str:
    """A functional level as Microsoft calls it."""
    return "not said" if level is None else _LEVELS.get(level, str(level))


def _print_nothing(found: DomainDiscovery) -> None:
    if found.dns_failed:
        print_line("no domain was found, and DNS gave no usable answer: whether there is one is not known.")
    else:
        print_line("no domain was found. That is a result: targets can be named by hand, with their own credentials.")
    if found.hints:
        print_line("  names that were asked for")
        _indent((), ((hint.value, hint.source) for hint in found.hints))
    print_line("  what was tried")
    _indent((), _lines(found.evidence))


def _print_swept(hosts: Sequence[SweptHost], evidence: Iterable[Evidence]) -> None:
    from msp_sdk.models.domain import NOT_IN_A_DIRECTORY

    print_line("Windows' doors in our own subnets")
    _indent((), ((entry.source, entry.detail) for entry in evidence if entry.kind.startswith("sweep")))
    if hosts:
        _indent(
            ("ADDRESS", "NAME", "OPEN DOORS", "IS", "DIRECTORY"),
            (
                (
                    host.address,
                    host.name,
                    " ".join(map(str, host.doors)),
                    "Windows" if host.is_likely_windows else "shares files: Windows, or a storage box",
                    "none holds it" if host.reason == NOT_IN_A_DIRECTORY else "not read yet",
                )
                for host in hosts
            ),
        )


def _lines(evidence: Iterable[Evidence]) -> Iterable[Sequence[object]]:
    return dict.fromkeys(
        (entry.kind, entry.source, entry.detail) for entry in evidence if not entry.kind.startswith("sweep")
    )


def _indent(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table below a line; without headings where the cells say enough."""
    lines = [("  ", *row) for row in rows]
    if headings:
        print_table(("  ", *headings), lines)
    elif lines:
        first, *rest = lines
        print_table(tuple(plain(cell) for cell in first), rest)
