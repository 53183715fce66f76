"""What a WinRM endpoint says when it refuses: the faults of WS-Man as Windows words them.

Each has its ``source``: ``recorded`` (answers of a real Windows, kept by pypsrp's tests), ``public thread`` (code and
words as people have posted them), ``wsmerror.h`` (code and words from that header of Windows' SDK; how they are put
into an envelope is inferred) or ``inferred`` (not seen anywhere: what we believe).

Example:
    >>> REFUSALS[2150858793].subcode
    'w:TimedOut'
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from attrs import frozen

Source = Literal["recorded", "public thread", "wsmerror.h", "inferred"]

FILE_NOT_FOUND = 2147942402
NOT_ENOUGH_QUOTA = 1816
ACCESS_DENIED = 5
INVALID_PARAMETER = 87
ABORTED = 995
STDIN_CLOSED = 1460
BAD_HEADER = 2150858767
NO_HEADER = 2150858769
ACTION_NOT_SUPPORTED = 2150858771
TIMED_OUT = 2150858793
INVALID_OPTIONS = 2150858809
INVALID_RESOURCE = 2150858811
SCHEMA = 2150858817
ENVELOPE_TOO_SMALL = 2150858824
INVALID_SELECTORS = 2150858843
MAX_SHELLS = 2150859173
MAX_OPERATIONS = 2150859174
MAX_SHELL_USERS = 2150859179

_FAULT = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
_ADDRESSING_FAULT = "http://schemas.xmlsoap.org/ws/2004/08/addressing/fault"
_DETAILS = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/"
_ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
_PROVIDER = r'<f:ProviderFault provider="Shell cmd plugin" path="%systemroot%\system32\winrscmd.dll">'


@frozen
class Wording:
    """How Windows says a refusal.

    Attributes:
        side: Whose fault it is by SOAP.
        subcode: With its prefix.
        reason: The text of SOAP, which is in the language of the host.
        message: The text of the WSManFault where it says more than the reason; may name ``{shell}`` and ``{limit}``.
        detail: The last part of a ``w:FaultDetail``; empty for none.
        by_provider: The message stands in a ``ProviderFault`` of the shell's plug-in.
        source: Where we have it from.
    """

    side: Literal["Sender", "Receiver"]
    subcode: str
    reason: str
    message: str = ""
    detail: str = ""
    by_provider: bool = False
    source: Source = "inferred"


_NOT_PROCESSED = "The WS-Management service cannot process the request. "
_TIMEOUT = "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.  "
_SELECTORS = (
    "The WS-Management service cannot process the request because the request contained invalid selectors for the"
    " resource. "
)
_NO_SHELL = (
    "The request for the Windows Remote Shell with ShellId {shell} failed because the shell was not found on the"
    " server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the server."
    " Provide the correct ShellId or create a new shell and retry the operation. "
)
NO_COMMAND = (
    "The Windows Remote Shell received a request to perform an operation on a command identifier that does not exist."
    " Either the command has completed execution or the client specified an invalid command identifier. "
)

REFUSALS: Mapping[int, Wording] = MappingProxyType(
    {
        ACCESS_DENIED: Wording("Sender", "w:AccessDenied", "Access is denied. ", source="public thread"),
        INVALID_PARAMETER: Wording(
            "Sender",
            "w:InvalidParameter",
            "The parameter is incorrect. ",
            detail="InvalidValue",
            by_provider=True,
            source="recorded",
        ),
        ABORTED: Wording(
            "Receiver",
            "w:InternalError",
            "The I/O operation has been aborted because of either a thread exit or an application request. ",
            by_provider=True,
        ),
        STDIN_CLOSED: Wording(
            "Receiver",
            "w:InternalError",
            "This operation returned because the timeout period expired. ",
            by_provider=True,
            source="public thread",
        ),
        NOT_ENOUGH_QUOTA: Wording(
            "Receiver",
            "w:InternalError",
            "Not enough quota is available to process this command. ",
            by_provider=True,
        ),
        FILE_NOT_FOUND: Wording(
            "Receiver",
            "w:InternalError",
            "The system cannot find the file specified. ",
            by_provider=True,
            source="recorded",
        ),
        BAD_HEADER: Wording(
            "Sender",
            "a:InvalidMessageInformationHeader",
            _NOT_PROCESSED + "The request contains one or more invalid SOAP headers. ",
            source="recorded",
        ),
        NO_HEADER: Wording(
            "Sender",
            "a:MessageInformationHeaderRequired",
            _NOT_PROCESSED + "The request does not have all the expected SOAP headers. ",
            source="wsmerror.h",
        ),
        ACTION_NOT_SUPPORTED: Wording(
            "Sender",
            "a:ActionNotSupported",
            "The WS-Management service does not support the action specified in the request. ",
            source="wsmerror.h",
        ),
        TIMED_OUT: Wording("Receiver", "w:TimedOut", _TIMEOUT, source="recorded"),
        INVALID_OPTIONS: Wording(
            "Sender",
            "w:InvalidOptions",
            "The WS-Management service cannot process the request because one or more options are not valid. The"
            " option names or values may not be valid or they are used in incorrect combinations. Retrieve the catalog"
            " entry for the resource and determine how to correct the invalid option values. ",
            source="wsmerror.h",
        ),
        INVALID_RESOURCE: Wording(
            "Sender",
            "a:DestinationUnreachable",
            _NOT_PROCESSED + "The resource URI is missing or it has an incorrect format. Check the documentation or"
            ' use the following command for information on how to construct a resource URI: "winrm help uris". ',
            detail="InvalidResourceURI",
            source="wsmerror.h",
        ),
        SCHEMA: Wording(
            "Sender",
            "w:SchemaValidationError",
            "The SOAP XML in the message does not match the corresponding XML schema definition. Change the XML and"
            " retry. ",
            source="recorded",
        ),
        ENVELOPE_TOO_SMALL: Wording(
            "Sender",
            "w:EncodingLimit",
            "The response that the WS-Management service computed exceeds the maximum envelope size in the request. ",
            detail="MaxEnvelopeSizeExceeded",
            source="wsmerror.h",
        ),
        INVALID_SELECTORS: Wording(
            "Sender",
            "w:InvalidSelectors",
            _SELECTORS,
            message=_NO_SHELL,
            detail="UnexpectedSelectors",
            source="recorded",
        ),
        MAX_SHELLS: Wording(
            "Sender",
            "w:QuotaLimit",
            _NOT_PROCESSED + "This user is allowed a maximum number of {limit} concurrent shells, which has been"
            " exceeded. Close existing shells or raise the quota for this user. ",
            source="public thread",
        ),
        MAX_OPERATIONS: Wording(
            "Sender",
            "w:QuotaLimit",
            _NOT_PROCESSED + "This user is allowed a maximum number of {limit} concurrent operations, which has been"
            " exceeded. Close existing operations for this user, or raise the quota for this user. ",
            source="public thread",
        ),
        MAX_SHELL_USERS: Wording(
            "Sender",
            "w:QuotaLimit",
            _NOT_PROCESSED + "The maximum number of users executing shell operations has been exceeded. Retry after"
            " some time or raise the quota for concurrent shell users. ",
            source="wsmerror.h",
        ),
    }
)

_MUST_UNDERSTAND = (
    "The WS-Management service cannot process a SOAP header in the request that is marked as mustUnderstand by the"
    " client.  This could be caused by the use of a version of the protocol which is not supported, or may be an"
    " incompatibility  between the client and server implementations. "
)


class Refusal(Exception):  # noqa: N818 (a fault of the protocol, not of ours)
    """A WS-Man fault.

    Args:
        code: Windows' number, usually one of :data:`REFUSALS`.
        message: Says more than the wording does, as Windows sometimes does.
        values: For the places in the wording: ``shell``, ``limit``.
    """

    def __init__(self, code: int, message: str = "", **values: object) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.values = values

    def render(self, relates_to: str, machine: str) -> bytes:
        """The envelope.

        Args:
            relates_to: The id of the message that is refused; may be empty.
            machine: How the host calls itself.
        """
        wording = REFUSALS.get(self.code) or Wording("Receiver", "w:InternalError", f"Error {self.code}. ")
        values = {"shell": "", "limit": 0, **self.values}
        reason = escape(wording.reason.format_map(values))
        message = escape((self.message or wording.message or wording.reason).format_map(values))
        if wording.by_provider:
            message = f"{_PROVIDER}{message}</f:ProviderFault>"
        detail = f"<w:FaultDetail>{_DETAILS}{wording.detail}</w:FaultDetail>" if wording.detail else ""
        return _envelope(
            _FAULT,
            relates_to,
            "",
            f"<s:Code><s:Value>s:{wording.side}</s:Value><s:Subcode><s:Value>{wording.subcode}</s:Value></s:Subcode>"
            f'</s:Code><s:Reason><s:Text xml:lang="en-US">{reason}</s:Text></s:Reason><s:Detail>{detail}<f:WSManFault'
            ' xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"'
            f' Code="{self.code}" Machine={quoteattr(machine)}><f:Message>{message}</f:Message></f:WSManFault>'
            "</s:Detail>",
        )


class NotUnderstood(Refusal):
    """A header that must be understood and is not; it has no code and no detail (recorded)."""

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(0)
        self.namespace = namespace
        self.name = name

    def render(self, relates_to: str, machine: str) -> bytes:
        """See :meth:`Refusal.render`."""
        del machine
        return _envelope(
            _ADDRESSING_FAULT,
            relates_to,
            f'<s:NotUnderstood qname="unknown:{escape(self.name)}" xmlns:unknown={quoteattr(self.namespace)} />',
            f'<s:Code><s:Value>s:MustUnderstand</s:Value></s:Code><s:Reason><s:Text xml:lang="">{_MUST_UNDERSTAND}'
            "</s:Text></s:Reason>",
        )


def _envelope(action: str, relates_to: str, header: str, fault: str) -> bytes:
    return (
        '<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
        ' xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"'
        ' xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer"'
        ' xmlns:e="http://schemas.xmlsoap.org/ws/2004/08/eventing"'
        ' xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration"'
        ' xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"'
        ' xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd">'
        f"<s:Header><a:Action>{action}</a:Action><a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
        f"<a:To>{_ANONYMOUS}</a:To><a:RelatesTo>{escape(relates_to)}</a:RelatesTo>{header}</s:Header>"
        f"<s:Body><s:Fault>{fault}</s:Fault></s:Body></s:Envelope>"
    ).encode()
