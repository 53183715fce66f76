"""What the commands share: output, passwords, the partner's connection."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msp_sdk.errors import ConfigError
from msp_sdk.secret import Secret

if TYPE_CHECKING:
    from msp_sdk.partner import PartnerClient

PASSWORD_VARIABLE = "MSP_PASSWORD"  # noqa: S105 (the variable's name)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    from msp_sdk.wire.converter import unstructure

    sys.stdout.write(json.dumps(unstructure(value), ensure_ascii=False, indent=2) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table on stdout; control characters of strangers' text never reach the terminal."""
    lines = [tuple(headings), *(tuple(_plain(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        sys.stdout.write(text + "\n")


def _plain(cell: object) -> str:
    if cell is None:
        return "-"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(cell))


def read_password(file: str | None, prompt: str) -> Secret:
    """A password from a file, the environment, or a prompt; never from an argument.

    Raises:
        ConfigError: There is none, or the file cannot be read.
    """
    if file is not None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the password file {file} cannot be read: {type(error).__name__}.") from error
        text = text.removesuffix("\n").removesuffix("\r")
    elif PASSWORD_VARIABLE in os.environ:
        text = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        text = getpass.getpass(f"{prompt}: ")
    else:
        raise ConfigError(
            "a password is needed.", remedy=f"Give --password-file FILE, or set {PASSWORD_VARIABLE}, or use a terminal."
        )
    if not text:
        raise ConfigError("the password is empty.", remedy="An empty password would only cost a strike.")
    return Secret(text)


def add_partner_options(parser: argparse.ArgumentParser) -> None:
    """``--central``, ``--key-file``, ``--ca``, ``--json``."""
    parser.add_argument("--central", metavar="URL", help="Central's address; else MSP_CENTRAL")
    parser.add_argument("--key-file", metavar="FILE", help="file with the partner's API key; else MSP_API_KEY")
    parser.add_argument("--central-ca", metavar="FILE", help="CAs to trust for Central instead of the system's")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def open_partner(options: argparse.Namespace) -> PartnerClient:
    """The partner's connection.

    Raises:
        ConfigError: Address or key is missing.
    """
    from msp_sdk.partner import PartnerClient
    from msp_sdk.wire.http import HttpOptions

    central = options.central or os.environ.get("MSP_CENTRAL")
    if not central:
        raise ConfigError("the address of Central is missing.", remedy="Give --central URL or set MSP_CENTRAL.")
    if options.key_file:
        key = read_password(options.key_file, "API key")
    elif os.environ.get("MSP_API_KEY"):
        key = Secret(os.environ["MSP_API_KEY"])
    else:
        raise ConfigError("the partner's API key is missing.", remedy="Give --key-file FILE or set MSP_API_KEY.")
    return PartnerClient(central, key, options=HttpOptions(ca_file=options.central_ca))


def print_qr(text: str) -> None:
    """A QR picture on a terminal; nothing elsewhere."""
    if sys.stdout.isatty():
        import segno

        segno.make(text, error="m").terminal(compact=True)


def read_text_file(path: str) -> str:
    """A text file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}.") from error
