"""Every trouble that a WinRM endpoint of the stand-in can have, by name.

:data:`TROUBLES` is the one list: iterate over it to draw some for the hosts of a site.

Example:
    >>> TROUBLES["drop-mid-body"].does
    'the request is carried out; the connection is cut in the middle of the answer'
    >>> TROUBLES["drop-mid-body"].once(host, at="Receive")  # doctest: +SKIP
    >>> TROUBLES["no-shell-left"].start(host)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import evolve, frozen

from msp_sdk.testing.wsman import WsmanHost
from msp_sdk.testing.wsman_hitches import IDLE, LOGON, Hitch
from msp_sdk.testing.wsman_refusals import (
    ACCESS_DENIED,
    FILE_NOT_FOUND,
    INVALID_SELECTORS,
    MAX_OPERATIONS,
    MAX_SHELL_USERS,
    MAX_SHELLS,
    NOT_ENOUGH_QUOTA,
    STDIN_CLOSED,
    Source,
)

Change = Callable[[WsmanHost], None]


@frozen
class Trouble:
    """A trouble that a host can have.

    Attributes:
        name: Its name in :data:`TROUBLES`.
        does: What happens, in words.
        source: Where we know it from.
        ends_as: The reason codes that a client may rightly end with on a host that has it for good; an empty one where
            it succeeds. A client may also succeed where it happens once.
        hitch: What one occurrence is.
        lasting: Makes a host have it for good; None where that is the hitch at each operation.
    """

    name: str
    does: str
    source: Source
    ends_as: frozenset[str]
    hitch: Hitch
    lasting: Change | None = None

    def once(self, host: WsmanHost, *, at: str | None = None, skip: int = 0) -> None:
        """Let it happen to a host one time.

        Args:
            host: May run already.
            at: The operation, where it shall be another one than the usual.
            skip: So many such operations pass before.
        """
        host.faults.hitches.append(evolve(self.hitch, at=at or self.hitch.at, skip=skip))

    def start(self, host: WsmanHost) -> None:
        """Let a host have it for good. What it changed is undone by nobody: take a new host."""
        if self.lasting is not None:
            self.lasting(host)
        else:
            host.faults.hitches.append(evolve(self.hitch, times=None))


def _setting(name: str, value: object) -> Change:
    return lambda host: setattr(host.faults, name, value)


def _quota(name: str, value: object) -> Change:
    return lambda host: setattr(host.shells.quotas, name, value)


_WORKS = ""
_LOST = ("connection-lost",)
_NONSENSE = ("windows-failed", "encryption-refused", "connection-lost")
_FULL = ("quota-exceeded",)

_Row = tuple[str, str, Source, tuple[str, ...], Hitch, Change | None]
_ROWS: tuple[_Row, ...] = (
    # Time.
    ("slow", "each request is left lying for a while", "inferred", (_WORKS,), Hitch("late", seconds=0.1), None),
    (
        "slow-logon",
        "the proof of the password is left lying for a while",
        "inferred",
        (_WORKS,),
        Hitch("late", LOGON),
        _setting("logon_delay_s", 0.3),
    ),
    (
        "drip",
        "answers go out byte by byte",
        "inferred",
        (_WORKS,),
        Hitch("drip", seconds=0.1),
        _setting("drip_s", 0.1),
    ),
    (
        "idle-close",
        "a connection that is quiet for a moment is closed, and the logon with it",
        "public thread",
        (_WORKS, *_LOST),
        Hitch("cut", IDLE, seconds=0.2),
        _setting("idle_close_s", 0.2),
    ),
    (
        "silent",
        "requests are read and never answered",
        "inferred",
        ("no-answer",),
        Hitch("silent"),
        _setting("silent", value=True),
    ),
    # Connections.
    ("cut", "the connection is cut, the request is not carried out", "public thread", _LOST, Hitch("cut"), None),
    ("lost-answer", "the request is carried out; the connection is cut", "public thread", _LOST, Hitch("lost"), None),
    (
        "drop-mid-body",
        "the request is carried out; the connection is cut in the middle of the answer",
        "public thread",
        _LOST,
        Hitch("mid-body"),
        None,
    ),
    (
        "half-close",
        "the request is carried out; instead of answering the host shuts its sending side and reads on",
        "inferred",
        _LOST,
        Hitch("half-close"),
        None,
    ),
    (
        "half-close-head",
        "the request is carried out; the host answers with a head alone, shuts its sending side and reads on",
        "inferred",
        _LOST,
        Hitch("half-close-head"),
        None,
    ),
    (
        "restart",
        "WinRM restarts: all connections are cut, all shells are gone, for a while it answers 503",
        "public thread",
        ("winrm-closed",),
        Hitch("restart"),
        _setting("service", "starting"),
    ),
    (
        "stopped",
        "http.sys has no listener behind it and answers 404",
        "public thread",
        ("winrm-closed",),
        Hitch("status", code=404),
        _setting("service", "stopped"),
    ),
    # Nonsense.
    ("not-http", "the answer is no HTTP", "inferred", _LOST, Hitch("not-http"), None),
    (
        "not-soap",
        "the answer is a page of HTML, as a proxy or another server gives",
        "inferred",
        _NONSENSE,
        Hitch("not-soap"),
        None,
    ),
    (
        "not-wsman",
        "the answer is an envelope of SOAP with nothing of WS-Man in it",
        "inferred",
        _NONSENSE,
        Hitch("not-wsman"),
        None,
    ),
    (
        "damaged",
        "a byte of the answer is another one, in the sealed part where it is sealed",
        "inferred",
        _NONSENSE,
        Hitch("damaged"),
        None,
    ),
    (
        "cut-base64",
        "the output in an answer is base64 that was cut off",
        "inferred",
        _NONSENSE,
        Hitch("cut-base64", "Receive"),
        None,
    ),
    ("other-answer", "the answer belongs to another request", "inferred", _NONSENSE, Hitch("other-answer"), None),
    (
        "unsealed",
        "an answer over HTTP comes in clear, as one who stands between would write it; over TLS nothing is different",
        "inferred",
        (_WORKS, *_NONSENSE),
        Hitch("unsealed"),
        None,
    ),
    # Logons.
    (
        "refuse-logons",
        "every logon is refused, with the right password too, and not counted: a broken trust",
        "inferred",
        ("wrong-password", "not-authorised-here"),
        Hitch("status", LOGON, code=401),
        _setting("refuse_logons", value=True),
    ),
    (
        "drop-logon",
        "a logon is judged, and the connection cut",
        "inferred",
        (*_LOST, "logon-outcome-unknown"),
        Hitch("lost", LOGON),
        None,
    ),
    (
        "forgotten-logon",
        "a request on a connection that was logged on gets 401",
        "public thread",
        _LOST,
        Hitch("status", code=401),
        None,
    ),
    (
        "bad-request",
        "a request on a connection that was logged on gets 400",
        "public thread",
        _LOST,
        Hitch("status", code=400),
        None,
    ),
    # Limits.
    (
        "too-large",
        "a request of more than two kilobytes gets 413",
        "public thread",
        ("too-large",),
        Hitch("status", "Send", code=413),
        _quota("max_envelope_bytes", 2048),
    ),
    (
        "no-shell-left",
        "the user has all the shells that are allowed",
        "public thread",
        _FULL,
        Hitch("fault", "Create", code=MAX_SHELLS),
        _quota("shells_per_user", 0),
    ),
    (
        "no-operation-left",
        "the user has had all the operations that are allowed",
        "public thread",
        _FULL,
        Hitch("fault", "Command", code=MAX_OPERATIONS),
        _quota("operations_per_user", 0),
    ),
    (
        "no-process-left",
        "the shell has all the processes that are allowed",
        "inferred",
        _FULL,
        Hitch("fault", "Command", code=NOT_ENOUGH_QUOTA),
        _quota("processes_per_shell", 0),
    ),
    (
        "too-many-users",
        "as many users as are allowed have shells",
        "wsmerror.h",
        _FULL,
        Hitch("fault", "Create", code=MAX_SHELL_USERS),
        _quota("users", 0),
    ),
    (
        "shell-gone",
        "the shell has ended by itself: idle for too long, or at the end of its time",
        "recorded",
        _LOST,
        Hitch("fault", "Command", code=INVALID_SELECTORS),
        _quota("shell_run_s", 0.0),
    ),
    (
        "no-right",
        "the account is let in and gets no shell",
        "public thread",
        ("needs-local-administrator",),
        Hitch("fault", "Create", code=ACCESS_DENIED),
        None,
    ),
    # The process.
    (
        "stdin-closed",
        "the process ends before it has read its stdin, and writes nothing",
        "public thread",
        ("script-failed",),
        Hitch("fault", "Send", code=STDIN_CLOSED),
        None,
    ),
    (
        "no-powershell",
        "there is no such program",
        "recorded",
        ("unsupported-os",),
        Hitch("fault", "Command", code=FILE_NOT_FOUND),
        None,
    ),
)

TROUBLES: Mapping[str, Trouble] = MappingProxyType(
    {
        name: Trouble(name, does, source, frozenset(ends_as), hitch, lasting)
        for name, does, source, ends_as, hitch, lasting in _ROWS
    }
)
