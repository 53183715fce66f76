"""Deploy the agent to many hosts: plan, which touches nothing, then apply, one outcome a host as it happens.

Each host stands for itself: trouble at one never stops another. Applying again is safe: what is there already is not
done twice, and what was cut off is finished. A credential that is refused anywhere is stopped by the logon ledger
under the shell; the hosts after it are told so.

Example:
    >>> async def roll_out(package, file, shells, credentials, targets):
    ...     deployer = AgentDeployer(package, shell=shells, credentials=credentials, file=file)
    ...     plan = await deployer.plan(targets)
    ...     async for outcome in deployer.apply(plan):
    ...         print(outcome.hostname, outcome.state)
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime

from attrs import evolve, field, frozen, mutable

from msp_sdk.deployment.delivery import AgentOnHost, Deadlines
from msp_sdk.deployment.package import PackageFile, load_package
from msp_sdk.deployment.plan import (
    before_opening,
    decide,
    explain,
    explain_skip,
    is_foreign_change,
    state_without_touch,
)
from msp_sdk.deployment.verification import verify, verify_gone
from msp_sdk.errors import ConfigError, DeploymentError, MspError
from msp_sdk.models.credential import Credential, CredentialSource
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.reason import remedy_of
from msp_sdk.models.rollout import AgentState, Outcome, OutcomeError, PlannedAction, RolloutAction, RolloutPlan
from msp_sdk.models.target import Target
from msp_sdk.windows.shell import WindowsShells

_RUN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
# These put the agent there; they differ only in what was found before.
_INSTALLING = frozenset({"install", "upgrade", "reconfigure", "repair"})


@frozen
class DeployOptions:
    """How a deployment behaves.

    Attributes:
        concurrency: Hosts worked on at once.
        uploads: Files on their way to hosts at once; the line of a small site is narrow.
        deadlines: For each step at each host.
    """

    concurrency: int = 32
    uploads: int = 4
    deadlines: Deadlines = field(factory=Deadlines)


@mutable
class _Progress:
    """How far one host has come; decides whether trouble means skipped or failed."""

    step: str = "connect"
    method: str = "none"
    touched: bool = False


class AgentDeployer:
    """Brings one package to hosts, or takes it away.

    Args:
        package: What shall be there.
        shell: Opens shells on hosts; it checks which machine answers, and the logon ledger.
        credentials: Gives the credential of a target at the moment of use.
        file: The package's file; only :meth:`apply` needs it, and only where a file is to be delivered.
        options: Bounds and deadlines.
        clock: The time, for outcomes; aware.
    """

    def __init__(
        self,
        package: AgentPackage,
        *,
        shell: WindowsShells,
        credentials: CredentialSource,
        file: PackageFile | None = None,
        options: DeployOptions | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._package = package
        self._shell = shell
        self._credentials = credentials
        self._file = file
        self._options = options or DeployOptions()
        self._clock = clock
        # Our side's lock per host (lesson 42); the host has its own, a named mutex.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._uploads = asyncio.Semaphore(self._options.uploads)

    async def plan(self, targets: Sequence[Target], *, action: RolloutAction = "install") -> RolloutPlan:
        """Look at each host and say what would be done there, and why. Touches nothing, holds no secret.

        Args:
            targets: May be empty. Known to be out of reach, or without a credential: not asked, and told so.
            action: ``install`` or ``remove``.

        Returns:
            One entry a target, in their order.
        """
        slots = asyncio.Semaphore(self._options.concurrency)

        async def one(target: Target) -> PlannedAction:
            async with slots:
                return await self._plan_one(target, action)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(target)) for target in targets]
        return RolloutPlan(self._package, tuple(task.result() for task in tasks))

    async def apply(self, plan: RolloutPlan, *, run_id: str | None = None) -> AsyncGenerator[Outcome, None]:
        """Carry a plan out; yields one outcome a host of the plan, as it happens.

        Leave it early only with ``aclosing`` or by cancelling; work under way is then cancelled, and applying the
        plan again finishes it.

        Args:
            plan: Of this deployer's package.
            run_id: Names the staging folder on the hosts. Give the same one again to go on where a run was cut off.

        Raises:
            ConfigError: The plan is for another package, or ``run_id`` is no plain name.
            DeploymentError: The package's file is missing; no host was touched.
            DigestMismatchError: The package's file is another one; no host was touched.
        """
        run_id = secrets.token_hex(8) if run_id is None else run_id
        if not _RUN_ID.fullmatch(run_id):
            raise ConfigError("a run id has letters, digits and hyphens, at most 64 of them.", code="bad-run-id")
        if plan.package.sha256 != self._package.sha256:
            raise ConfigError("the plan is for another package.", code="other-package")
        content = b""
        if any(entry.action in _INSTALLING for entry in plan.actions):
            content = await asyncio.to_thread(load_package, self._package, self._file)

        pending = iter(plan.actions)
        outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for entry in pending:
                    await outcomes.put(await self._apply_one(entry, content, run_id))
            finally:
                outcomes.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(min(self._options.concurrency, len(plan.actions)))]
        try:
            running = len(workers)
            while running:
                outcome = await outcomes.get()
                if outcome is None:
                    running -= 1
                else:
                    yield outcome
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _plan_one(self, target: Target, action: RolloutAction) -> PlannedAction:
        credential = self._credential(target)
        trouble = before_opening(target, has_credential=credential is not None)
        if trouble is None and credential is not None:
            try:
                async with self._shell.open(target, credential) as shell:
                    host = AgentOnHost(shell, self._package, run_id="plan", deadlines=self._options.deadlines)
                    observed, _, _ = await host.look()
            except MspError as error:
                trouble = explain(error)
            except Exception as error:  # noqa: BLE001 (one host's trouble never stops the others)
                trouble = _internal(error)
            else:
                found = decide(self._package, observed, action)
                return PlannedAction(target, found.action, found.reason, found.detail, observed)
        assert trouble is not None  # noqa: S101 (every other way has returned)
        return PlannedAction(target, "skip", trouble.code, trouble.detail)

    async def _apply_one(self, entry: PlannedAction, content: bytes, run_id: str) -> Outcome:
        target = entry.target
        if entry.action == "skip":
            return self._outcome(entry, explain_skip(entry), _Progress(step="plan"))
        if entry.action == "nothing":
            return self._outcome(entry, None, _Progress(), entry.observed)
        credential = self._credential(target)
        trouble = before_opening(target, has_credential=credential is not None)
        progress = _Progress()
        observed: AgentState | None = None
        if trouble is None and credential is not None:
            try:
                async with self._locks[target.key], self._shell.open(target, credential) as shell:
                    host = AgentOnHost(shell, self._package, run_id=run_id, deadlines=self._options.deadlines)
                    if entry.action == "remove":
                        observed = await self._remove(host, progress)
                    else:
                        observed = await self._install(host, entry, content, progress)
            except MspError as error:
                trouble = explain(error)
            except Exception as error:  # noqa: BLE001 (one host's trouble never stops the others)
                trouble = _internal(error)
        return self._outcome(entry, trouble, progress, observed)

    async def _install(
        self, host: AgentOnHost, entry: PlannedAction, content: bytes, progress: _Progress
    ) -> AgentState:
        observed, staged, free_bytes = await host.look()
        progress.step = "plan"
        found = decide(self._package, observed)
        if found.action == "nothing":
            # An attempt before this one came so far: nothing is done twice.
            return observed
        if found.action == "skip" or is_foreign_change(self._package, entry.observed, observed):
            detail = found.detail or "another file was put there."
            raise DeploymentError(detail, code="changed-since-plan", remedy=remedy_of("changed-since-plan"))
        if self._package.sha256 not in (observed.file_sha256, staged):
            progress.step, progress.touched = "deliver", True
            async with self._uploads:
                await host.deliver(content, free_bytes=free_bytes)
            progress.method = "push"
        progress.step, progress.touched = "install", True
        known = {observed.file_sha256, entry.observed.file_sha256 if entry.observed else None}
        await host.install(replaceable=frozenset(digest for digest in known if digest))
        progress.step = "verify"
        observed, _, _ = await host.look()
        verify(self._package, observed)
        return observed

    async def _remove(self, host: AgentOnHost, progress: _Progress) -> AgentState:
        observed, _, _ = await host.look()
        if decide(self._package, observed, "remove").action == "remove":
            progress.step, progress.touched = "install", True
            await host.remove()
            progress.step = "verify"
            observed, _, _ = await host.look()
            verify_gone(observed)
        return observed

    def _version(self, observed: AgentState) -> str | None:
        """What its file says; many programs say nothing, and then our own file is known by its digest."""
        return observed.version or (self._package.version if observed.file_sha256 == self._package.sha256 else None)

    def _credential(self, target: Target) -> Credential | None:
        return self._credentials.credential(target.credential_id) if target.credential_id else None

    def _outcome(
        self,
        entry: PlannedAction,
        trouble: OutcomeError | None,
        progress: _Progress,
        observed: AgentState | None = None,
    ) -> Outcome:
        outcome = Outcome(
            hostname=entry.target.hostname,
            success=trouble is None,
            state="done",
            action=entry.action,
            method=progress.method,
            object_guid=entry.target.object_guid,
            agent_version=self._version(observed) if observed else None,
        )
        if trouble is None:
            return evolve(outcome, deployed_at=self._clock())
        state = state_without_touch(trouble.code)
        if progress.touched and state == "skipped":
            state = "failed"
        return evolve(outcome, state=state, step=progress.step, error=trouble)


def _internal(error: Exception) -> OutcomeError:
    # The text of a foreign exception may hold anything; its kind is enough to find the place.
    return OutcomeError("internal", f"an unforeseen {type(error).__name__}.", remedy_of("internal"))
