r"""The reboot that a machine owes: the three places of the registry where it stands, and what is done at it.

Example:
    >>> files, registry = Files(), Registry()
    >>> files.write(r"C:\new.dll", b"2")
    >>> pending = PendingReboot(registry)
    >>> pending.rename(r"C:\new.dll", r"C:\old.dll")
    >>> pending.reasons()
    ('file-renames',)
    >>> pending.settle(files)
    >>> files.read(r"C:\old.dll"), pending.reasons()
    (b'2', ())
"""

from __future__ import annotations

from collections.abc import Sequence

from msp_sdk.testing.machine.files import Files
from msp_sdk.testing.machine.registry import Registry

SESSION_MANAGER = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager"
FILE_RENAMES = "PendingFileRenameOperations"
COMPONENT_SERVICING = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending"
WINDOWS_UPDATE = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired"

_PREFIX = "\\??\\"


class PendingReboot:
    """Reads and writes the three places; the registry alone holds what is pending."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def reasons(self) -> tuple[str, ...]:
        """Why a reboot is owed: ``component-servicing``, ``file-renames``, ``windows-update``; empty when it is not."""
        found = {
            "component-servicing": self._registry.has_key(COMPONENT_SERVICING),
            "file-renames": bool(self.renames()),
            "windows-update": self._registry.has_key(WINDOWS_UPDATE),
        }
        return tuple(name for name, owed in found.items() if owed)

    def renames(self) -> tuple[tuple[str, str | None], ...]:
        """Pairs of a file and what it will be called, in order; None for one that will be deleted."""
        stored = self._registry.get(SESSION_MANAGER, FILE_RENAMES)
        words = [str(word) for word in stored] if isinstance(stored, list | tuple) else []
        pairs = zip(words[::2], words[1::2], strict=True)
        return tuple((_bare(source), _bare(target) or None) for source, target in pairs)

    def rename(self, source: str, target: str | None) -> None:
        """Let a file be renamed over another one, or be deleted, at the next boot."""
        self.put([*self.renames(), (source, target)])

    def put(self, renames: Sequence[tuple[str, str | None]]) -> None:
        """Let exactly these renames be owed, such as those that :meth:`renames` once told."""
        words = [word for pair in renames for word in _words(*pair)]
        self._registry.set(SESSION_MANAGER, FILE_RENAMES, words, kind="REG_MULTI_SZ")

    def require(self, place: str) -> None:
        """Let one of the two others owe a reboot: :data:`COMPONENT_SERVICING` or :data:`WINDOWS_UPDATE`."""
        self._registry.make_key(place)

    def settle(self, files: Files) -> None:
        """What Windows does before anything runs: the renames in order, and nothing is owed any more."""
        for source, target in self.renames():
            if target is None:
                files.delete(source)
            else:
                files.move(source, target)
        self._registry.delete(SESSION_MANAGER, FILE_RENAMES)
        self._registry.delete_key(COMPONENT_SERVICING)
        self._registry.delete_key(WINDOWS_UPDATE)


def _words(source: str, target: str | None) -> tuple[str, str]:
    # The exclamation mark lets the target be there already.
    return _PREFIX + source, "" if target is None else f"!{_PREFIX}{target}"


def _bare(word: str) -> str:
    return word.removeprefix("!").removeprefix(_PREFIX)
