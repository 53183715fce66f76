r"""The registry of scripts: small, versioned PowerShell texts that are sent to a host, and nothing else is.

A script is a file of this folder. It begins with a header of comment lines::

    # script: agent-state
    # version: 1
    # writes: no

and goes on with ``param($Parameters)``. It is called with the parameters as one object, may use the helpers of
``prelude.ps1`` (``Stop-Script``, ``Save-Payload``), and returns exactly one hashtable. The SHA-256 of its text, with
``\n`` newlines, names it in the stand-in of :mod:`msp_sdk.testing`, which answers no other text.

Example:
    >>> load("identify").writes
    False
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib.resources import files

from attrs import frozen

from msp_sdk.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_HEADER = re.compile(r"#\s*(script|version|writes):\s*(\S+)\s*")
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
    """

    name: str
    version: int
    text: str
    sha256: str
    writes: bool


@functools.cache
def load(name: str) -> Script:
    """Read a script from the package.

    Args:
        name: Its name, with hyphens.

    Raises:
        ConfigError: There is no such script, its header is incomplete or names another, or it is not ASCII.
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
    if header.get("script") != name or not header.get("version", "").isdigit() or header.get("writes") not in _WRITES:
        raise ConfigError(f"the header of the script {name!r} is incomplete or names another.", code="bad-script")
    return Script(
        name=name,
        version=int(header["version"]),
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        writes=_WRITES[header["writes"]],
    )


_WRITES = {"yes": True, "no": False}


def names() -> tuple[str, ...]:
    """The names of all scripts, sorted."""
    found = (entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".ps1"))
    return tuple(sorted(name.removesuffix(".ps1").replace("_", "-") for name in found if name[:-4] not in _CARRIERS))


def read_text(name: str) -> str:
    r"""The text of a file of this folder, with ``\n`` newlines.

    Raises:
        ConfigError: It is not there, or not ASCII: Windows PowerShell 5.1 would read it in the host's code page.
    """
    try:
        data = files(__name__).joinpath(f"{name.replace('-', '_')}.ps1").read_bytes()
        return data.decode("ascii").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(f"there is no script named {name!r}.", code="unknown-script") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the script {name!r} is not ASCII.", code="bad-script") from error
