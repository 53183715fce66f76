"""``msp probe HOST…``: which WinRM door of a host stands open, whether it is on, and how we know."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runners.cli.common import print_json, print_table, progress
from runners.cli.directory import add_resolver_options, make_resolver, state_folder

if TYPE_CHECKING:
    from msp_sdk.models.target import Target
    from msp_sdk.network.excluded import ExcludedNetworks
    from msp_sdk.reachability import Diagnosis, Sign

_MINUTE_S = 60


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("probe", help="is a host on, is its WinRM reachable, and if not, why")
    parser.add_argument("hosts", metavar="HOST", nargs="+", help="name or address")
    add_resolver_options(parser)
    parser.add_argument(
        "--exclude",
        metavar="NETWORK",
        type=_excluded,
        action="append",
        default=[],
        help="network or address that nothing is sent to; several with commas, or by giving it again",
    )
    parser.add_argument("--fresh", action="store_true", help="look anew, whatever was seen in the last hour")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=_probe)


def _excluded(text: str) -> ExcludedNetworks:
    from msp_sdk.errors import ConfigError
    from msp_sdk.network.excluded import ExcludedNetworks

    try:
        return ExcludedNetworks.parse(text.split(","))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.detail.rstrip(".")) from error


async def _probe(options: argparse.Namespace) -> int:
    from msp_sdk.models.target import Target
    from msp_sdk.network.excluded import ExcludedNetworks
    from msp_sdk.network.probe import ProbeOptions
    from msp_sdk.reachability import ReachabilityCache, ReachabilityProber

    excluded = ExcludedNetworks(tuple(network for entry in options.exclude for network in entry.networks))
    # The machine's own clock since its start: it goes on from one process to the next, and while it sleeps.
    cache = ReachabilityCache(clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    path = state_folder() / "reachability.json"
    cache.load(path)
    prober = ReachabilityProber(
        ProbeOptions(excluded=excluded),
        resolve=make_resolver(options).addresses,
        cache=cache,
        is_fresh=options.fresh,
    )
    names = list(dict.fromkeys(map(_bare, options.hosts)))
    found: dict[str, tuple[Target, Diagnosis]] = {}
    with progress("probing", total=len(names)) as advance:
        async for target, diagnosis in prober.look([Target(hostname=name, role="other") for name in names]):
            assert diagnosis is not None  # noqa: S101 (no target is left alone)
            found[target.hostname] = (target, diagnosis)
            advance()
    # It only saves questions: where it cannot be kept they are asked again.
    with contextlib.suppress(OSError):
        cache.save(path)
    entries = [found[name] for name in names]
    _print(entries, as_json=options.json)
    if not options.json and any(sign.age_s for _, diagnosis in entries for sign in diagnosis.evidence):
        sys.stderr.write("Some of this was seen before and is remembered; --fresh looks anew.\n")
    return 0 if all(target.reachable for target, _ in entries) else 1


def _bare(host: str) -> str:
    """An address without the brackets or the dot at the end that names and URLs have; a name as it is."""
    bare = host.strip("[]").rstrip(".")
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return host
    return bare


def _print(entries: Sequence[tuple[Target, Diagnosis]], *, as_json: bool) -> None:
    from msp_sdk.models.reason import remedy_of
    from msp_sdk.wire.converter import unstructure

    if as_json:
        items = [
            unstructure(target)
            | {
                "is_on": diagnosis.is_on,
                "remedy": remedy_of(diagnosis.reason) if diagnosis.reason else "",
                "evidence": [unstructure(sign) for sign in diagnosis.evidence],
            }
            for target, diagnosis in entries
        ]
        print_json({"items": items})
        return
    print_table(
        ("HOST", "ADDRESS", "DOORS", "ON", "REASON", "SEEN", "WHAT TO DO"),
        (
            (
                target.hostname,
                ", ".join(target.ip_addresses) or None,
                ", ".join(map(str, target.doors)) or None,
                "yes" if diagnosis.is_on else "unknown",
                diagnosis.reason,
                "; ".join(_seen(sign, several=len(target.ip_addresses) > 1) for sign in diagnosis.evidence) or None,
                remedy_of(diagnosis.reason) if diagnosis.reason else None,
            )
            for target, diagnosis in entries
        ),
    )


def _seen(sign: Sign, *, several: bool) -> str:
    """One sign in a few words, such as ``5986 refused`` or ``network card 00:15:5d:01:02:03``."""
    where = f"{sign.address} " if several else ""
    if sign.kind == "tcp":
        said = f"{sign.port} {sign.said}"
    elif sign.kind == "ping":
        said = f"ping {sign.said}"
    else:
        said = f"network card {sign.detail}" if sign.said == "present" else "no network card answers"
    if sign.detail and sign.kind != "neighbour":
        said += f" ({sign.detail})"
    minutes = int(sign.age_s // _MINUTE_S)
    return f"{where}{said}{f', {minutes} min ago' if minutes else ''}"
