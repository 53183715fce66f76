"""HTTP to Central: the one client and the one retry policy.

What is retried: calls that are idempotent, when there was no answer or Central asked to wait; and any call whose
connection never came about. Nothing else. ``http://`` is refused except to loopback.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import tenacity
from attrs import field, frozen

from msp_sdk.errors import (
    CentralError,
    ConfigError,
    MspError,
    RateLimitedError,
    TransportError,
    TransportTimeoutError,
    WireError,
)
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import dumps, loads, structure
from msp_sdk.wire.problems import error_from_problem
from msp_sdk.wire.routes import Route

T = TypeVar("T")
USER_AGENT = "msp-sdk/0.1.0"


@frozen
class HttpOptions:
    """How patient the client is. ``ca_file`` replaces the system's bundle of CAs."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    attempts: int = 4
    longest_wait_s: float = 30.0
    ca_file: str | None = None
    headers: Mapping[str, str] = field(factory=dict)


def check_central_url(url: str) -> str:
    """Return the base URL without a trailing slash.

    Raises:
        ConfigError: It is not https, nor http to loopback, or no address at all. Not retryable.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(
            f"Central's address {url!r} is no address.", code="insecure-url", remedy="Give https://HOST[:PORT]."
        ) from error
    if parts.scheme == "https" and parts.hostname:
        return url.rstrip("/")
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return url.rstrip("/")
    raise ConfigError(
        f"Central's address {url!r} is not https.", code="insecure-url", remedy="Use https://; http:// is for loopback."
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NeverConnectedError(TransportError):
    """The connection never came about: whatever the call was, it did not happen."""


def _translate(error: httpx.HTTPError, url: str) -> MspError:
    place = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return _NeverConnectedError(
            f"Central at {place} cannot be reached: {type(error).__name__}.",
            code="central-unreachable",
            remedy="Check the address and the network.",
        )
    if isinstance(error, httpx.TimeoutException):
        return TransportTimeoutError(f"Central at {place} did not answer in time.")
    return TransportError(f"the connection to Central at {place} broke: {type(error).__name__}.")


def _wait(longest_s: float) -> Callable[[tenacity.RetryCallState], float]:
    jitter = tenacity.wait_random_exponential(multiplier=0.2, max=longest_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CentralError) and error.retry_after_s is not None:
            return min(error.retry_after_s, longest_s)
        return jitter(state)

    return wait


class CentralHttp:
    """A connection to Central.

    Args:
        base_url: ``https://…``, or ``http://`` to loopback.
        key: Gives the key at each call, so that a rotated one is used at once; None for calls without one.
        options: Patience.

    Raises:
        ConfigError: The address is not safe, or the CA file cannot be read.
    """

    def __init__(
        self, base_url: str, *, key: Callable[[], Secret] | None = None, options: HttpOptions | None = None
    ) -> None:
        self.base_url = check_central_url(base_url)
        self._key = key
        self._options = options or HttpOptions()
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The next call opens them anew."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            options = self._options
            self._client = httpx.AsyncClient(
                base_url=self.base_url,
                verify=self._trust(),
                timeout=httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s),
                headers={"User-Agent": USER_AGENT, **options.headers},
                # Loopback and site networks are never reached through a proxy of the environment by accident.
                trust_env=not _is_loopback(urlsplit(self.base_url).hostname or ""),
            )
        return self._client

    def _trust(self) -> ssl.SSLContext | bool:
        if ca_file := self._options.ca_file:
            try:
                return ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise ConfigError(f"the CA file {ca_file} cannot be read: {error.strerror}.") from error
        # Without TLS nobody is to be trusted, and reading the system's many CAs is 40 ms of work for nothing.
        return self.base_url.startswith("https://") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def _headers(self, content_type: str | None) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key().reveal()}"
        return headers

    async def call(
        self,
        route: Route,
        kind: type[T],
        *,
        names: Mapping[str, str] | None = None,
        body: object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> T:
        """Make one call and structure its reply.

        Args:
            route: Which call.
            kind: What the reply is; ``type(None)`` where it has no body.
            names: The names in the path.
            body: A model, sent as JSON; None for no body.
            query: Query parameters.

        Raises:
            CentralError: Central said no; its children say how.
            TransportError: No answer. Retried already where that does no harm.
            WireError: The reply does not fit the contract.
        """
        content = None if body is None else dumps(body)
        response = await self._send(
            route, names or {}, content=content, content_type="application/json" if content else None, query=query
        )
        if kind is type(None):
            return None
        return structure(loads(response.content), kind)

    async def send_bytes(
        self, route: Route, content: bytes, *, content_type: str, names: Mapping[str, str] | None = None
    ) -> Any:
        """Send a body that is ready (a file, an NDJSON report) and return the parsed reply, or None if it is empty.

        Raises:
            CentralError, TransportError, WireError: As :meth:`call`.
        """
        response = await self._send(route, names or {}, content=content, content_type=content_type, query=None)
        return loads(response.content) if response.content else None

    @asynccontextmanager
    async def stream(
        self, route: Route, *, names: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Open a long reply (a file, an event stream); its errors are translated too.

        Raises:
            CentralError, TransportError: As :meth:`call`; also while it is read.
        """
        url = route.url(**(names or {}))
        try:
            async with self._open().stream(
                route.method, url, headers={**self._headers(None), **(headers or {})}
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                yield response
        except httpx.HTTPError as error:
            raise _translate(error, self.base_url) from error

    async def _send(
        self,
        route: Route,
        names: Mapping[str, str],
        *,
        content: bytes | None,
        content_type: str | None,
        query: Mapping[str, str] | None,
    ) -> httpx.Response:
        def worth_another_try(error: BaseException) -> bool:
            if isinstance(error, _NeverConnectedError | RateLimitedError):
                return True
            return route.idempotent and isinstance(error, MspError) and error.retryable

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(worth_another_try),
            stop=tenacity.stop_after_attempt(self._options.attempts),
            wait=_wait(self._options.longest_wait_s),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await self._send_once(route, names, content, content_type, query)
        raise AssertionError("tenacity ends with a return or a raise")  # pragma: no cover

    async def _send_once(
        self,
        route: Route,
        names: Mapping[str, str],
        content: bytes | None,
        content_type: str | None,
        query: Mapping[str, str] | None,
    ) -> httpx.Response:
        try:
            response = await self._open().request(
                route.method,
                route.url(**names),
                content=content,
                headers=self._headers(content_type),
                params=dict(query) if query else None,
            )
        except httpx.HTTPError as error:
            raise _translate(error, self.base_url) from error
        if response.is_error:
            raise _refusal(response)
        if response.is_redirect:
            raise WireError("Central answered with a redirect.", remedy="Use Central's own address.")
        return response


def _refusal(response: httpx.Response) -> CentralError:
    try:
        document = loads(response.content)
    except WireError:
        document = None
    retry_after = response.headers.get("Retry-After", "")
    return error_from_problem(
        response.status_code,
        document if isinstance(document, dict) else {},
        float(retry_after) if retry_after.isdigit() else None,
    )
