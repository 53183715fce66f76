"""What goes wrong at a WinRM endpoint, for as long as it is asked for or a number of times. Change it while it runs.

:mod:`msp_sdk.testing.wsman_faults` has a name for each of it.

Example:
    >>> faults = Faults(hitches=[Hitch("late", "Receive", seconds=0.5, skip=1)])
    >>> [hitch is not None for hitch in map(faults.take, ("Receive", "Receive", "Receive"))]
    [False, True, False]
"""

from __future__ import annotations

from typing import Literal

from attrs import field, mutable

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
        way: What happens. ``late``, ``silent``, ``cut``, ``restart``, ``fault`` and ``status`` come before the request
            is carried out; the others are about the answer, and of them only ``lost`` is known at ``Logon``.
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
