"""The stand-ins as fixtures of pytest.

Ask for them in ``conftest.py``::

    pytest_plugins = ["msp_sdk.testing.pytest_plugin"]

* ``msp_estate`` starts whole sites: ``estate = msp_estate(seed=7, computers=20, faults={"silent": 2})``.
* ``msp_hosts`` starts hosts of one small domain, ``msp_host`` is one of them, ``msp_lab`` has the rest of that domain:
  accounts, a ledger, a CA, targets, shells.
* ``msp_credential`` is an account of that domain which a controller has already taken.

What was started runs in a thread of its own, so that tests may be plain functions or coroutines of any kind, and ends
with the test. A test **fails at its end** when its program did what must never be done: an envelope in clear, a script
that nobody has registered, a password that is shown again after it was refused (:mod:`msp_sdk.testing.violations`). A
test that does so on purpose clears ``host.machine.violations`` or the account's ``attempts``.

pytest is no dependency of the SDK; nothing else imports this file.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from msp_sdk.models.credential import Credential
from msp_sdk.testing.estate import Estate
from msp_sdk.testing.estate_faults import Wanted
from msp_sdk.testing.estate_running import RunningEstate
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.violations import violations_of
from msp_sdk.testing.wsman import HostsThread, WsmanHost

__all__ = ["EstateStarter", "HostStarter", "msp_credential", "msp_estate", "msp_host", "msp_hosts", "msp_lab"]

T = TypeVar("T")
_PATIENCE_S = 60.0


class EstateStarter:
    """Starts estates in an event loop and thread of their own.

    Attributes:
        running: What was started, in order.
    """

    def __init__(self) -> None:
        self.running: list[RunningEstate] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="msp-testing-estates", daemon=True)
        self._estates: list[Estate] = []
        self._thread.start()

    def __call__(self, seed: int = 0, *, computers: int = 16, faults: Wanted = "none", **more: Any) -> RunningEstate:
        """Start a site, see :meth:`msp_sdk.testing.Estate.build`; it ends with the test.

        Raises:
            ConfigError: There is no such site.
        """
        estate = Estate.build(seed, computers=computers, faults=faults, **more)
        running = self.call(estate.__aenter__())
        self._estates.append(estate)
        self.running.append(running)
        return running

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of an estate, such as ``estate.join("RECEPTION-9")``, in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    def close(self) -> None:
        """End all estates, and the thread."""
        for estate in reversed(self._estates):
            self.call(estate.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()


class HostStarter:
    """Starts hosts of a lab.

    Attributes:
        running: What was started, in order.
    """

    def __init__(self, lab: HostLab) -> None:
        self.running: list[WsmanHost] = []
        self._lab = lab
        self._stack = ExitStack()

    def __call__(self, name: str = "SRV1", **how: Any) -> WsmanHost:
        """Start a host, see :meth:`msp_sdk.testing.host_lab.HostLab.host`; it ends with the test."""
        host = self._lab.host(name, **how)
        self._stack.enter_context(HostsThread([host]))
        self.running.append(host)
        return host

    def close(self) -> None:
        """End all hosts."""
        self._stack.close()


@pytest.fixture
def msp_estate() -> Iterator[EstateStarter]:
    """Starts whole sites."""
    starter = EstateStarter()
    try:
        yield starter
    finally:
        starter.close()
    _judge([violation for estate in starter.running for violation in estate.violations()])


@pytest.fixture
def msp_lab(tmp_path: Path) -> HostLab:
    """A small domain: accounts, a ledger, a CA, targets, shells. Its hosts are started by ``msp_hosts``."""
    return HostLab(tmp_path)


@pytest.fixture
def msp_hosts(msp_lab: HostLab) -> Iterator[HostStarter]:
    """Starts hosts of the domain of ``msp_lab``."""
    starter = HostStarter(msp_lab)
    try:
        yield starter
    finally:
        starter.close()
    _judge(violations_of(starter.running, msp_lab.accounts))


@pytest.fixture
def msp_host(msp_hosts: HostStarter) -> WsmanHost:
    """A running host, ``SRV1``, with WinRM over HTTP and HTTPS."""
    return msp_hosts()


@pytest.fixture
def msp_credential(msp_lab: HostLab) -> Credential:
    """The domain's service account, an administrator of each host, which a controller has already taken."""
    credential = msp_lab.domain_credential()
    msp_lab.prove(credential)
    return credential


def _judge(violations: list[str] | tuple[str, ...]) -> None:
    if violations:
        pytest.fail("what must never happen to a host or an account has happened:\n" + "\n".join(violations), False)
