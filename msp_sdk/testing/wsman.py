r"""A WinRM endpoint without Windows: real NTLM, message encryption and channel binding, for :class:`Machine` s.

It does on the wire what ``http.sys`` and WinRM do: a logon belongs to its connection, unsealed envelopes over HTTP are
refused, channel binding is demanded over TLS (Windows' strict level), quiet connections are closed. What must never
happen, such as an envelope in clear, is kept in the machine's violations.

Logons are taken by :mod:`msp_sdk.testing.wsman_logons`.

It does not prove: PowerShell, CredSSP, real quotas and latencies.

Example:
    >>> async with WsmanHost(machine, accounts, address="127.1.2.3"):  # doctest: +SKIP
    ...     await shells_of_the_sdk()
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

from attrs import evolve, mutable

from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.powershell import User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_hitches import BEFORE, IDLE, LOGON, Faults, Hitch
from msp_sdk.testing.wsman_http import (
    Cut,
    HalfClosed,
    Reply,
    Request,
    read_request,
    refusal,
    send,
    spoil_envelope,
    spoil_reply,
)
from msp_sdk.testing.wsman_logons import Acceptor, Logons, read_header, seal, sealed_content_type, unseal
from msp_sdk.testing.wsman_messages import operation_of
from msp_sdk.testing.wsman_shells import Quotas, ShellService

_PATH = "/wsman"
_EVER_S = 3600.0
# How a connection comes to its end, besides being cut off from outside.
_ENDS = (Cut, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)


@mutable(eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    tls: bool
    logon: Acceptor | None = None
    user: User | None = None
    answer: str = ""
    """The acceptor's last token, for the next reply."""

    def forget(self) -> None:
        """The logon is gone."""
        self.user = self.logon = None


class WsmanHost:
    """WinRM of one machine on one address.

    Args:
        machine: What answers.
        accounts: Who may log on.
        address: A loopback address of its own.
        http_port: None closes the door.
        https_port: None closes the door; open only with a certificate.
        certificate: Shown over TLS.

    Attributes:
        faults: Trouble to make, while it runs too; :data:`~msp_sdk.testing.wsman_faults.TROUBLES` lists all.
        shells: Its shells, and their ``quotas``.
        operations: The names of all operations that came in, in order.
        logons: Which logons it takes.
        connection_count: How many connections were accepted.
        logon_count: How many logons came in, a handshake counting once.
    """

    def __init__(
        self,
        machine: Machine,
        accounts: Accounts,
        *,
        address: str,
        http_port: int | None = 5985,
        https_port: int | None = 5986,
        certificate: IssuedCertificate | None = None,
    ) -> None:
        self.machine = machine
        self.accounts = accounts
        self.address = address
        self.http_port = http_port
        self.https_port = https_port if certificate is not None else None
        self.certificate = certificate
        self.faults = Faults()
        self.logons = Logons(machine, accounts, self.certificate)
        self.operations: list[str] = []
        self.connection_count = 0
        self.logon_count = 0
        self.shells = ShellService(
            machine,
            quotas=Quotas(),
            script_delay_s=lambda: self.faults.script_delay_s,
            stdout=lambda: self.faults.stdout,
        )
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._restart: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the doors. Shells of before are gone, as after a restart of the service."""
        self._loop = asyncio.get_running_loop()
        self.machine.on_power_off.append(self._lose_power)
        if self.http_port is not None:
            await self._listen(self.http_port, tls=False)
        if self.https_port is not None:
            await self._listen(self.https_port, tls=True)

    async def stop(self) -> None:
        """Close the doors, cut all connections and end all shells."""
        if self._lose_power in self.machine.on_power_off:
            self.machine.on_power_off.remove(self._lose_power)
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._restart is not None:
            self._restart.cancel()
        await self.cut_connections()
        self.shells.close()

    async def restart(self, down_s: float = 0.3) -> None:
        """Restart WinRM: connections are cut, shells are gone, requests get 503 until it is back.

        Args:
            down_s: Until it is back.
        """
        self.faults.service = "starting"
        self.shells.close()
        await self.cut_connections()
        await asyncio.sleep(down_s)
        self.faults.service = "running"

    async def cut_connections(self) -> None:
        """Cut all connections; shells stay."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _lose_power(self) -> None:
        """The machine goes down, said from whatever thread: shells and connections go with it."""

        def cut() -> None:
            self.shells.close()
            for task in tuple(self._tasks):
                task.cancel()

        self._loop.call_soon_threadsafe(cut)

    async def _listen(self, port: int, *, tls: bool) -> None:
        context = self.certificate.late_context() if tls and self.certificate is not None else None

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 (asyncio.start_server makes one)
            self._tasks.add(task)
            try:
                await self._serve(reader, _Connection(writer, tls))
            except (*_ENDS, asyncio.CancelledError):
                writer.transport.abort()
            finally:
                self._tasks.discard(task)
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

        self._servers.append(
            await asyncio.start_server(
                connected, self.address, port, ssl=context, limit=2**20, backlog=256, reuse_address=True
            )
        )

    # HTTP.

    async def _serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        self.connection_count += 1
        try:
            while True:
                try:
                    request = await read_request(reader, self.faults.quiet_s())
                except TimeoutError:
                    self.faults.take(IDLE)
                    raise
                if self.faults.reset_connections > 0:
                    self.faults.reset_connections -= 1
                    raise Cut
                if self.faults.silent:
                    await asyncio.sleep(_EVER_S)
                await self._request(connection, request)
        except HalfClosed:
            while await reader.read(2**16):
                pass

    async def _reply(self, connection: _Connection, reply: Reply, hitch: Hitch | None = None) -> None:
        """Send an answer; ``hitch`` says what becomes of it."""
        if connection.answer:
            reply = evolve(reply, challenges=(*reply.challenges, connection.answer))
            connection.answer = ""
        ahead_s = self.machine.clock.skew.total_seconds()
        reply = evolve(reply, date=formatdate(time.time() + ahead_s, usegmt=True))
        way = hitch.way if hitch is not None else None
        over_s = hitch.seconds if hitch is not None and hitch.way == "drip" else self.faults.drip_s
        await send(connection.writer, spoil_reply(way, reply), way, over_s)

    async def _request(self, connection: _Connection, request: Request) -> None:
        if not connection.tls and b"Envelope" in request.body:
            self.machine.violations.append("an envelope in clear")
        refused = self._barred(request) or await self._authenticate(connection, request)
        if refused is not None:
            return await self._reply(connection, refused)
        opened = self._open(connection, request)
        if isinstance(opened, Reply):
            return await self._reply(connection, opened)
        return await self._operate(connection, opened, sealed=request.sealed)

    def _barred(self, request: Request) -> Reply | None:
        """What http.sys says before WinRM sees a request."""
        if self.faults.service != "running":
            return refusal(503 if self.faults.service == "starting" else 404)
        if request.method != "POST" or request.path.rstrip("/") != _PATH:
            return refusal(404)
        return refusal(413) if len(request.body) > self.shells.quotas.max_envelope_bytes else None

    def _open(self, connection: _Connection, request: Request) -> Reply | bytes:
        """The envelope of a request; the answer where there is none that WinRM takes."""
        if connection.user is None:
            # A sealed message without a logon: WinRM has no context for it.
            return Reply(400) if request.sealed else self._unauthorised(connection)
        if not request.sealed:
            # AllowUnencrypted is false.
            return request.body if request.body and connection.tls else Reply(500 if request.body else 200)
        if self.faults.forget_logon:
            self.faults.forget_logon = False
            connection.forget()
            return Reply(400)
        return unseal(connection.logon, request.body) or Reply(400)

    async def _operate(self, connection: _Connection, envelope: bytes, *, sealed: bool) -> None:
        operation = operation_of(envelope)
        self.operations.append(operation)
        hitch = self.faults.take(operation)
        if hitch is not None and hitch.way in BEFORE:
            await self._before(hitch)
        if hitch is not None and hitch.way == "status":
            if hitch.code in (400, 401):
                challenges = self._unauthorised(connection).challenges if hitch.code == 401 else ()  # noqa: PLR2004
                connection.forget()
                return await self._reply(connection, Reply(hitch.code, challenges=challenges))
            return await self._reply(connection, refusal(hitch.code))
        if hitch is not None and hitch.way == "fault":
            status, answer = self.shells.refuse(hitch.code, envelope)
        else:
            assert connection.user is not None  # noqa: S101 (else there is no envelope)
            status, answer = await self.shells.answer(envelope, connection.user)
        await asyncio.sleep(self.faults.delay_s)
        way = hitch.way if hitch is not None else None
        answer = spoil_envelope(way, answer)
        if sealed and way != "unsealed":
            assert connection.logon is not None  # noqa: S101 (its message was opened)
            reply = Reply(status, seal(connection.logon, answer), sealed_content_type(connection.logon))
        else:
            reply = Reply(status, answer)
        return await self._reply(connection, reply, hitch)

    async def _before(self, hitch: Hitch) -> None:
        """What happens before a request is carried out."""
        if hitch.way == "late":
            await asyncio.sleep(hitch.seconds)
        elif hitch.way == "silent":
            await asyncio.sleep(_EVER_S)
        elif hitch.way == "restart":
            # In a task of its own: it ends this one.
            self._restart = asyncio.ensure_future(self.restart(hitch.seconds))
            await asyncio.sleep(_EVER_S)
        elif hitch.way == "cut":
            raise Cut

    # Logons.

    async def _authenticate(self, connection: _Connection, request: Request) -> Reply | None:
        """One step of a handshake; None when the request may go on, which is so without a token too."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        connection.user = None
        scheme, token = read_header(header)
        acceptor = connection.logon = self.logons.acceptor(scheme, token, connection.logon, tls=connection.tls)
        if acceptor is None:
            return self._unauthorised(connection)
        if not acceptor.is_last(token):
            try:
                challenge = base64.b64encode(acceptor.challenge(token)).decode()
            except ValueError:
                return self._unauthorised(connection)
            return Reply(401, challenges=(f"{scheme} {challenge}",))
        self.logon_count += 1
        connection.user = await self._judge(acceptor, token)
        if acceptor.answer:
            connection.answer = f"{scheme} {base64.b64encode(acceptor.answer).decode()}"
        if connection.user is None:
            connection.forget()
            return self._unauthorised(connection)
        return None

    async def _judge(self, acceptor: Acceptor, token: bytes) -> User | None:
        """Who logged on, with what goes wrong at it."""
        await asyncio.sleep(self.faults.logon_delay_s)
        hitch = self.faults.take(LOGON)
        if hitch is not None:
            await self._before(hitch)
        refused = self.faults.refuse_logons or (hitch is not None and hitch.way == "status")
        user = None if refused else acceptor.judge(token)
        if self.faults.drop_logons > 0:
            self.faults.drop_logons -= 1
            raise Cut
        if hitch is not None and hitch.way == "lost":
            raise Cut
        return user

    def _unauthorised(self, connection: _Connection) -> Reply:
        return Reply(401, challenges=self.logons.challenges(tls=connection.tls))


async def _settle() -> None:
    """Let connections that were accepted a moment ago come to their end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1.0)


class HostsThread:
    """Hosts in an event loop and thread of their own, beside a test that waits in its own loop.

    Example:
        >>> with HostsThread([host]) as hosts:  # doctest: +SKIP
        ...     hosts.call(host.cut_connections())
    """

    def __init__(self, hosts: Sequence[WsmanHost]) -> None:
        self.hosts = tuple(hosts)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="msp-testing-hosts", daemon=True)

    def call(self, work: Any) -> Any:
        """Run a coroutine in the hosts' loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        for host in self.hosts:
            self.call(host.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            self.call(host.stop())
        self.call(_settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
