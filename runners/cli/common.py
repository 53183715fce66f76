"""What the commands share: the parser, output, questions to a person, passwords, the partner's connection."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from msp_sdk.errors import ConfigError, WireError
from msp_sdk.secret import Secret

if TYPE_CHECKING:
    from msp_sdk.partner import PartnerClient

T = TypeVar("T")

PASSWORD_VARIABLE = "MSP_PASSWORD"  # noqa: S105 (the variable's name)
_MAX_PORT = 65535


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which takes ``--debug`` everywhere and no abbreviations.

    ``--password SECRET`` must not pass for ``--password-file``, and what an unknown option was given is not repeated.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the trace of an error, and log more"
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, or end with exit code 2 and one line."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"there is no option {', '.join(names)}" if names else f"{len(unknown)} arguments too many")
        return options

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {plain(message)}. `{self.prog} --help` says how it is called.\n")


def port_number(text: str) -> int:
    """A port from an argument; 0 takes a free one."""
    if not text.isascii() or not text.isdigit() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to {_MAX_PORT})")
    return int(text)


def print_json(value: object) -> None:
    """One JSON document on stdout, in ASCII: neither an encoding nor a control character can break it."""
    from msp_sdk.wire.converter import unstructure

    sys.stdout.write(json.dumps(unstructure(value), indent=2) + "\n")


def print_line(text: str) -> None:
    """One line on stdout, of which parts may be strangers' text."""
    sys.stdout.write(plain(text) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table on stdout; control characters of strangers' text never reach the terminal."""
    lines = [tuple(headings), *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        sys.stdout.write(text + "\n")


def plain(cell: object) -> str:
    """Text for a terminal, on one line; what cannot be printed is replaced."""
    if cell is None:
        return "-"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(cell))


@contextlib.contextmanager
def _ctrl_c_ends_it() -> Iterator[None]:
    """While a person is asked: asyncio's own handler waits for the loop, which waits for the answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def can_ask() -> bool:
    """True when a person sits at both ends."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """Ask on stderr, so that stdout stays the answer's; the end of input is an empty answer."""
    sys.stderr.write(question)
    sys.stderr.flush()
    return read_line()


def read_line() -> str:
    """One line of stdin without its end; empty at the end of input."""
    with _ctrl_c_ends_it():
        return sys.stdin.readline().strip()


def read_password(file: str | None, prompt: str) -> Secret:
    """A password from a file, the environment, or a prompt; never from an argument.

    Raises:
        ConfigError: There is none, or the file cannot be read.
    """
    if file is not None:
        text = _read_secret_file(file)
    elif PASSWORD_VARIABLE in os.environ:
        text = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        try:
            with _ctrl_c_ends_it():
                text = getpass.getpass(f"{plain(prompt)}: ")
        except EOFError:
            text = ""
    else:
        raise ConfigError(
            "a password is needed.", remedy=f"Give --password-file FILE, or set {PASSWORD_VARIABLE}, or use a terminal."
        )
    if not text:
        raise ConfigError("the password is empty.", remedy="An empty password would only cost a strike.")
    return Secret(text)


def _read_secret_file(file: str) -> str:
    try:
        with _ctrl_c_ends_it():
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
            # An editor's mark at the head of a file is no part of the password.
            text = text.removeprefix("\ufeff")
    except (OSError, ValueError) as error:
        # A ValueError of the codec holds what was read, so it is not kept as the cause.
        raise ConfigError(f"the secret's file {file} cannot be read: {_why(error)}.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if "\n" in text or "\0" in text:
        # Some other file was named, and trying it would cost a strike.
        raise ConfigError(f"the secret's file {file} has more than one line.", remedy="Put the secret alone into it.")
    return text


def _why(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is no text in UTF-8"


def add_partner_options(parser: argparse.ArgumentParser) -> None:
    """``--central``, ``--key-file``, ``--central-ca``, ``--json``."""
    parser.add_argument("--central", metavar="URL", help="Central's address; else MSP_CENTRAL")
    parser.add_argument("--key-file", metavar="FILE", help="file with the partner's API key; else MSP_API_KEY")
    parser.add_argument("--central-ca", metavar="FILE", help="CAs to trust for Central instead of the system's")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def open_partner(options: argparse.Namespace) -> PartnerClient:
    """The partner's connection.

    Raises:
        ConfigError: Address or key is missing, or the key is none.
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
    if not (key.reveal().isascii() and key.reveal().isprintable()):
        raise ConfigError("this is no API key.", remedy="It begins with pk_ and has letters, digits and underscores.")
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
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {_why(error)}.") from error


def read_json_file(path: str, kind: type[T]) -> T:
    """A value from a JSON file.

    Raises:
        ConfigError: It cannot be read, or does not hold such a value; it says where.
    """
    from msp_sdk.wire.converter import loads, structure

    text = read_text_file(path)
    try:
        return structure(loads(text), kind)
    except WireError as error:
        raise ConfigError(f"{path} is not what is asked for: {error.detail}", remedy="Correct the file.") from error


@contextlib.contextmanager
def progress(label: str, *, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's stderr while something long runs; call what it gives for each piece that is done.

    In a pipe, and without ``rich``, it is quiet.
    """
    bar = _make_bar() if sys.stderr.isatty() else None
    if bar is None:
        yield lambda: None
        return
    with bar:
        task = bar.add_task(plain(label), total=total)
        yield lambda: bar.advance(task)


def _make_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
