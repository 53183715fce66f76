"""Sends netlogon pings: one datagram, one answer, over IPv4 or IPv6. No credential, nothing kept.

Anybody can send datagrams. The kernel passes over those of another address or port; what carries another number, or
is no answer at all, is passed over here, and the true answer is still waited for.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from msp_sdk.discovery.netlogon import NetlogonAnswer, encode_ping, parse_reply
from msp_sdk.errors import DiscoveryError, WireError

_HIGHEST_ID = 0x7FFF_FFFE


async def ping(
    address: str, port: int, domain_name: str | None, *, waits_s: tuple[float, ...] = (0.5, 1.0)
) -> NetlogonAnswer | None:
    """Ask a controller what it holds.

    Args:
        address: An IP address.
        port: Where its LDAP is; the ping goes to the same number over UDP.
        domain_name: The domain to ask for; None asks it for its own.
        waits_s: How long to wait after each datagram; one of them may be lost.

    Returns:
        None when it says that it has nothing to tell of this domain.

    Raises:
        DiscoveryError: Silence, a closed port, or nonsense. Retryable.
    """
    message_id = 1 + secrets.randbelow(_HIGHEST_ID)
    datagram = encode_ping(domain_name, message_id=message_id)
    where = f"{address} UDP {port}"
    try:
        transport, box = await asyncio.get_running_loop().create_datagram_endpoint(_Box, remote_addr=(address, port))
    except (OSError, ValueError) as error:
        raise DiscoveryError(f"{where} cannot be asked.", code="ping-failed") from error
    nonsense: WireError | None = None
    try:
        for wait_s in waits_s:
            transport.sendto(datagram)
            try:
                async with asyncio.timeout(wait_s):
                    while True:
                        try:
                            return parse_reply(await box.get(), message_id=message_id)
                        except WireError as error:
                            nonsense = error
            except TimeoutError:
                continue
            except ConnectionRefusedError as error:
                raise DiscoveryError(f"{where} is closed.", code="ping-failed") from error
            except OSError as error:
                raise DiscoveryError(f"{where} cannot be reached.", code="ping-failed") from error
    finally:
        transport.close()
    if nonsense is not None:
        raise DiscoveryError(f"{where} answers nonsense: {nonsense.detail}", code="ping-failed") from nonsense
    raise DiscoveryError(f"{where} does not answer.", code="ping-failed")


class _Box(asyncio.DatagramProtocol):
    """Holds what came, or what went wrong, until somebody asks."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 (asyncio's shape)
        self._arrived.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self._arrived.put_nowait(exc)

    async def get(self) -> bytes:
        arrived = await self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived
