"""How a search picks among entries: names, scopes, filters, matching rules. Pure.

Example:
    >>> fold_dn("CN=SRV1, DC=corp,DC=example")
    'cn=srv1,dc=corp,dc=example'
"""

from __future__ import annotations

from collections.abc import Callable

import sansldap

from msp_sdk.testing.directory_data import DirectoryEntry

_BIT_AND = "1.2.840.113556.1.4.803"
_BIT_OR = "1.2.840.113556.1.4.804"
IN_CHAIN = "1.2.840.113556.1.4.1941"
_EXACT = {"objectguid", "objectsid", "invocationid", "parentguid"}

# The entry of a folded name, for rules that walk from one entry to the next.
Lookup = Callable[[str], DirectoryEntry | None]


def fold_dn(dn: str) -> str:
    """A distinguished name for comparison: no space after commas, lower case."""
    return ",".join(part.strip() for part in dn.split(",")).lower()


def split_dn(dn: str) -> tuple[str, str]:
    """The first part of a distinguished name and its parent; an escaped comma divides nothing."""
    at = 0
    while at < len(dn) and dn[at] != ",":
        at += 2 if dn[at] == "\\" else 1
    return dn[:at], dn[at + 1 :]


def in_scope(dn: str, base: str, scope: int) -> bool:
    """True if a folded name lies in the scope of a folded base."""
    if scope == sansldap.SearchScope.BASE:
        return dn == base
    if scope == sansldap.SearchScope.ONE_LEVEL:
        return dn.endswith(f",{base}") and split_dn(dn)[1] == base
    return dn == base or dn.endswith(f",{base}")


def matches(wanted: sansldap.LDAPFilter, entry: DirectoryEntry, lookup: Lookup = lambda _: None) -> bool:  # noqa: PLR0911 (one return a kind of filter)
    """True if the filter lets the entry pass. Only for filters that :func:`is_known` lets pass."""
    match wanted:
        case sansldap.FilterAnd():
            return all(matches(part, entry, lookup) for part in wanted.filters)
        case sansldap.FilterOr():
            return any(matches(part, entry, lookup) for part in wanted.filters)
        case sansldap.FilterNot():
            return not matches(wanted.filter, entry, lookup)
        case sansldap.FilterPresent():
            return wanted.attribute.lower() in entry.folded
        case sansldap.FilterEquality() | sansldap.FilterApproxMatch():
            # Windows takes "about" for "equal".
            return any(_equal(wanted.attribute, value, wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterGreaterOrEqual():
            return any(_order(value) >= _order(wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterLessOrEqual():
            return any(_order(value) <= _order(wanted.value) for value in _values(entry, wanted.attribute))
        case sansldap.FilterSubstrings():
            return any(_has_pieces(value.lower(), wanted) for value in _values(entry, wanted.attribute))
        case sansldap.FilterExtensibleMatch():
            return _obeys(wanted, entry, lookup)
    return False


def is_known(wanted: sansldap.LDAPFilter) -> bool:
    """True if every part of the filter is one that the stand-in can judge."""
    match wanted:
        case sansldap.FilterAnd() | sansldap.FilterOr():
            return all(map(is_known, wanted.filters))
        case sansldap.FilterNot():
            return is_known(wanted.filter)
        case sansldap.FilterExtensibleMatch():
            return wanted.attribute is not None and wanted.rule in (_BIT_AND, _BIT_OR, IN_CHAIN)
    return True


def _obeys(wanted: sansldap.FilterExtensibleMatch, entry: DirectoryEntry, lookup: Lookup) -> bool:
    attribute = wanted.attribute or ""
    if wanted.rule in (_BIT_AND, _BIT_OR):
        return any(_has_bits(value, wanted.value, wanted.rule) for value in _values(entry, attribute))
    return _reaches(entry, attribute, fold_dn(wanted.value.decode(errors="replace")), lookup)


def _reaches(entry: DirectoryEntry, attribute: str, target: str, lookup: Lookup) -> bool:
    """True if the attribute's names lead there, over any number of entries; a circle ends."""
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        for value in _values(waiting.pop(), attribute):
            name = fold_dn(value.decode(errors="replace"))
            if name == target:
                return True
            if name not in seen and (following := lookup(name)) is not None:
                waiting.append(following)
            seen.add(name)
    return False


def _values(entry: DirectoryEntry, attribute: str) -> tuple[bytes, ...]:
    return entry.folded.get(attribute.lower(), ())


def _equal(attribute: str, value: bytes, wanted: bytes) -> bool:
    folded = attribute.lower()
    if folded in _EXACT:
        return value == wanted
    if folded == "objectcategory" and b"=" not in wanted:
        # Windows takes the class's short name for the distinguished name of its category.
        return value.lower().startswith(b"cn=" + wanted.lower() + b",")
    return value.lower() == wanted.lower()


def _order(value: bytes) -> tuple[int, int, bytes]:
    """Numbers by value, before text by its bytes."""
    try:
        return (0, int(value), b"")
    except ValueError:
        return (1, 0, value.lower())


def _has_pieces(value: bytes, wanted: sansldap.FilterSubstrings) -> bool:
    if wanted.initial is not None and not value.startswith(wanted.initial.lower()):
        return False
    rest = value[len(wanted.initial or b"") :]
    for piece in wanted.any or ():
        _, found, rest = rest.partition(piece.lower())
        if not found:
            return False
    return wanted.final is None or rest.endswith(wanted.final.lower())


def _has_bits(value: bytes, wanted: bytes, rule: str) -> bool:
    try:
        have, want = int(value), int(wanted)
    except ValueError:
        return False
    return have & want == want if rule == _BIT_AND else bool(have & want)
