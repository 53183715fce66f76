"""What the daemon remembers over a restart: the domain, the computers, the outcomes. No secret is in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from attrs import field, frozen

from msp_sdk.errors import ConfigError, StateError, WireError
from msp_sdk.models.domain import DomainDiscovery
from msp_sdk.models.rollout import Outcome
from msp_sdk.provisioning.config import write_atomically
from msp_sdk.wire.converter import dumps, loads, structure

logger = logging.getLogger(__name__)
T = TypeVar("T")


@frozen
class HostRecord:
    """How a host fared in a rollout; ``circumstances`` tell when another try makes sense."""

    outcome: Outcome
    at: datetime
    circumstances: str | None = None


@frozen
class RolloutRecord:
    """What became of a rollout so far, by target key."""

    rollout_id: str
    generation: int
    hosts: Mapping[str, HostRecord] = field(factory=dict)


@frozen
class UnreadDomain:
    """A wish for an enumeration that was answered with why this domain cannot be read.

    Attributes:
        code: Why, and ``detail`` in words.
        refused: The accounts, by ledger key, if it was they who were refused: they are not tried again.
    """

    generation: int
    code: str = ""
    detail: str = ""
    refused: tuple[str, ...] = ()


@frozen
class ScannedHosts:
    """Which targets had their first scan, and with which version of which credential."""

    hosts: Mapping[str, str] = field(factory=dict)


@frozen
class Owner:
    """Whose state this is."""

    site_id: str
    appliance_id: str


@frozen
class ReportedTargets:
    """A digest of the last targets report, so that the same is not sent twice."""

    digest: str


class StateFiles:
    """The daemon's files below one folder, each written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be used: {error.strerror}.") from error

    def load(self, name: str, kind: type[T]) -> T | None:
        """Read a value; None when there is none. A damaged one is set aside and counts as none."""
        path = self._path(name)
        try:
            return structure(loads(path.read_bytes()), kind)
        except FileNotFoundError:
            return None
        except WireError as error:
            logger.warning("%s is damaged and is made anew: %s", path, error.detail)
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            return None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error

    def save(self, name: str, value: object) -> None:
        """Write a value; it is on disk when this returns."""
        write_atomically(self._path(name), dumps(value))

    def remove(self, name: str) -> None:
        """Forget a value; no harm when there is none."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def names(self, prefix: str) -> tuple[str, ...]:
        """What the kept values are called whose names begin so, without it and in order."""
        found = (path.stem.removeprefix(prefix) for path in self.folder.glob("*.json") if path.stem.startswith(prefix))
        return tuple(sorted(found))

    def load_discovery(self) -> DomainDiscovery | None:
        """The last discovery that found a domain."""
        return self.load("discovery", DomainDiscovery)

    def load_rollout(self, rollout_id: str, generation: int) -> RolloutRecord:
        """The record of a rollout; a raised generation makes everything due again that is not done."""
        record = self.load(f"rollout-{rollout_id}", RolloutRecord)
        if record is None:
            return RolloutRecord(rollout_id, generation)
        if record.generation == generation:
            return record
        done = {key: host for key, host in record.hosts.items() if host.outcome.state == "done"}
        return RolloutRecord(rollout_id, generation, done)

    def _path(self, name: str) -> Path:
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
        return self.folder / f"{safe}.json"


def claim_state(folder: Path, outbox: Path, owner: Owner) -> None:
    """Make sure that what is remembered is of this appliance at this site; anything else is deleted, unsent.

    What one customer's network told us must never reach another customer's site. The logon ledger stays: strikes
    count for accounts, wherever the appliance belongs.

    Raises:
        ConfigError: A file cannot be deleted.
    """
    state = StateFiles(folder)
    before = state.load("owner", Owner)
    if before == owner:
        return
    if before is not None:
        logger.warning("this appliance belongs to %s now: what it knew of %s is deleted", owner.site_id, before.site_id)
        try:
            for path in (*folder.glob("*.json"), *folder.glob("*.damaged")):
                path.unlink(missing_ok=True)
            if outbox.exists():
                shutil.rmtree(outbox)
        except OSError as error:
            raise ConfigError(f"what is left of another site cannot be deleted: {error.strerror}.") from error
    state.save("owner", owner)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        StateError: Another daemon holds it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "daemon.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(
                f"another appliance daemon works in {folder}.", code="already-running", remedy="Stop it first."
            ) from None
        yield
    finally:
        os.close(descriptor)
