"""What a site's scope means for one domain: what of it is read, and by which rules. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from fnmatch import translate

import attrs

from msp_sdk.directory.entry import dn_to_domain, split_dn
from msp_sdk.enumeration.classify import ClassifyRules
from msp_sdk.enumeration.locality import OUT_OF_SCOPE
from msp_sdk.enumeration.scope import container_path, normalise_scope
from msp_sdk.enumeration.stations import STATION_UNITS, STATION_WORDS
from msp_sdk.enumeration.systems import VendorRules, fold
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import Computer, EnumerationScope
from msp_sdk.models.reason import reason
from msp_sdk.models.scope import DOMAIN_OUT_OF_SCOPE, SiteScope


def scope_of_domain(scope: SiteScope, domain_name: str) -> EnumerationScope:
    """What of a domain belongs to a site, normalised.

    A path is of every domain. A distinguished name is of its own domain alone, so that a site of several domains may
    name containers and groups of each.

    Raises:
        ConfigError: ``domain-out-of-scope``: only other domains' containers or groups are named. Or it cannot be
            meant.
    """
    ous, groups = _own(scope.ous, domain_name), _own(scope.groups, domain_name)
    if (scope.ous and not ous) or (scope.groups and not groups):
        known = reason(DOMAIN_OUT_OF_SCOPE)
        raise ConfigError(f"the site's scope names nothing of {domain_name}.", code=known.code, remedy=known.remedy)
    wanted = EnumerationScope(
        ous=ous,
        excluded_ous=_own(scope.excluded_ous, domain_name),
        names=scope.names,
        roles=scope.roles,
        groups=groups,
        excluded_names=scope.excluded_names,
    )
    return normalise_scope(wanted, domain_name)


def rules_of_site(scope: SiteScope, domain_name: str) -> ClassifyRules:
    """The rules by which a site's computers are judged.

    Raises:
        ConfigError: A container cannot be meant.
    """
    rules = ClassifyRules()
    if scope.stale_after_days is not None:
        rules = attrs.evolve(rules, stale_after=timedelta(days=scope.stale_after_days))
    units = [container_path(ou, domain_name) for ou in _own(scope.vendor_ous, domain_name)]
    if scope.vendor_names or units:
        vendor = VendorRules(
            words=(*STATION_WORDS, *(rf"\A{translate(fold(name))}" for name in scope.vendor_names)),
            units=(*STATION_UNITS, *(rf"\A{re.escape(fold(unit))}(?:/|\Z)" for unit in units)),
        )
        rules = attrs.evolve(rules, vendor=vendor)
    return rules


def narrow(computers: Iterable[Computer], scope: SiteScope, domain_name: str) -> tuple[Computer, ...]:
    """Computers of an older reading under another scope: what it surely leaves out is out of scope from now on."""
    try:
        wanted: EnumerationScope | None = scope_of_domain(scope, domain_name)
    except ConfigError as error:
        if error.code != DOMAIN_OUT_OF_SCOPE:
            # Nobody knows what is meant until it is mended; it is said where the directory is read.
            return tuple(computers)
        wanted = None
    return tuple(
        computer
        if computer.skipped_reason
        or (
            wanted is not None
            and wanted.may_cover(hostname=computer.hostname, ou_path=computer.ou_path, role=computer.role)
        )
        else attrs.evolve(computer, skipped_reason=OUT_OF_SCOPE)
        for computer in computers
    )


def _own(names: Iterable[str], domain_name: str) -> tuple[str, ...]:
    """Those that are no distinguished name of another domain."""
    return tuple(name for name in names if _domain_of(name) in (None, domain_name.casefold()))


def _domain_of(name: str) -> str | None:
    return dn_to_domain(",".join(f"{kind}={value}" for kind, value in split_dn(name) if kind == "DC"))
