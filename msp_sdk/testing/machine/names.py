r"""Paths as Windows compares them, and identifiers that are the same for the same seed.

Example:
    >>> key(r"C:/Program Files\Agent\\") == key(r"c:\PROGRAM FILES\agent")
    True
    >>> key("C:\\STRASSE") == key("C:\\straße")
    False
    >>> expand("%ProgramData%\\msp")
    'C:\\ProgramData\\msp'
"""

from __future__ import annotations

import functools
import hashlib

_FOLDERS = {
    "%programfiles%": r"C:\Program Files",
    "%programfiles(x86)%": r"C:\Program Files (x86)",
    "%programdata%": r"C:\ProgramData",
    "%systemroot%": r"C:\Windows",
}


def clean(path: str) -> str:
    r"""A path with ``\`` alone, and none at its end."""
    parts = [part for part in path.replace("/", "\\").split("\\") if part]
    return "\\".join(parts)


@functools.lru_cache(4096)
def key(path: str) -> str:
    """What two spellings of one path have in common.

    Letter by letter, as NTFS does: a letter whose capital is two letters is left as it is.
    """
    letters = (upper if len(upper := letter.upper()) == 1 else letter for letter in clean(path))
    return "".join(letters)


def parent(path: str) -> str:
    """The folder of a file or folder; empty for a drive."""
    return clean(path).rpartition("\\")[0]


def leaf(path: str) -> str:
    """The last part of a path."""
    return clean(path).rpartition("\\")[2]


def expand(path: str) -> str:
    """The path with the folder that a variable at its beginning names."""
    for name, folder in _FOLDERS.items():
        if path.casefold().startswith(name):
            return folder + path[len(name) :]
    return path


def make_guid(seed: str) -> str:
    """A GUID in braces, of version 4 by its form."""
    text = hashlib.sha256(seed.encode()).hexdigest().upper()
    return f"{{{text[:8]}-{text[8:12]}-4{text[13:16]}-A{text[17:20]}-{text[20:32]}}}"


def make_sid(authority: str, account: str | None = None) -> str:
    """A SID: of a domain or machine, or with ``account`` of one in it."""
    digest = hashlib.sha256(authority.casefold().encode()).digest()
    parts = [str(int.from_bytes(digest[index : index + 4], "big")) for index in (0, 4, 8)]
    if account is not None:
        number = int.from_bytes(hashlib.sha256(account.casefold().encode()).digest()[:4], "big")
        parts.append(str(1000 + number % 2**30))
    return "S-1-5-21-" + "-".join(parts)
