"""What the appliance has completed, on disk before it is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from msp_sdk.errors import ConfigError


class CompletedGenerations:
    """Counts of completed work, kept in one small file.

    Args:
        path: The file; absent means that nothing was completed.
        write: Writes a file atomically.

    Raises:
        ConfigError: The file cannot be read. One that is damaged counts as empty: work is then done once more.
    """

    def __init__(self, path: Path, write: Callable[[Path, bytes], None]) -> None:
        self._path = path
        self._write = write
        self._completed = self._load()

    def _load(self) -> dict[str, int]:
        try:
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}.") from error
        if not isinstance(data, dict):
            return {}
        return {str(work): count for work, count in data.items() if isinstance(count, int)}

    @property
    def completed(self) -> Mapping[str, int]:
        """Work and its completed generation."""
        return dict(self._completed)

    def complete(self, work: str, generation: int) -> None:
        """Say that ``work`` is done up to ``generation``; on disk when this returns."""
        if generation > self._completed.get(work, 0):
            self._completed = {**self._completed, work: generation}
            self._write(self._path, json.dumps(self._completed).encode())
