"""A scope as a person gives it, made ready for a domain: containers as paths, groups as their members.

Containers are compared on our side: changes are read from the root of the domain anyhow. Groups are the directory's
to resolve: members of members count, so it is asked with the rule that follows the chain, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import attrs
from attrs import frozen

from msp_sdk.directory.entry import dn_to_domain, escape_dn, ou_path, parse_guid, parse_sid, split_dn
from msp_sdk.directory.session import DirectorySession
from msp_sdk.enumeration.filters import any_of, equals, guid_filters
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import Computer, EnumerationScope
from msp_sdk.models.scope import fold_path, path_names

_ROLES = frozenset({"domain_controller", "server", "workstation", "other"})
# Members of members (MS-ADTS 3.1.1.3.4.4.3).
_IN_CHAIN = "memberOf:1.2.840.113556.1.4.1941:"
# A domain's own groups; the numbers of built-in ones are others', and no computer's primary group.
_DOMAIN_SID = "S-1-5-21-"


def normalise_scope(scope: EnumerationScope, domain_name: str) -> EnumerationScope:
    """The scope with its containers as paths, however they were given.

    Raises:
        ConfigError: A role does not exist, or a container is another domain's.
    """
    unknown = sorted(set(scope.roles) - _ROLES)
    if unknown:
        raise ConfigError(f"there is no role {unknown[0]!r}.", remedy=f"Roles are: {', '.join(sorted(_ROLES))}.")
    return attrs.evolve(
        scope,
        ous=tuple(container_path(ou, domain_name) for ou in scope.ous),
        excluded_ous=tuple(container_path(ou, domain_name) for ou in scope.excluded_ous),
    )


def container_path(text: str, domain_name: str) -> str:
    r"""A container, given as its distinguished name or as a path, as a path from the root down.

    Raises:
        ConfigError: It is another domain's, or no container at all.

    Example:
        >>> container_path(r"OU=A\,B,OU=Clinic,DC=corp,DC=example", "corp.example")
        'Clinic/A,B'
    """
    parts = split_dn(text)
    if not parts or parts[0][0] not in ("OU", "CN", "DC") or "=" not in text:
        path = text.strip("/")
        if not path:
            raise ConfigError(f"{text!r} is no organisational unit.", remedy="Give a path or a distinguished name.")
        return path
    root = ",".join(f"DC={value}" for kind, value in parts if kind == "DC")
    if root and dn_to_domain(root) != domain_name.casefold():
        raise ConfigError(f"{text!r} is not in {domain_name}.", remedy="Read each domain with a scope of its own.")
    # A leaf before it, so that it is the container itself and not the one above.
    path = ou_path(f"CN=,{text}")
    if not path:
        raise ConfigError(f"{text!r} is the whole domain.", remedy="Leave the scope empty to read all of it.")
    return path


def check_containers(
    session: DirectorySession, base_dn: str, scope: EnumerationScope, optional_ous: Collection[str] = ()
) -> EnumerationScope:
    """Make sure that the containers of a scope are there: one that is not would read as an empty domain.

    One that is left out is looked for as well: misspelt or renamed, it would let in what a person has ruled out.

    Args:
        session: Logged on.
        base_dn: The root of the domain.
        scope: Normalised.
        optional_ous: Containers of ``excluded_ous``, as paths, that need not be here.

    Returns:
        The scope without those of them that are not.

    Raises:
        ConfigError: ``scope-not-found``: there is no such container, or this account does not see it.
        DirectoryError: As :meth:`DirectorySession.read`.
    """
    found: dict[tuple[str, ...], str | None] = {(): base_dn}

    def look_up(names: tuple[str, ...]) -> str | None:
        if names not in found:
            parent_dn = look_up(names[:-1])
            found[names] = parent_dn and _child(session, parent_dn, names[-1])
        return found[names]

    missing = [path for path in (*scope.ous, *scope.excluded_ous) if look_up(path_names(path)) is None]
    for path in _not_optional(missing, scope, optional_ous):
        raise _not_found(f"the directory knows no container {path!r}.", "Give its path, or its whole DN.")
    return _without(missing, scope)


def check_places(
    scope: EnumerationScope, places: Iterable[str], optional_ous: Collection[str] = ()
) -> EnumerationScope:
    """As :func:`check_containers`, where nobody can look one up: one in which nothing lies may be misspelt.

    Args:
        scope: Normalised.
        places: The containers, as paths, of all that was read of the domain.
        optional_ous: As :func:`check_containers`.

    Returns:
        The scope without those of them in which nothing lies.

    Raises:
        ConfigError: ``scope-not-found``: nothing lies in a container.
    """
    known = set(places)
    missing = [
        path
        for path in (*scope.ous, *scope.excluded_ous)
        if not any(map(EnumerationScope(ous=(path,)).covers_place, known))
    ]
    for path in _not_optional(missing, scope, optional_ous):
        raise _not_found(
            f"no computer lies in the container {path!r}: it may be misspelt.",
            "Correct it, take it out, or open LDAP (TCP 389 or 636), by which an empty one is seen.",
        )
    return _without(missing, scope)


def _not_optional(missing: Iterable[str], scope: EnumerationScope, optional_ous: Iterable[str]) -> list[str]:
    optional = {fold_path(path) for path in optional_ous}
    return [path for path in missing if path in scope.ous or fold_path(path) not in optional]


def _without(missing: Collection[str], scope: EnumerationScope) -> EnumerationScope:
    return attrs.evolve(scope, excluded_ous=tuple(path for path in scope.excluded_ous if path not in missing))


def _child(session: DirectorySession, parent_dn: str, name: str) -> str | None:
    # A path does not say whether it is a unit or, like Computers, a plain container.
    below = (f"{kind}={escape_dn(name)},{parent_dn}" for kind in ("OU", "CN"))
    return next((dn for dn in below if session.read(dn, ("name",)) is not None), None)


def _not_found(detail: str, remedy: str) -> ConfigError:
    return ConfigError(detail, code="scope-not-found", remedy=remedy)


@frozen
class Members:
    """Who belongs to the groups of a scope; None where it names no group."""

    guids: frozenset[str] | None = None

    def hold(self, computer: Computer) -> bool:
        """True if it belongs, or nobody asked."""
        return self.guids is None or computer.object_guid in self.guids


def read_members(
    session: DirectorySession, base_dn: str, groups: Sequence[str], among: Sequence[str] | None = None
) -> Members:
    """Look up who belongs to these groups: one search for them, one for the groups in them, one for their members.

    A computer's primary group (mostly Domain Computers) lists no members; it stands in the computer, as a number.

    Args:
        session: Logged on.
        base_dn: The root of the domain.
        groups: By name or distinguished name; empty is everybody.
        among: Ask for these computers alone, by objectGUID: following chains of groups costs a controller dear.

    Raises:
        ConfigError: The directory knows no such group.
        DirectoryError: As :meth:`DirectorySession.pages`.
    """
    if not groups:
        return Members()
    wanted = any_of(
        *(
            equals("distinguishedName", group)
            if dn_to_domain(",".join(f"{kind}={value}" for kind, value in split_dn(group) if kind == "DC"))
            else any_of(equals("sAMAccountName", group), equals("cn", group))
            for group in groups
        )
    )
    names = ("cn", "sAMAccountName", "distinguishedName")
    pages = session.pages(base_dn, f"(&(objectClass=group){wanted})", (*names, "objectSid"))
    found = [entry for page in pages for entry in page]
    known = {value.casefold() for entry in found for name in names for value in entry.texts(name)}
    known |= {entry.dn.casefold() for entry in found}
    for group in groups:
        if group.casefold() not in known:
            raise _not_found(f"the directory knows no group {group!r}.", "Give its name, or its whole DN.")
    below = any_of(*(equals(_IN_CHAIN, entry.dn) for entry in found))
    nested = [
        entry for page in session.pages(base_dn, f"(&(objectClass=group){below})", ("objectSid",)) for entry in page
    ]
    sids = {sid for entry in (*found, *nested) if (sid := parse_sid(entry.value("objectSid")))}
    primary = (equals("primaryGroupID", sid.rpartition("-")[2]) for sid in sorted(sids) if sid.startswith(_DOMAIN_SID))
    belongs = f"(objectClass=computer){any_of(below, *primary)}"
    wanted_filters = [f"(&{belongs})"] if among is None else [f"(&{one_of}{belongs})" for one_of in guid_filters(among)]
    pages = (page for wanted in wanted_filters for page in session.pages(base_dn, wanted, ("objectGUID",)))
    guids = (parse_guid(entry.value("objectGUID")) for page in pages for entry in page)
    return Members(frozenset(guid for guid in guids if guid))


def in_scope(scope: EnumerationScope, computer: Computer, members: Members) -> bool:
    """True if a computer belongs to a normalised scope whose groups are resolved."""
    return (
        (not scope.roles or computer.role in scope.roles)
        and scope.covers_place(computer.ou_path)
        and scope.covers_name(computer.hostname)
        and members.hold(computer)
    )
