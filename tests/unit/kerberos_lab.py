"""A domain in small with a real KDC: its hosts take its tickets, and its account is one of the stand-in's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve

from msp_sdk.models.credential import Credential
from msp_sdk.network import kerberos
from msp_sdk.network.kdcs import Kdc
from msp_sdk.network.kerberos_account import ServiceTicket
from msp_sdk.network.kerberos_tickets import KerberosTickets, NotApplicable, TicketOptions
from msp_sdk.testing import kdc as real_kdc
from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab
from msp_sdk.testing.kdc import RealKdc
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.testing.wsman_kerberos import KerberosKeys
from tests.real import do_without

REALM = "CORP.EXAMPLE"
ACCOUNT = r"CORP\svc"


@contextmanager
def domain_with_kdc(folder: Path) -> Iterator[KerberosLab]:
    """The lab; skipped where no KDC or no library is installed."""
    if not kerberos.is_installed():
        do_without("the extra `kerberos` is not installed")
    if not real_kdc.is_installed():
        do_without("krb5-kdc and krb5-admin-server are not installed")
    with RealKdc(folder / "kdc", REALM, address=take_address()) as kdc:
        kdc.add_user("svc", LAB_PASSWORD)
        yield KerberosLab(folder, kdc)


class KerberosLab(HostLab):
    """As :class:`HostLab`; ``svc`` is also known to the KDC."""

    def __init__(self, folder: Path, kdc: RealKdc) -> None:
        super().__init__(folder)
        self.kdc = kdc

    def member(self, name: str = "SRV1", *services: str, **how: Any) -> WsmanHost:
        """A host that the KDC knows as ``host/`` (or by these services); none means not at all."""
        host = self.host(name, **how)
        if services:
            self.kdc.add_service(*(f"{service}/{name.lower()}.corp.example" for service in services))
        host.logons.kerberos = KerberosKeys(self.kdc.keytab)
        return host

    def credential(self, password: str = LAB_PASSWORD, **changes: Any) -> Credential:
        """``svc``, unproven."""
        return evolve(self.domain_credential(password, username=ACCOUNT, netbios_name="CORP"), **changes)

    def kdcs(self, _: Credential) -> tuple[Kdc, ...]:
        """The one that is there."""
        return (Kdc(self.kdc.address, REALM, netbios_name="CORP", name="dc1"),)

    def password_uses(self) -> int:
        """How often somebody proved a password to the KDC, rightly or not."""
        return sum("NEEDED_PREAUTH" not in line for line in self.kdc.requests("AS_REQ"))

    def tickets(self, clock: Callable[[], float] = time.monotonic, **times: float) -> KerberosTickets:
        """The workers, with short times."""
        return KerberosTickets(
            self.ledger, TicketOptions(**{"connect_s": 1.0, "exchange_s": 5.0, **times}), clock=clock
        )

    def ask(
        self, tickets: KerberosTickets, credential: Credential, host: str = "srv1", **more: Any
    ) -> ServiceTicket | NotApplicable:
        """A ticket for a host."""
        given = {"kdcs": self.kdcs(credential), "services": ("host", "HTTP"), "binding": None, **more}
        return tickets.begin(credential, host=f"{host}.corp.example", cancelled=threading.Event(), **given)
