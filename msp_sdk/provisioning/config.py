"""``config.yaml``: what a claim gave, on disk, mode 0600, written atomically. The API key is its only secret."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import yaml

from msp_sdk.errors import ConfigError, WireError
from msp_sdk.models.provision import Enrolment
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import structure, unstructure

DEFAULT_PATH = Path("/var/lib/msp/config.yaml")
_CLAIM_AGAIN = "Claim the appliance again with a provision code."


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new one, never a half.

    Raises:
        ConfigError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.", remedy="Check the folder's rights."
        ) from error


def save_config(path: Path, enrolment: Enrolment) -> None:
    """Write the enrolment.

    Raises:
        ConfigError: The file cannot be written.
    """
    text = yaml.safe_dump(unstructure(enrolment), sort_keys=False, allow_unicode=True)
    write_atomically(path, text.encode())


def load_config(path: Path) -> Enrolment:
    """Read the enrolment.

    Raises:
        ConfigError: There is no such file (code ``not-claimed``), others can read it, or it is damaged.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others.", remedy=f"Run: chmod 600 {path}")
        data = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}.", code="not-claimed", remedy=_CLAIM_AGAIN) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's message quotes the text, which holds the key.
        raise ConfigError(f"{path} is no YAML.", remedy=_CLAIM_AGAIN) from None
    try:
        return structure(_with_text_instants(data), Enrolment)
    except WireError as error:
        places = ", ".join(f"{place} {message}" for place, message in error.errors)
        raise ConfigError(f"{path} is damaged: {places}.", remedy=_CLAIM_AGAIN) from error


def _with_text_instants(data: object) -> object:
    """YAML reads an unquoted instant as a datetime; the converter wants its text."""
    if isinstance(data, dict):
        return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in data.items()}
    return data


def key_provider(path: Path) -> Callable[[], Secret]:
    """A function that gives the key as the file has it now: one place, read at use, never copied about."""

    def read_key() -> Secret:
        return load_config(path).api_key

    return read_key
