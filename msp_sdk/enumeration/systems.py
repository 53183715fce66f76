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

from msp_sdk.models.computer import Platform

SystemKind = Literal["server", "workstation", "foreign", "unknown"]

_WINDOWS = r"^(?:(?:microsoft|майкрософт) )?windows\b"

# First match wins; every row is looked for in the folded name.
_TABLE: tuple[tuple[str, SystemKind, Platform | None], ...] = (
    (r"^$", "unknown", None),
    (r"^(?:microsoft )?hyper-v server\b", "server", "windows"),
    (r"^azure (?:stack hci|local)\b", "server", "windows"),
    (rf"{_WINDOWS}.*\b(?:server|azure stack hci)", "server", "windows"),
    (_WINDOWS, "workstation", "windows"),
    (r"\b(?:netapp|data ?ontap|ontap|isilon|onefs|emc|celerra|vnx|unity ?os)\b", "foreign", "storage"),
    (r"\b(?:synology|qnap|qts)\b", "foreign", "storage"),
    (r"\b(?:freenas|truenas|nutanix files|qumulo|nexenta|openmediavault|powerscale)\b", "foreign", "storage"),
    (r"\b(?:mac ?os(?: ?x)?|os x|darwin)\b", "foreign", "macos"),
    (r"linux|\b(?:ubuntu|debian|red ?hat|rhel|centos|fedora|suse|sles|sled|rocky|almalinux)\b", "foreign", "linux"),
    (r"\b(?:arch|gentoo|univention|nixos|raspbian|kali|alpine)\b", "foreign", "linux"),
    (r"", "foreign", "other"),
)
_SYSTEMS = tuple((re.compile(pattern), kind, platform) for pattern, kind, platform in _TABLE)
# What is built into something, also a till: POSReady, WEPOS, Point of Service.
_BUILT_IN = re.compile(r"\b(?:embedded|iot|posready|wepos|point of service)\b")
_TOO_OLD_NAME = re.compile(r"\b(?:nt|2000|xp|vista|2003)\b|\bserver 2008(?! r2)\b")
_TOO_OLD_BELOW = (6, 1)
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
    """A text for comparison: no marks, compatible characters as one, one space between words, lower case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_MARKS)).casefold()
    return " ".join(text.lower().split())


@functools.lru_cache(maxsize=4096)
def system_of(name: str | None, version: str | None) -> System:
    """Judge an operating system by what the directory says of it; both may be None."""
    folded = fold(name or "")
    kind, platform = next((kind, platform) for pattern, kind, platform in _SYSTEMS if pattern.search(folded))
    if kind not in ("server", "workstation"):
        return System(kind, platform)
    numbers = re.match(r"([0-9]{1,6})\.([0-9]{1,6})", version or "")
    too_old = (
        (int(numbers[1]), int(numbers[2])) < _TOO_OLD_BELOW if numbers else _TOO_OLD_NAME.search(folded) is not None
    )
    return System(kind, platform, vendor_managed=_BUILT_IN.search(folded) is not None, too_old=too_old)


# Words that nothing but imaging calls a machine by. A word is what stands between characters that are no letters, so
# that PACS01 is one and SPACESHIP is none.
_IMAGING = (
    r"pacs|dicom|mri|mammo(?:graph\w*|grafi\w*)?|fluoro(?:scop\w*)?|angio(?:graph\w*|grafi\w*)?"
    r"|x-?ray|roentgen|röntgen|radiograph\w*|ultra-?sound|ultraschall|sono(?:graph\w*|grafi\w*)"
    r"|(?:computer)?tomogra\w*|cbct|syngo|(?:siemens )?healthineers|carestream|hologic"
)
# Codes of modalities are words of everyday life too: they count beside a word for a device, and never alone.
_MODALITY = r"ct|mr|us|xr|cr|dx|mg|nm|pet|rf|xa|io|px|oct|opg"
_DEVICE = r"scanner|modality|modalities|console|gantry|acq(?:uisition)?"
# No letter before it, none after it: digits and underscores separate.
_EDGE, _END = r"(?<![^\W\d_])", r"(?![^\W\d_])"

IMAGING_STATIONS: tuple[str, ...] = (
    rf"{_EDGE}(?:{_IMAGING}){_END}",
    rf"{_EDGE}(?:{_MODALITY})[\W\d_]*(?:{_DEVICE}){_END}",
    rf"{_EDGE}(?:{_DEVICE})[\W\d_]*(?:{_MODALITY}){_END}",
)
IMAGING_UNITS: tuple[str, ...] = (
    rf"{_EDGE}(?:modalit(?:y|ies)|imaging (?:devices|stations|modalities)|medical devices|medizingeräte){_END}",
    rf"{_EDGE}(?:pacs|dicom){_END}",
)


@frozen
class VendorRules:
    """Which machines their vendor manages, beside those whose system says so: listed, and left alone.

    The patterns are regular expressions that are looked for, any case. Each is a reason to leave a machine alone
    until a person approves it, so a doubtful one is better left out than one too many put in.

    Attributes:
        words: In the short name or the description.
        units: In the name of a container that it lies in.
    """

    words: tuple[str, ...] = IMAGING_STATIONS
    units: tuple[str, ...] = IMAGING_UNITS
    _has_word: Callable[[str], bool] = field(init=False, repr=False, eq=False)
    _has_unit: Callable[[str], bool] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_has_word", _finder(self.words))
        object.__setattr__(self, "_has_unit", _finder(self.units))

    def names(self, hostname: str, description: str | None) -> bool:
        """True if its name or description says so."""
        # To our own patterns all digits are alike, so the names of a thousand numbered machines are one.
        name = hostname.translate(_DIGITS_ALIKE) if self.words is IMAGING_STATIONS else hostname
        return self._has_word(name) or (description is not None and self._has_word(description))

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
