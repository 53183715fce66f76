"""What goes wrong at a WinRM endpoint, for as long as it is asked for or a number of times. Change it while it runs.

:data:`TROUBLES` is the list of all of it, by name: iterate over it to draw some for the hosts of a site.

Example:
    >>> TROUBLES["drop-mid-body"].does
    'the request is carried out; the connection is cut in the middle of the answer'
    >>> TROUBLES["drop-mid-body"].once(host)  # doctest: +SKIP
    >>> host.faults.hitches.append(Hitch("late", "Receive", seconds=0.5, skip=1))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from attrs import evolve, field, frozen, mutable

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

if TYPE_CHECKING:
    from msp_sdk.testing.wsman import WsmanHost

# What happens instead of carrying a request out.
Before = Literal["cut", "late", "silent", "restart", "fault", "status"]
# What becomes of the answer to a request that was carried out.
After = Literal[
    "lost",
    "mid-body",
    "half-close",
    "half-close-head",
    "drip",
    "not-http",
    "not-soap",
    "not-wsman",
    "damaged",
    "cut-base64",
    "other-answer",
    "unsealed",
]
Way = Before | After

BEFORE: frozenset[Way] = frozenset({"cut", "late", "silent", "restart", "fault", "status"})
ANY = "*"
LOGON = "Logon"
IDLE = "Idle"


@mutable(eq=False)
class Hitch:
    """One thing that goes wrong.

    Attributes:
        way: What happens: see :data:`TROUBLES` for each.
        at: The operation (``Create``, ``Command``, ``Send``, ``Receive``, ``Signal``, ``Delete``), ``*`` for any of
            them, ``Logon`` for the message that proves the password, or ``Idle`` for a connection that has been quiet
            for ``seconds``.
        times: How often; None is for as long as it stands here.
        skip: So many such operations pass before.
        seconds: How long it takes, for ``late``, ``drip`` (the whole answer), ``restart`` (503 until then) and
            ``Idle``.
        code: For ``fault`` (of WS-Man) and ``status`` (of HTTP).
    """

    way: Way
    at: str = ANY
    times: int | None = 1
    skip: int = 0
    seconds: float = 0.3
    code: int = 0


@mutable
class Faults:
    """Trouble to make. Counters and one-shot names end by themselves.

    Attributes:
        hitches: What goes wrong at operations; the first that fits is taken, one that is used up goes.
        idle_close_s: A connection that is quiet for so long is closed; Windows waits two minutes.
        reset_connections: So many next connections are reset at their first request.
        drop_before: Operations whose next request cuts the connection unread, such as ``Command``.
        drop_after: Operations whose next request is carried out and then answered by cutting the connection.
        refuse_with: Operations whose next request is answered by a WS-Man fault with this code, and not carried out.
        forget_logon: The next sealed request gets 400 without a body, as after a lost context.
        refuse_logons: Every logon is refused, also with the right password, without counting (a broken trust).
        drop_logons: So many next logons are judged, and answered by cutting the connection.
        logon_delay_s: Before each logon is judged.
        silent: Requests are read and never answered.
        delay_s: Before each answer.
        drip_s: Each answer goes out byte by byte, over so long.
        service: What becomes of each request: ``stopped`` is 404 (http.sys has nobody behind it), ``starting`` 503.
        clock_ahead_s: How far the host's clock is ahead of ours; negative: behind.
        script_delay_s: How long each script takes.
        stdout: What the next scripts write instead of their envelope.
    """

    hitches: list[Hitch] = field(factory=list)
    idle_close_s: float = 120.0
    reset_connections: int = 0
    drop_before: list[str] = field(factory=list)
    drop_after: list[str] = field(factory=list)
    refuse_with: dict[str, int] = field(factory=dict)
    forget_logon: bool = False
    refuse_logons: bool = False
    drop_logons: int = 0
    logon_delay_s: float = 0.0
    silent: bool = False
    delay_s: float = 0.0
    drip_s: float = 0.0
    service: Literal["running", "starting", "stopped"] = "running"
    clock_ahead_s: float = 0.0
    script_delay_s: float = 0.0
    stdout: bytes | None = None

    def take(self, operation: str) -> Hitch | None:
        """What goes wrong at this operation, counted as happened; None when nothing does."""
        for hitch in list(self.hitches):
            if hitch.at != operation and (hitch.at != ANY or operation in (LOGON, IDLE)):
                continue
            if hitch.skip > 0:
                hitch.skip -= 1
                continue
            if hitch.times is not None:
                hitch.times -= 1
                if hitch.times <= 0:
                    self.hitches.remove(hitch)
            return hitch
        return self._named(operation)

    def _named(self, operation: str) -> Hitch | None:
        if operation in self.drop_before:
            self.drop_before.remove(operation)
            return Hitch("cut")
        if operation in self.refuse_with:
            return Hitch("fault", code=self.refuse_with.pop(operation))
        if operation in self.drop_after:
            self.drop_after.remove(operation)
            return Hitch("lost")
        return None

    def quiet_s(self) -> float:
        """How long the next silence of a connection may last."""
        return min([self.idle_close_s, *(hitch.seconds for hitch in self.hitches if hitch.at == IDLE)])


@frozen
class Trouble:
    """A trouble that a host can have.

    Attributes:
        name: Its name in :data:`TROUBLES`.
        does: What happens, in words.
        source: Where we know it from.
        hitch: What one occurrence is.
        lasting: Makes a host have it for good, where that is more than the hitch at each operation.
    """

    name: str
    does: str
    source: Source
    hitch: Hitch
    lasting: Callable[[WsmanHost], None] | None = None

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


def _setting(**values: object) -> Callable[[WsmanHost], None]:
    def lasting(host: WsmanHost) -> None:
        for name, value in values.items():
            setattr(host.faults, name, value)

    return lasting


def _quota(**values: object) -> Callable[[WsmanHost], None]:
    def lasting(host: WsmanHost) -> None:
        for name, value in values.items():
            setattr(host.shells.quotas, name, value)

    return lasting


_ALL = (
    # Time.
    Trouble(
        "slow",
        "each request is left lying for a while before it is carried out",
        "inferred",
        Hitch("late"),
    ),
    Trouble(
        "slow-logon",
        "the proof of the password is left lying for a while before it is judged",
        "inferred",
        Hitch("late", LOGON),
        _setting(logon_delay_s=0.3),
    ),
    Trouble("drip", "answers go out byte by byte", "inferred", Hitch("drip"), _setting(drip_s=0.3)),
    Trouble(
        "idle-close",
        "a connection that is quiet for a moment is closed, and the logon with it",
        "public thread",
        Hitch("cut", IDLE, seconds=0.2),
        _setting(idle_close_s=0.2),
    ),
    Trouble("silent", "requests are read and never answered", "inferred", Hitch("silent"), _setting(silent=True)),
    # Connections.
    Trouble("cut", "the connection is cut, the request is not carried out", "public thread", Hitch("cut")),
    Trouble("lost-answer", "the request is carried out; the connection is cut", "public thread", Hitch("lost")),
    Trouble(
        "drop-mid-body",
        "the request is carried out; the connection is cut in the middle of the answer",
        "public thread",
        Hitch("mid-body"),
    ),
    Trouble(
        "half-close",
        "the request is carried out; instead of answering the host shuts its sending side and reads on",
        "inferred",
        Hitch("half-close"),
    ),
    Trouble(
        "half-close-head",
        "the request is carried out; the host answers with a head alone, shuts its sending side and reads on",
        "inferred",
        Hitch("half-close-head"),
    ),
    Trouble(
        "restart",
        "WinRM restarts: all connections are cut, all shells are gone, for a while it answers 503",
        "public thread",
        Hitch("restart"),
        _setting(service="starting"),
    ),
    Trouble(
        "stopped",
        "http.sys has no listener behind it and answers 404",
        "public thread",
        Hitch("status", code=404),
        _setting(service="stopped"),
    ),
    # Nonsense.
    Trouble("not-http", "the answer is no HTTP", "inferred", Hitch("not-http")),
    Trouble(
        "not-soap", "the answer is a page of HTML, as a proxy or another server gives", "inferred", Hitch("not-soap")
    ),
    Trouble(
        "not-wsman", "the answer is an envelope of SOAP with nothing of WS-Man in it", "inferred", Hitch("not-wsman")
    ),
    Trouble(
        "damaged",
        "a byte of the answer is another one, in the sealed part where it is sealed",
        "inferred",
        Hitch("damaged"),
    ),
    Trouble(
        "cut-base64", "the output in an answer is base64 that was cut off", "inferred", Hitch("cut-base64", "Receive")
    ),
    Trouble("other-answer", "the answer belongs to another request", "inferred", Hitch("other-answer")),
    Trouble(
        "unsealed",
        "an answer over HTTP comes in clear, as one who stands between would write it",
        "inferred",
        Hitch("unsealed"),
    ),
    # Logons.
    Trouble(
        "refuse-logons",
        "every logon is refused, with the right password too, and not counted: a broken trust",
        "inferred",
        Hitch("status", LOGON, code=401),
        _setting(refuse_logons=True),
    ),
    Trouble("drop-logon", "a logon is judged, and the connection cut", "inferred", Hitch("lost", LOGON)),
    Trouble(
        "forgotten-logon",
        "a request on a connection that was logged on gets 401",
        "public thread",
        Hitch("status", code=401),
    ),
    Trouble(
        "bad-request",
        "a request on a connection that was logged on gets 400",
        "public thread",
        Hitch("status", code=400),
    ),
    # Limits.
    Trouble(
        "too-large",
        "a request gets 413",
        "public thread",
        Hitch("status", "Send", code=413),
        _quota(max_envelope_bytes=2048),
    ),
    Trouble(
        "no-shell-left",
        "the user has all the shells that are allowed",
        "public thread",
        Hitch("fault", "Create", code=MAX_SHELLS),
        _quota(shells_per_user=0),
    ),
    Trouble(
        "no-operation-left",
        "the user has had all the operations that are allowed",
        "public thread",
        Hitch("fault", "Command", code=MAX_OPERATIONS),
        _quota(operations_per_user=0),
    ),
    Trouble(
        "no-process-left",
        "the shell has all the processes that are allowed",
        "inferred",
        Hitch("fault", "Command", code=NOT_ENOUGH_QUOTA),
        _quota(processes_per_shell=0),
    ),
    Trouble(
        "too-many-users",
        "as many users as are allowed have shells",
        "wsmerror.h",
        Hitch("fault", "Create", code=MAX_SHELL_USERS),
        _quota(users=0),
    ),
    Trouble(
        "shell-gone",
        "the shell has ended by itself: idle for too long, or at the end of its time",
        "recorded",
        Hitch("fault", "Command", code=INVALID_SELECTORS),
        _quota(shell_run_s=0.0),
    ),
    Trouble(
        "no-right",
        "the account is let in and gets no shell",
        "public thread",
        Hitch("fault", "Create", code=ACCESS_DENIED),
    ),
    Trouble(
        "stdin-closed",
        "the process has ended before it read its stdin",
        "public thread",
        Hitch("fault", "Send", code=STDIN_CLOSED),
    ),
    Trouble(
        "no-powershell",
        "there is no such program",
        "recorded",
        Hitch("fault", "Command", code=FILE_NOT_FOUND),
    ),
)

TROUBLES: Mapping[str, Trouble] = MappingProxyType({trouble.name: trouble for trouble in _ALL})
