"""Which ways into a controller there are, and in which order they are tried. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from attrs import frozen

from msp_sdk.models.domain import DomainController

DoorKind = Literal["kerberos", "ldaps", "starttls", "ntlm", "plain"]
LDAPS_PORT = 636
LDAP_PORT = 389
TLS_PORTS = frozenset({LDAPS_PORT, 3269})
LOGON_DOORS: tuple[DoorKind, ...] = ("kerberos", "ldaps", "starttls", "ntlm")
"""The order in which a logon tries them."""


@frozen
class Door:
    """One way in: how, and where."""

    kind: DoorKind
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@frozen
class SkippedDoor:
    """A way in that was passed over before another one took us.

    Attributes:
        controller: Its name.
        door: How, such as ``starttls``.
        code: A reason code.
    """

    controller: str
    door: DoorKind
    code: str
    detail: str


def doors(controller: DomainController, *, first: DoorKind, ldaps_port: int = LDAPS_PORT) -> tuple[Door, ...]:
    """The doors of a controller: for each address its SRV port, then LDAPS.

    Args:
        controller: Without addresses its name is used.
        first: How its SRV port is used: ``starttls`` for a logon, ``plain`` for the rootDSE.
        ldaps_port: Where LDAPS is.
    """
    hosts = controller.addresses or (controller.fqdn,)
    if controller.port in TLS_PORTS:
        return tuple(Door("ldaps", host, controller.port) for host in hosts)
    return tuple(
        Door(kind, host, port) for host in hosts for kind, port in ((first, controller.port), ("ldaps", ldaps_port))
    )


def logon_doors(
    controller: DomainController, kinds: Collection[DoorKind] = LOGON_DOORS, *, ldaps_port: int = LDAPS_PORT
) -> tuple[Door, ...]:
    """The doors for a logon: kind after kind, each at every address of the controller.

    Args:
        controller: Without addresses its name is used. On a port of TLS there is one kind alone: sealing and TLS are
            never put into each other.
        kinds: Which of them may be used; the order is always that of :data:`LOGON_DOORS`.
        ldaps_port: Where LDAPS is.
    """
    hosts = controller.addresses or (controller.fqdn,)
    if controller.port in TLS_PORTS:
        return tuple(Door("ldaps", host, controller.port) for host in hosts)
    ports = {"ldaps": ldaps_port}
    return tuple(
        Door(kind, host, ports.get(kind, controller.port)) for kind in LOGON_DOORS if kind in kinds for host in hosts
    )
