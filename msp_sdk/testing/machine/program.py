r"""What a program does with files, on somebody's behalf: as the calls of .NET that our scripts use.

Each call meets the rights, the locks and the room of the disk; each fails as a whole or not at all.

Example:
    >>> files = Files()
    >>> files.write(r"C:\Windows\a.txt", b"1")
    >>> Program(files, "user").read(r"C:\Windows\a.txt")
    b'1'
    >>> Program(files, "user").delete(r"C:\Windows\a.txt")
    Traceback (most recent call last):
    msp_sdk.testing.machine.faults.WindowsFault: user may not do that to C:\Windows\a.txt. (5)
"""

from __future__ import annotations

from msp_sdk.testing.machine import faults
from msp_sdk.testing.machine.faults import WindowsFault
from msp_sdk.testing.machine.files import Access, Files, Handle
from msp_sdk.testing.machine.names import key, parent
from msp_sdk.testing.machine.rights import Rights, Who


class Program:
    """The disk as a program sees it."""

    def __init__(self, files: Files, who: Who = "administrator") -> None:
        self.files = files
        self.who = who

    def exists(self, path: str) -> bool:
        """True when the file is there (``File.Exists``)."""
        return self.files.exists(path)

    def open_to_read(self, path: str, *, may_go: bool = True) -> Handle:
        """Open a file so that nobody writes to it meanwhile; it may be moved and deleted only if it ``may_go``."""
        share: set[Access] = {"read", "delete"} if may_go else {"read"}
        return self.files.open(path, {"read"}, share=share, who=self.who)

    def read(self, path: str) -> bytes:
        """All of a file, read so that nobody writes meanwhile."""
        with self.open_to_read(path) as handle:
            return handle.read()

    def write(self, path: str, content: bytes) -> None:
        """Make a file or put content in the place of what is there (``FileMode.Create``, shared with nobody).

        A new file for which there is no room is left there, empty, as Windows does.
        """
        with self.files.open(path, {"write"}, share=set(), mode="create", who=self.who) as handle:
            handle.write(content)

    def delete(self, path: str) -> bool:
        """Remove a file (``File.Delete``); False when it was not there.

        Where others have it open and allow it, it goes with the last of them.
        """
        node = self.files.node(path)
        if node is None:
            return False
        self.files.check(node, {"delete"}, {"read", "write", "delete"}, self.who)
        if self.files.is_image(node):
            raise WindowsFault(faults.ACCESS_DENIED, f"{node.path} is a running program.")
        if node.handles:
            node.delete_pending = True
        else:
            self.files.drop(node)
        return True

    def move(self, source: str, target: str) -> None:
        """Give a file a name that nobody has (``File.Move``). A running program can be renamed."""
        node = self.files.node(source)
        if node is None:
            raise WindowsFault(faults.FILE_NOT_FOUND, f"{source} is not there.")
        self._check_place(target)
        other = self.files.node(target)
        if other is not None and other is not node:
            raise WindowsFault(faults.ALREADY_EXISTS, f"{target} is there already.")
        self.files.check(node, {"delete"}, {"read", "write", "delete"}, self.who)
        self.files.rename(node, target)

    def replace(self, new: str, path: str, previous: str | None) -> None:
        """Put ``new`` in the place of ``path``, which becomes ``previous``, or goes (``File.Replace``)."""
        for name in (new, path):
            if not self.files.exists(name):
                raise WindowsFault(faults.FILE_NOT_FOUND, f"{name} is not there.")
        names = [key(name) for name in (new, path, previous) if name is not None]
        if len(set(names)) < len(names):
            raise WindowsFault(faults.SHARING_VIOLATION, f"{path} cannot take its own place.")
        for name in names:
            self._check_place(name)
            if (node := self.files.node(name)) is not None:
                self.files.check(node, {"delete"}, {"read", "write", "delete"}, self.who)
        # What goes for good goes now or the whole call fails: it may be neither open nor a running program.
        gone = self.files.node(path if previous is None else previous)
        if gone is not None and (gone.handles or self.files.is_image(gone)):
            raise WindowsFault(faults.SHARING_VIOLATION, f"{gone.path} is in use.")
        self.delete(path if previous is None else previous)
        if previous is not None:
            self.move(path, previous)
        self.move(new, path)

    def make_folder(self, path: str, rights: Rights | None = None) -> None:
        """Make a folder and those above it; with ``rights``, give them to one that is there, too."""
        if self.files.folder(path) is None:
            above = parent(path)
            while above and self.files.folder(above) is None:
                above = parent(above)
            if self.who not in self.files.rights_of(above).create:
                raise WindowsFault(faults.ACCESS_DENIED, f"{self.who} may make no folder in {above}.")
        elif rights is not None and self.who == "user":
            raise WindowsFault(faults.ACCESS_DENIED, f"{self.who} may not give rights on {path}.")
        self.files.make_folder(path, rights, self.who)

    def remove_folder(self, path: str, *, with_content: bool = False) -> None:
        """Remove a folder (``Directory.Delete``). What is removed before something is found locked stays removed."""
        inside = self.files.nodes_under(path)
        if not with_content and (inside or self.files.folders_in(path)):
            raise WindowsFault(faults.DIR_NOT_EMPTY, f"{path} is not empty.")
        for node in inside:
            self.delete(node.path)
        if self.files.nodes_under(path):
            raise WindowsFault(faults.DIR_NOT_EMPTY, f"{path} is not empty yet.")
        self.files.drop_folder(path)

    def _check_place(self, path: str) -> None:
        if self.files.folder(parent(path)) is None:
            raise WindowsFault(faults.PATH_NOT_FOUND, f"the folder of {path} is not there.")
        if self.who not in self.files.rights_of(parent(path)).create:
            raise WindowsFault(faults.ACCESS_DENIED, f"{self.who} may make no file in {key(parent(path))}.")
