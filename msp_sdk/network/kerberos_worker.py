"""The Kerberos side of one logon, in a process of its own: MIT's library keeps its settings and tickets process-wide.

Run by :mod:`msp_sdk.network.kerberos` as a file, with ``-I`` and a private ``KRB5_CONFIG``; its arguments are folders
where packages may be beside its own. It leans on nothing of this project, only on ``krb5`` and ``gssapi``. It speaks
JSON, a line a message; the password comes in the first one on stdin, and the tickets lie in memory.

* in ``{realm, user, enterprise, service, host, password, deadline_s}``
* out ``{"at": "key"}``: the next request to the KDC is made with the password. It is made once.
* out ``{"at": "ticket"}``: the KDC took the password.
* out ``{"token": …}``, in ``{"token": …}``, as often as the mechanism asks for it; its last token may be empty
* out ``{"context": …}``: the security context, for the process that asked.
* out ``{"error": step, "code": …}``: it failed in that step; ``code`` is the library's number or null.
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


def _die_with_the_parent(deadline_s: float) -> None:
    """However we hang, and whatever becomes of the process that asked: we end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _take_ticket(order: dict[str, Any]) -> bytes:
    """Ask the KDC for a ticket-granting ticket; returns the name of the cache in memory that holds it."""
    krb5: Any = importlib.import_module("krb5")

    class Prompt(krb5.Krb5Prompt):  # type: ignore[misc]
        """Gives the password when the library needs the key, so that we know when that is."""

        asked = False

        def prompt(self, msg: bytes, hidden: bool) -> bytes:  # noqa: ARG002, FBT001 (the library's shape)
            if self.asked:
                raise _AskedTwiceError
            self.asked = True
            _say(at="key")
            return str(order["password"]).encode()

    context = krb5.init_context()
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
    # Not get_init_creds_password: that one asks another KDC after a refusal, and offers to change an expired password.
    # The library keeps no hold of it by itself.
    prompt = Prompt()
    asking = krb5.init_creds_init(context, principal, k5_gic_options=options, prompter=prompt)
    krb5.init_creds_get(context, asking)
    creds = krb5.init_creds_get_creds(context, asking)
    cache = krb5.cc_new_unique(context, b"MEMORY")
    krb5.cc_initialize(context, cache, creds.client)
    krb5.cc_store_cred(context, cache, creds)
    # The cache lives as long as this process.
    _KEPT.extend((context, cache))
    return b"MEMORY:" + bytes(krb5.cc_get_name(context, cache))


_KEPT: list[Any] = []


def _make_context(order: dict[str, Any], cache: bytes) -> bytes:
    """Make the security context with the service, its tokens carried by the process that asked."""
    gssapi: Any = importlib.import_module("gssapi")

    flag = gssapi.RequirementFlag
    name = gssapi.Name(f"{order['service']}/{order['host']}@{order['realm']}", gssapi.NameType.kerberos_principal)
    creds = gssapi.Credentials(usage="initiate", store={b"ccache": cache})
    wanted = flag.mutual_authentication | flag.confidentiality | flag.integrity
    wanted |= flag.replay_detection | flag.out_of_sequence_detection
    context = gssapi.SecurityContext(
        name=name, creds=creds, mech=gssapi.MechType.kerberos, flags=wanted, usage="initiate"
    )
    token = context.step()
    while True:
        if token or not context.complete:
            _say(token=base64.b64encode(token or b"").decode())
        if context.complete:
            break
        token = context.step(base64.b64decode(_hear()["token"]))
    must = flag.mutual_authentication | flag.confidentiality | flag.integrity
    if context.actual_flags & must != must:
        raise PermissionError
    return bytes(context.export())


def main() -> None:
    """One logon."""
    step = "order"
    try:
        order = _hear()
        _die_with_the_parent(float(order["deadline_s"]))
        step = "ticket"
        cache = _take_ticket(order)
        _say(at="ticket")
        step = "service"
        exported = _make_context(order, cache)
        _say(context=base64.b64encode(exported).decode())
    except ImportError:
        _say(error="missing", code=None)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told by its number and kind alone)
        # krb5 says err_code, gssapi min_code.
        code = getattr(error, "err_code", getattr(error, "min_code", None))
        _say(error=step, code=code, kind=type(error).__name__)


if __name__ == "__main__":
    sys.path.extend(sys.argv[1:])
    main()
