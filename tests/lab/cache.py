"""What is dear to build, kept in the user's cache: built once, unpacked by every later run.

The name of a kept one is a digest of its recipe, so that a changed builder never meets an old product. It holds the
keys of a made-up domain: its owner alone reads it. Two runs at once build it once; a broken one is built anew.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import secrets
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

KEPT_FOR_S = 7 * 86_400
"""Logons in a directory age: what was seen today at the build would be stale in some months."""


def cache_folder() -> Path:
    """Where it is kept: ``$XDG_CACHE_HOME/msp-sdk``, for its owner alone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "msp-sdk"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def unpack_or_build(folder: Path, build: Callable[[Path], None], recipe: bytes) -> None:
    """Fill an empty folder from the cache, or by ``build``, which is then kept.

    Args:
        folder: Empty; what ``build`` writes must not hold its path.
        build: Fills the folder it is given.
        recipe: Everything that the product depends on.
    """
    name = hashlib.sha256(recipe).hexdigest()[:24]
    kept = cache_folder() / f"directory-{name}.tar.gz"
    with _turn(kept.with_suffix(".lock")):
        if kept.exists() and time.time() - kept.stat().st_mtime < KEPT_FOR_S and _unpack(kept, folder):
            return
        build(folder)
        _pack(folder, kept)
        _sweep(kept)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of it however a process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unpack(kept: Path, folder: Path) -> bool:
    """False, and an empty folder, when it is broken."""
    try:
        with gzip.open(kept) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                archive.extractall(folder, filter="tar")
            # The checksum stands at the very end, which an archive does not read.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        return False
    return True


def _pack(folder: Path, kept: Path) -> None:
    temporary = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            archive.add(folder, arcname=".", filter=_no_sockets)
        temporary.replace(kept)
    finally:
        temporary.unlink(missing_ok=True)


def _no_sockets(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isfile() or member.isdir() or member.issym() or member.islnk() else None


def _sweep(kept: Path) -> None:
    """Remove what no run has used for long."""
    for entry in kept.parent.glob("directory-*"):
        if entry != kept and not entry.name.endswith(".lock") and time.time() - entry.stat().st_mtime > KEPT_FOR_S:
            entry.unlink(missing_ok=True)
