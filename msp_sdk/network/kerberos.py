"""Kerberos for one logon, sealed: a ticket from one KDC by its address, and a security context with one service.

* Nothing of the machine's own Kerberos is used or changed: a private ``krb5.conf`` that names one KDC by its address,
  looks nothing up in DNS and makes no name canonical; tickets lie in memory; no kinit, no domain join.
* MIT's library keeps its settings process-wide, so the exchange runs in a worker process of its own
  (:mod:`msp_sdk.network.kerberos_process`). The password goes there through a pipe. It ends with us, with Ctrl-C, and
  at its deadline at the latest.
* The password is used for one request to the KDC, which goes out once (:mod:`msp_sdk.network.kdc_relay`). Whether it
  was used is known (:attr:`KerberosFailure.key_used`), so that a lost answer is told from a KDC that never answered.

For an account that logs on to many hosts with one ticket there is :mod:`msp_sdk.network.kerberos_tickets`.

It needs ``gssapi`` and ``krb5`` (the extra ``kerberos``). All of it blocks: call it in a worker thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import time
from types import TracebackType
from typing import Any, Self

from msp_sdk.errors import StateError
from msp_sdk.network.kerberos_process import KDC_PORT, Begun, KerberosFailure, KerberosProcess, Principal
from msp_sdk.secret import Secret

# What the worker may take besides: it lives for one exchange here.
_IDLE_GRACE_S = 1.0


def is_installed() -> bool:
    """True when the extra ``kerberos`` is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("gssapi", "krb5"))


def can_seal_here() -> bool:
    """False where the machine's own Kerberos settings are broken.

    The exchange has its private settings, but a security context that is taken over from it is read by the library in
    this process, which knows only the machine's. They do not matter then, but they must be readable.
    """
    krb5: Any = importlib.import_module("krb5")
    try:
        krb5.init_context()
    except krb5.Krb5Error:
        return False
    return True


def principal_of(username: str, *, domain_name: str, netbios_name: str | None = None) -> Principal | None:
    r"""Whom a user name means at a domain's KDC; None when it is no account of this domain's making.

    Args:
        username: UPN, ``DOMAIN\user`` or a bare name.
        domain_name: The domain whose KDC is asked.
        netbios_name: Its short name; where it is not known, ``DOMAIN\user`` may be anybody's and is None. A guess might
            be a strike against a stranger of the same name.
    """
    realm = domain_name.upper()
    before, backslash, user = username.partition("\\")
    if backslash:
        ours = {name.casefold() for name in (domain_name, netbios_name) if name}
        return Principal(user, realm) if user and before.casefold() in ours else None
    user, at, suffix = username.rpartition("@")
    if not at:
        return Principal(username, realm) if username else None
    return Principal(username, realm, enterprise=True) if user and suffix else None


def kdc_answers(address: str, timeout_s: float, port: int = KDC_PORT) -> bool:
    """Whether something takes a TCP connection where the KDC should be. Nothing is sent."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except (OSError, UnicodeError):
        return False
    return True


class KerberosLogon:
    """One exchange. Use it in a ``with`` block, its methods in their order.

    Args:
        principal: Who logs on.
        kdc: The KDC's address.
        service: The service's principal without the realm, such as ``ldap/dc1.corp.example``.
        deadline_s: For all of it; then the worker is killed.
        port: Where the KDC listens.
    """

    def __init__(
        self, principal: Principal, *, kdc: str, service: str, deadline_s: float, port: int = KDC_PORT
    ) -> None:
        self._worker = KerberosProcess(principal, kdc=kdc, port=port, idle_s=deadline_s + _IDLE_GRACE_S)
        self._service = service
        self._deadline_s = deadline_s
        self._until = 0.0
        self._entered = False
        self._begun: Begun | None = None
        self.context: bytes | None = None
        """The exported security context, once it stands."""

    def __enter__(self) -> Self:
        self._until = time.monotonic() + self._deadline_s
        # Where it does not start, that is as good as a KDC that cannot be asked, told by `take_ticket`.
        self._worker.start()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close()

    def take_ticket(self, password: Secret) -> KerberosFailure | None:
        """Ask the KDC; None when it took the password."""
        if not self._entered:
            raise StateError("use it in a with block.")
        return self._worker.take_ticket(password, self._left_s())

    def step(self, token: bytes | None) -> bytes | KerberosFailure:
        """The next token for the service; :attr:`context` stands after its last, which may be empty.

        Args:
            token: What the service answered; None at first.
        """
        if self.context is not None:
            raise StateError("the security context stands already.")
        if self._begun is None or token is None:
            service, _, host = self._service.partition("/")
            begun = self._worker.begin((service,), host, self._left_s())
            if isinstance(begun, KerberosFailure):
                return begun
            self._begun = begun
            return begun.token
        following = self._worker.step(self._begun.id, token, self._left_s())
        if isinstance(following, KerberosFailure):
            return following
        self.context = following.context
        return following.token

    def _left_s(self) -> float:
        return max(0.1, self._until - time.monotonic())
