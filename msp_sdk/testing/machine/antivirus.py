r"""An antivirus that looks at each file that was written: it holds the file, and takes away what it knows.

Both take their time, on the machine's clock: a file is scanned for ``scan_s`` seconds, in which nobody writes, moves
or deletes it, and one that is known is then deleted or put into quarantine. Who opens a file that it knows, while it
looks, is refused (225); in quarantine nobody finds it.

Example:
    >>> clock = Clock()
    >>> files = Files(clock=clock)
    >>> antivirus = Antivirus(files, Services(files, clock), clock)
    >>> antivirus.blocked_names.add("agent.exe")
    >>> antivirus.scan_s = 3
    >>> files.write(r"C:\agent.exe", b"MZ")
    >>> clock.advance(2), files.exists(r"C:\agent.exe")
    (None, True)
    >>> clock.advance(1), files.exists(r"C:\agent.exe")
    (None, False)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from attrs import frozen

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.clock import Clock
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import Files, Handle, Node
from msp_sdk.testing.machine.names import leaf
from msp_sdk.testing.machine.services import Services


@frozen
class Found:
    """A file that was taken away: its path and its content, kept only in quarantine."""

    path: str
    content: bytes | None


class Antivirus:
    """What watches the disk.

    Attributes:
        watches: Says whether it is on; off, it looks at nothing.
        blocked_names: Names of files, in lower case, that it takes away.
        blocked_sha256: Digests of contents that it takes away.
        knows: Further contents that it takes away.
        scan_s: How long it looks at each file; 0 takes a known one away as it is written.
        quarantines: Keep what is taken away, until :meth:`give_back`.
        found: What it took away, in order.
    """

    def __init__(self, files: Files, services: Services, clock: Clock) -> None:
        self.watches: Callable[[], bool] = lambda: True
        self.blocked_names: set[str] = set()
        self.blocked_sha256: set[str] = set()
        self.knows: Callable[[bytes], bool] = lambda _: False
        self.scan_s = 0.0
        self.quarantines = False
        self.found: list[Found] = []
        self._files = files
        self._services = services
        self._clock = clock
        self._allowed: set[str] = set()
        self._scans: dict[Node, Handle] = {}
        self._waiting: tuple[Node, ...] = ()
        files.after_write.append(self._look)
        files.guards.append(self._guard)

    def is_known(self, path: str, content: bytes) -> bool:
        """True when a file like this is taken away."""
        named = leaf(path).casefold() in self.blocked_names
        if not self.blocked_sha256 and not self._allowed:
            return named or self.knows(content)
        digest = hashlib.sha256(content).hexdigest()
        return digest not in self._allowed and (named or digest in self.blocked_sha256 or self.knows(content))

    def give_back(self, found: Found) -> None:
        """Put a file back from quarantine, and never take the like of it again."""
        if found.content is not None:
            self._allowed.add(hashlib.sha256(found.content).hexdigest())
            self._files.write(found.path, found.content)

    def power_off(self) -> None:
        """Whatever it was looking at, it looks at again after the next :meth:`boot`."""
        self._waiting = tuple(self._scans)
        self._scans.clear()

    def boot(self) -> None:
        """Look again at what the end of the power interrupted."""
        for node in self._waiting:
            if self._files.node(node.path) is node:
                self._look(node)
        self._waiting = ()

    def _look(self, node: Node) -> None:
        if not self.watches() or node in self._scans:
            return
        if self.scan_s <= 0:
            self._end(node)
            return
        # It sees the file before anybody else can, whatever the file's rights are.
        self._scans[node] = Handle(self._files, node, {"read"}, {"read"})
        self._clock.call_later(self.scan_s, lambda: self._end(node))

    def _end(self, node: Node) -> None:
        handle = self._scans.pop(node, None)
        if handle is not None:
            handle.close()
        if self._files.node(node.path) is not node or not self.is_known(node.path, node.content):
            return
        self.found.append(Found(node.path, node.content if self.quarantines else None))
        self._services.end_processes_of(node)
        if node.handles:
            node.delete_pending = True
        else:
            self._files.drop(node)

    def _guard(self, node: Node) -> None:
        if node in self._scans and self.is_known(node.path, node.content):
            raise WindowsFault(faults.VIRUS_INFECTED, f"{node.path} contains a virus or unwanted software.")
