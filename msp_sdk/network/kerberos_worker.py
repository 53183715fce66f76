"""The Kerberos side of one account's logons, in a process of its own: MIT's library keeps settings process-wide.

Run by :mod:`msp_sdk.network.kerberos_process` as a file, with ``-I`` and a private ``KRB5_CONFIG``; its arguments are
folders where packages may be beside its own. It leans on nothing of this project, only on ``krb5`` and ``gssapi``. It
speaks JSON, a line a message; the password comes in the first one on stdin, and the tickets lie in memory.

* in ``{realm, user, enterprise, password, deadline_s, idle_s}``, first
* out ``{"at": "key"}``: the next request to the KDC is made with the password. It is made once.
* out ``{"at": "ticket", "lifetime_s": …}``: the KDC took the password.
* in ``{"do": "begin", services, host, binding, deadline_s}``: a security context with the first of these services that
  the KDC knows; a ticket of its own each time, so that a host that got a new key meets no old one.
* out ``{"id": …, "service": …, "token": …}``
* in ``{"do": "step", id, token, deadline_s}``: what the service answered
* out ``{"token": …}`` for another one, which may be empty; ``{"context": …}`` is the security context at its end, for
  the process that asked.
* in ``{"do": "drop", id}``: nobody goes on with that one; it is not answered.
* out ``{"error": step, "code": …}``: it failed in that step; ``code`` is the library's number or null. After the ticket
  the worker goes on.

It ends with its input, when nothing is asked for ``idle_s``, and at each deadline.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib
import json
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
# The KDC knows no such service: KRB5KDC_ERR_S_PRINCIPAL_UNKNOWN in the library's table, with and without its sign.
_NO_SUCH_SERVICE = frozenset({-1765328377, 2529638919})


class _AskedTwiceError(Exception):
    """The library wants the password again."""


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _hear() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    heard: dict[str, Any] = json.loads(line)
    return heard


def _limit(seconds: float, *, busy: bool) -> None:
    """However we hang, and whatever becomes of the process that asked: we end.

    Between two exchanges the end of our input says that nobody is there any more. In the middle of one nobody reads
    it, so the kernel tells us.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if busy else 0, 0, 0, 0)


class _Account:
    """The ticket-granting ticket, and the security contexts that are being made with it."""

    def __init__(self) -> None:
        self._krb5: Any = importlib.import_module("krb5")
        self._library: Any = self._krb5.init_context()
        self._ticket: Any = None
        self._pending: dict[int, tuple[Any, Any]] = {}
        self._count = 0

    def take_ticket(self, order: dict[str, Any]) -> int:
        """Ask the KDC for a ticket-granting ticket; returns for how many seconds it is good."""
        krb5, context = self._krb5, self._library
        password = str(order.pop("password")).encode()

        class Prompt(krb5.Krb5Prompt):  # type: ignore[misc,name-defined]
            """Gives the password when the library needs the key, so that we know when that is."""

            asked = False

            def prompt(self, msg: bytes, hidden: bool) -> bytes:  # noqa: ARG002, FBT001 (the library's shape)
                if self.asked:
                    raise _AskedTwiceError
                self.asked = True
                _say(at="key")
                return password

        krb5.set_default_realm(context, order["realm"].encode())
        flags = krb5.PrincipalParseFlags.enterprise if order["enterprise"] else krb5.PrincipalParseFlags.none
        # Only the characters that part a principal are quoted; the @ of an enterprise name parts nothing.
        user = order["user"].replace("\\", "\\\\").replace("/", "\\/")
        if not order["enterprise"]:
            user = user.replace("@", "\\@")
        principal = krb5.parse_name_flags(context, user.encode(), flags)
        options = krb5.get_init_creds_opt_alloc(context)
        krb5.get_init_creds_opt_set_canonicalize(options, bool(order["enterprise"]))
        krb5.get_init_creds_opt_set_forwardable(options, False)
        krb5.get_init_creds_opt_set_proxiable(options, False)
        # Not get_init_creds_password: that one asks another KDC after a refusal, and offers to change an expired
        # password. The library keeps no hold of the prompt by itself.
        prompt = Prompt()
        asking = krb5.init_creds_init(context, principal, k5_gic_options=options, prompter=prompt)
        krb5.init_creds_get(context, asking)
        self._ticket = krb5.init_creds_get_creds(context, asking)
        times = self._ticket.times
        return int(times.endtime - (times.starttime or times.authtime))

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin a security context with the first of the services that the KDC knows."""
        failure: Exception | None = None
        for service in order["services"]:
            try:
                return self._begin(service, order)
            except Exception as error:
                # Another name for the same host is worth a try; anything else would be the same again.
                if _number(error) not in _NO_SUCH_SERVICE:
                    raise
                failure = error
        assert failure is not None  # noqa: S101 (there is at least one service)
        raise failure

    def _begin(self, service: str, order: dict[str, Any]) -> dict[str, Any]:
        gssapi: Any = importlib.import_module("gssapi")
        flag = gssapi.RequirementFlag
        wanted = flag.mutual_authentication | flag.confidentiality | flag.integrity
        wanted |= flag.replay_detection | flag.out_of_sequence_detection
        bound = order.get("binding")
        binding = gssapi.raw.ChannelBindings(application_data=base64.b64decode(bound)) if bound else None
        cache = self._krb5.cc_new_unique(self._library, b"MEMORY")
        try:
            self._krb5.cc_initialize(self._library, cache, self._ticket.client)
            self._krb5.cc_store_cred(self._library, cache, self._ticket)
            name = f"{service}/{order['host']}@{order['realm']}"
            context = gssapi.SecurityContext(
                name=gssapi.Name(name, gssapi.NameType.kerberos_principal),
                creds=gssapi.Credentials(
                    usage="initiate",
                    store={b"ccache": b"MEMORY:" + bytes(self._krb5.cc_get_name(self._library, cache))},
                ),
                mech=gssapi.MechType.kerberos,
                flags=wanted,
                usage="initiate",
                channel_bindings=binding,
            )
            token = context.step()
        finally:
            self._krb5.cc_destroy(self._library, cache)
        self._count += 1
        self._pending[self._count] = (context, flag)
        return {"id": self._count, "service": service, "token": _text(token)}

    def step(self, order: dict[str, Any]) -> dict[str, Any]:
        """Take what the service answered."""
        # Forgotten, should it fail.
        context, flag = self._pending.pop(order["id"])
        # Until both have agreed on all, each token is answered by one, which may be empty.
        token = None if context.complete else context.step(base64.b64decode(order["token"]))
        if token or not context.complete:
            self._pending[order["id"]] = (context, flag)
            return {"token": _text(token)}
        must = flag.mutual_authentication | flag.confidentiality | flag.integrity
        if context.actual_flags & must != must:
            raise PermissionError
        return {"context": _text(context.export())}

    def drop(self, order: dict[str, Any]) -> None:
        """Forget a context."""
        self._pending.pop(order["id"], None)


def _text(token: bytes | None) -> str:
    return base64.b64encode(token or b"").decode("ascii")


def _number(error: Exception) -> Any:
    # krb5 says err_code, gssapi min_code.
    return getattr(error, "err_code", getattr(error, "min_code", None))


def _fail(step: str, error: Exception) -> None:
    # Whatever it is, it is told by its number and kind alone.
    if isinstance(error, ImportError):
        _say(error="missing", code=None)
    else:
        _say(error=step, code=_number(error), kind=type(error).__name__)


def _serve(account: _Account, idle_s: float, realm: str) -> None:
    while True:
        _limit(idle_s, busy=False)
        order = _hear()
        if order["do"] == "drop":
            account.drop(order)
            continue
        _limit(float(order["deadline_s"]), busy=True)
        try:
            _say(**(account.begin({**order, "realm": realm}) if order["do"] == "begin" else account.step(order)))
        except Exception as error:  # noqa: BLE001 (it is told, and the next exchange may do)
            _fail("service", error)


def main() -> None:
    """One account's logons."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    step = "order"
    try:
        order = _hear()
        _limit(float(order["deadline_s"]), busy=True)
        step = "ticket"
        account = _Account()
        lifetime_s = account.take_ticket(order)
        _say(at="ticket", lifetime_s=lifetime_s)
    except Exception as error:  # noqa: BLE001 (as said)
        _fail(step, error)
        return
    with contextlib.suppress(EOFError):
        _serve(account, float(order["idle_s"]), str(order["realm"]))


if __name__ == "__main__":
    sys.path.extend(sys.argv[1:])
    main()
