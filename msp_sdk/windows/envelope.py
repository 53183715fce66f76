"""What goes to a host on stdin and what comes back on stdout. No I/O.

The command line is always the same (:data:`COMMAND`, :data:`ARGUMENTS`) and holds nothing of a script or its
parameters: command lines are logged by Windows. It starts a loop (``bootstrap.ps1``); each script goes in on stdin, as
lines of base64: the prelude, the script, the request as JSON (run's id, which machine is meant, parameters), the
payload, and a line with a dot. A script that was cut off in the midst is never run.

What comes back counts only as one envelope with the run's id; an exit code, silence or any other text is a failure.
The answer ends with its envelope, while the process goes on to wait for the next script.

What this leans on, beside what every use of WinRM does:

* powershell.exe leaves stdin alone unless the command names its variable for piped objects (its console host looks for
  it in the parsed command), so ``[Console]::In`` is ours.
* Under ``WINRS_CONSOLEMODE_STDIN=FALSE`` stdin is a pipe whose data arrives while it stays open; Ansible's file
  transfer, which reads as it sends, shows that.
* Receive returns output of a process that is still running.

All three are unproven here: there is no Windows to try. ``ShellOptions.one_process`` goes back to a process a script.

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
from msp_sdk.models.target import Target
from msp_sdk.windows.identity import NETBIOS_LENGTH, HostIdentity, is_address
from msp_sdk.windows.scripts import Script, read_text

COMMAND = r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe"
MARKER = "MSP1-ENVELOPE"
LANGUAGE_MARKER = "MSP1-LANGUAGE"
VERSION_MARKER = "MSP1-VERSION"
END_LINE = b"."
_PAYLOAD_LINE_BYTES = 57_000
_DETAIL_MAX = 2000
_RUN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
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

    def pieces(self, size: int, most: int = 0) -> Iterator[tuple[bytes, bool]]:
        """All of it in pieces, each with whether it is the last. At least one piece.

        Args:
            size: The first piece has at most so many bytes.
            most: Each piece may be twice as long as the one before, up to this; 0 for no growth. A piece is made when
                it is asked for, so who asks only after the last one has arrived grows with success.
        """
        waiting = bytearray(self.head)
        for start in range(0, len(self.payload), _PAYLOAD_LINE_BYTES):
            waiting += b"\n" + base64.b64encode(self.payload[start : start + _PAYLOAD_LINE_BYTES])
            while len(waiting) > size:
                yield bytes(waiting[:size]), False
                del waiting[:size]
                size = max(size, min(2 * size, most))
        waiting += b"\n" + END_LINE + b"\n"
        while len(waiting) > size:
            yield bytes(waiting[:size]), False
            del waiting[:size]
            size = max(size, min(2 * size, most))
        yield bytes(waiting), True


def meant(target: Target) -> dict[str, object]:
    """What the prelude compares its host with, by the rule of :func:`msp_sdk.windows.identity.check_identity`."""
    names = {name for name in (target.fqdn, target.hostname) if name and not is_address(name)}
    return {
        "names": sorted({name.split(".")[0].casefold()[:NETBIOS_LENGTH] for name in names}),
        "domain": target.domain_name.rstrip(".") if target.domain_name else None,
        "sid": target.sid,
        "in_directory": bool(target.object_guid),
    }


def check_parameters(script: Script, parameters: Mapping[str, object]) -> None:
    """Compare parameters with the script's contract, before anything is sent.

    Raises:
        WindowsError: ``bad-parameters``, with the place.
    """
    trouble = script.contract.trouble("input", parameters) if script.contract else ""
    if trouble:
        raise WindowsError(f"the parameters of the script {script.name} do not fit: {trouble}.", code="bad-parameters")


def check_value(script: Script, value: Mapping[str, object]) -> None:
    """Compare what came back with the script's contract.

    Raises:
        ScriptFailedError: ``script-failed``, with the place.
    """
    trouble = script.contract.trouble("output", value) if script.contract else ""
    if trouble:
        raise ScriptFailedError(f"the script {script.name} returned what does not fit: {trouble}.")


def encode_input(
    script: Script,
    parameters: Mapping[str, object],
    run_id: str,
    payload: bytes = b"",
    *,
    target: Target | None = None,
) -> Stdin:
    """Everything that a host reads on stdin for one script.

    Args:
        script: The script to run.
        parameters: JSON values.
        run_id: Comes back in the envelope; 1 to 64 letters, digits and hyphens.
        payload: A file for the script; may be empty.
        target: Which machine is meant; any other one refuses. None takes any.

    Raises:
        WindowsError: A parameter is no JSON value, or the run's id has another shape. Nothing was sent.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise WindowsError("the id of a run is 1 to 64 letters, digits and hyphens.", code="bad-parameters")
    request = {
        "run_id": run_id,
        "script": script.name,
        "writes": script.writes,
        "needs_administrator": script.needs_administrator,
        "meant": meant(target) if target else {"names": [], "domain": None, "sid": None, "in_directory": False},
        "parameters": dict(parameters),
    }
    try:
        text = json.dumps(request, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WindowsError(
            f"the parameters of the script {script.name} are no JSON values.", code="bad-parameters"
        ) from error
    lines = (_encoded(prelude()), _encoded(script.text), base64.b64encode(text.encode()))
    return Stdin(b"\n".join(lines), payload)


@functools.lru_cache(maxsize=64)
def _encoded(text: str) -> bytes:
    # For the texts of scripts alone; a request may hold what must not be kept.
    return base64.b64encode(text.encode())


def envelope_ended(stdout: bytes | bytearray) -> bool:
    """True when an envelope is there to its end: its marker's line and the whole line after it."""
    at = stdout.find(MARKER.encode())
    line = stdout.find(b"\n", at) if at >= 0 else -1
    return line >= 0 and stdout.find(b"\n", line + 1) >= 0


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
