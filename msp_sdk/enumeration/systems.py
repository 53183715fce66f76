"""What an operating system's name says, and which machines their vendor manages: two tables. Pure.

Names come in every language and from every system that ever joined a domain. What decides is read from what no
translation touches ("Windows Server 2019 Standard Évaluation"): the product's name at the beginning, the version's
number. Nothing is guessed from an edition's name.

Example:
    >>> system_of("Red Hat Enterprise Linux", "9.4").platform
    'linux'
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from attrs import field, frozen

from msp_sdk.enumeration.stations import STATION_UNITS, STATION_WORDS, is_station_name
from msp_sdk.models.computer import Platform

SystemKind = Literal["server", "workstation", "foreign", "unknown"]

_WINDOWS = r"^(?:(?:microsoft|майкрософт) )?windows\b"

# First match wins; every row is looked for in the folded name.
_TABLE: tuple[tuple[str, SystemKind, Platform | None], ...] = (
    # ESXi and some appliances write that they do not know.
    (r"^(?:unknown|none|n/?a|-)?$", "unknown", None),
    (r"^(?:microsoft )?hyper-v server\b", "server", "windows"),
    (r"^(?:microsoft )?azure (?:stack hci|local)\b", "server", "windows"),
    (rf"{_WINDOWS}.*\b(?:server|azure stack hci|azure local)\b", "server", "windows"),
    (_WINDOWS, "workstation", "windows"),
    (r"\b(?:netapp|(?:data ?)?ontap|isilon|onefs|emc|celerra|vnx|unity ?(?:os|file server))\b", "foreign", "storage"),
    (r"\b(?:synology|dsm|qnap|quts|qts|asustor|terramaster|readynas|buffalo nas)\b", "foreign", "storage"),
    (r"\b(?:freenas|truenas|nutanix files|qumulo|nexenta|openmediavault|powerscale)\b", "foreign", "storage"),
    (r"\b(?:flashblade|flasharray|powerstore|data domain|ddos|storeonce|hnas|hitachi nas)\b", "foreign", "storage"),
    (r"\b(?:nasuni|panzura|ctera|cohesity|rubrik|vast ?data|zfs storage|spectrum scale)\b", "foreign", "storage"),
    (r"\b(?:mac ?os(?: ?x)?|os x|darwin)\b", "foreign", "macos"),
    (r"linux|\b(?:ubuntu|debian|red ?hat|rhel|centos|fedora|(?:open)?suse|sles|sled|rocky)\b", "foreign", "linux"),
    (r"\b(?:arch|gentoo|univention|nixos|raspbian|kali|alpine|manjaro|mageia|proxmox|photon os|kylin)\b", "foreign",
     "linux"),
    (r"", "foreign", "other"),
)  # fmt: skip
_SYSTEMS = tuple((re.compile(pattern), kind, platform) for pattern, kind, platform in _TABLE)
# What is built into something: a till (POSReady, WEPOS, Point of Service), a thin client, a meeting room's screen.
_BUILT_IN = re.compile(r"\b(?:embedded|iot|posready|wepos|point of service|thin ?pc|windows 1[01] team)\b")
# Windows PowerShell 5.1 goes on Windows 7 SP1, 8.1, Server 2008 R2 SP1 and 2012, and on none between them.
_TOO_OLD_NAME = re.compile(r"\b(?:nt|2000|xp|vista|2003)\b|\bserver 2008(?! r2)\b|\b(?:windows|embedded) 8(?!\.1)\b")
_LEAST = (6, 1, 7601)
_WINDOWS_8 = (6, 2)
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:[. (]+([0-9]{1,6}))?")
_MARKS = str.maketrans(dict.fromkeys("®™©", " "))


@frozen
class System:
    """What an operating system's name and version say.

    Attributes:
        platform: None when there is no name.
        vendor_managed: The name says that it is built into something.
        too_old: Windows PowerShell 5.1 does not run there.
    """

    kind: SystemKind
    platform: Platform | None = None
    vendor_managed: bool = False
    too_old: bool = False


def fold(text: str) -> str:
    """A text for comparison: no marks, compatible characters as one, one space between words, lower case.

    What is not seen (a byte-order mark, a mark of direction) goes, and every dash is a hyphen.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_MARKS)).casefold()
        text = "".join(map(_plain_character, text))
    return " ".join(text.lower().split())


@functools.lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return "-" if category == "Pd" else character


@functools.lru_cache(maxsize=4096)
def system_of(name: str | None, version: str | None) -> System:
    """Judge an operating system by what the directory says of it; both may be None."""
    folded = fold(name or "")
    kind, platform = next((kind, platform) for pattern, kind, platform in _SYSTEMS if pattern.search(folded))
    if kind not in ("server", "workstation"):
        return System(kind, platform)
    too_old = _is_too_old(kind, version or "")
    if too_old is None:
        too_old = _TOO_OLD_NAME.search(folded) is not None
    return System(kind, platform, vendor_managed=_BUILT_IN.search(folded) is not None, too_old=too_old)


def _is_too_old(kind: SystemKind, version: str) -> bool | None:
    """Whether the version's number says so, such as ``6.1 (7601)``; None when it is none."""
    numbers = _VERSION.match(version)
    if numbers is None:
        return None
    major, minor = int(numbers[1]), int(numbers[2])
    build = _LEAST[-1] if numbers[3] is None else int(numbers[3])
    return (major, minor, build) < _LEAST or (kind == "workstation" and (major, minor) == _WINDOWS_8)


@frozen
class VendorRules:
    """Which machines their vendor manages, beside those whose system says so: listed, and left alone.

    The patterns are regular expressions that are looked for, any case. Each is a reason to leave a machine alone
    until a person approves it.

    Attributes:
        words: In the short name or the description.
        units: In the name of a container that it lies in.
        codes: Short names such as ``CT01``, ``PHILIPS-MR`` and ``POS3`` count, see
            :mod:`msp_sdk.enumeration.stations`.
    """

    words: tuple[str, ...] = STATION_WORDS
    units: tuple[str, ...] = STATION_UNITS
    codes: bool = True
    _has_word: Callable[[str], bool] = field(init=False, repr=False, eq=False)
    _has_unit: Callable[[str], bool] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_has_word", _finder(self.words))
        object.__setattr__(self, "_has_unit", _finder(self.units))

    def names(self, hostname: str, description: str | None) -> bool:
        """True if its name or description says so."""
        # To our own rules all digits are alike, so the names of a thousand numbered machines are one.
        alike = hostname.translate(_DIGITS_ALIKE)
        return (
            self._has_word(alike if self.words is STATION_WORDS else hostname)
            or (self.codes and is_station_name(alike))
            or (description is not None and self._has_word(description))
        )

    def holds(self, ou_path: str) -> bool:
        """True if where it lies says so."""
        return self._has_unit(ou_path)


_DIGITS_ALIKE = str.maketrans("123456789", "000000000")


def _finder(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether one of these patterns is in a text, folded; what repeats itself is looked at once."""
    if not patterns:
        return lambda _: False
    pattern = re.compile("|".join(f"(?:{part})" for part in patterns), re.IGNORECASE)

    @functools.lru_cache(maxsize=4096)
    def find(text: str) -> bool:
        return pattern.search(fold(text)) is not None

    return find
