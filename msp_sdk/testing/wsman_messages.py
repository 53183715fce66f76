"""The envelopes of WS-Man as a host reads and writes them. No I/O.

A host that knows less than Windows must not look as if it knew: a header, an option or an element that is not in these
tables is refused, even where Windows would pass over it.

Source: MS-WSMV 2.2.4, MS-WSMAN, and answers of real Windows recorded by pypsrp.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from attrs import field, frozen

from msp_sdk.testing.wsman_refusals import (
    ACTION_NOT_SUPPORTED,
    BAD_HEADER,
    INVALID_OPTIONS,
    INVALID_RESOURCE,
    NO_HEADER,
    SCHEMA,
    NotUnderstood,
    Refusal,
)

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
}
SHELL_URI = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd"
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/"
_TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
_ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"

# What Windows answers within where a client sets no size.
DEFAULT_ENVELOPE_BYTES = 500 * 1024

_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        **{_TRANSFER + name: name for name in ("Create", "Delete")},
        **{SHELL + name: name for name in ("Command", "Send", "Receive", "Signal")},
    }
)
_HEADERS = frozenset(
    f"{{{NS[prefix]}}}{name}"
    for prefix, names in {
        "a": ("Action", "MessageID", "To", "ReplyTo"),
        "w": ("MaxEnvelopeSize", "OperationTimeout", "ResourceURI", "Locale", "OptionSet", "SelectorSet"),
        "p": ("DataLocale", "SessionId", "OperationID", "SequenceId"),
    }.items()
    for name in names
)
_NEEDED = ("a:Action", "a:MessageID", "a:To", "w:ResourceURI")
_TRUTH = frozenset({"true", "false"})
_OPTIONS: Mapping[str, Mapping[str, frozenset[str] | None]] = MappingProxyType(
    {
        "Create": {"WINRS_NOPROFILE": _TRUTH, "WINRS_CODEPAGE": None},
        "Command": {"WINRS_CONSOLEMODE_STDIN": _TRUTH, "WINRS_SKIP_CMD_SHELL": _TRUTH},
        "Receive": {"WSMAN_CMDSHELL_OPTION_KEEPALIVE": _TRUTH},
    }
)
# The element in the body, and what may stand in it.
_BODIES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "Create": (
            "Shell",
            frozenset(
                {
                    "InputStreams",
                    "OutputStreams",
                    "WorkingDirectory",
                    "Environment",
                    "IdleTimeOut",
                    "Lifetime",
                    "Name",
                }
            ),
        ),
        "Command": ("CommandLine", frozenset({"Command", "Arguments"})),
        "Send": ("Send", frozenset({"Stream"})),
        "Receive": ("Receive", frozenset({"DesiredStream"})),
        "Signal": ("Signal", frozenset({"Code"})),
    }
)
_DURATION = re.compile(r"PT(\d+(?:\.\d+)?)S")
_OPERATION = re.compile(rb"Action[^>]*>\s*[^<]*/([A-Za-z]+)\s*</")


@frozen
class Message:
    """A request that holds to the tables.

    Attributes:
        operation: ``Create``, ``Command``, ``Send``, ``Receive``, ``Signal`` or ``Delete``.
        options: By name, as they were written.
        shell_id: In upper case; empty where none was named.
        timeout_s: How long the client lets the operation take.
        envelope_bytes: How large an answer the client takes.
        element: What stands in the body; an empty element for ``Delete``.
    """

    operation: str
    message_id: str
    to: str
    options: Mapping[str, str]
    shell_id: str
    timeout_s: float
    envelope_bytes: int
    element: ET.Element = field(repr=False)


def operation_of(envelope: bytes) -> str:
    """The last word of an envelope's action, whatever else it holds; empty when there is none."""
    found = _OPERATION.search(envelope)
    return found[1].decode() if found else ""


def message_id_of(envelope: bytes) -> str:
    """The id of a message; empty when it cannot be read."""
    try:
        return _parse(envelope).findtext("s:Header/a:MessageID", "", NS)
    except Refusal:
        return ""


def read_duration(text: str) -> float | None:
    """Seconds of ``PT…S``; None when it is something else."""
    found = _DURATION.fullmatch(text)
    return float(found[1]) if found else None


def read_message(envelope: bytes) -> Message:
    """Read a request.

    Raises:
        Refusal: It is no envelope, or holds anything that is not in the tables.
    """
    root = _parse(envelope)
    header = root.find("s:Header", NS)
    if header is None:
        raise Refusal(SCHEMA)
    for child in header:
        if child.tag not in _HEADERS:
            namespace, _, name = child.tag.strip("{").rpartition("}")
            raise NotUnderstood(namespace, name)
    if any(header.find(name, NS) is None for name in _NEEDED):
        raise Refusal(NO_HEADER)
    operation = _ACTIONS.get(header.findtext("a:Action", "", NS))
    if header.findtext("w:ResourceURI", "", NS) != SHELL_URI:
        raise Refusal(INVALID_RESOURCE)
    if operation is None:
        raise Refusal(ACTION_NOT_SUPPORTED)
    text = header.findtext("w:OperationTimeout", "PT60.000S", NS)
    timeout_s = read_duration(text)
    if timeout_s is None:
        raise Refusal(
            BAD_HEADER,
            "The WS-Management service cannot process the request. The XML contains an invalid timeout field in the"
            f" SOAP header: {text}. ",
        )
    size = header.findtext("w:MaxEnvelopeSize", str(DEFAULT_ENVELOPE_BYTES), NS)
    if not size.isdigit():
        raise Refusal(BAD_HEADER)
    return Message(
        operation,
        header.findtext("a:MessageID", "", NS),
        header.findtext("a:To", "", NS),
        _options(operation, header),
        _shell_id(header),
        timeout_s,
        int(size),
        _element(operation, root),
    )


def _parse(envelope: bytes) -> ET.Element:
    try:
        root = ET.fromstring(envelope)  # noqa: S314 (it comes from a test)
    except ET.ParseError:
        raise Refusal(SCHEMA) from None
    if root.tag != f"{{{NS['s']}}}Envelope":
        raise Refusal(SCHEMA)
    return root


def _options(operation: str, header: ET.Element) -> dict[str, str]:
    allowed = _OPTIONS.get(operation, {})
    options = {entry.get("Name", ""): entry.text or "" for entry in header.iterfind("w:OptionSet/w:Option", NS)}
    for name, value in options.items():
        if name not in allowed:
            raise Refusal(INVALID_OPTIONS)
        values = allowed[name]
        if not (value.isdigit() if values is None else value.lower() in values):
            raise Refusal(INVALID_OPTIONS)
    return options


def _shell_id(header: ET.Element) -> str:
    selectors = {entry.get("Name"): entry.text or "" for entry in header.iterfind("w:SelectorSet/w:Selector", NS)}
    return selectors.get("ShellId", "").upper() if set(selectors) <= {"ShellId"} else ""


def _element(operation: str, root: ET.Element) -> ET.Element:
    body = root.find("s:Body", NS)
    if body is None:
        raise Refusal(SCHEMA)
    if operation not in _BODIES:
        return ET.Element("nothing")
    name, allowed = _BODIES[operation]
    element = body.find(f"rsp:{name}", NS)
    if element is None or len(body) != 1:
        raise Refusal(SCHEMA)
    for child in element:
        local = child.tag.rpartition("}")[2]
        if child.tag != f"{{{NS['rsp']}}}{local}" or local not in allowed:
            raise Refusal(
                SCHEMA,
                "The Windows Remote Shell cannot process the request. The SOAP packet contains an element"
                f" {local} that is invalid. Retry the request with the correct XML element. ",
            )
    return element


def render_answer(operation: str, relates_to: str, body: str) -> bytes:
    """The envelope that answers a request."""
    uri = (_TRANSFER if operation in ("Create", "Delete") else SHELL) + operation + "Response"
    return (
        f'<s:Envelope xml:lang="en-US" xmlns:s="{NS["s"]}" xmlns:a="{NS["a"]}" xmlns:x="{NS["x"]}" xmlns:w="{NS["w"]}"'
        f' xmlns:rsp="{NS["rsp"]}" xmlns:p="{NS["p"]}">'
        f"<s:Header><a:Action>{uri}</a:Action><a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
        f"<a:To>{_ANONYMOUS}</a:To><a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header>"
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def render_shell(to: str, shell_id: str, owner: str, folder: str, environment: Mapping[str, str], idle_s: float) -> str:
    """The body that answers Create."""
    variables = "".join(
        f"<rsp:Variable Name={quoteattr(name)}>{escape(value)}</rsp:Variable>" for name, value in environment.items()
    )
    echoed = f"<rsp:Environment>{variables}</rsp:Environment>" if variables else ""
    echoed += f"<rsp:WorkingDirectory>{escape(folder)}</rsp:WorkingDirectory>" if folder else ""
    milliseconds = math.floor(idle_s * 1000)
    return (
        f"<x:ResourceCreated><a:Address>{escape(to)}</a:Address><a:ReferenceParameters><w:ResourceURI>{SHELL_URI}"
        f'</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">{shell_id}</w:Selector></w:SelectorSet>'
        f'</a:ReferenceParameters></x:ResourceCreated><rsp:Shell xmlns:rsp="{NS["rsp"]}">'
        f"<rsp:ShellId>{shell_id}</rsp:ShellId><rsp:ResourceUri>{SHELL_URI}</rsp:ResourceUri>"
        f"<rsp:Owner>{escape(owner)}</rsp:Owner><rsp:ClientIP>127.0.0.1</rsp:ClientIP>{echoed}"
        f"<rsp:IdleTimeOut>PT{milliseconds // 1000}.{milliseconds % 1000:03}S</rsp:IdleTimeOut>"
        "<rsp:InputStreams>stdin</rsp:InputStreams>"
        "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams><rsp:ShellRunTime>P0DT0H0M0S</rsp:ShellRunTime>"
        "<rsp:ShellInactivity>P0DT0H0M0S</rsp:ShellInactivity></rsp:Shell>"
    )
