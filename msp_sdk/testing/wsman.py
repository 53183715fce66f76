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
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from attrs import field, mutable

from msp_sdk.testing.accounts import Accounts
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.powershell import User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_logons import Acceptor, Logons, read_header, seal, sealed_content_type, unseal
from msp_sdk.testing.wsman_shells import Quotas, ShellService

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Too Large", 500: "Error"}


@mutable
class Faults:
    """Trouble to make. Counters and one-shot names end by themselves.

    Attributes:
        reset_connections: So many next connections are reset at their first request.
        drop_before: Operations whose next request cuts the connection unread, such as ``Command``.
        drop_after: Operations whose next request is carried out and then answered by cutting the connection.
        refuse_with: Operations whose next request is answered by a WS-Man fault with this code, and not carried out.
        forget_logon: The next sealed request gets 400 without a body, as after a lost context.
        refuse_logons: Every logon is refused, also with the right password, without counting (a broken trust).
        drop_logons: So many next logons are judged, and answered by cutting the connection.
        logon_delay_s: Before each logon is judged.
        silent: Requests are read and never answered.
        delay_s: Before each answer.
        script_delay_s: How long each script takes.
        stdout: What the next scripts write instead of their envelope.
    """

    reset_connections: int = 0
    drop_before: list[str] = field(factory=list)
    drop_after: list[str] = field(factory=list)
    refuse_with: dict[str, int] = field(factory=dict)
    forget_logon: bool = False
    refuse_logons: bool = False
    drop_logons: int = 0
    logon_delay_s: float = 0.0
    silent: bool = False
    delay_s: float = 0.0
    script_delay_s: float = 0.0
    stdout: bytes | None = None


@mutable(eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    tls: bool
    logon: Acceptor | None = None
    user: User | None = None
    answer: str = ""
    """The acceptor's last token, for the next reply."""


class _Cut(Exception):  # noqa: N818
    """Cut this connection."""


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
        faults: Trouble to make.
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
        self.idle_close_s = 120.0
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

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the doors. Shells of before are gone, as after a restart of the service."""
        if self.http_port is not None:
            await self._listen(self.http_port, tls=False)
        if self.https_port is not None:
            await self._listen(self.https_port, tls=True)

    async def stop(self) -> None:
        """Close the doors, cut all connections and end all shells."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self.cut_connections()
        self.shells.close()

    async def cut_connections(self) -> None:
        """Cut all connections; shells stay."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _listen(self, port: int, *, tls: bool) -> None:
        context = self.certificate.server_context() if tls and self.certificate is not None else None

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 (asyncio.start_server makes one)
            self._tasks.add(task)
            try:
                await self._serve(reader, _Connection(writer, tls))
            except (_Cut, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                writer.transport.abort()
            except asyncio.CancelledError:
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
        while True:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self.idle_close_s)
            line, *rows = head.decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in rows if row)
            }
            length = int(headers.get("content-length", "0"))
            body = await reader.readexactly(length)
            if self.faults.reset_connections > 0:
                self.faults.reset_connections -= 1
                raise _Cut
            if self.faults.silent:
                await asyncio.sleep(3600)
            method, path, *_ = line.split(" ")
            if method != "POST" or path.rstrip("/") != "/wsman":
                await self._reply(connection, 404)
            elif length > self.shells.quotas.max_envelope_bytes:
                await self._reply(connection, 413)
            else:
                await self._request(connection, headers, body)

    async def _reply(
        self,
        connection: _Connection,
        status: int,
        body: bytes = b"",
        *,
        content_type: str = "application/soap+xml;charset=UTF-8",
        challenges: Sequence[str] = (),
    ) -> None:
        rows = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", "Server: Microsoft-HTTPAPI/2.0"]
        rows += [f"WWW-Authenticate: {challenge}" for challenge in (*challenges, connection.answer) if challenge]
        connection.answer = ""
        if body:
            rows.append(f"Content-Type: {content_type}")
        rows += [f"Content-Length: {len(body)}", "", ""]
        connection.writer.write("\r\n".join(rows).encode("latin-1") + body)
        await connection.writer.drain()

    async def _request(self, connection: _Connection, headers: dict[str, str], body: bytes) -> None:
        sealed = headers.get("content-type", "").startswith("multipart/encrypted")
        if not connection.tls and b"Envelope" in body:
            self.machine.violations.append("an envelope in clear")
        token = headers.get("authorization")
        if token is not None and not await self._authenticate(connection, token):
            return
        if connection.user is None:
            # A sealed message without a logon: WinRM has no context for it.
            await self._reply(connection, 400) if sealed else await self._refuse(connection)
            return
        if sealed:
            if self.faults.forget_logon:
                self.faults.forget_logon = False
                connection.user = connection.logon = None
                await self._reply(connection, 400)
                return
            clear = unseal(connection.logon, body)
            if clear is None:
                await self._reply(connection, 400)
                return
            body = clear
        elif not body:
            await self._reply(connection, 200)
            return
        elif not connection.tls:
            await self._reply(connection, 500)
            return
        await self._operate(connection, body, sealed=sealed)

    async def _operate(self, connection: _Connection, body: bytes, *, sealed: bool) -> None:
        operation = _operation(body)
        self.operations.append(operation)
        if operation in self.faults.drop_before:
            self.faults.drop_before.remove(operation)
            raise _Cut
        assert connection.user is not None  # noqa: S101 (checked by the caller)
        code = self.faults.refuse_with.pop(operation, None)
        if code is not None:
            status, answer = self.shells.refuse(code)
        else:
            status, answer = await self.shells.answer(body, connection.user)
        await asyncio.sleep(self.faults.delay_s)
        if operation in self.faults.drop_after:
            self.faults.drop_after.remove(operation)
            raise _Cut
        if sealed:
            assert connection.logon is not None  # noqa: S101 (its message was opened)
            kind = sealed_content_type(connection.logon)
            await self._reply(connection, status, seal(connection.logon, answer), content_type=kind)
        else:
            await self._reply(connection, status, answer)

    # Logons.

    async def _authenticate(self, connection: _Connection, header: str) -> bool:
        """One step of a handshake; True when the connection is logged on and the request may go on."""
        connection.user = None
        scheme, token = read_header(header)
        acceptor = self.logons.acceptor(scheme, token, connection.logon, tls=connection.tls)
        connection.logon = acceptor
        if acceptor is None:
            await self._refuse(connection)
            return False
        if not acceptor.is_last(token):
            try:
                challenge = base64.b64encode(acceptor.challenge(token)).decode()
            except ValueError:
                await self._refuse(connection)
                return False
            await self._reply(connection, 401, challenges=(f"{scheme} {challenge}",))
            return False
        self.logon_count += 1
        await asyncio.sleep(self.faults.logon_delay_s)
        connection.user = None if self.faults.refuse_logons else acceptor.judge(token)
        if self.faults.drop_logons > 0:
            self.faults.drop_logons -= 1
            raise _Cut
        if acceptor.answer:
            connection.answer = f"{scheme} {base64.b64encode(acceptor.answer).decode()}"
        if connection.user is None:
            connection.logon = None
            await self._refuse(connection)
            return False
        return True

    async def _refuse(self, connection: _Connection) -> None:
        await self._reply(connection, 401, challenges=self.logons.challenges(tls=connection.tls))


def _operation(body: bytes) -> str:
    start = body.find(b"Action")
    return body[start : start + 200].partition(b"</")[0].rpartition(b"/")[2].decode("latin-1")


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
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
