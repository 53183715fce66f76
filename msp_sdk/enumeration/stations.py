"""What names give away imaging stations and tills, which their vendors manage. Pure.

A description is prose: only what has no other meaning counts there. A host name is a code: ``CT01`` is a scanner or,
seldom, a shop in Connecticut. Approving the shop's computer costs a person a minute, an agent on the scanner may harm
a patient: in doubt a host name is a station's.

Example:
    >>> is_station_name("GE-CT1"), is_station_name("CT-OFFICE")
    (True, False)
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

# A word is what stands between characters that are no letters, so that PACS01 is one and SPACESHIP is none.
_EDGE, _END = r"(?<![^\W\d_])", r"(?![^\W\d_])"
# Words that nothing but imaging calls a machine by.
_IMAGING = (
    r"pacs|dicom|mri|mammo(?:graph\w*|grafi\w*)?|fluoro(?:scop\w*)?|angio(?:graph\w*|grafi\w*)?"
    r"|x-?ray|roentgen|röntgen|radiograph\w*|ultra-?sound|ultraschall|sono(?:graph\w*|grafi\w*)"
    r"|(?:computer)?tomogra\w*|cbct|syngo|(?:siemens )?healthineers|carestream|hologic|planmeca|vatech"
    r"|cath[- ]?lab|c-?arm|dexa|dxa|densitomet\w*|pet[-/ ]?ct|spect(?:[-/ ]?ct)?|(?:ct|mri?|pet)-?scan"
    r"|linac|gamma[- ]?camera|endoscop\w*"
)
_MAKERS = (
    "ge", "gehc", "philips", "siemens", "toshiba", "canon", "hologic", "carestream", "fuji", "fujifilm", "agfa",
    "konica", "minolta", "sirona", "dentsply", "planmeca", "vatech", "zeiss", "heidelberg", "topcon", "samsung",
    "hitachi", "shimadzu", "mindray", "esaote",
)  # fmt: skip
# Codes of modalities are words of everyday life too, and most of them never count in prose.
_PROSE_CODE = r"ct|mr|xr|pet|oct|opg"
_DEVICE = r"scanner|modality|modalities|console|gantry|acq(?:uisition)?"
_TILL = (
    r"point of (?:sale|service)|(?:e-?)?pos[- ](?:terminal|till|station|system)|cash register|registrierkasse"
    r"|kassen(?:system|platz|arbeitsplatz|terminal)|caisse enregistreuse"
)

STATION_WORDS: tuple[str, ...] = (
    rf"{_EDGE}(?:{_IMAGING}){_END}",
    rf"{_EDGE}(?:{_PROSE_CODE})[\W\d_]*(?:{_DEVICE}){_END}",
    rf"{_EDGE}(?:{_DEVICE})[\W\d_]*(?:{_PROSE_CODE}){_END}",
    rf"{_EDGE}(?:{'|'.join(_MAKERS)})[- ](?:{_PROSE_CODE}){_END}",
    rf"{_EDGE}(?:{_TILL}){_END}",
)
STATION_UNITS: tuple[str, ...] = (
    rf"{_EDGE}(?:modalit(?:y|ies)|imaging (?:devices|stations|modalities)|medical devices|medizingeräte){_END}",
    rf"{_EDGE}(?:pacs|dicom){_END}",
)

# The parts of a host name.
_CODES = frozenset({"ct", "mr", "xr", "cr", "dx", "mg", "rf", "xa", "px", "pet", "oct", "opg"})
# Countries and states, and seldom ultrasound or nuclear medicine.
_PLACES = frozenset({"us", "nm"})
_MODALITIES = _CODES | _PLACES
# Doctors and ports too: they count beside a maker alone.
_BESIDE_MAKER = _MODALITIES | {"dr", "io"}
_MAKER_OR_ROOM = frozenset({*_MAKERS, "rad", "radiology", "radiologie", "imaging", "diag"})
_MAKER_WITH_CODE = frozenset(maker + code for maker in _MAKERS for code in _MODALITIES)
_LAST = frozenset({"mr", "xr", "dx", "mg", "xa", "opg"})
_DEVICES = frozenset({"scanner", "modality", "console", "gantry", "acq", "acquisition"})
_TILLS = frozenset({"pos", "epos", "kasse", "kassa", "caisse"})
_NUMBERED_TILLS = frozenset({"till", "reg", "register", "caja", "checkout"})
_SERVERS = frozenset({"srv", "svr", "server", "dc", "fs", "sql"})
_CLIENTS = frozenset({"pc", "ws", "wks", "nb", "lt", "laptop", "desktop", "vm", "vdi"})

_SEPARATORS = re.compile(r"[-_. ]+")
_WORD_AND_NUMBER = re.compile(r"([^\W\d_]+)(?:(\d+)[a-z]?)?")
# There are not thousands of stations: a longer number is an asset's.
_LONGEST_NUMBER = 3


@lru_cache(4096)
def is_station_name(hostname: str) -> bool:
    """Whether a host name is put together as those of imaging stations and tills are, in any case."""
    parts = _parts(hostname.lower())
    if not parts:
        return False
    words = {word for word, _ in parts}
    numbered = {word for word, number in parts if 0 < len(number) <= _LONGEST_NUMBER}
    last, last_number = parts[-1]
    return (
        not numbered.isdisjoint(_CODES)
        or not words.isdisjoint(_MAKER_WITH_CODE)
        or not (words.isdisjoint(_MAKER_OR_ROOM) or words.isdisjoint(_BESIDE_MAKER))
        or any(_is_device(one, other) for (one, _), (other, _) in pairwise(parts))
        or (len(parts) == 1 and not last_number and last in _MODALITIES)
        or (len(parts) > 1 and not last_number and last in _LAST)
        # US1 and CLINIC-US1, but not US1-SRV2 nor SRV-US1: there it is a place.
        or (last in _PLACES and last in numbered and not any(_is_ordinary(*part) for part in parts))
        or not words.isdisjoint(_TILLS)
        or not numbered.isdisjoint(_NUMBERED_TILLS)
    )


def _parts(name: str) -> list[tuple[str, str]]:
    """Its parts as words and their numbers; a number that stands alone is of the word before it."""
    parts: list[tuple[str, str]] = []
    for part in _SEPARATORS.split(name):
        found = _WORD_AND_NUMBER.fullmatch(part)
        if found:
            parts.append((found[1], found[2] or ""))
        elif part.isdigit() and parts and not parts[-1][1]:
            parts[-1] = (parts[-1][0], part)
        elif part:
            parts.append((part, ""))
    return parts


def _is_device(one: str, other: str) -> bool:
    return (one in _MODALITIES and other in _DEVICES) or (one in _DEVICES and other in _MODALITIES)


def _is_ordinary(word: str, number: str) -> bool:
    return word in _SERVERS or (word in _CLIENTS and number != "")
