"""What to do to a host, from what was found there. No I/O.

Example:
    >>> from msp_sdk.models.rollout import AgentState
    >>> decide(package, AgentState())  # doctest: +SKIP
    Decision(action='install', reason='not-installed', detail='')
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from msp_sdk.deployment.package import config_digest
from msp_sdk.errors import MspError, ScriptFailedError
from msp_sdk.models.package import AgentPackage
from msp_sdk.models.reason import REASONS, reason_of, remedy_of
from msp_sdk.models.rollout import ActionName, AgentState, OutcomeError, OutcomeState, PlannedAction, RolloutAction
from msp_sdk.models.target import Target
from msp_sdk.windows.doors import out_of_reach

_VERSION = re.compile(r"\s*v?(\d{1,9}(?:\s*[.,]\s*\d{1,9})*)", re.IGNORECASE)

# It passes by itself: the host comes back, the credential is proven. Such a host waits; any other is skipped.
_PASSING = frozenset(
    {
        "no-address",
        "no-answer",
        "winrm-closed",
        "winrm-blocked",
        "not-at-address",
        "no-route",
        "connection-lost",
        "deadline-exceeded",
        "outcome-unknown",
        "quota-exceeded",
        "credential-unproven",
        "logons-in-flight",
        "credential-paused",
        "waiting-for-lease",
    }
)


# Nothing is wrong with the host or with what we may do there: something broke.
_BROKEN = frozenset({"internal", "script-failed", "windows-failed"})


@frozen
class Decision:
    """An action and its reason (a reason code)."""

    action: ActionName
    reason: str
    detail: str = ""


def decide(package: AgentPackage, observed: AgentState, wish: RolloutAction = "install") -> Decision:
    """Decide what brings a host from ``observed`` to what is wished.

    A newer version is left alone. A file of the same version with another digest is not ours, and is repaired.
    """
    if wish == "remove":
        there = observed.installed or observed.service_state is not None
        return Decision("remove", "removal-asked") if there else Decision("nothing", "not-installed")
    if not observed.installed:
        return _without_file(observed)
    if observed.file_sha256 != package.sha256:
        return _by_version(package, observed)
    return _with_our_file(package, observed)


def _without_file(observed: AgentState) -> Decision:
    if observed.service_state is None:
        return Decision("install", "not-installed")
    return Decision("repair", "not-installed", "the service is there, its file is not.")


def _with_our_file(package: AgentPackage, observed: AgentState) -> Decision:
    wanted = config_digest(package.manifest)
    if wanted is not None and observed.config_sha256 != wanted:
        return Decision("reconfigure", "config-differs")
    if observed.service_state != "running":
        return Decision("repair", "service-stopped", f"its state is {observed.service_state or 'not registered'}.")
    return Decision("nothing", "up-to-date")


def _by_version(package: AgentPackage, observed: AgentState) -> Decision:
    detail = f"{observed.version or 'an unknown version'} is there, {package.version} is wished."
    found, wished = version_key(observed.version or ""), version_key(package.version)
    if found > wished:
        return Decision("skip", "newer-version", detail)
    if found < wished:
        return Decision("upgrade", "older-version", detail)
    return Decision("repair", "digest-mismatch", "the version is right, the file is not.")


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, without zeros at the end, so that ``1.2`` is ``1.2.0.0``; anything else reads as older.

    Only its first group of numbers counts, with dots or, as some Windows programs write it, commas:
    ``1, 2, 0, 7 (build 5)`` is 1.2.0.7.
    """
    found = _VERSION.match(version)
    numbers = [int(number) for number in re.findall(r"\d+", found[1])] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def is_foreign_change(package: AgentPackage, planned: AgentState | None, now: AgentState) -> bool:
    """True when somebody else put another file there since the plan was made.

    A file that is gone, or is already the wished one, is what an attempt of ours that was cut off leaves.
    """
    known = {None, package.sha256, planned.file_sha256 if planned else now.file_sha256}
    return now.file_sha256 not in known


def before_opening(target: Target, *, has_credential: bool) -> OutcomeError | None:
    """Why a host is not even asked; None when it is. A host that was not probed is asked."""
    if target.reachable is False:
        code = target.unreachable_reason or "no-answer"
        return OutcomeError(code, out_of_reach(target), remedy_of(code))
    if not has_credential:
        return OutcomeError("no-credential", "none of the credentials is valid here.", remedy_of("no-credential"))
    return None


def explain(error: MspError) -> OutcomeError:
    """An error as it is reported."""
    known = reason_of(error)
    return OutcomeError(known.code, error.detail, known.remedy)


def explain_skip(entry: PlannedAction) -> OutcomeError:
    """A skipped entry of a plan as it is reported."""
    known = REASONS.get(entry.reason)
    title = known.title if known else entry.reason
    return OutcomeError(entry.reason, entry.detail or title, remedy_of(entry.reason))


def state_without_touch(code: str) -> OutcomeState:
    """What becomes of a host that was not touched for this reason: it waits, it failed, or it is skipped."""
    if code in _PASSING:
        return "waiting"
    return "failed" if code in _BROKEN else "skipped"


def read_state(value: Mapping[str, object]) -> tuple[AgentState, str | None, int]:
    """Read what the script ``agent-state`` answered.

    Returns:
        The agent, the digest of this run's staged file, and the free bytes of the disk.

    Raises:
        ScriptFailedError: The answer lacks a field or has one of the wrong kind. Not retryable.
    """

    def text(name: str) -> str | None:
        found = value.get(name)
        if found is None or isinstance(found, str):
            return found
        raise ScriptFailedError(f"the answer of agent-state has no text in {name!r}.")

    installed, free = value.get("installed"), value.get("disk_free_bytes")
    if not isinstance(installed, bool) or not isinstance(free, int):
        raise ScriptFailedError("the answer of agent-state is incomplete.")
    service_state = text("service_state")
    if service_state == "running" and value.get("service_path_ok") is not True:
        service_state = "running-elsewhere"
    observed = AgentState(
        installed=installed,
        version=text("version"),
        file_sha256=text("file_sha256"),
        config_sha256=text("config_sha256"),
        service_state=service_state,
    )
    return observed, text("staged_sha256"), free
