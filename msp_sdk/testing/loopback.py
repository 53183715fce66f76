"""Parts of the loopback network for stand-ins, claimed so that several processes run side by side.

Windows listens on fixed ports, so every stand-in needs an address of its own, and two test runs on one machine must
not take the same ones.

Example:
    >>> address = take_address()
    >>> address.startswith("127.")
    True
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import secrets
import socket
from collections.abc import Iterator
from functools import cache

from msp_sdk.errors import StateError
from msp_sdk.windows.doors import HTTP_PORT

__all__ = ["bind_both", "claim_network", "take_address"]

_LOWEST_NETWORK, _NETWORKS = 64, 150
_HOSTS_PER_PART = 250
_ATTEMPTS = 50


@contextlib.contextmanager
def claim_network() -> Iterator[int]:
    """Claim all of ``127.<number>.*.*`` as long as the context stands, and give the number.

    Raises:
        StateError: No part of the loopback network is free (``no-free-network``).
    """
    network, claim = _claim()
    with claim:
        yield network


def take_address() -> str:
    """An address that this process gives out once and no other process that asks here uses, such as ``127.70.1.4``.

    Raises:
        StateError: No part of the loopback network is free, or all of ours is given out (``no-free-network``).
    """
    network = _our_network()
    part, host = divmod(next(_numbers), _HOSTS_PER_PART)
    if part >= _HOSTS_PER_PART:
        raise StateError("this process has used up its part of the loopback network.", code="no-free-network")
    return f"127.{network}.{1 + part}.{1 + host}"


def bind_both(address: str, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """A TCP and a UDP socket of one number, as DNS and domain controllers have them, not yet listening.

    Args:
        address: IPv4 or IPv6.
        port: 0 takes a number that is free for both.

    Raises:
        OSError: This number, or fifty that the system gave for TCP, are taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attempts_left = 1 if port else _ATTEMPTS
    while True:
        attempts_left -= 1
        tcp, udp = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, port))
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            if not attempts_left:
                raise
        else:
            return tcp, udp


def _claim() -> tuple[int, socket.socket]:
    # A bound socket is the claim: it goes with the process, however that ends.
    claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start = secrets.randbelow(_NETWORKS)
    for step in range(_NETWORKS):
        network = _LOWEST_NETWORK + (start + step) % _NETWORKS
        with contextlib.suppress(OSError):
            claim.bind((f"127.{network}.0.1", HTTP_PORT))
            return network, claim
    claim.close()
    raise StateError("no part of the loopback network is free.", code="no-free-network")


@cache
def _our_network() -> int:
    network, claim = _claim()
    atexit.register(claim.close)
    return network


_numbers = itertools.count()
