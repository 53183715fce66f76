"""What the daemon remembers over a restart: the domain, the computers, the outcomes. No secret is in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from attrs import field, frozen

from msp_sdk.errors import ConfigError, StateError, WireError
from msp_sdk.models.computer import Enumeration
from msp_sdk.models.domain import DomainDiscovery
from msp_sdk.models.rollout import Outcome
from msp_sdk.provisioning.config import write_atomically
from msp_sdk.wire.converter import dumps, loads, structure

logger = logging.getLogger(__name__)
T = TypeVar("T")


@frozen
class KeptEnumeration:
    """The last good enumeration, its computers probed, and the generation it belongs to."""

    enumeration: Enumeration
    generation: int


@frozen
class HostRecord:
    """How a host fared in a rollout; ``credential`` tells when another try makes sense."""

    outcome: Outcome
    at: datetime
    credential: str | None = None


@frozen
class RolloutRecord:
    """What became of a rollout so far, by target key."""

    rollout_id: str
    generation: int
    hosts: Mapping[str, HostRecord] = field(factory=dict)


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
