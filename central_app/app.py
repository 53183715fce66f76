"""The application: made from settings, with one blueprint per feature; and serving it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from attrs import frozen
from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse, HTTPResponse

import central_app.audit.routes
import central_app.checkin.routes
import central_app.compliance.routes
import central_app.computers.routes
import central_app.credentials.routes
import central_app.dashboard.routes
import central_app.domains.routes
import central_app.partners.health
import central_app.partners.routes
import central_app.partners.sites
import central_app.provisioning.appliances
import central_app.provisioning.routes
import central_app.rollouts.routes
from central_app import opening
from central_app.checkin.service import CheckInService
from central_app.database.connection import SqliteDatabase, open_database
from central_app.database.sqlite import SqliteCheckInStore
from central_app.problems import ProblemError, ProblemHandler
from central_app.settings import CentralSettings, Network, check_bind
from central_app.state import Central, RateLimiter
from central_app.vault import Vault
from msp_sdk.errors import ConfigError
from msp_sdk.secret import Secret

__all__ = ["RunningCentral", "bootstrap", "create_app", "migrate", "running", "serve"]

log = logging.getLogger("central")

# A body that is read whole; handlers with stream=True count for themselves.
GLOBAL_LIMIT_BYTES = 1024 * 1024 + 4096
# Twice the usual interval and more: an appliance keeps its connection from one check-in to the next.
KEEP_ALIVE_S = 150
GRACE_S = 3.0
BACKLOG = 1024

BLUEPRINTS = (
    central_app.provisioning.routes.blueprint,
    central_app.provisioning.appliances.blueprint,
    central_app.checkin.routes.blueprint,
    central_app.partners.routes.blueprint,
    central_app.partners.sites.blueprint,
    central_app.partners.health.blueprint,
    central_app.credentials.routes.blueprint,
    central_app.audit.routes.blueprint,
    central_app.domains.routes.blueprint,
    central_app.computers.routes.blueprint,
    central_app.rollouts.routes.blueprint,
    central_app.compliance.routes.blueprint,
    central_app.dashboard.routes.blueprint,
)

App = Sanic[Any, Any]

migrate = opening.migrate
bootstrap: Callable[[CentralSettings, str, str], Secret] = opening.bootstrap


def create_app(settings: CentralSettings, name: str | None = None) -> App:
    """Make the application. The database must be prepared; connections open when it starts.

    Args:
        settings: Checked ones.
        name: Of the application; a random one when absent, since Sanic keeps a register of names.

    Raises:
        ConfigError: The vault's key is missing or another one. Not retryable.
    """
    vault = opening.open_vault(settings)
    app: App = Sanic(
        name or f"central-{secrets.token_hex(4)}",
        error_handler=ProblemHandler(),
        configure_logging=False,
        env_prefix=None,
    )
    app.config.AUTO_EXTEND = False
    app.config.MOTD = False
    # It rewrites the methods of Sanic's own classes, which works for the first application of a process only.
    app.config.TOUCHUP = False
    app.config.ACCESS_LOG = False
    app.config.REQUEST_MAX_SIZE = GLOBAL_LIMIT_BYTES
    app.config.KEEP_ALIVE_TIMEOUT = KEEP_ALIVE_S
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = GRACE_S
    database = open_database(settings.database)
    app.ctx.central = _make_central(settings, database, vault)
    app.ctx.checkin = CheckInService(app.ctx.central, SqliteCheckInStore(database))
    app.register_middleware(_check_peer, "request")
    app.register_middleware(_harden, "response")
    for make_blueprint in BLUEPRINTS:
        app.blueprint(make_blueprint())
    return app


def _make_central(settings: CentralSettings, database: SqliteDatabase, vault: Vault) -> Central:
    return Central(
        settings=settings,
        db=database,
        vault=vault,
        endpoint=settings.endpoint(settings.port),
        claims_by_address=RateLimiter(settings.claims_per_minute_address),
        claims_by_code=RateLimiter(settings.claims_per_minute_code),
        logins_by_address=RateLimiter(settings.claims_per_minute_address),
        reports_by_appliance=RateLimiter(settings.reports_per_minute_appliance),
    )


def client_address(peer: str, forwarded: str, proxies: tuple[Network, ...]) -> str:
    """The caller's address.

    Args:
        peer: Who connected.
        forwarded: The ``X-Forwarded-For`` header; believed from the right, as far as it names proxies of ours.
        proxies: Who may connect; empty: everybody, and nobody's word about others is taken.

    Raises:
        ProblemError: ``untrusted-peer``.
    """
    if not proxies:
        return peer
    if not _is_proxy(peer, proxies):
        raise ProblemError("untrusted-peer")
    address = peer
    for part in reversed(forwarded.split(",")):
        text = part.strip()
        try:
            ipaddress.ip_address(text)
        except ValueError:
            break
        address = text
        if not _is_proxy(text, proxies):
            break
    return address


def _is_proxy(text: str, proxies: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in proxies)


async def _check_peer(request: Request) -> HTTPResponse | None:
    """Let only proxies in where there are some, and note the caller's address."""
    settings: CentralSettings = request.app.ctx.central.settings
    forwarded = ",".join(request.headers.getall("x-forwarded-for", []))
    request.ctx.address = client_address(request.ip, forwarded, settings.behind_proxy)
    return None


async def _harden(_request: Any, response: BaseHTTPResponse) -> HTTPResponse | None:
    """Nothing is guessed, and nothing is kept unless its handler says so."""
    response.headers.setdefault("x-content-type-options", "nosniff")
    response.headers.setdefault("cache-control", "no-store")
    return None


@frozen
class RunningCentral:
    """A Central that answers."""

    app: App
    port: int
    endpoint: str


def _bind(settings: CentralSettings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{settings.host}:{settings.port} cannot be bound: {error.strerror or error}.", code="bind-failed"
        ) from error


def _tls(settings: CentralSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not path.is_file():
            raise ConfigError(f"there is no file {path}.", code="bad-tls", remedy="Correct --tls-cert and --tls-key.")
    try:
        # A key with a passphrase would be asked for on a terminal that a service does not have.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS certificate or its key cannot be used: {error}.",
            code="bad-tls",
            remedy="Give PEM files: the chain, and its key without a passphrase.",
        ) from error
    return context


@asynccontextmanager
async def running(settings: CentralSettings) -> AsyncIterator[RunningCentral]:
    """Serve in the current loop while the block runs.

    Raises:
        ConfigError: It must not or cannot start. Not retryable.
    """
    check_bind(settings)
    context = _tls(settings)
    await asyncio.to_thread(opening.prepare, settings)
    app = create_app(settings)
    central: Central = app.ctx.central
    bound = _bind(settings)
    port = int(bound.getsockname()[1])
    central.endpoint = settings.endpoint(port)
    try:
        await app.ctx.central.db.connect()
        server: Any = await app.create_server(
            sock=bound, ssl=context, asyncio_server_kwargs={"start_serving": False}, access_log=False
        )
        if server is None:
            raise ConfigError("Sanic made no server.")
        await server.startup()
        await server.before_start()
        await server.start_serving()
        await server.after_start()
        try:
            yield RunningCentral(app, port, central.endpoint)
        finally:
            central.stopping.set()
            await server.before_stop()
            closing = server.close()
            await _let_go(server.connections)
            if closing is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(closing, GRACE_S)
            await server.after_stop()
    finally:
        bound.close()
        await central.db.disconnect()


async def _let_go(connections: Any) -> None:
    """Let running requests end, idle connections at once; what is left after the grace period is cut."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GRACE_S
    while connections and loop.time() < until:
        for connection in list(connections):
            connection.close_if_idle()
        if connections:
            await asyncio.sleep(0.02)
    for connection in list(connections):
        connection.abort()


async def _serve(settings: CentralSettings, announce: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running(settings) as central:
        announce(central.endpoint)
        await ended.wait()


def serve(settings: CentralSettings, announce: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT. Event streams end at once, running requests get a few seconds.

    Args:
        settings: Checked by :func:`~central_app.settings.check_bind` here.
        announce: Told the address, once it answers.

    Raises:
        ConfigError: It must not or cannot start. Not retryable.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, announce))
