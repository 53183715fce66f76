"""Bounded pools for what is only synchronous (ldap3, pywinrm): the loop never waits for it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class ThreadPool:
    """At most ``size`` threads under one name.

    A cancelled caller stops waiting; the call in its thread goes on to its own deadline, so give it one.
    """

    def __init__(self, name: str, size: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix=f"msp-{name}")

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call ``function`` in a thread and return what it returns, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, functools.partial(function, *args, **kwargs)
        )

    def close(self) -> None:
        """Take no more calls; the running ones end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)
