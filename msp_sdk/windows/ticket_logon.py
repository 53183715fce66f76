"""One logon with a Kerberos ticket: one request, whose answer must prove the host.

The scheme is ``Negotiate`` with Kerberos' own token in it, as pywinrm sends it to Windows (``requests_kerberos``), and
so Ansible for years; the sealing is then called ``HTTP-SPNEGO``. Where a host offers ``Kerberos`` alone (a policy may
take ``Negotiate`` away), the same token goes by that name, as MS-WSMV 2.2.9.1 has it. Unproven here against Windows.
"""

from __future__ import annotations

from msp_sdk.errors import EncryptionRefusedError, LogonError, NotAuthorisedHereError, UnreachableError
from msp_sdk.models.reason import reason
from msp_sdk.network.kerberos_account import ServiceTicket
from msp_sdk.network.kerberos_process import KerberosFailure
from msp_sdk.windows.channel import Channel, Reply
from msp_sdk.windows.kerberos import KerberosLogon
from msp_sdk.windows.sealing import binding_of
from msp_sdk.windows.transport import FencedTransport

SCHEMES = ("Negotiate", "Kerberos")
_OK = 200
_FINISH_S = 5.0
# RFC 4120, 7.5.9: not yet valid, expired, skew.
_CLOCK_ERRORS = frozenset({32, 33, 37})


def binding_of_channel(channel: Channel) -> bytes | None:
    """What a logon on this channel is bound to; None without TLS."""
    return None if channel.certificate is None else binding_of(channel.certificate)


def log_on(
    transport: FencedTransport, scheme: str, ticket: ServiceTicket, hostname: str, username: str
) -> KerberosLogon | None:
    """Show the ticket. None where the host takes Kerberos only by another scheme.

    Raises:
        NotAuthorisedHereError: This host does not take the ticket; that says nothing of the account elsewhere.
        LogonError: ``clock-skew``: the host says that its clock differs. Retryable.
        EncryptionRefusedError: What answered did not prove that it is the host.
        UnreachableError: The connection broke, or our worker ended. Nothing was counted anywhere.
    """
    reply = transport.present(scheme, ticket.token)
    token = reply.token(scheme)
    if reply.status != _OK:
        if token is None and _offers_only_another(reply, scheme):
            return None
        raise _refused(None if token is None else ticket.finish(token, _FINISH_S), hostname, username)
    if token is None:
        raise EncryptionRefusedError(f"{hostname} let a ticket in without proving itself.")
    context = ticket.finish(token, _FINISH_S)
    if not isinstance(context, KerberosFailure):
        return KerberosLogon(context)
    if ticket.is_lost:
        raise UnreachableError("our Kerberos worker ended in the middle of a logon.", code="connection-lost")
    raise EncryptionRefusedError(f"what answered as {hostname} did not prove that it is this host.")


def _offers_only_another(reply: Reply, scheme: str) -> bool:
    return not reply.offers(scheme) and any(reply.offers(other) for other in SCHEMES)


def _refused(failure: KerberosFailure | bytes | None, hostname: str, username: str) -> LogonError:
    context = {"hostname": hostname, "mechanism": "kerberos"}
    if isinstance(failure, KerberosFailure) and failure.number in _CLOCK_ERRORS:
        known = reason("clock-skew")
        return LogonError(
            f"{hostname} did not take the ticket: {known.title}",
            code=known.code,
            remedy=known.remedy,
            retryable=True,
            context=context,
        )
    return NotAuthorisedHereError(f"{hostname} did not take {username}'s Kerberos ticket.", context=context)
