"""What goes to a host on stdin and what comes back on stdout. No I/O.

The command line is always the same (:data:`COMMAND`, :data:`ARGUMENTS`) and holds nothing of a script or its
parameters: command lines are logged by Windows. Everything else goes in on stdin, as lines of base64:
the prelude, the script, the parameters as JSON with the run's id, the payload, and a dot.

What comes back counts only as one envelope with the run's id; an exit code, silence or any other text is a failure.

Example:
    >>> len(ARGUMENTS[-1]) < 8191
    True
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from msp_sdk.errors import ScriptFailedError, WindowsError
from msp_sdk.windows.identity import HostIdentity
from msp_sdk.windows.scripts import Script, read_text

COMMAND = r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe"
MARKER = "MSP1-ENVELOPE"
LANGUAGE_MARKER = "MSP1-LANGUAGE"
VERSION_MARKER = "MSP1-VERSION"
END_LINE = b"."
_PAYLOAD_LINE_BYTES = 57_000
_DETAIL_MAX = 2000
_CODE = re.compile(r"[a-z][a-z0-9-]{0,63}")


def _encoded_bootstrap() -> str:
    lines = (line for line in read_text("bootstrap").splitlines() if not line.startswith("#"))
    return base64.b64encode("\n".join(lines).encode("utf-16-le")).decode("ascii")


ARGUMENTS: tuple[str, ...] = (
    "-NoProfile",
    "-NonInteractive",
    "-EncodedCommand",
    _encoded_bootstrap(),
)


@functools.cache
def prelude() -> str:
    """The text that runs a script on the host and writes its envelope."""
    return read_text("prelude")


@frozen
class Stdin:
    """What a host reads on stdin. The payload is encoded piece by piece: a file of 20 MiB would stand here four times.

    Attributes:
        head: The first lines, without the newline at their end.
        payload: A file for the script; may be empty.
    """

    head: bytes
    payload: bytes = field(repr=False)

    def pieces(self, size: int) -> Iterator[tuple[bytes, bool]]:
        """All of it in pieces of at most ``size`` bytes, each with whether it is the last. At least one piece."""
        waiting = bytearray(self.head)
        for start in range(0, len(self.payload), _PAYLOAD_LINE_BYTES):
            waiting += b"\n" + base64.b64encode(self.payload[start : start + _PAYLOAD_LINE_BYTES])
            while len(waiting) > size:
                yield bytes(waiting[:size]), False
                del waiting[:size]
        waiting += b"\n" + END_LINE
        while len(waiting) > size:
            yield bytes(waiting[:size]), False
            del waiting[:size]
        yield bytes(waiting), True


def encode_input(script: Script, parameters: Mapping[str, object], run_id: str, payload: bytes = b"") -> Stdin:
    """Everything that a host reads on stdin.

    Args:
        script: The script to run.
        parameters: JSON values; ``run_id`` is ours and may not be among them.
        run_id: Comes back in the envelope.
        payload: A file for the script; may be empty.

    Raises:
        WindowsError: A parameter is no JSON value, or is called ``run_id``. Nothing was sent.
    """
    if "run_id" in parameters:
        raise WindowsError("a parameter of a script may not be called run_id.", code="bad-parameters")
    try:
        text = json.dumps({**parameters, "run_id": run_id}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WindowsError(
            f"the parameters of the script {script.name} are no JSON values.", code="bad-parameters"
        ) from error
    return Stdin(b"\n".join(base64.b64encode(part.encode()) for part in (prelude(), script.text, text)), payload)


@frozen
class Envelope:
    """What a script answered, or how it said that it failed (``code`` and ``detail``)."""

    host: HostIdentity | None
    value: Mapping[str, object]
    ok: bool
    code: str = ""
    detail: str = ""


def parse_envelope(stdout: bytes, run_id: str, *, script: str, stderr: str = "") -> Envelope:
    """Read the one envelope of a run.

    Args:
        stdout: All that the process wrote; may be empty.
        run_id: Of this run.
        script: The script's name, for messages.
        stderr: Text for the detail; it decides nothing.

    Raises:
        ScriptFailedError: There is no envelope, more than one, one of another run, or one that makes no sense; also
            where the host restricts PowerShell's language (``language-restricted``) or it is too old
            (``unsupported-os``).
    """
    # Under some code pages the console begins with a byte-order mark.
    lines = [line.strip().lstrip("\ufeff") for line in stdout.decode("utf-8", errors="replace").splitlines()]
    for line in lines:
        if line.startswith(LANGUAGE_MARKER):
            mode = line.removeprefix(LANGUAGE_MARKER).strip()[:40]
            raise ScriptFailedError(
                f"PowerShell on this host runs in {mode}.",
                code="language-restricted",
                remedy="Allow full language for administrators in the host's application control policy.",
            )
        if line.startswith(VERSION_MARKER):
            version = line.removeprefix(VERSION_MARKER).strip()[:40]
            raise ScriptFailedError(
                f"the host has Windows PowerShell {version}; 5.1 is the least.", code="unsupported-os"
            )
    places = [index for index, line in enumerate(lines) if line == MARKER]
    if len(places) != 1 or places[0] + 1 >= len(lines):
        said = f" It said: {stderr[:_DETAIL_MAX]}" if stderr else ""
        count = "no result" if not places else "half a result" if len(places) == 1 else "more than one result"
        raise ScriptFailedError(f"the script {script} returned {count}.{said}")
    try:
        document = json.loads(base64.b64decode(lines[places[0] + 1], validate=True))
        return _structure(document, run_id)
    except (binascii.Error, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise ScriptFailedError(f"the script {script} returned a result that makes no sense.") from error


def _structure(document: object, run_id: str) -> Envelope:
    if not isinstance(document, dict) or document.get("run_id") != run_id:
        message = "an envelope of another run"
        raise ValueError(message)
    raw_host = document.get("host")
    host = _host(raw_host) if isinstance(raw_host, dict) else None
    if document.get("ok") is True:
        value = document.get("value")
        if not isinstance(value, dict) or host is None:
            message = "an envelope without a value or a host"
            raise ValueError(message)
        return Envelope(host, value, ok=True)
    failure = document.get("error")
    if not isinstance(failure, dict):
        message = "an envelope without a value and without an error"
        raise TypeError(message)
    code = str(failure.get("code") or "")
    return Envelope(
        host,
        {},
        ok=False,
        code=code if _CODE.fullmatch(code) else "script-failed",
        detail=str(failure.get("detail") or "")[:_DETAIL_MAX],
    )


def _host(raw: Mapping[str, object]) -> HostIdentity:
    def text(name: str) -> str | None:
        value = raw.get(name)
        return value if isinstance(value, str) and value else None

    name = text("computer_name")
    if name is None:
        message = "a host without a name"
        raise ValueError(message)
    return HostIdentity(
        computer_name=name,
        domain=text("domain"),
        dns_domain=text("dns_domain"),
        sid=text("sid"),
        os_version=text("os_version") or "",
        powershell_version=text("powershell_version") or "",
        language_mode=text("language_mode") or "",
        is_administrator=raw.get("is_administrator") is True,
    )
