"""A worker process for one account at one KDC: it holds the ticket, and makes security contexts with it.

The process is :mod:`msp_sdk.network.kerberos_worker`. It speaks to one caller at a time and blocks: call it in a worker
thread, under a lock where there are several.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from attrs import field, frozen

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


@frozen
class Begun:
    """A security context that is being made.

    Attributes:
        id: The worker's number for it.
        service: The one that the KDC knew.
        token: For the service.
    """

    id: int
    service: str
    token: bytes = field(repr=False)


@frozen
class Stepped:
    """What a service's answer led to: another ``token`` (it may be empty), or the exported ``context`` at the end."""

    token: bytes = field(default=b"", repr=False)
    context: bytes | None = field(default=None, repr=False)


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


class KerberosProcess:
    """See the module. Use it in a ``with`` block, or call :meth:`start` and :meth:`close`.

    Args:
        principal: Whose ticket it is.
        kdc: The KDC's address.
        port: Where the KDC listens.
        idle_s: After so long without a call the worker ends by itself.

    Attributes:
        process: The worker; None where it could not be started (no descriptor, no memory, no disk).
        took_password: The KDC has taken the password.
        lifetime_s: For how long the ticket is good, from when it was taken.
    """

    def __init__(self, principal: Principal, *, kdc: str, port: int = KDC_PORT, idle_s: float) -> None:
        self._principal = principal
        self._kdc = kdc
        self._port = port
        self._idle_s = idle_s
        self._until = 0.0
        self._cleanup = contextlib.ExitStack()
        self._relay: KdcRelay | None = None
        self._received = b""
        self._key_used = False
        self._ended = False
        self.process: subprocess.Popen[bytes] | None = None
        self.took_password = False
        self.lifetime_s = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """True while the worker runs and answers."""
        return not self._ended and self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the worker. Where that fails, :meth:`take_ticket` says so."""
        with contextlib.suppress(OSError), contextlib.ExitStack() as begun:
            self.process = self._start(begun)
            self._cleanup = begun.pop_all()

    def _start(self, begun: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        relay = self._relay = begun.enter_context(KdcRelay(self._kdc, self._port))
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

    def close(self) -> None:
        """End the worker, however far it came. May be repeated."""
        self._cleanup.close()

    def take_ticket(self, password: Secret, deadline_s: float) -> KerberosFailure | None:
        """Ask the KDC; None when it took the password. Called once."""
        if self.process is None:
            return KerberosFailure("ticket", None, key_used=False)
        self._begin_exchange(deadline_s)
        self._send(
            {
                "realm": self._principal.realm,
                "user": self._principal.user,
                "enterprise": self._principal.enterprise,
                "password": password.reveal(),
                "deadline_s": deadline_s,
                "idle_s": self._idle_s,
            }
        )
        while True:
            message = self._receive()
            if message.get("at") == "ticket":
                self.took_password = True
                lifetime = message.get("lifetime_s")
                self.lifetime_s = float(lifetime) if isinstance(lifetime, int) else 0.0
                return None
            if message.get("at") == "key":
                self._key_used = True
                continue
            return self._failure("ticket", message)

    def begin(
        self, services: Sequence[str], host: str, deadline_s: float, *, binding: bytes | None = None
    ) -> Begun | KerberosFailure:
        """Begin a security context.

        Args:
            services: Such as ``("host", "HTTP")``; the first that the KDC knows is taken.
            host: The host's full name.
            deadline_s: For the KDC's answers.
            binding: What the channel is bound to (RFC 5929); None without a channel.
        """
        message = self._ask(
            deadline_s, do="begin", services=list(services), host=host, binding=_text(binding) if binding else None
        )
        token = _bytes(message.get("token"))
        if token is None or not isinstance(message.get("id"), int):
            return self._failure("service", message)
        return Begun(message["id"], str(message.get("service")), token)

    def step(self, context_id: int, token: bytes, deadline_s: float) -> Stepped | KerberosFailure:
        """Take what the service answered."""
        message = self._ask(deadline_s, do="step", id=context_id, token=_text(token))
        context = _bytes(message.get("context"))
        if context is not None:
            return Stepped(context=context)
        following = _bytes(message.get("token"))
        return self._failure("service", message) if following is None else Stepped(following)

    def drop(self, context_id: int) -> None:
        """Go on with a context no more."""
        self._send({"do": "drop", "id": context_id})

    def _ask(self, deadline_s: float, **order: Any) -> dict[str, Any]:
        self._begin_exchange(deadline_s)
        self._send({**order, "deadline_s": deadline_s})
        return self._receive()

    def _begin_exchange(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        if self._relay is not None:
            self._relay.begin(deadline_s)

    def _failure(self, step: Step, message: dict[str, Any]) -> KerberosFailure:
        if message.get("error") == "missing":
            step = "missing"
        answered = self._relay is not None and self._relay.has_answered
        number = protocol_error(message.get("code"))
        return KerberosFailure(step, number, self._key_used, self.took_password, answered)

    def _send(self, message: dict[str, Any]) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None  # noqa: S101 (made as a pipe; for the types)
        # A worker that died is seen when its answer is read.
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """The worker's next message; an empty one when none comes any more: then it is killed."""
        if self.process is None:
            return {}
        line = self._read_line(self.process)
        try:
            message = json.loads(line)
        except ValueError:
            # It has ended, which the kernel may tell later than its pipe does; or it hangs.
            self._ended = True
            self.process.kill()
            return {}
        return message if isinstance(message, dict) else {}

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None  # noqa: S101 (made as a pipe; for the types)
        if process.stdout.closed:
            return b""
        descriptor = process.stdout.fileno()
        while b"\n" not in self._received:
            left_s = self._until - time.monotonic()
            # Not select(): a process with many connections has descriptors above what that can wait for.
            waiter = select.poll()
            waiter.register(descriptor, select.POLLIN)
            if left_s <= 0:
                return b""
            # In slices: an interrupt that comes just before the waiting begins is seen only after it.
            if not waiter.poll(min(left_s, _SLICE_S) * 1000):
                continue
            data = os.read(descriptor, 65536)
            if not data or len(self._received) > _LINE_BYTES_MAX:
                return b""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker, however far it came."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error, ValueError):
        return None


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
