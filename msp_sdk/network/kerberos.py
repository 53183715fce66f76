"""Kerberos for one logon, sealed: a ticket from one KDC by its address, and a security context with one service.

* Nothing of the machine's own Kerberos is used or changed: a private ``krb5.conf`` that names one KDC by its address,
  looks nothing up in DNS and makes no name canonical; tickets lie in memory; no kinit, no domain join.
* MIT's library keeps its settings process-wide, so the exchange runs in a worker process of its own. The password
  goes there through a pipe. It ends with us, with Ctrl-C, and at its deadline at the latest.
* The password is used for one request to the KDC, which goes out once (:mod:`msp_sdk.network.kdc_relay`). Whether it
  was used is known (:attr:`KerberosFailure.key_used`), so that a lost answer is told from a KDC that never answered.

It needs ``gssapi`` and ``krb5`` (the extra ``kerberos``). All of it blocks: call it in a worker thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from attrs import frozen

from msp_sdk.errors import StateError
from msp_sdk.network.kdc_relay import KdcRelay
from msp_sdk.secret import Secret

KDC_PORT = 88
_WORKER = Path(__file__).with_name("kerberos_worker.py")
# The library's numbers of a KDC's errors begin here (krb5's error table).
_KRB5_TABLE = -1765328384
_PROTOCOL_ERRORS = 128
_REALM_UNKNOWN = 154
_WRONG_REALM = 68
_LINE_BYTES_MAX = 1 << 20
_SLICE_S = 1.0

Step = Literal["missing", "ticket", "service"]


@frozen
class Principal:
    """Who asks the KDC.

    Attributes:
        user: Without the realm; a UPN whole, as an enterprise name.
        realm: The domain's name in capitals.
        enterprise: ``user`` is a UPN: the KDC finds the account. Its first part need not be an account's name, and
            may even be that of another account.
    """

    user: str
    realm: str
    enterprise: bool = False


@frozen
class KerberosFailure:
    """Why no security context came about.

    Attributes:
        step: Where it ended: the libraries are ``missing``, at the ``ticket`` from the KDC, at the ``service``.
        number: The KDC's error (RFC 4120, 7.5.9); None when there was no answer, or nothing that we understand.
        key_used: A request that was made with the password may have left.
        took_password: The KDC had taken the password before it ended.
        answered: The KDC answered something.
    """

    step: Step
    number: int | None
    key_used: bool
    took_password: bool = False
    answered: bool = False


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


def render_krb5_conf(realm: str, address: str, port: int = KDC_PORT) -> str:
    """The private settings: one realm, one KDC by its address, TCP first; nothing is looked up, no keytab is read.

    Neither ``primary_kdc`` nor ``master_kdc``: MIT's library would ask there again with a password that was refused.
    """
    kdc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"""[libdefaults]
  default_realm = {realm}
  default_ccache_name = MEMORY:
  default_keytab_name = FILE:/nonexistent
  default_client_keytab_name = FILE:/nonexistent
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_uri_lookup = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
  forwardable = false
  plugin_base_dir = /nonexistent
[realms]
  {realm} = {{
    kdc = {kdc}
  }}
"""


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
        self._principal = principal
        self._kdc = kdc
        self._port = port
        self._service = service
        self._deadline_s = deadline_s
        self._until = 0.0
        self._cleanup = contextlib.ExitStack()
        self._entered = False
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: KdcRelay | None = None
        self._received = b""
        self._key_used = False
        self._took_password = False
        self.context: bytes | None = None
        """The exported security context, once it stands."""

    def __enter__(self) -> Self:
        self._until = time.monotonic() + self._deadline_s
        # No descriptor, no memory, no disk: as good as a KDC that cannot be asked, told by `take_ticket`.
        with contextlib.suppress(OSError), contextlib.ExitStack() as begun:
            self._process = self._start(begun)
            self._cleanup = begun.pop_all()
        self._entered = True
        return self

    def _start(self, begun: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        relay = self._relay = begun.enter_context(KdcRelay(self._kdc, self._port, deadline_s=self._deadline_s))
        # Its folder is made for us alone (0700).
        folder = begun.enter_context(tempfile.TemporaryDirectory(prefix="msp-krb5-", ignore_cleanup_errors=True))
        settings = Path(folder) / "krb5.conf"
        descriptor = os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(render_krb5_conf(self._principal.realm, *relay.address))
        # Of our environment only where shared libraries are.
        environ = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        environ |= {"KRB5_CONFIG": str(settings), "KRB5CCNAME": "MEMORY:", "LC_ALL": "C.UTF-8"}
        process = subprocess.Popen(  # noqa: S603 (our own file, by our own interpreter)
            # Where our own packages are, which -I and an empty environment hide: after its own folders.
            [sys.executable, "-I", str(_WORKER), *filter(os.path.isabs, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            cwd="/",
        )
        begun.callback(_end, process)
        return process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def take_ticket(self, password: Secret) -> KerberosFailure | None:
        """Ask the KDC; None when it took the password."""
        if self._entered and self._process is None:
            return KerberosFailure("ticket", None, key_used=False)
        host = self._service.partition("/")
        self._send(
            {
                "realm": self._principal.realm,
                "user": self._principal.user,
                "enterprise": self._principal.enterprise,
                "service": host[0],
                "host": host[2],
                "password": password.reveal(),
                "deadline_s": max(0.1, self._until - time.monotonic()),
            }
        )
        while True:
            message = self._receive()
            if message.get("at") == "ticket":
                self._took_password = True
                return None
            if message.get("at") == "key":
                self._key_used = True
                continue
            return self._failure("ticket", message)

    def step(self, token: bytes | None) -> bytes | KerberosFailure:
        """The next token for the service; :attr:`context` stands after its last, which may be empty.

        Args:
            token: What the service answered; None at first.
        """
        if self.context is not None:
            raise StateError("the security context stands already.")
        if token is not None:
            self._send({"token": base64.b64encode(token).decode("ascii")})
        message = self._receive()
        try:
            if "context" in message:
                self.context = base64.b64decode(message["context"])
                return b""
            if "token" in message:
                return base64.b64decode(message["token"])
        except (TypeError, binascii.Error):
            pass
        return self._failure("service", message)

    def _failure(self, step: Step, message: dict[str, Any]) -> KerberosFailure:
        if message.get("error") == "missing":
            step = "missing"
        answered = self._relay is not None and self._relay.has_answered
        number = protocol_error(message.get("code"))
        return KerberosFailure(step, number, self._key_used, self._took_password, answered)

    def _send(self, message: dict[str, Any]) -> None:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 (made as a pipe; for the types)
        # A worker that died is seen when its answer is read.
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """The worker's next message; an empty one when none comes any more."""
        process = self._running()
        assert process.stdout is not None  # noqa: S101 (made as a pipe; for the types)
        descriptor = process.stdout.fileno()
        while b"\n" not in self._received:
            left_s = self._until - time.monotonic()
            # Not select(): a process with many connections has descriptors above what that can wait for.
            waiter = select.poll()
            waiter.register(descriptor, select.POLLIN)
            if left_s <= 0:
                process.kill()
                return {}
            # In slices: an interrupt that comes just before the waiting begins is seen only after it.
            if not waiter.poll(min(left_s, _SLICE_S) * 1000):
                continue
            data = os.read(descriptor, 65536)
            if not data or len(self._received) > _LINE_BYTES_MAX:
                return {}
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StateError("use it in a with block.")
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker, however far it came."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def protocol_error(code: Any) -> int | None:
    """The KDC's own number behind the library's, or None when it is the library's own complaint."""
    if not isinstance(code, int):
        return None
    # gssapi tells the same number without its sign.
    signed = code - (1 << 32) if code >= 1 << 31 else code
    number = signed - _KRB5_TABLE
    if number == _REALM_UNKNOWN:
        # The KDC named the realm of an enterprise name, and the library went looking for it.
        return _WRONG_REALM
    return number if 0 < number < _PROTOCOL_ERRORS else None
