"""One account's Kerberos worker as threads share it, and the security contexts that it is making for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msp_sdk.network.kdcs import Kdc
from msp_sdk.network.kerberos_process import KerberosFailure, KerberosProcess
from msp_sdk.network.turns import cancelled_error

# How soon a cancelled one that waits for the worker notices it.
_LOOK_S = 0.2


class ServiceTicket:
    """A security context with one host, on its way: :attr:`token` goes to the host, its answer to :meth:`finish`."""

    def __init__(self, account: Account, worker: KerberosProcess, context_id: int, service: str, token: bytes) -> None:
        self._account = account
        self._worker = worker
        self._id: int | None = context_id
        self.service = service
        self.token = token

    def finish(self, token: bytes, deadline_s: float) -> bytes | KerberosFailure:
        """The exported security context, once the host has proven itself by its answer. Called once."""
        context_id, self._id = self._id, None
        assert context_id is not None  # noqa: S101 (called once)
        with self._account.lock:
            stepped = self._worker.step(context_id, token, deadline_s)
        if isinstance(stepped, KerberosFailure):
            return stepped
        if stepped.context is None:
            return KerberosFailure("service", None, key_used=False, took_password=True)
        return stepped.context

    @property
    def is_lost(self) -> bool:
        """True when the worker that made it has ended."""
        return not self._worker.alive

    def drop(self) -> None:
        """Go on no more. May be repeated, and called after :meth:`finish`."""
        context_id, self._id = self._id, None
        if context_id is not None:
            with self._account.lock:
                self._worker.drop(context_id)


class Account:
    """One credential version's worker. Whoever uses it holds ``lock``.

    Args:
        idle_s: After so long without use the worker ends.
        clock: Seconds that only rise.
    """

    def __init__(self, idle_s: float, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self._clock = clock
        self.kdc: Kdc | None = None
        self._worker: KerberosProcess | None = None
        self._idle_s = idle_s
        self._good_until = 0.0
        self._used_at = 0.0
        self._timer: threading.Timer | None = None

    @contextmanager
    def held(self, cancelled: threading.Event) -> Iterator[None]:
        """Hold the lock; whoever is cancelled waits for it no longer.

        Raises:
            UnreachableError: It was cancelled.
        """
        while not self.lock.acquire(timeout=_LOOK_S):
            if cancelled.is_set():
                raise cancelled_error()
        try:
            yield
        finally:
            self.lock.release()

    @property
    def worker(self) -> KerberosProcess | None:
        """The worker while it lives and its ticket is good."""
        worker = self._worker
        if worker is not None and worker.alive and self._clock() < self._good_until:
            return worker
        return None

    def keep(self, worker: KerberosProcess, kdc: Kdc, good_for_s: float) -> None:
        """Take a worker that has its ticket."""
        self._worker, self.kdc = worker, kdc
        self._good_until = self._clock() + good_for_s
        self.touch()
        self._watch(self._idle_s)

    def touch(self) -> None:
        """It is being used."""
        self._used_at = self._clock()

    def end(self) -> None:
        """End the worker, if there is one."""
        worker, self._worker = self._worker, None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if worker is not None:
            worker.close()

    def _watch(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._look)
        self._timer.daemon = True
        self._timer.name = "msp-kerberos-idle"
        self._timer.start()

    def _look(self) -> None:
        with self.lock:
            if self._worker is None or threading.current_thread() is not self._timer:
                return
            left_s = self._used_at + self._idle_s - self._clock()
            if left_s <= 0:
                self.end()
            else:
                self._watch(left_s)
