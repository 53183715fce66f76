"""Thousands of TCP connects under way at once: one thread, one epoll, and nothing left over when it is done.

The thread begins with the first job and ends with the last one. Each connect is one non-blocking socket in
``select.epoll`` and one entry in a queue of deadlines; what is found out is handed to the caller's event loop in
batches. A job that is cancelled loses its sockets at once.

A door that stood open is closed with a reset. Nothing was sent over the connection, so nothing is lost by it; neither
side keeps a closed connection for minutes, and the small firewalls in between forget it at once (an ordinary close
leaves an entry there, and one of ours in TIME_WAIT, for each open door of a scan).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import os
import resource
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen

DoorState = Literal["open", "refused", "silent", "failed", "excluded"]
Place = tuple[str, int]

_FLAGS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_RESET = struct.pack("ii", 1, 0)
# What our own side lacks for a while: it says nothing of the host, and the connect is begun again.
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN})
# What our own side lacks for good: no right, no such kind of address, no way there.
_OURS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)
# Somebody took the trouble to turn us away.
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
# As many connects are begun, and as many events read, before the other is looked at.
_BURST = 256
_EVENTS = 1024
_HAND_OVER_S = 0.02
_PAUSE_S = 0.05
_SPARE_DESCRIPTORS = 128
_UNLIMITED = 1024


@frozen
class Door:
    """What one connect found.

    Attributes:
        state: ``silent``: nobody answered, or a router said that nobody is there. ``failed`` is our own side's trouble
            and says nothing of the host. ``excluded``: nothing was sent.
        detail: The system's name of what it said, such as ``EHOSTUNREACH``; empty where the state says it all.
    """

    address: str
    port: int
    state: DoorState
    detail: str = ""


class Throttle:
    """So many a second for all who share it, whatever their thread.

    Whoever comes late by less than one interval is not put off for it, so that the rate is kept; idle time is not
    saved up beyond that.
    """

    def __init__(self, per_second: float | None) -> None:
        self._interval_s = 1 / per_second if per_second else 0.0
        self._next_at = 0.0
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """Take a turn and return 0, or say how many seconds it is too early for one."""
        if not self._interval_s:
            return 0.0
        with self._lock:
            if self._next_at > now:
                return self._next_at - now
            self._next_at = max(self._next_at, now - self._interval_s) + self._interval_s
            return 0.0


class Job:
    """Doors to knock at, and what was found. Made and read in an event loop; the thread fills it."""

    __slots__ = ("arrived", "is_cancelled", "left", "loop", "timeout_s", "todo", "wake")

    def __init__(self, places: Sequence[Place], timeout_s: float) -> None:
        self.todo = deque(places)
        self.timeout_s = timeout_s
        self.loop = asyncio.get_running_loop()
        self.left = len(places)
        self.arrived: deque[Door] = deque()
        self.wake = asyncio.Event()
        self.is_cancelled = False


class _Knock:
    """A connect under way."""

    __slots__ = ("deadline", "job", "place", "socket")

    def __init__(self, knocker: socket.SocketType, job: Job, place: Place, deadline: float) -> None:
        self.socket = knocker
        self.job = job
        self.place = place
        self.deadline = deadline


def room_for_sockets(soft_limit: int) -> int:
    """How many of the descriptors that a process may have are ours: three quarters, and some are always left.

    Args:
        soft_limit: Of RLIMIT_NOFILE; may be ``resource.RLIM_INFINITY``.
    """
    if soft_limit == resource.RLIM_INFINITY:
        soft_limit = _UNLIMITED
    return max(1, soft_limit - max(_SPARE_DESCRIPTORS, soft_limit // 4))


class ConnectLoop:
    """The thread that connects.

    Args:
        throttle: The pace.
        concurrency: Connects under way at once; None: as many as the process may have descriptors, with a margin.
    """

    def __init__(self, throttle: Throttle, concurrency: int | None = None) -> None:
        self._throttle = throttle
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._new: list[Job] = []
        self._cancelled: list[tuple[Job, Callable[[], None]]] = []

    def submit(self, job: Job) -> None:
        """Begin a job; its doors arrive in its loop. Where no thread can be had, each of them has failed."""
        self._tell(new=job)

    async def cancel(self, job: Job) -> None:
        """End a job; when this returns its sockets are closed. What was found until then has arrived."""
        done = asyncio.Event()
        self._tell(cancelled=(job, done.set))
        await done.wait()

    def _tell(self, new: Job | None = None, cancelled: tuple[Job, Callable[[], None]] | None = None) -> None:
        with self._lock:
            if new is not None:
                self._new.append(new)
            if cancelled is not None:
                self._cancelled.append(cancelled)
            if self._thread is not None:
                if self._wake_fd >= 0:
                    os.eventfd_write(self._wake_fd, 1)
                return
            self._thread = threading.Thread(target=_Round(self).run, name="msp-probe", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
            else:
                return
        _Round(self).give_up("EAGAIN")

    # What follows is the thread's.

    @property
    def throttle(self) -> Throttle:
        """The pace."""
        return self._throttle

    def room(self) -> int:
        """How many sockets may be open at once."""
        room = room_for_sockets(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return room if self._concurrency is None else max(1, min(self._concurrency, room))

    def open_mailbox(self) -> int:
        """Where the thread is woken; the descriptor of an eventfd."""
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with self._lock:
            self._wake_fd = descriptor
        return descriptor

    def read_mailbox(self, *, is_idle: bool) -> tuple[list[Job], list[tuple[Job, Callable[[], None]]]] | None:
        """What was told since; None when there is nothing and the thread, being idle, has ended."""
        with self._lock:
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
            if is_idle and not new and not cancelled:
                self._thread = None
                if self._wake_fd >= 0:
                    os.close(self._wake_fd)
                    self._wake_fd = -1
                return None
            return new, cancelled


class _Round:
    """One life of the thread: from the first job until none is left."""

    def __init__(self, owner: ConnectLoop) -> None:
        self._owner = owner
        self._throttle = owner.throttle
        self._jobs: deque[Job] = deque()  # those with something to begin, in turn
        self._knocks: dict[int, _Knock] = {}
        # A queue for each patience: in each of them who came first ends first.
        self._deadlines: dict[float, deque[tuple[float, int]]] = {}
        self._later: list[tuple[float, int, Job, Place, float]] = []
        self._serial = 0
        self._most = self._room = owner.room()
        self._paused_until = 0.0
        self._short_since: float | None = None
        self._found: list[tuple[Job, Door]] = []
        self._told: list[tuple[Job, Callable[[], None]]] = []
        self._found_at = 0.0
        self._is_due = False

    def run(self) -> None:
        """Work until there is nothing left to do. Whatever happens, everybody who waits gets an answer."""
        try:
            wake_fd = self._owner.open_mailbox()
            with select.epoll() as poll:
                poll.register(wake_fd, select.EPOLLIN)
                self._work(poll, wake_fd)
        except OSError as error:
            self.give_up(errno.errorcode.get(error.errno or 0, "unknown"))
        except Exception as error:  # noqa: BLE001 (a defect of ours must not leave them waiting for ever)
            self.give_up(type(error).__name__)

    def _work(self, poll: select.epoll, wake_fd: int) -> None:
        while (mail := self._owner.read_mailbox(is_idle=self._is_idle())) is not None:
            self._read(*mail)
            now = time.monotonic()
            wait_s = self._begin(poll, now)
            is_full = self._collect(poll, wake_fd, self._patience(now, wait_s))
            if not is_full:
                # What was due before the events were read, not after: an answer that came while we were busy is no
                # silence.
                self._expire(now)
            self._hand_over(time.monotonic())

    def give_up(self, detail: str) -> None:
        """Without a thread, or without its epoll, nothing can be found out: all doors have failed."""
        while (mail := self._owner.read_mailbox(is_idle=True)) is not None or not self._is_idle():
            if mail is not None:
                self._read(*mail)
            left = [(job, place) for job in self._jobs for place in job.todo]
            left += [(knock.job, knock.place) for knock in self._knocks.values()]
            left += [(job, place) for _, _, job, place, _ in self._later]
            for knock in self._knocks.values():
                knock.socket.close()
            self._jobs.clear()
            self._knocks.clear()
            self._later.clear()
            for job, place in left:
                self._finish(job, place, "failed", detail)
            self._is_due = True
            self._hand_over(time.monotonic())

    def _is_idle(self) -> bool:
        return not (self._jobs or self._knocks or self._later or self._found or self._told)

    def _read(self, new: list[Job], cancelled: list[tuple[Job, Callable[[], None]]]) -> None:
        self._jobs.extend(job for job in new if job.todo)
        if not cancelled:
            return
        for job, _ in cancelled:
            job.is_cancelled = True
        self._told += cancelled
        self._is_due = True
        self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        self._jobs = deque(job for job in self._jobs if not job.is_cancelled)
        self._later = [entry for entry in self._later if not entry[2].is_cancelled]
        heapq.heapify(self._later)
        for descriptor in [number for number, knock in self._knocks.items() if knock.job.is_cancelled]:
            self._knocks.pop(descriptor).socket.close()

    def _patience(self, now: float, wait_s: float | None) -> float:
        """How long to wait for events; -1 is for ever."""
        ends = [] if wait_s is None else [now + wait_s]
        ends += [queue[0][0] for queue in self._deadlines.values()]
        if self._later:
            ends.append(self._later[0][0])
        if self._found or self._told:
            ends.append(now if self._is_due else self._found_at + _HAND_OVER_S)
        return max(0.0, min(ends) - now) if ends else -1

    def _begin(self, poll: select.epoll, now: float) -> float | None:
        """Begin what may begin now; seconds until the next one may, or None when another event comes first."""
        while self._later and self._later[0][0] <= now:
            _, _, job, place, first_at = heapq.heappop(self._later)
            self._connect(poll, job, place, now, first_at)
        if self._paused_until > now:
            return self._paused_until - now if self._jobs else None
        for _ in range(_BURST):
            if not self._jobs or len(self._knocks) >= self._room:
                return None
            wait_s = self._throttle.take(now)
            if wait_s:
                return wait_s
            # Each job in turn: two doors of one host do not wait for a thousand of a sweep.
            job = self._jobs.popleft()
            place = job.todo.popleft()
            if job.todo:
                self._jobs.append(job)
            self._connect(poll, job, place, now, now)
            if self._paused_until > now:
                return self._paused_until - now
        return 0.0

    def _connect(self, poll: select.epoll, job: Job, place: Place, now: float, first_at: float) -> None:
        knocker = None
        try:
            # The bare socket: twice as quick to make as its Python child.
            knocker = socket.SocketType(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, _FLAGS)
            code = knocker.connect_ex(place)
        except OSError as error:
            code = error.errno or errno.EINVAL
        if knocker is not None and code == errno.EINPROGRESS:
            descriptor = knocker.fileno()
            deadline = now + job.timeout_s
            self._knocks[descriptor] = _Knock(knocker, job, place, deadline)
            # Once only: should a child process hold a copy of the socket, its closing is not the end of its events.
            poll.register(descriptor, select.EPOLLOUT | select.EPOLLONESHOT)
            queue = self._deadlines.get(job.timeout_s)
            if queue is None:
                queue = self._deadlines[job.timeout_s] = deque()
            queue.append((deadline, descriptor))
        elif code in _SHORTAGE:
            if knocker is not None:
                knocker.close()
            self._wait_for_better_times(job, place, now, first_at, code)
            return
        else:
            self._close(knocker, job, place, code, ours=code in _OURS)
        self._short_since = None
        self._room = min(self._most, self._room + 1)

    def _wait_for_better_times(self, job: Job, place: Place, now: float, first_at: float, code: int) -> None:
        """Something of ours ran out: fewer at once, and this one again in a moment; but not for ever."""
        if self._short_since is None:
            self._short_since = now
        if now - min(first_at, self._short_since) >= job.timeout_s:
            self._finish(job, place, "failed", errno.errorcode[code])
            return
        self._serial += 1
        heapq.heappush(self._later, (now + _PAUSE_S, self._serial, job, place, first_at))
        if code != errno.EADDRNOTAVAIL:  # that one may be the address's own: others need not wait for it
            self._room = max(1, len(self._knocks))
            self._paused_until = now + _PAUSE_S

    def _collect(self, poll: select.epoll, wake_fd: int, patience_s: float) -> bool:
        """Read what has come; True when there may be more."""
        events = poll.poll(patience_s, _EVENTS)
        for descriptor, event in events:
            if descriptor == wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(wake_fd)
                continue
            knock = self._knocks.pop(descriptor, None)
            if knock is not None:
                is_broken = event & (select.EPOLLERR | select.EPOLLHUP)
                code = knock.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if is_broken else 0
                self._close(knock.socket, knock.job, knock.place, code)
        return len(events) == _EVENTS

    def _close(
        self, knocker: socket.SocketType | None, job: Job, place: Place, code: int, *, ours: bool = False
    ) -> None:
        if code == 0 and knocker is not None:
            knocker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            state: DoorState = "open"
        elif code in _REFUSED:
            state = "refused"
        else:
            state = "failed" if ours else "silent"
        if knocker is not None:
            knocker.close()
        detail = "" if code in (0, errno.ECONNREFUSED) else errno.errorcode.get(code, "unknown")
        self._finish(job, place, state, detail)

    def _expire(self, now: float) -> None:
        for timeout_s, queue in tuple(self._deadlines.items()):
            while queue and queue[0][0] <= now:
                deadline, descriptor = queue.popleft()
                knock = self._knocks.get(descriptor)
                # The number may belong to a later socket by now.
                if knock is not None and knock.deadline <= deadline:
                    del self._knocks[descriptor]
                    knock.socket.close()
                    self._finish(knock.job, knock.place, "silent", "")
            if not queue:
                del self._deadlines[timeout_s]

    def _finish(self, job: Job, place: Place, state: DoorState, detail: str) -> None:
        if not self._found:
            self._found_at = time.monotonic()
        self._found.append((job, Door(place[0], place[1], state, detail)))
        job.left -= 1
        if not job.left:
            self._is_due = True

    def _hand_over(self, now: float) -> None:
        if not (self._is_due or (self._found and now - self._found_at >= _HAND_OVER_S)):
            return
        found, self._found = self._found, []
        told, self._told = self._told, []
        self._is_due = False
        for loop in {job.loop for job, _ in (*found, *told)}:
            mine = [entry for entry in found if entry[0].loop is loop]
            calls = [call for job, call in told if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_receive, mine, calls)
            except RuntimeError:
                # The loop was closed: nobody waits for the rest of its jobs.
                self._abandon(loop)

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs = {*self._jobs, *(knock.job for knock in self._knocks.values()), *(entry[2] for entry in self._later)}
        for job in jobs:
            job.is_cancelled = job.is_cancelled or job.loop is loop
        self._drop_cancelled()


def _receive(found: Sequence[tuple[Job, Door]], calls: Sequence[Callable[[], None]]) -> None:
    """In the event loop: what was found goes to whoever waits for it."""
    for job, door in found:
        job.arrived.append(door)
        job.wake.set()
    for call in calls:
        call()
