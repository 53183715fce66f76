"""``msp testing capture``: record what a real Windows answers to the scripts that only read. Writes nothing there.

The exit code is 1 when the host could not be asked, or a script failed on it.
"""

from __future__ import annotations

import argparse
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msp_sdk.errors import ConfigError, UnreachableError
from msp_sdk.models.reason import remedy_of
from runners.cli.common import print_json, print_line, print_table
from runners.cli.directory import add_directory_options
from runners.cli.fleet import open_hosts

if TYPE_CHECKING:
    from msp_sdk.models.target import MergeResult, Target
    from msp_sdk.testing.captures import Capture, NotCaptured


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("testing", help="record what real Windows answers, for the tests of this project")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    capture = verbs.add_parser("capture", help="run the scripts that only read on a host and keep its answers")
    capture.add_argument("host", metavar="HOST", help="name or address")
    capture.add_argument("--domain", metavar="DOMAIN", help="the host's domain; the account is proven there first")
    capture.add_argument("--host-ca", metavar="FILE", action="append", default=[], help="CA of the host's certificate")
    capture.add_argument("--out", metavar="FOLDER", default="captures", help="one file a script is written here")
    capture.add_argument("--keep-names", action="store_true", help="keep names and SIDs of the network in the files")
    capture.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_directory_options(capture)
    capture.set_defaults(run=_capture)


async def _capture(options: argparse.Namespace) -> int:
    from msp_sdk.testing.captures import NotCaptured, capture_host, capture_plan

    # As those of `msp deploy` are called.
    options.hosts, options.role = [options.host], None
    folder = _make_folder(options.out)
    captured: list[tuple[Capture, Path]] = []
    failed: list[NotCaptured] = []
    async with (
        open_hosts(options) as (shells, credential, merged),
        shells.open(_target(merged, options.host), credential) as shell,
    ):
        username = credential.username.rpartition("\\")[2].partition("@")[0]
        answers = capture_host(shell, datetime.now(UTC), username=username, keep_names=options.keep_names)
        async with aclosing(answers) as found:
            async for answer in found:
                if isinstance(answer, NotCaptured):
                    failed.append(answer)
                else:
                    captured.append((answer, _save(folder, answer)))
    left_out = capture_plan().left_out
    if options.json:
        print_json(
            {
                "captured": [{"script": answer.script, "file": str(path)} for answer, path in captured],
                "failed": failed,
                "left_out": [{"script": script, "why": why} for script, why in left_out],
            }
        )
    else:
        rows = [(answer.script, "captured", str(path)) for answer, path in captured]
        rows += [(entry.script, entry.code, entry.detail) for entry in failed]
        rows += [(script, "left out", why) for script, why in left_out]
        print_table(("SCRIPT", "STATE", "DETAIL"), rows)
        if captured:
            print_line(f"Windows {captured[0][0].windows}. Look at the files before you give them away.")
    return 1 if failed or not captured else 0


def _target(merged: MergeResult, host: str) -> Target:
    if merged.targets:
        return merged.targets[0]
    code = merged.skipped[0].reason if merged.skipped else "no-address"
    raise UnreachableError(f"{host} is not logged on to ({code}).", code=code, remedy=remedy_of(code))


def _make_folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {out} cannot be made: {error.strerror}.") from error
    return folder


def _save(folder: Path, capture: Capture) -> Path:
    path = folder / capture.file_name
    try:
        path.write_text(capture.render(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    return path
