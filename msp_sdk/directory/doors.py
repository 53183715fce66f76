"""Which ways into a controller there are, and in which order they are tried. Pure."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from msp_sdk.models.domain import DomainController

DoorKind = Literal["starttls", "ldaps", "plain"]
LDAPS_PORT = 636
_TLS_PORTS = frozenset({LDAPS_PORT, 3269})


@frozen
class Door:
    """One way in: how, and where."""

    kind: DoorKind
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def doors(controller: DomainController, *, first: DoorKind, ldaps_port: int = LDAPS_PORT) -> tuple[Door, ...]:
    """The doors of a controller: for each address its SRV port, then LDAPS.

    Args:
        controller: Without addresses its name is used.
        first: How its SRV port is used: ``starttls`` for a logon, ``plain`` for the rootDSE.
        ldaps_port: Where LDAPS is.
    """
    hosts = controller.addresses or (controller.fqdn,)
    if controller.port in _TLS_PORTS:
        return tuple(Door("ldaps", host, controller.port) for host in hosts)
    return tuple(
        Door(kind, host, port) for host in hosts for kind, port in ((first, controller.port), ("ldaps", ldaps_port))
    )
