"""Run registered scripts on Windows hosts: :class:`WindowsShells` opens one :class:`WindowsShell` a host.

* Nothing is sent in clear: HTTPS with channel binding, or HTTP with every message sealed.
* Every logon goes through the logon ledger; a refused password is never shown again, anywhere.
* The host is told which machine is meant, and runs nothing when it is another; we compare it in every answer, too.
* A script succeeded when its envelope with our run's id came back, and never otherwise. One that writes leaves a record
  under that id on the host: when its answer is lost it is asked for again, and never done twice.

In a domain logons are by Kerberos, where the host has a full name and a KDC is known: one ticket of the account serves
all hosts, and the password goes to a KDC once. NTLM, by name, only where Kerberos cannot apply, and never after a KDC
that refused.

Example:
    >>> async with shells.open(target, credential) as shell:  # doctest: +SKIP
    ...     result = await shell.run(load("agent-state"), {"service": "Agent"}, deadline_s=60)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from attrs import frozen

from msp_sdk.errors import LogonError, LogonNotAllowedError, LogonRejectedError, MspError, NotAuthorisedHereError
from msp_sdk.models.credential import Credential
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.target import Target
from msp_sdk.network.kdcs import Kdc, Kdcs
from msp_sdk.network.kerberos_tickets import KerberosTickets
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.threads import ThreadPool
from msp_sdk.windows.doors import HostPolicy
from msp_sdk.windows.identity import HostIdentity
from msp_sdk.windows.link import HostLink, LogonTools, PausedLogonError, ShellOptions
from msp_sdk.windows.process import MessageSizes
from msp_sdk.windows.scripts import Script, load
from msp_sdk.windows.session import HostSession
from msp_sdk.windows.ways import PassedDoor, Way, WayMemory

T = TypeVar("T")
Prove = Callable[[Credential], Awaitable[None]]

# What a thread may take beyond its deadline before its connection is ended under it.
_ABORT_GRACE_S = 15.0
_CLOSE_WAIT_S = 10.0
_CLOSERS = 8
# Waiting for one's turn, connecting, logging on and identifying have limits of their own; this one is for hosts that
# answer a byte at a time.
_OPEN_S = 150.0

__all__ = [
    "HostIdentity",
    "HostPolicy",
    "Kdc",
    "PassedDoor",
    "ScriptResult",
    "ShellOptions",
    "Way",
    "WindowsShell",
    "WindowsShells",
]


@frozen
class ScriptResult:
    """What a script returned.

    Attributes:
        value: Its hashtable, as JSON values.
        host: Which machine it ran on.
        duration_s: From the call to the answer.
    """

    value: Mapping[str, object]
    host: HostIdentity
    duration_s: float


class WindowsShell:
    """A host that is logged on to. Scripts run one after the other, and only on the machine that was meant."""

    def __init__(self, shells: WindowsShells, session: HostSession, link: HostLink, credential: Credential) -> None:
        self._shells = shells
        self._session = session
        self._link = link
        self._credential = credential
        self._identify_s = shells.options.identify_s

    async def identify(self) -> HostIdentity:
        """Which machine it is.

        Raises:
            MspError: As :meth:`run`.
        """
        return (await self.run(load("identify"), {}, deadline_s=self._identify_s)).host

    @property
    def way(self) -> Way:
        """How the host was logged on to, the last time."""
        assert self._link.way is not None  # noqa: S101 (a shell is given out after its logon)
        return self._link.way

    @property
    def passed_by(self) -> tuple[PassedDoor, ...]:
        """The doors that opened and were passed by all the same, such as one whose certificate nobody believes."""
        return self._link.passed_by

    async def run(
        self,
        script: Script,
        parameters: Mapping[str, object],
        *,
        deadline_s: float,
        payload: bytes = b"",
        run_id: str | None = None,
    ) -> ScriptResult:
        """Run a script to its end.

        Args:
            script: From :func:`msp_sdk.windows.scripts.load`.
            parameters: JSON values; they travel on stdin and are never spliced into a text.
            deadline_s: After so many seconds the script is ended.
            payload: A file for the script; may be empty.
            run_id: 1 to 64 letters, digits and hyphens; None for one of our own. A script that writes is run once for
                an id: whoever comes with the same script and id within a day, from another process too, gets the
                first run's answer, or ``outcome-unknown`` when that run was cut off.

        Raises:
            ScriptFailedError: It said so itself (its code), returned no envelope (``script-failed``), did not end in
                time (``deadline-exceeded``), or what became of it is not known (``outcome-unknown``; only a script
                that writes).
            UnreachableError: The connection was lost; nothing was written. Retryable.
            WrongHostError: Another machine answered; nothing was run there.
            NotAuthorisedHereError: The account is no administrator there, and the script needs one.
            LogonError: The connection had to be renewed, and the logon was refused or not allowed.
            WindowsError: The host refused, or the parameters do not fit the script's contract (``bad-parameters``).
        """
        begun = time.monotonic()
        answer = await self._shells.call(
            self._session,
            self._credential,
            deadline_s,
            lambda: self._session.run(script, parameters, payload, time.monotonic() + deadline_s, run_id),
        )
        return ScriptResult(answer.value, answer.host, time.monotonic() - begun)


class WindowsShells:
    """Opens hosts.

    Args:
        ledger: Allows and counts logons.
        policy: What the site allows now; asked at every opening.
        prove: Binds at a controller, through the ledger, and raises a ``LogonError`` when refused. Needed where a
            host refuses a domain credential that was proven: only then can the host be told from the password. Without
            it a KDC is asked, where one is known.
        kdcs: The KDCs of a credential's domain, asked at every opening, from any thread; None where nobody knows them,
            and then there is no Kerberos.
        options: Limits and times.
    """

    def __init__(
        self,
        ledger: LogonLedger,
        *,
        policy: Callable[[], HostPolicy] = HostPolicy,
        prove: Prove | None = None,
        kdcs: Kdcs | None = None,
        options: ShellOptions | None = None,
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._prove = prove
        self.options = options or ShellOptions()
        self._sizes = MessageSizes(self.options.most_chunk_bytes)
        self._tickets = KerberosTickets(ledger)
        self._tools = LogonTools(ledger, self._tickets, WayMemory(self.options.remember_s), kdcs)
        self._pool = ThreadPool("windows", self.options.threads)
        # Hosts that wait for their turn fill the pool; what ends their waiting must not stand in line behind them.
        self._closers = ThreadPool("windows-close", _CLOSERS)
        self._proving: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def open(self, target: Target, credential: Credential) -> AsyncIterator[WindowsShell]:
        """Connect to a host, log on, and start a process for scripts there.

        Raises:
            UnreachableError: ``no-address``, ``no-answer`` (silence), ``winrm-closed`` (refused), ``connection-lost``.
            WrongHostError: It showed another machine's certificate. (Which machine it is comes with the first script.)
            EncryptionRefusedError: There is no encrypted way; nothing was sent in clear.
            WindowsError: ``certificate-untrusted`` and its like, ``quota-exceeded``, or what the host said.
            LogonNotAllowedError: A rule or the ledger said no; nothing was sent.
            LogonRejectedError: The password was refused; this version of the credential has ended.
            LogonError: Kerberos did not come about for a reason that NTLM must not go around (``clock-skew`` and
                others). Retryable.
            NotAuthorisedHereError: The password is right, but this host does not let it in, or gives no shell.
            ScriptFailedError: There is no Windows PowerShell.
            ConfigError: A trusted CA is no certificate.
        """
        if credential.is_domain and await self._closers.run(self._ledger.is_paused, credential):
            # Left paused by hosts before, or by a process that was killed: nobody else would prove it.
            await self._prove_again(credential, _still_paused(credential))
        link = HostLink(target, credential, self._tools, policy=self._policy(), options=self.options)
        session = HostSession(target, link, options=self.options, sizes=self._sizes)
        shell = WindowsShell(self, session, link, credential)
        try:
            await self.call(session, credential, _OPEN_S, session.open)
            yield shell
        finally:
            session.cancelled.set()
            await self._close(session)

    def kdcs(self, credential: Credential) -> tuple[Kdc, ...]:
        """The KDCs that would be asked for a ticket, in order; empty where Kerberos is not for this credential."""
        known = self._tools.kdcs
        return tuple(known(credential)) if known is not None and credential.is_domain else ()

    async def aclose(self) -> None:
        """Wait for shells that are being closed, and end the threads and Kerberos workers."""
        while self._closing:
            await asyncio.wait(self._closing)
        await self._closers.run(self._tickets.close)
        self._pool.close()
        self._closers.close()

    async def call(self, session: HostSession, credential: Credential, deadline_s: float, work: Callable[[], T]) -> T:
        """Do a session's work in a thread; its time begins when it gets one. For this package."""
        loop = asyncio.get_running_loop()
        aborts: list[asyncio.TimerHandle] = []

        def arm() -> None:
            if not ended.is_set():
                aborts.append(loop.call_later(deadline_s + _ABORT_GRACE_S, session.abort))

        def begin() -> T:
            loop.call_soon_threadsafe(arm)
            return work()

        ended = asyncio.Event()
        try:
            return await self._pool.run(begin)
        except PausedLogonError as error:
            await self._prove_again(credential, error)
        except MspError:
            if credential.is_domain and await self._closers.run(self._ledger.is_paused, credential):
                # Several hosts hung up at the logon: all others wait for a proof, and nobody else would bring it.
                with suppress(LogonError):
                    await self._prove_again(credential, _still_paused(credential))
            raise
        except asyncio.CancelledError:
            session.cancelled.set()
            raise
        finally:
            ended.set()
            for abort in aborts:
                abort.cancel()
        raise NotAuthorisedHereError(
            "the host refused a credential that its domain has just proven right.",
            context={"user": credential.username},
        )

    async def _prove_again(self, credential: Credential, refusal: LogonError) -> None:
        """Prove a paused credential at a controller; returns when it is right."""
        lock = self._proving.setdefault(credential.ledger_key, asyncio.Lock())
        async with lock:
            state = await self._closers.run(self._ledger.state, credential)
            if state.state == "proven":
                return
            if state.state == "refused":
                raise LogonRejectedError(
                    f"{credential.username} was refused at a controller.",
                    code=state.code,
                    remedy=remedy_of(state.code or ""),
                ) from refusal
            try:
                await (self._prove or self._prove_at_a_kdc)(credential)
            except LogonError as error:
                if error.retryable:
                    raise _still_paused(credential) from error
                raise LogonRejectedError(error.detail, code=error.code, remedy=error.remedy) from error
            except MspError as error:
                raise _still_paused(credential) from error

    async def _prove_at_a_kdc(self, credential: Credential) -> None:
        """Prove a credential by a ticket, where nobody gave another way.

        Raises:
            LogonError: It was refused; or no KDC could be asked, and then it is retryable.
        """
        kdcs = self._tools.kdcs(credential) if self._tools.kdcs is not None else ()
        barred = self._tickets.bar(kdcs)
        if barred is None:
            failed = await self._closers.run(self._tickets.prove, credential, kdcs, threading.Event())
            barred = None if failed is None else failed.code
        if barred is not None:
            raise LogonError("no KDC could be asked.", code=barred, retryable=True)

    async def _close(self, session: HostSession) -> None:
        """Close a session, also while its caller is being cancelled: the host's shell must not stay."""
        closing = asyncio.ensure_future(self._closers.run(session.close))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        abort = asyncio.get_running_loop().call_later(_ABORT_GRACE_S, session.abort)
        closing.add_done_callback(lambda _: abort.cancel())
        # Waiting does not end the closing when we are cancelled ourselves; aclose() waits for what is left.
        await asyncio.wait({closing}, timeout=_CLOSE_WAIT_S)


def _still_paused(credential: Credential) -> LogonNotAllowedError:
    return LogonNotAllowedError(
        f"a host refused {credential.username}, and no controller could be asked whether the password is still right.",
        code="credential-paused",
        remedy=remedy_of("credential-paused"),
        retryable=True,
    )
