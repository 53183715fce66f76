r"""The registry: typed values by key and name without case, and the second view that 32-bit programs have.

Example:
    >>> registry = Registry()
    >>> registry.set(r"HKLM\SOFTWARE\Agent", "Site", "Nord", view=32)
    >>> registry.get(r"HKLM\SOFTWARE\Agent", "Site"), registry.get(r"HKLM\Software\WOW6432Node\Agent", "site")
    (None, 'Nord')
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from msp_sdk.testing.machine.names import clean, key, leaf, parent

Kind = Literal["REG_SZ", "REG_EXPAND_SZ", "REG_DWORD", "REG_QWORD", "REG_MULTI_SZ", "REG_BINARY"]
View = Literal[32, 64]

_SOFTWARE = r"HKLM\SOFTWARE"
_WOW = r"HKLM\SOFTWARE\WOW6432NODE"
_LONG = {
    "HKEY_LOCAL_MACHINE": "HKLM",
    "HKEY_CURRENT_USER": "HKCU",
    "HKEY_USERS": "HKU",
    "HKEY_CLASSES_ROOT": "HKCR",
}


@frozen
class RegistryValue:
    """A value: its name as it was first written, its kind and its data."""

    name: str
    kind: Kind
    data: object


def _kind_of(data: object) -> Kind:
    if isinstance(data, bool) or not isinstance(data, str | int | bytes | list | tuple):
        message = f"the registry holds no {type(data).__name__}."
        raise TypeError(message)
    if isinstance(data, int):
        return "REG_DWORD" if 0 <= data < 2**32 else "REG_QWORD"
    return "REG_SZ" if isinstance(data, str) else "REG_BINARY" if isinstance(data, bytes) else "REG_MULTI_SZ"


_FITS: dict[Kind, type | tuple[type, ...]] = {
    "REG_SZ": str,
    "REG_EXPAND_SZ": str,
    "REG_DWORD": int,
    "REG_QWORD": int,
    "REG_MULTI_SZ": (list, tuple),
    "REG_BINARY": bytes,
}


class Registry:
    """Keys and their values. A key is there when it, one below it, or a value in it was written."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._values: dict[str, dict[str, RegistryValue]] = {}

    def make_key(self, path: str, *, view: View = 64) -> None:
        """Make a key and those above it."""
        shown = _resolve(path, view)
        while shown and key(shown) not in self._keys:
            self._keys[key(shown)] = shown
            shown = parent(shown)

    def has_key(self, path: str, *, view: View = 64) -> bool:
        """True when the key is there."""
        return key(_resolve(path, view)) in self._keys

    def delete_key(self, path: str, *, view: View = 64) -> bool:
        """Remove a key with all below it; False when it was not there."""
        name = key(_resolve(path, view))
        found = name in self._keys
        for below in [entry for entry in self._keys if entry == name or entry.startswith(name + "\\")]:
            del self._keys[below]
            self._values.pop(below, None)
        return found

    def keys_in(self, path: str, *, view: View = 64) -> tuple[str, ...]:
        """The names of the keys directly in one, sorted."""
        above = key(_resolve(path, view))
        return tuple(leaf(shown) for name, shown in sorted(self._keys.items()) if parent(name) == above)

    def set(self, key: str, name: str, value: object, *, kind: Kind | None = None, view: View = 64) -> None:
        """Write a value; its kind follows from the data when none is given.

        Raises:
            TypeError: The registry holds no such data, or not as that kind.
        """
        kind = kind or _kind_of(value)
        if not isinstance(value, _FITS[kind]) or (kind == "REG_DWORD" and not 0 <= int(str(value)) < 2**32):
            message = f"{kind} cannot hold this {type(value).__name__}."
            raise TypeError(message)
        self.make_key(key, view=view)
        values = self._values.setdefault(_name(key, view), {})
        before = values.get(name.casefold())
        values[name.casefold()] = RegistryValue(before.name if before else name, kind, value)

    def value(self, key: str, name: str, *, view: View = 64) -> RegistryValue | None:
        """The value with its kind, or None."""
        return self._values.get(_name(key, view), {}).get(name.casefold())

    def get(self, key: str, name: str, *, view: View = 64) -> object | None:
        """The value's data, or None."""
        found = self.value(key, name, view=view)
        return found.data if found else None

    def delete(self, key: str, name: str, *, view: View = 64) -> None:
        """Remove a value; nothing happens when it was not there."""
        self._values.get(_name(key, view), {}).pop(name.casefold(), None)


def _name(path: str, view: View) -> str:
    return key(_resolve(path, view))


def _resolve(path: str, view: View) -> str:
    """The key that a program of this kind means: a 32-bit one has its own ``SOFTWARE`` of the machine."""
    hive, _, rest = clean(path).partition("\\")
    shown = f"{_LONG.get(hive.upper(), hive)}\\{rest}" if rest else _LONG.get(hive.upper(), hive)
    name = key(shown)
    if view == 32 and (name + "\\").startswith(_SOFTWARE + "\\") and not (name + "\\").startswith(_WOW + "\\"):  # noqa: PLR2004 (bits)
        return f"{shown[: len(_SOFTWARE)]}\\WOW6432Node{shown[len(_SOFTWARE) :]}"
    return shown
