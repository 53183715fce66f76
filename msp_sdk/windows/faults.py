"""What a host's refusals mean: WS-Man faults and HTTP statuses as errors of ours. No I/O.

Source: MS-WSMV 2.2.4.43 (WSManFault) and Windows' ``winerror.h``/``wsmerror.h`` for the codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from xml.etree import ElementTree as ET

from attrs import frozen

from msp_sdk.errors import MspError, NotAuthorisedHereError, ScriptFailedError, UnreachableError, WindowsError

ACCESS_DENIED = 5
PROVIDER_TIMEOUT = 1460
INVALID_SELECTORS = 2150858843
OPERATION_TIMEOUT = 2150858793
BAD_TIMEOUT_HEADER = 2150858767
SCHEMA = 2150858817
MAX_SHELLS = 2150859173
MAX_OPERATIONS = 2150859174
MAX_SHELL_USERS = 2150859179
# Of winerror.h: the processes of a shell are used up.
NOT_ENOUGH_QUOTA = 1816
FILE_NOT_FOUND = 2147942402

FaultKind = Literal["error", "shell-lost", "quota", "process-ended", "operation-timeout"]

# DSP0226: an envelope beyond what the other side takes, where it is no HTTP 413.
_TOO_LONG = "w:EncodingLimit"
_HTTP_BAD_REQUEST = 400
_HTTP_UNAUTHORISED = 401
_HTTP_NOT_FOUND = 404
_HTTP_TOO_LARGE = 413
_HTTP_SERVER_ERROR = 500
_HTTP_UNAVAILABLE = 503


@frozen
class Fault:
    """A refusal.

    Attributes:
        status: Of HTTP.
        code: Windows' own number; None when there was no WSManFault.
        reason: Text in the host's language; shown, never read.
    """

    status: int
    code: int | None = None
    subcode: str | None = None
    reason: str = ""


_KINDS: Mapping[int, FaultKind] = MappingProxyType(
    {
        INVALID_SELECTORS: "shell-lost",
        MAX_OPERATIONS: "quota",
        MAX_SHELLS: "quota",
        MAX_SHELL_USERS: "quota",
        NOT_ENOUGH_QUOTA: "quota",
        PROVIDER_TIMEOUT: "process-ended",
        OPERATION_TIMEOUT: "operation-timeout",
    }
)


def kind_of(fault: Fault) -> FaultKind:
    """What our side does about it: most are an error, a few have a cure."""
    return _KINDS.get(fault.code or 0, "error")


def error_of(fault: Fault, host: str) -> MspError:
    """The error that a fault is.

    Args:
        fault: As the host said it.
        host: The name for the message.
    """
    context = {"hostname": host, "status": fault.status, "wsman_code": fault.code}
    said = f" It said: {fault.reason.strip()[:500]}" if fault.reason.strip() else ""
    if fault.code == ACCESS_DENIED:
        return NotAuthorisedHereError(
            f"{host} lets this account in but gives it no shell.", code="needs-local-administrator", context=context
        )
    if kind_of(fault) == "quota":
        return WindowsError(
            f"{host} has no shell left for this account.",
            code="quota-exceeded",
            retryable=True,
            remedy="Others may be working there; it is tried again by itself.",
            context=context,
        )
    if fault.code == INVALID_SELECTORS:
        return UnreachableError(f"{host} has closed our shell.", code="connection-lost", context=context)
    if fault.code == FILE_NOT_FOUND:
        return ScriptFailedError(f"{host} has no Windows PowerShell.", code="unsupported-os", context=context)
    if fault.code is not None and fault.subcode != _TOO_LONG:
        return WindowsError(f"{host} refused with code {fault.code}.{said}", context=context)
    return _http_error(fault, host, context)


def _http_error(fault: Fault, host: str, context: Mapping[str, object]) -> MspError:
    if fault.status in (_HTTP_BAD_REQUEST, _HTTP_UNAUTHORISED):
        # WinRM answers 400 without a body, or 401, on a connection whose logon it has forgotten.
        return UnreachableError(f"{host} has forgotten our logon.", code="connection-lost", context=context)
    if fault.status == _HTTP_NOT_FOUND:
        return UnreachableError(f"{host} has no WinRM listener.", code="winrm-closed", context=context)
    if fault.status == _HTTP_UNAVAILABLE:
        return UnreachableError(f"WinRM on {host} is stopped or starting.", code="winrm-closed", context=context)
    if fault.status == _HTTP_TOO_LARGE or fault.subcode == _TOO_LONG:
        return WindowsError(f"our message was too large for {host}.", code="too-large", context=context)
    if fault.status == _HTTP_SERVER_ERROR:
        return WindowsError(
            f"{host} failed without a reason; it does that where it refuses our encryption.", context=context
        )
    return WindowsError(f"{host} answered with HTTP status {fault.status}.", context=context)


_S = "{http://www.w3.org/2003/05/soap-envelope}"
_F = "{http://schemas.microsoft.com/wbem/wsman/1/wsmanfault}"


def parse_fault(status: int, body: bytes) -> Fault:
    """Read a fault from the body of an HTTP answer; anything that is no fault gives one without a code."""
    try:
        root = ET.fromstring(body)  # noqa: S314 (expat of today bounds entity expansion; our reader bounds the size)
    except (ET.ParseError, ValueError, LookupError):
        return Fault(status)
    fault = root.find(f"{_S}Body/{_S}Fault")
    if fault is None:
        return Fault(status)
    detail = fault.find(f"{_S}Detail/{_F}WSManFault")
    code = detail.get("Code", "") if detail is not None else ""
    return Fault(
        status,
        int(code) if code.isdigit() else None,
        fault.findtext(f"{_S}Code/{_S}Subcode/{_S}Value"),
        fault.findtext(f"{_S}Reason/{_S}Text") or "",
    )


_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")


def error_text(stderr: bytes) -> str:
    """The error lines of what PowerShell wrote to stderr (CLIXML or plain), for a person; never to decide anything."""
    text = stderr.decode("utf-8", errors="replace").lstrip("\ufeff")
    head, marker, document = text.partition("#< CLIXML")
    if not marker:
        return text.strip()
    try:
        root = ET.fromstring(document.strip())  # noqa: S314 (as above)
    except (ET.ParseError, ValueError):
        return (head + document).strip()
    errors = [node.text or "" for node in root.iter() if node.tag.endswith("}S") and node.get("S") == "Error"]
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), "".join(errors))
    return (head + plain).replace("\r\n", "\n").strip()
