"""Which computers belong to a site, and which part of a domain is read, as values. Pure."""

from __future__ import annotations

import functools
import re
from fnmatch import translate
from typing import Literal

from attrs import frozen

ComputerRole = Literal["domain_controller", "server", "workstation", "other"]
# Why a domain is not read of which a site's scope names nothing.
DOMAIN_OUT_OF_SCOPE = "domain-out-of-scope"
# A backslash before anything else stands for itself: people write names as they see them.
_ESCAPED = re.compile(r"\\([\\/])")
_NAME = re.compile(r"(?:\\[\\/]|[^/])+")


@frozen
class EnumerationScope:
    r"""What of a domain is read; empty means all. What is given of several kinds must all hold.

    Attributes:
        ous: Containers as paths from the root down, such as ``Clinic/Servers`` (a ``/`` inside a name is ``\/``,
            a backslash ``\\``); what lies below belongs to them.
        excluded_ous: Containers that are left out, also where ``ous`` names one above them.
        names: Patterns of the short name with ``*``, ``?`` and ``[…]``, any case.
        excluded_names: Patterns of names that are left out.
        roles: Roles.
        groups: Groups, by name or distinguished name; members of their members count.
    """

    ous: tuple[str, ...] = ()
    excluded_ous: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    excluded_names: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """True if nothing of the domain is left out."""
        return self == EnumerationScope()

    def covers_place(self, ou_path: str) -> bool:
        """True if computers of this container belong to it, as far as the place decides."""
        place = fold_path(ou_path)
        if any(_lies_in(place, fold_path(ou)) for ou in self.excluded_ous):
            return False
        return not self.ous or any(_lies_in(place, fold_path(ou)) for ou in self.ous)

    def covers_name(self, hostname: str) -> bool:
        """True if a computer of this name belongs to it, as far as the name decides."""
        folded = hostname.casefold()
        if any(_pattern(name).match(folded) is not None for name in self.excluded_names):
            return False
        return not self.names or any(_pattern(name).match(folded) is not None for name in self.names)

    def may_cover(self, *, hostname: str, ou_path: str, role: str) -> bool:
        """True if a computer like this belongs to it, as far as it can be told without asking for groups."""
        return (not self.roles or role in self.roles) and self.covers_place(ou_path) and self.covers_name(hostname)

    def covers(self, *, hostname: str, ou_path: str, role: str) -> bool:
        """True if a reading in this scope is sure to have looked at a computer like this.

        Whose group decides is not known from here: of a scope with groups it is sure of nobody. So only what this
        says True to may be missed in such a reading.
        """
        return not self.groups and self.may_cover(hostname=hostname, ou_path=ou_path, role=role)


@frozen
class SiteScope:
    """Which computers belong to this site, and how they are judged; empty means all of them, by the rules as they are.

    What is given of several kinds must all hold. A person's word is above it: a manual target is never out of scope.

    Attributes:
        ad_sites: Active Directory's own sites. A computer belongs to one by its address.
        subnets: Networks such as ``10.0.0.0/24``. A computer whose address nobody knows is not judged by them.
        ous: Containers, as in :class:`EnumerationScope`: a path is of every domain, a
            distinguished name of its own one alone. A domain of which none is named is left out.
        excluded_ous: Containers that are left out, also where ``ous`` names one above them.
        names: Patterns of the short name with ``*``, ``?`` and ``[…]``, any case.
        excluded_names: Patterns of names that are left out.
        roles: Roles.
        groups: Groups, by name or distinguished name; members of their members count.
        stale_after_days: Without a sign of life for longer than this a computer is stale; None means 90.
        vendor_names: Patterns of names of machines that their vendor manages, beside those that are known.
        vendor_ous: Containers of such machines.
    """

    ad_sites: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    ous: tuple[str, ...] = ()
    excluded_ous: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    excluded_names: tuple[str, ...] = ()
    roles: tuple[ComputerRole, ...] = ()
    groups: tuple[str, ...] = ()
    stale_after_days: int | None = None
    vendor_names: tuple[str, ...] = ()
    vendor_ous: tuple[str, ...] = ()


@functools.lru_cache(maxsize=4096)
def fold_path(path: str) -> tuple[str, ...]:
    r"""A path of containers as its names, folded, from the root down.

    Inside a name ``\/`` is a slash and ``\\`` a backslash.

    Example:
        >>> fold_path(r"Clinic/A\/B/")
        ('clinic', 'a/b')
    """
    return tuple(name.casefold() for name in path_names(path))


def path_names(path: str) -> tuple[str, ...]:
    r"""A path of containers as its names, from the root down; ``\/`` is a slash inside a name, ``\\`` a backslash."""
    names = (_ESCAPED.sub(r"\1", name).strip() for name in _NAME.findall(path))
    return tuple(name for name in names if name)


def _lies_in(place: tuple[str, ...], container: tuple[str, ...]) -> bool:
    return place[: len(container)] == container


@functools.lru_cache(maxsize=1024)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(translate(name.casefold()))
