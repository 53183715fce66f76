"""Certificates of hosts that a person has looked at and pinned: one a host, kept in a file.

A pin stands in for a CA where there is none. It is made and reset by a person alone; nothing is learnt on first use. A
host that shows another certificate than the pinned one, which no trusted CA signed either, is an alarm
(``certificate-changed``), and nothing is sent to it until the pin is reset.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from msp_sdk.errors import ConfigError
from msp_sdk.models.domain import without_final_dot
from msp_sdk.network.pins import parse_sha256

FILE_NAME = "host-certificates.json"
Write = Callable[[Path, bytes], None]


@frozen
class HostPin:
    """What a person has said of one host.

    Attributes:
        host: Its name, folded, without a final dot; or its address.
        sha256: Of the certificate's DER, lower-case hex.
        pinned_at: When.
    """

    host: str
    sha256: str
    pinned_at: datetime


class HostPins:
    """The pins of a file, which is read anew at each call.

    Args:
        path: A file of JSON; it need not be there.
        write: Replaces the file as a whole, for its owner alone.
    """

    def __init__(self, path: Path, write: Write) -> None:
        self._path = path
        self._write = write

    def all(self) -> tuple[HostPin, ...]:
        """All pins, by host; empty when there is no file.

        Raises:
            ConfigError: The file cannot be read (``bad-pins``). A damaged file must not look like no pins.
        """
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            pins = [
                HostPin(_folded(host), parse_sha256(entry["sha256"]), datetime.fromisoformat(entry["pinned_at"]))
                for host, entry in data.items()
            ]
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise ConfigError(
                f"the pinned certificates in {self._path} cannot be read: {type(error).__name__}.",
                code="bad-pins",
                remedy="Repair the file, or remove it and pin the hosts again.",
            ) from error
        return tuple(sorted(pins, key=lambda pin: pin.host))

    def pin(self, host: str, sha256: str, *, now: datetime | None = None) -> HostPin:
        """Pin a host's certificate; the host's pin of before is replaced.

        Args:
            host: Its name or address.
            sha256: 64 hex digits, with colons or without.
            now: Aware; None means now.

        Raises:
            ConfigError: The digest is none, or the file cannot be read.
        """
        pin = HostPin(_folded(host), parse_sha256(sha256), now or datetime.now(UTC))
        self._save((*(each for each in self.all() if each.host != pin.host), pin))
        return pin

    def reset(self, host: str) -> bool:
        """Forget a host's pin; False when there was none.

        Raises:
            ConfigError: The file cannot be read.
        """
        before = self.all()
        left = tuple(pin for pin in before if pin.host != _folded(host))
        if len(left) == len(before):
            return False
        self._save(left)
        return True

    def _save(self, pins: tuple[HostPin, ...]) -> None:
        data = {
            pin.host: {"sha256": pin.sha256, "pinned_at": pin.pinned_at.isoformat()}
            for pin in sorted(pins, key=lambda pin: pin.host)
        }
        self._write(self._path, json.dumps(data, indent=1).encode())


def pin_of(pins: tuple[HostPin, ...], names: tuple[str, ...]) -> str | None:
    """The digest that is pinned for a host of these names; None when there is none."""
    wanted = {_folded(name) for name in names}
    return next((pin.sha256 for pin in pins if pin.host in wanted), None)


def _folded(host: str) -> str:
    return without_final_dot(host.strip().casefold())
