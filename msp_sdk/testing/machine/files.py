r"""The disk of a virtual machine: files and folders without case, their room, and who has which file open.

:class:`Files` is the disk itself. Its ``write``, ``move`` and ``delete`` are the hand of whoever arranges a test: they
ask for no rights and mind no locks, but they do take room. What happens on the machine goes through
:meth:`Files.open` or a :class:`~msp_sdk.testing.machine.program.Program`, which meets all of it.

Example:
    >>> files = Files(capacity_bytes=100)
    >>> files.write(r"C:\a.txt", b"12345")
    >>> files.read(r"c:/A.TXT"), files.free_bytes
    (b'12345', 95)
    >>> with files.open(r"C:\a.txt", {"read"}, share={"read"}):
    ...     files.open(r"C:\a.txt", {"write"}, share={"read", "write"})
    Traceback (most recent call last):
    msp_sdk.testing.machine.faults.WindowsFault: C:\a.txt is open elsewhere. (32)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Literal, Self

from attrs import field, frozen, mutable

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.clock import Clock
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.names import clean, key, parent
from msp_sdk.testing.machine.rights import DEFAULTS, Rights, Who

Access = Literal["read", "write", "delete"]
#: Open what is there; make or empty it; make it, and fail where it is there.
Mode = Literal["open", "create", "new"]


@frozen
class FileEntry:
    """A file: its path as it was first written, and its content."""

    path: str
    content: bytes

    @property
    def sha256(self) -> str:
        """Lower-case hex."""
        return hashlib.sha256(self.content).hexdigest()


@mutable(eq=False)
class Node:
    """A file on the disk, whatever it is called at the moment.

    Attributes:
        path: With the case in which it was first written.
        owner: Who made it.
        handles: Who has it open.
        delete_pending: It goes with its last handle; nobody opens it any more.
    """

    path: str
    content: bytes
    owner: Who = "system"
    handles: list[Handle] = field(factory=list)
    delete_pending: bool = False


@mutable(eq=False)
class Folder:
    """A folder. Without ``rights`` those of its parent hold; a ``link`` leads elsewhere; ``owner`` made it."""

    path: str
    created_at: datetime
    rights: Rights | None = None
    link: bool = False
    owner: Who = "system"


class Handle:
    """A file that is open. Leave its ``with``, or close it: until then it keeps others out."""

    def __init__(self, files: Files, node: Node, access: AbstractSet[Access], share: AbstractSet[Access]) -> None:
        self.access = frozenset(access)
        self.share = frozenset(share)
        self._files = files
        self._node = node
        self._written = False
        self.is_open = True
        node.handles.append(self)

    @property
    def path(self) -> str:
        """What the file is called now."""
        return self._node.path

    def read(self) -> bytes:
        """All of it."""
        self._check("read")
        return self._node.content

    def write(self, content: bytes) -> None:
        """Put ``content`` in the place of all that is there.

        Raises:
            WindowsFault: There is no room; the file is as it was.
        """
        self._check("write")
        self._files.fill(self._node, content)
        self._written = True

    def empty(self) -> None:
        """Leave nothing in it, as opening it with ``create`` does."""
        self._files.fill(self._node, b"")
        self._written = True

    def close(self) -> None:
        """Let go of it. A file that was deleted meanwhile goes with its last handle."""
        if not self.is_open:
            return
        self.is_open = False
        self._node.handles.remove(self)
        if self._node.delete_pending and not self._node.handles:
            self._files.drop(self._node)
        elif self._written:
            self._files.tell(self._node)

    def _check(self, access: Access) -> None:
        if not self.is_open or access not in self.access:
            raise WindowsFault(faults.ACCESS_DENIED, f"{self.path} is not open for that.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Files:
    r"""One disk, ``C:``, in which ``/`` is ``\`` and case does not count.

    Args:
        capacity_bytes: What the disk, or the quota on it, holds.
        clock: Time passes on it while programs write, and folders are dated by it.

    Attributes:
        bytes_per_s: How fast programs write; None for at once.
        is_image: Says whether a running program was started from a file; then it is neither written nor deleted.
        guards: Called for each file that is about to be opened; one that raises a :class:`WindowsFault` refuses.
        after_write: Called for each file that was written, when its writer has let go of it.
        free_bytes: What is left.
    """

    def __init__(self, capacity_bytes: int = 100 * 2**30, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.capacity_bytes = capacity_bytes
        self.free_bytes = capacity_bytes
        self.bytes_per_s: float | None = None
        self.is_image: Callable[[Node], bool] = lambda _: False
        self.guards: list[Callable[[Node], None]] = []
        self.after_write: list[Callable[[Node], None]] = []
        self._nodes: dict[str, Node] = {}
        self._folders: dict[str, Folder] = {}
        for path, rights in DEFAULTS.items():
            self.make_folder(path, rights)

    # What whoever arranges a test does, and what nobody is kept from.

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file, with the folders that it needs.

        Raises:
            WindowsFault: There is no room.
        """
        node = self._nodes.get(key(path))
        if node is None:
            self.make_folder(parent(path))
            self._check_room(len(content))
            node = self.add(path, "system")
        self.fill(node, content, slowly=False)
        self.tell(node)

    def read(self, path: str) -> bytes | None:
        """The content, or None when there is no such file."""
        node = self._nodes.get(key(path))
        return node.content if node else None

    def entry(self, path: str) -> FileEntry | None:
        """The file, or None."""
        node = self._nodes.get(key(path))
        return FileEntry(node.path, node.content) if node else None

    def exists(self, path: str) -> bool:
        """True when the file is there."""
        return key(path) in self._nodes

    def delete(self, path: str) -> bool:
        """Remove a file, whoever has it open; False when it was not there."""
        node = self._nodes.get(key(path))
        if node is None:
            return False
        self.drop(node)
        return True

    def move(self, source: str, target: str) -> bool:
        """Rename a file over another; False when it was not there."""
        node = self._nodes.get(key(source))
        if node is None:
            return False
        other = self._nodes.get(key(target))
        if other is not None and other is not node:
            self.drop(other)
        self.make_folder(parent(target))
        self.rename(node, target)
        return True

    def under(self, folder: str) -> tuple[FileEntry, ...]:
        """All files below a folder, by path."""
        return tuple(FileEntry(node.path, node.content) for node in self.nodes_under(folder))

    @property
    def size_bytes(self) -> int:
        """What all files take."""
        return sum(len(node.content) for node in self._nodes.values())

    # Folders.

    def make_folder(self, path: str, rights: Rights | None = None, owner: Who = "system") -> Folder:
        """Make a folder and those above it, or give one that is there these rights."""
        name = key(path)
        folder = self._folders.get(name)
        if folder is None:
            if above := parent(path):
                self.make_folder(above, owner=owner)
            folder = self._folders[name] = Folder(clean(path), self.clock.now(), owner=owner)
        if rights is not None:
            folder.rights = rights
        return folder

    def folder(self, path: str) -> Folder | None:
        """The folder, or None."""
        return self._folders.get(key(path))

    def folders_in(self, path: str) -> tuple[Folder, ...]:
        """The folders directly in one, by path."""
        above = key(path)
        return tuple(entry for name, entry in sorted(self._folders.items()) if parent(name) == above)

    def drop_folder(self, path: str) -> None:
        """Remove a folder and those below it; their files are gone already."""
        name = key(path)
        for below in [entry for entry in self._folders if entry == name or entry.startswith(name + "\\")]:
            del self._folders[below]

    def rights_of(self, folder: str) -> Rights:
        """The rights of a folder: its own, or those that it inherits."""
        name = key(folder)
        while name:
            found = self._folders.get(name)
            if found is not None and found.rights is not None:
                return found.rights
            name = parent(name)
        return Rights()

    # What programs do; :mod:`~msp_sdk.testing.machine.program` has the shapes that scripts use.

    def open(
        self,
        path: str,
        access: AbstractSet[Access],
        *,
        share: AbstractSet[Access],
        mode: Mode = "open",
        who: Who = "system",
    ) -> Handle:
        """Open a file.

        Args:
            path: Of it.
            access: What the opener will do.
            share: What others may do meanwhile.
            mode: ``create`` makes the file, or empties it; ``new`` fails where it is there.
            who: On whose behalf.

        Raises:
            WindowsFault: It, or its folder, is not there; the rights do not allow it; it is open elsewhere; it is a
                running program; it is there and should not be.
        """
        node = self._nodes.get(key(path))
        if node is None:
            if mode == "open":
                raise WindowsFault(faults.FILE_NOT_FOUND, f"{path} is not there.")
            if key(parent(path)) not in self._folders:
                raise WindowsFault(faults.PATH_NOT_FOUND, f"the folder of {path} is not there.")
            if who not in self.rights_of(parent(path)).create:
                raise WindowsFault(faults.ACCESS_DENIED, f"{who} may make no file in {parent(path)}.")
            return Handle(self, self.add(path, who), access, share)
        if mode == "new":
            raise WindowsFault(faults.ALREADY_EXISTS, f"{path} is there already.")
        self.check(node, access, share, who)
        handle = Handle(self, node, access, share)
        if mode == "create":
            handle.empty()
        return handle

    def check(self, node: Node, access: AbstractSet[Access], share: AbstractSet[Access], who: Who) -> None:
        """Refuse what rights, an antivirus, a running program or another handle forbid.

        Raises:
            WindowsFault: One of them does.
        """
        for guard in self.guards:
            guard(node)
        rights = self.rights_of(parent(node.path))
        changes = not access <= {"read"}
        if node.delete_pending or (who not in (rights.change if changes else rights.read) and who != node.owner):
            raise WindowsFault(faults.ACCESS_DENIED, f"{who} may not do that to {node.path}.")
        if "write" in access and self.is_image(node):
            raise WindowsFault(faults.SHARING_VIOLATION, f"{node.path} is a running program.")
        for handle in node.handles:
            if not (access <= handle.share and handle.access <= share):
                raise WindowsFault(faults.SHARING_VIOLATION, f"{node.path} is open elsewhere.")

    def node(self, path: str) -> Node | None:
        """The file itself, or None."""
        return self._nodes.get(key(path))

    def nodes_under(self, folder: str) -> tuple[Node, ...]:
        """All files below a folder, by path."""
        prefix = key(folder) + "\\"
        return tuple(node for name, node in sorted(self._nodes.items()) if name.startswith(prefix))

    def add(self, path: str, owner: Who) -> Node:
        """Make an empty file."""
        node = self._nodes[key(path)] = Node(clean(path), b"", owner)
        return node

    def fill(self, node: Node, content: bytes, *, slowly: bool = True) -> None:
        """Put content into a file.

        Raises:
            WindowsFault: There is no room; the file is as it was.
        """
        # One that was taken away under its writer takes no room any more.
        if self._nodes.get(key(node.path)) is node:
            self._check_room(len(content) - len(node.content))
            self.free_bytes += len(node.content) - len(content)
        node.content = content
        if slowly and self.bytes_per_s is not None:
            self.clock.advance(len(content) / self.bytes_per_s)

    def rename(self, node: Node, path: str) -> None:
        """Give a file another name; what had that name is gone already."""
        del self._nodes[key(node.path)]
        node.path = clean(path)
        self._nodes[key(path)] = node

    def drop(self, node: Node) -> None:
        """Remove a file."""
        if self._nodes.get(key(node.path)) is node:
            del self._nodes[key(node.path)]
            self.free_bytes += len(node.content)

    def tell(self, node: Node) -> None:
        """Let those who watch the disk know that a file was written."""
        for work in tuple(self.after_write):
            work(node)

    def forget_handles(self) -> None:
        """Nobody has anything open any more: the power is gone."""
        for node in tuple(self._nodes.values()):
            for handle in node.handles:
                handle.is_open = False
            node.handles.clear()
            if node.delete_pending:
                self.drop(node)

    def _check_room(self, more_bytes: int) -> None:
        if more_bytes > self.free_bytes:
            raise WindowsFault(faults.DISK_FULL, f"{self.free_bytes} bytes are free.")
