r"""The registry of scripts: small, versioned PowerShell texts that are sent to a host, and nothing else is.

A script is a file of this folder. It begins with a header of comment lines::

    # script: agent-state
    # version: 1
    # writes: no
    # administrator: yes

(the last line may be left out; a script that says ``no`` also runs for who is no local administrator) and goes on
with ``param($Parameters)``. It is called with the parameters as one object, may use the helpers of ``prelude.ps1``
(``Stop-Script``, ``Save-Payload``), and returns exactly one hashtable. The SHA-256 of its text, with ``\n`` newlines,
names it in the stand-in of :mod:`msp_sdk.testing`, which answers no other text. Beside each stands its contract
(:mod:`msp_sdk.windows.contract`), ``NAME.json``.

Example:
    >>> load("identify").writes
    False
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from importlib.resources import files

from attrs import frozen

from msp_sdk.errors import ConfigError
from msp_sdk.windows.contract import Contract, parse_contract

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_HEADER = re.compile(r"#\s*(script|version|writes|administrator):\s*(\S+)\s*")
# What carries scripts is kept beside them and is no script itself.
_CARRIERS = frozenset({"bootstrap", "prelude"})


@frozen
class Script:
    r"""A registered script.

    Attributes:
        name: With hyphens, such as ``agent-state``.
        version: Rises with every change of its contract.
        text: ASCII, ``\n`` newlines.
        sha256: Of the UTF-8 text, lower-case hex.
        writes: True when it changes anything on the host.
        needs_administrator: False when it also runs for who is no local administrator.
        contract: What it takes and returns; None (nothing is checked) only for scripts from outside the registry.
    """

    name: str
    version: int
    text: str
    sha256: str
    writes: bool
    needs_administrator: bool = True
    contract: Contract | None = None


@functools.cache
def load(name: str) -> Script:
    """Read a script from the package.

    Args:
        name: Its name, with hyphens.

    Raises:
        ConfigError: There is no such script, its header is incomplete or names another, it is not ASCII, or its
            contract makes no sense.
    """
    if name in _CARRIERS or not _NAME.fullmatch(name):
        raise ConfigError(f"there is no script named {name!r}.", code="unknown-script")
    text = read_text(name)
    header: dict[str, str] = {}
    for line in text.splitlines():
        found = _HEADER.fullmatch(line)
        if not found:
            break
        header[found[1]] = found[2]
    writes, administrator = _TRUTHS.get(header.get("writes", "")), _TRUTHS.get(header.get("administrator", "yes"))
    if header.get("script") != name or not header.get("version", "").isdigit() or None in (writes, administrator):
        raise ConfigError(f"the header of the script {name!r} is incomplete or names another.", code="bad-script")
    return Script(
        name=name,
        version=int(header["version"]),
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        writes=writes is True,
        needs_administrator=administrator is True,
        contract=_contract(name),
    )


def _contract(name: str) -> Contract:
    try:
        return parse_contract(json.loads(_read(name, "json")))
    except ValueError as error:
        raise ConfigError(f"the contract of the script {name!r} is no JSON.", code="bad-script") from error


_TRUTHS = {"yes": True, "no": False}


def names() -> tuple[str, ...]:
    """The names of all scripts, sorted."""
    found = (entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".ps1"))
    return tuple(sorted(name.removesuffix(".ps1").replace("_", "-") for name in found if name[:-4] not in _CARRIERS))


def read_text(name: str) -> str:
    r"""The text of a file of this folder, with ``\n`` newlines.

    Raises:
        ConfigError: It is not there, or not ASCII: Windows PowerShell 5.1 would read it in the host's code page.
    """
    return _read(name, "ps1")


def _read(name: str, ending: str) -> str:
    try:
        data = files(__name__).joinpath(f"{name.replace('-', '_')}.{ending}").read_bytes()
        return data.decode("ascii").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(f"there is no script named {name!r}.", code="unknown-script") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the script {name!r} is not ASCII.", code="bad-script") from error
