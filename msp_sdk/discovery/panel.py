"""Several DNS servers asked side by side: a silent one never costs the time of the others.

Which server knows a domain is not known before it is asked, and a provider's router may lie. So every server that
says something is heard, and the caller judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from attrs import frozen

from msp_sdk.discovery import evidence as kinds
from msp_sdk.errors import DiscoveryError
from msp_sdk.models.domain import Evidence
from msp_sdk.network.resolver import Resolver, render_server

T = TypeVar("T")
# Once one server has said something, the others have so long to say otherwise.
AFTER_AN_ANSWER_S = 0.2
# Once one server has said that there is nothing, the silent ones have so long to know better.
AFTER_NOTHING_S = 1.2


@frozen
class Heard(Generic[T]):
    """What the servers said.

    Attributes:
        answers: Who said something, in the order of the servers, and what.
        nothing: Who said that there is nothing.
        failed: Who failed or was silent, and how.
        late: Who was passed over because others had said something; among the failed too.
    """

    answers: tuple[tuple[Resolver, T], ...]
    nothing: tuple[Resolver, ...]
    failed: tuple[tuple[Resolver, DiscoveryError], ...]
    late: tuple[Resolver, ...] = ()

    @property
    def first(self) -> T | None:
        """The answer of the first server that has one."""
        return self.answers[0][1] if self.answers else None


async def hear(
    resolvers: Sequence[Resolver], question: Callable[[Resolver], Awaitable[T]], *, is_patient: bool = False
) -> Heard[T]:
    """Ask all of them at once; an empty answer is nothing.

    Args:
        resolvers: Whom.
        question: What.
        is_patient: Wait for each to its own deadline; otherwise those that are late are passed over.
    """
    tasks = [asyncio.ensure_future(question(resolver)) for resolver in resolvers]
    pending = set(tasks)
    loop = asyncio.get_running_loop()
    until: float | None = None
    try:
        while pending:
            wait_s = None if until is None else max(0.0, until - loop.time())
            done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                if is_patient or task.exception() is not None:
                    continue
                patience_s = AFTER_AN_ANSWER_S if task.result() else AFTER_NOTHING_S
                until = min(until or loop.time() + patience_s, loop.time() + patience_s)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return _sort(resolvers, tasks)


def _sort(resolvers: Sequence[Resolver], tasks: Sequence[asyncio.Future[T]]) -> Heard[T]:
    answers: list[tuple[Resolver, T]] = []
    nothing: list[Resolver] = []
    failed: list[tuple[Resolver, DiscoveryError]] = []
    late: list[Resolver] = []
    for resolver, task in zip(resolvers, tasks, strict=True):
        if task.cancelled():
            silent = f"the DNS servers {names_of(resolver)} did not answer in time."
            failed.append((resolver, DiscoveryError(silent, code="dns-no-answer")))
            late.append(resolver)
            continue
        error = task.exception()
        if isinstance(error, DiscoveryError):
            failed.append((resolver, error))
        elif error is not None:
            raise error
        elif task.result():
            answers.append((resolver, task.result()))
        else:
            nothing.append(resolver)
    return Heard(tuple(answers), tuple(nothing), tuple(failed), tuple(late))


def failure_of(resolver: Resolver, error: DiscoveryError) -> Evidence:
    """Evidence of a failure. A server that refuses is there, and has nothing to say to us: that is an answer."""
    kind = kinds.DNS_REFUSED if refuses(error) else kinds.DNS_FAILED
    return Evidence(kind, names_of(resolver), error.detail)


def refuses(error: DiscoveryError) -> bool:
    """True when all servers refused to answer."""
    return error.code == "dns-refused"


def names_of(resolver: Resolver) -> str:
    """Its servers, for evidence."""
    return ", ".join(map(render_server, resolver.servers))
