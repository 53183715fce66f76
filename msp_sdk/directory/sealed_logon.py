"""Logging on without TLS: Kerberos and NTLM, each as one attempt of the ledger that is told how it ended."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import NoReturn

from msp_sdk.directory import ber
from msp_sdk.directory.connection import DirectoryOptions, Link
from msp_sdk.directory.doors import LDAP_PORT, Door, logon_doors
from msp_sdk.directory.logon_codes import judge_refusal
from msp_sdk.directory.refusal import door_refused, refused, sending_the_password, unanswered, user_name
from msp_sdk.directory.sasl import (
    BIND_IN_PROGRESS,
    KERBEROS_MECHANISM,
    NTLM_MECHANISM,
    KerberosLayer,
    NtlmLogon,
    sasl_step,
    seal,
)
from msp_sdk.errors import BindRejectedError, DirectoryError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController
from msp_sdk.models.reason import reason
from msp_sdk.network.kdc_codes import PASSWORD_WAS_WRONG, BindRefusal, judge_kdc
from msp_sdk.network.kerberos import KerberosLogon, can_seal_here, is_installed, kdc_answers, principal_of
from msp_sdk.network.kerberos_process import KerberosFailure, Principal
from msp_sdk.network.logons import LogonAttempt
from msp_sdk.network.passwords import open_password

_SUCCESS = 0


def kerberos_applies(controller: DomainController, credential: Credential, options: DirectoryOptions) -> bool:
    """Whether a logon at this controller would begin with Kerberos, which needs no certificate. Nothing is sent."""
    for door in logon_doors(controller, options.doors, ldaps_port=options.ldaps_port):
        if door.kind == "kerberos":
            with contextlib.suppress(DirectoryError):
                kerberos_principal(controller, door, credential)
                find_kdc(controller, door, options)
                return True
    return False


def kerberos_principal(controller: DomainController, door: Door, credential: Credential) -> Principal:
    """Whom the KDC is asked for, after everything that can be known without asking anybody.

    Raises:
        DirectoryError: Kerberos does not apply here; the code says why.
    """
    if not is_installed():
        raise _passed_over(controller, "kerberos-missing")
    if not can_seal_here():
        raise _passed_over(controller, "kerberos-settings")
    if door.port != LDAP_PORT:
        raise _passed_over(controller, "kdc-unreachable", f"a KDC stands beside port {LDAP_PORT}, not {door.port}")
    if _is_address(controller.fqdn) or "." not in controller.fqdn:
        raise _passed_over(controller, "no-service-principal", "we know it by no name of the domain")
    domain = credential.domain_name or controller.fqdn.partition(".")[2]
    principal = principal_of(credential.username, domain_name=domain, netbios_name=credential.netbios_name)
    if principal is None:
        short = "" if credential.netbios_name else credential.username.partition("\\")[0]
        code = "other-domain-account" if short in ("", ".") or "." in short else "netbios-unknown"
        raise _passed_over(controller, code)
    return principal


def find_kdc(controller: DomainController, door: Door, options: DirectoryOptions) -> None:
    """See whether a KDC stands beside a door. Nothing is sent.

    Raises:
        DirectoryError: ``kdc-unreachable``.
    """
    if not kdc_answers(door.host, options.connect_timeout_s):
        raise _passed_over(controller, "kdc-unreachable")


def bind_kerberos(
    link: Link, credential: Credential, principal: Principal, attempt: LogonAttempt, options: DirectoryOptions
) -> None:
    """Ask the KDC once, and bind with its ticket. A KDC that took the password has proven it.

    Raises:
        LogonRejectedError: The KDC refused the account or its password.
        BindRejectedError: The password was not refused, and still this door does not open.
        LogonError: ``logon-unanswered``: an answer was lost after the password was used, and nobody knows.
        DirectoryError: The controller broke off after the KDC had taken the password. Retryable.
    """
    password = open_password(credential, attempt)
    service = f"ldap/{link.controller.fqdn.lower()}"
    with KerberosLogon(principal, kdc=link.door.host, service=service, deadline_s=options.receive_timeout_s) as logon:
        failure = logon.take_ticket(password)
        del password
        if failure is not None:
            _no_ticket(link, credential, attempt, failure)
        attempt.succeeded()
        _bind_with_ticket(link, credential, logon)


def _bind_with_ticket(link: Link, credential: Credential, logon: KerberosLogon) -> None:
    answer: bytes | None = None
    context: bytes | None = None
    while context is None:
        token = logon.step(answer)
        if isinstance(token, KerberosFailure):
            _no_context(link, credential, token)
        context = logon.context
        answer = _next(link, credential, token)
    try:
        sealer, choice = KerberosLayer(context).agree(answer or b"")
    except DirectoryError as error:
        raise BindRejectedError(error.detail, code=error.code, remedy=error.remedy) from error
    result = sasl_step(link, KERBEROS_MECHANISM, choice)
    if result.code != _SUCCESS:
        _ticket_refused(link, credential, result)
    seal(link, sealer)


def _next(link: Link, credential: Credential, token: bytes) -> bytes:
    result = sasl_step(link, KERBEROS_MECHANISM, token)
    if result.code != BIND_IN_PROGRESS:
        _ticket_refused(link, credential, result)
    return result.sasl_credentials or b""


def _ticket_refused(link: Link, credential: Credential, result: ber.Result) -> NoReturn:
    """The controller refused a ticket that its KDC gave out: never the password's fault."""
    refusal = judge_refusal(result.code, result.text) if result.code else BindRefusal(None, password_judged=None)
    if refusal.code is None or refusal.code in PASSWORD_WAS_WRONG:
        raise door_refused(link, credential, "kerberos-refused", result.described)
    raise door_refused(link, credential, refusal.code)


def _no_context(link: Link, credential: Credential, failure: KerberosFailure) -> NoReturn:
    """The ticket for the service, or the controller's own answer, did not come about."""
    refusal = judge_kdc(failure.number, key_used=False)
    code = refusal.code if refusal.password_judged is False else None
    if code is None or failure.number is None:
        code = "kerberos-refused"
    detail = "" if failure.number is None else f"error {failure.number}"
    raise door_refused(link, credential, code, detail)


def _no_ticket(link: Link, credential: Credential, attempt: LogonAttempt, failure: KerberosFailure) -> NoReturn:
    if failure.step == "missing":
        attempt.not_sent()
        raise door_refused(link, credential, "kerberos-missing")
    if failure.number is None and failure.key_used:
        raise unanswered(link, credential, "the KDC's answer was lost")
    refusal = judge_kdc(failure.number, key_used=failure.key_used, answered=failure.answered)
    refused(link, credential, attempt, refusal, f"the KDC's error {failure.number}")


def bind_ntlm(link: Link, credential: Credential, attempt: LogonAttempt) -> None:
    """Bind by NTLM, signed and sealed, by its name.

    Raises:
        LogonRejectedError, BindRejectedError, LogonError, DirectoryError: As :func:`bind_kerberos`.
    """
    password = open_password(credential, attempt)
    try:
        logon = NtlmLogon(user_name(credential), password, link.controller.fqdn)
        del password
        result = sasl_step(link, NTLM_MECHANISM, logon.first())
        answer = logon.second(result.sasl_credentials or b"") if result.code == BIND_IN_PROGRESS else b""
    except DirectoryError as error:
        attempt.not_sent()
        raise BindRejectedError(error.detail, code=error.code, remedy=error.remedy) from error
    if not answer:
        # The controller takes no NTLM at all, and has seen nothing of the password.
        attempt.not_sent()
        raise door_refused(link, credential, judge_refusal(result.code, result.text).code, result.described)
    with sending_the_password(link, credential):
        result = sasl_step(link, NTLM_MECHANISM, answer)
    if result.code != _SUCCESS:
        refused(link, credential, attempt, judge_refusal(result.code, result.text), result.described)
    attempt.succeeded()
    seal(link, logon.sealer())


def _passed_over(controller: DomainController, code: str, more: str = "") -> DirectoryError:
    known = reason(code)
    return DirectoryError(
        f"{controller.fqdn}: {known.title}{f' ({more})' if more else ''}", code=code, remedy=known.remedy
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
