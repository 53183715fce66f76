"""One ticket for many hosts: an account's worker takes it once, through the logon ledger, and each host costs no logon.

* The password goes to a KDC once a worker. That is a logon at a controller: the ledger allows it, and a KDC that takes
  the password has proven it. A KDC that is silent is no strike, and the next one is asked.
* With the ticket, each host's security context costs the KDC a request and the account nothing: no password, no
  strike, none of the few logons that may be in flight.
* A worker ends when it was not used for a while, when its ticket is about to end, at an exchange that hangs, and with
  us. The next use takes a new ticket, through the ledger again.

All of it blocks: call it in a worker thread.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from msp_sdk.errors import LogonError, LogonRejectedError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import reason
from msp_sdk.network.kdc_codes import judge_kdc
from msp_sdk.network.kdcs import Kdc
from msp_sdk.network.kerberos import can_seal_here, is_installed, kdc_answers, principal_of
from msp_sdk.network.kerberos_account import Account, ServiceTicket
from msp_sdk.network.kerberos_process import KerberosFailure, KerberosProcess, Principal
from msp_sdk.network.logons import LogonAttempt, LogonLedger
from msp_sdk.network.passwords import open_password
from msp_sdk.network.turns import cancelled_error

_NO_SUCH_SERVICE = 7
_WRONG_REALM = 68
_TICKET_ENDED = 32
# A ticket is not used in its last minutes: hosts' clocks differ.
_MARGIN_S = 300.0
# The worker ends by itself a little after we would have ended it.
_IDLE_GRACE_S = 5.0


@frozen
class TicketOptions:
    """Times.

    Attributes:
        connect_s: For finding out whether a KDC is there.
        exchange_s: For all answers of a KDC that one step needs.
        idle_s: A worker that was not used for so long ends.
        silent_s: A KDC that did not answer is left alone for so long, and twice as long after each further silence.
        most_silent_s: But not for longer.
    """

    connect_s: float = 3.0
    exchange_s: float = 10.0
    idle_s: float = 600.0
    silent_s: float = 60.0
    most_silent_s: float = 960.0


@frozen
class NotApplicable:
    """Kerberos cannot be used for a host with a credential, and nobody has refused it; ``code`` is a reason."""

    code: str


@frozen
class _Silence:
    """A KDC that did not answer: until when it is left alone, and for how long that was."""

    until: float
    lasts_s: float


class KerberosTickets:
    """The workers, one a credential version.

    Args:
        ledger: Allows each taking of a ticket.
        options: Times.
        clock: Seconds that only rise: for how long tickets and silences last.
    """

    def __init__(
        self,
        ledger: LogonLedger,
        options: TicketOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._options = options or TicketOptions()
        self._lock = threading.Lock()
        self._accounts: defaultdict[str, Account] = defaultdict(lambda: Account(self._options.idle_s, clock))
        self._silent: dict[tuple[str, int], _Silence] = {}
        self._is_usable = False
        self._closed = False

    def bar(self, kdcs: Sequence[Kdc]) -> str | None:
        """Why there is no Kerberos here and now: a reason, or None. Ask before :meth:`begin`; nothing is sent."""
        if not self._is_usable:
            if not is_installed():
                return "kerberos-missing"
            if not can_seal_here():
                return "kerberos-settings"
            self._is_usable = True
        return "kdc-unreachable" if all(self._was_silent(kdc) for kdc in kdcs) else None

    def begin(
        self,
        credential: Credential,
        kdcs: Sequence[Kdc],
        services: Sequence[str],
        host: str,
        *,
        binding: bytes | None,
        cancelled: threading.Event,
    ) -> ServiceTicket | NotApplicable:
        """A ticket for a host, taking the account's own first where there is none that is good.

        Args:
            credential: Of a domain.
            kdcs: Of that domain, in order.
            services: What the host's service may be called, such as ``("host", "HTTP")``.
            host: Its full name.
            binding: What the channel is bound to (RFC 5929); None without TLS.
            cancelled: Ends the waiting.

        Returns:
            The ticket; or why Kerberos cannot be used, where nobody has refused it.

        Raises:
            LogonRejectedError: A KDC refused the account or its password.
            LogonNotAllowedError: The ledger said no; nothing was sent.
            LogonError: A KDC did not go through with it, for another reason (``clock-skew`` and others), or nobody
                knows how it ended (``logon-unanswered``). NTLM is no way around that.
            UnreachableError: It was cancelled.
            ConfigError: The password is none.
        """
        with self._lock:
            account = self._accounts[credential.ledger_key]
        with account.held(cancelled):
            if self._closed:
                # It waited while everything was ended: nobody would end a worker that began now.
                raise cancelled_error()
            # A worker that ended in between, or a KDC that falls silent, is made up for once.
            for again in (True, False):
                barred = self._ensure(account, credential, kdcs, cancelled)
                if barred is not None:
                    return barred
                begun = self._begin(account, credential, services, host, binding, again=again)
                if begun is not None:
                    return begun
        return NotApplicable("kdc-unreachable")

    def _begin(
        self,
        account: Account,
        credential: Credential,
        services: Sequence[str],
        host: str,
        binding: bytes | None,
        *,
        again: bool,
    ) -> ServiceTicket | NotApplicable | None:
        """Ask for a ticket for a host; None when another worker, or another KDC, may do."""
        begun_at = time.monotonic()
        worker, kdc = account.worker, account.kdc
        if worker is None or kdc is None:
            return None
        begun = worker.begin(services, host, self._options.exchange_s, binding=binding)
        account.touch()
        if not isinstance(begun, KerberosFailure):
            return ServiceTicket(account, worker, begun.id, begun.service, begun.token)
        if begun.number in (_NO_SUCH_SERVICE, _WRONG_REALM):
            return NotApplicable("no-service-principal")
        # A worker that died, or whose ticket has ended, is replaced; any other answer would be the same again.
        if begun.answered and not (again and (begun.number == _TICKET_ENDED or not worker.alive)):
            raise _no_service(credential, kdc, host, begun)
        if not begun.answered and (worker.alive or time.monotonic() - begun_at >= self._options.exchange_s):
            self._fell_silent(kdc)
        account.end()
        return None

    def prove(self, credential: Credential, kdcs: Sequence[Kdc], cancelled: threading.Event) -> NotApplicable | None:
        """Take the account's ticket anew, which proves the password or ends it; None when a KDC took it.

        Raises:
            LogonError, UnreachableError, ConfigError: As :meth:`begin`.
        """
        with self._lock:
            account = self._accounts[credential.ledger_key]
        with account.held(cancelled):
            account.end()
            return self._ensure(account, credential, kdcs, cancelled)

    def end(self, credential: Credential) -> None:
        """Drop what is held for a credential version: it was refused or withdrawn."""
        with self._lock:
            account = self._accounts.pop(credential.ledger_key, None)
        if account is not None:
            with account.lock:
                account.end()

    def close(self) -> None:
        """End every worker. Whoever still waits for one gets none."""
        with self._lock:
            self._closed = True
            accounts = list(self._accounts.values())
            self._accounts.clear()
        for account in accounts:
            with account.lock:
                account.end()

    def _ensure(
        self, account: Account, credential: Credential, kdcs: Sequence[Kdc], cancelled: threading.Event
    ) -> NotApplicable | None:
        """Make sure that the account has a ticket, and that it was had with what the ledger holds to be right.

        A version that is no longer proven (hosts refused it, a person typed it anew) is proven by taking a new one.
        """
        if account.worker is not None and self._ledger.state(credential).state == "proven":
            return None
        account.end()
        barred = NotApplicable("kdc-unreachable")
        for kdc in kdcs:
            principal = principal_of(credential.username, domain_name=kdc.realm, netbios_name=kdc.netbios_name)
            if principal is None:
                barred = NotApplicable(_whose(credential.username, kdc))
                continue
            if not self._answers(kdc):
                continue
            failed = self._take(account, credential, kdc, principal, cancelled)
            if failed is None:
                return None
            barred = failed
        return barred

    def _answers(self, kdc: Kdc) -> bool:
        if self._was_silent(kdc):
            return False
        if kdc_answers(kdc.address, self._options.connect_s, kdc.port):
            return True
        self._fell_silent(kdc)
        return False

    def _was_silent(self, kdc: Kdc) -> bool:
        silence = self._silent.get((kdc.address, kdc.port))
        return silence is not None and self._clock() < silence.until

    def _fell_silent(self, kdc: Kdc) -> None:
        # Where a firewall swallows what comes, each look costs all hosts of the account a wait.
        before = self._silent.get((kdc.address, kdc.port))
        lasts_s = self._options.silent_s if before is None else min(2 * before.lasts_s, self._options.most_silent_s)
        self._silent[kdc.address, kdc.port] = _Silence(self._clock() + lasts_s, lasts_s)

    def _take(
        self, account: Account, credential: Credential, kdc: Kdc, principal: Principal, cancelled: threading.Event
    ) -> NotApplicable | None:
        """One logon at a KDC. None when it took the password."""
        worker = KerberosProcess(principal, kdc=kdc.address, port=kdc.port, idle_s=self._options.idle_s + _IDLE_GRACE_S)
        try:
            with self._ledger.attempt(
                credential, place="controller", host=kdc.name or kdc.address, cancelled=cancelled
            ) as attempt:
                worker.start()
                failure = worker.take_ticket(open_password(credential, attempt), self._options.exchange_s)
                if failure is None:
                    attempt.succeeded()
                else:
                    barred = self._refused(credential, kdc, attempt, failure)
        except BaseException:
            worker.close()
            raise
        if failure is not None:
            worker.close()
            return barred
        self._silent.pop((kdc.address, kdc.port), None)
        account.keep(worker, kdc, max(worker.lifetime_s - _MARGIN_S, worker.lifetime_s / 2))
        return None

    def _refused(
        self, credential: Credential, kdc: Kdc, attempt: LogonAttempt, failure: KerberosFailure
    ) -> NotApplicable:
        """Tell the ledger and the caller what a KDC's refusal means; returns where the next KDC may be asked."""
        if failure.step == "missing":
            attempt.not_sent()
            return NotApplicable("kerberos-missing")
        refusal = judge_kdc(failure.number, key_used=failure.key_used, answered=failure.answered)
        where = kdc.name or kdc.address
        context = {"controller": where}
        if refusal.password_judged and refusal.code is not None:
            if refusal.is_no_strike:
                attempt.kept_out(refusal.code)
            else:
                attempt.refused(refusal.code)
            known = reason(refusal.code)
            raise LogonRejectedError(
                f"the KDC {where} refused {credential.username}: {known.title}",
                code=known.code,
                remedy=known.remedy,
                retryable=refusal.is_no_strike,
                context={**context, "password_right": refusal.password_right},
            )
        if refusal.password_judged is None:
            # The attempt is left without an end: it may have been a strike.
            raise _stopped("logon-unanswered", credential, where, context)
        attempt.not_sent()
        if refusal.code == "kdc-unreachable":
            self._fell_silent(kdc)
            return NotApplicable("kdc-unreachable")
        if refusal.code == "other-domain-account":
            return NotApplicable("other-domain-account")
        raise _stopped(refusal.code or "kerberos-refused", credential, where, context)


def _whose(username: str, kdc: Kdc) -> str:
    r"""Why a name is nobody's at a KDC: ``DOMAIN\user`` of a domain whose short name is unknown may be anybody's."""
    short, backslash, _ = username.partition("\\")
    unknown = backslash and not kdc.netbios_name and "." not in short and short
    return "netbios-unknown" if unknown else "other-domain-account"


def _no_service(credential: Credential, kdc: Kdc, host: str, failure: KerberosFailure) -> LogonError:
    """A KDC that has taken the password, and gives no ticket for a host."""
    code = judge_kdc(failure.number, key_used=False).code or "kerberos-refused"
    # The account has a ticket already: it is the host's keys that we may not use, or that it has not.
    code = "no-host-cipher" if code == "no-common-cipher" else code
    where = kdc.name or kdc.address
    return _stopped(
        "kerberos-refused" if code == "kdc-unreachable" else code,
        credential,
        where,
        {"controller": where, "hostname": host, "kdc_error": failure.number},
    )


def _stopped(code: str, credential: Credential, where: str, context: Mapping[str, object]) -> LogonError:
    known = reason(code)
    number = context.get("kdc_error")
    more = f" (error {number})" if number is not None else ""
    return LogonError(
        f"the KDC {where}, {credential.username}: {known.title}{more}",
        code=known.code,
        remedy=known.remedy,
        retryable=True,
        context=dict(context),
    )
