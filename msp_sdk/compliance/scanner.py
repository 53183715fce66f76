"""Run the checks on hosts; one result per host and check, as they come (lesson 52: keyed by both).

A host that cannot be asked has results too: ``error``, with the reason as evidence, so that a scan comes to its end.

Example:
    >>> async def scan(shells, credentials, targets):
    ...     async for result in ComplianceScanner(shell=shells, credentials=credentials).scan(targets):
    ...         print(result.hostname, result.check, result.status)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

from attrs import frozen

from msp_sdk.compliance.checks import CHECKS, Check, Finding
from msp_sdk.errors import MspError
from msp_sdk.models.compliance import CheckResult
from msp_sdk.models.credential import Credential, CredentialSource
from msp_sdk.models.reason import reason_of, remedy_of
from msp_sdk.models.target import Target
from msp_sdk.windows.doors import out_of_reach
from msp_sdk.windows.scripts import load
from msp_sdk.windows.shell import WindowsShell, WindowsShells


@frozen
class ScanOptions:
    """How a scan behaves.

    Attributes:
        concurrency: Hosts asked at once.
        deadline_s: For each check on each host.
        checks: Which checks run, in this order.
    """

    concurrency: int = 32
    deadline_s: float = 60.0
    checks: tuple[Check, ...] = CHECKS


class ComplianceScanner:
    """Runs checks on hosts. It changes nothing there.

    Args:
        shell: Opens shells on hosts.
        credentials: Gives the credential of a target at the moment of use.
        options: Bounds and checks.
        clock: The time, for results; aware.
    """

    def __init__(
        self,
        *,
        shell: WindowsShells,
        credentials: CredentialSource,
        options: ScanOptions | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._shell = shell
        self._credentials = credentials
        self._options = options or ScanOptions()
        self._clock = clock

    async def scan(self, targets: Sequence[Target]) -> AsyncIterator[CheckResult]:
        """Check each host; yields a result per host and check, a host's results together.

        Args:
            targets: May be empty. One that is known to be out of reach is not asked, and its results say so.
        """
        pending = iter(targets)
        found: asyncio.Queue[tuple[CheckResult, ...] | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for target in pending:
                    await found.put(await self._scan_one(target))
            finally:
                found.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(min(self._options.concurrency, len(targets)))]
        try:
            running = len(workers)
            while running:
                results = await found.get()
                if results is None:
                    running -= 1
                    continue
                for result in results:
                    yield result
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _scan_one(self, target: Target) -> tuple[CheckResult, ...]:
        if target.reachable is False:
            code = target.unreachable_reason or "no-answer"
            return self._all(target, _trouble(code, out_of_reach(target), remedy_of(code)))
        credential = self._credential(target)
        if credential is None:
            code = "no-credential"
            return self._all(target, _trouble(code, "no credential is valid here.", remedy_of(code)))
        results: list[CheckResult] = []
        try:
            async with self._shell.open(target, credential) as shell:
                for check in self._options.checks:
                    finding = await self._run(shell, check, target)
                    results.append(self._result(target, check, finding))
        except MspError as error:
            known = reason_of(error)
            return self._rest(target, results, _trouble(known.code, error.detail, known.remedy))
        except Exception as error:  # noqa: BLE001 (one host's trouble never stops the others)
            # The text of a foreign exception may hold anything; its kind is enough to find the place.
            detail = f"an unforeseen {type(error).__name__}."
            return self._rest(target, results, _trouble("internal", detail, remedy_of("internal")))
        return tuple(results)

    async def _run(self, shell: WindowsShell, check: Check, target: Target) -> Finding:
        try:
            answer = await shell.run(load(check.script), {}, deadline_s=self._options.deadline_s)
        except MspError as error:
            if error.code != "script-failed":
                raise
            # This check has no answer; the next one may.
            return _trouble(error.code, error.detail, remedy_of(error.code))
        return check.judge(answer.value, target.role)

    def _credential(self, target: Target) -> Credential | None:
        return self._credentials.credential(target.credential_id) if target.credential_id else None

    def _all(self, target: Target, finding: Finding) -> tuple[CheckResult, ...]:
        return self._rest(target, [], finding)

    def _rest(self, target: Target, results: list[CheckResult], finding: Finding) -> tuple[CheckResult, ...]:
        """What was found before the trouble, and the trouble for each check after it."""
        missing = self._options.checks[len(results) :]
        return (*results, *(self._result(target, check, finding) for check in missing))

    def _result(self, target: Target, check: Check, finding: Finding) -> CheckResult:
        return CheckResult(
            hostname=target.hostname,
            check=check.name,
            status=finding.status,
            checked_at=self._clock(),
            object_guid=target.object_guid,
            evidence=finding.evidence,
            controls=check.controls,
        )


def _trouble(code: str, detail: str, remedy: str) -> Finding:
    return Finding("error", {"reason": code, "detail": detail, "remedy": remedy})
