"""Which credential a target gets: the host's own, then the site's local administrator, then its domain's account."""

from __future__ import annotations

from collections.abc import Sequence

from msp_sdk.models.checkin import SitePolicy
from msp_sdk.models.computer import ComputerRole
from msp_sdk.models.credential import Credential

HOST_TYPES = frozenset({"winrm", "local_admin"})


def is_host_credential(credential: Credential) -> bool:
    """True for a credential of one host; such a credential makes its host a target."""
    return credential.type in HOST_TYPES and bool(credential.host)


def choose_credential(
    role: ComputerRole,
    domain_name: str | None,
    *,
    own: Sequence[Credential],
    shared: Sequence[Credential],
    policy: SitePolicy,
) -> Credential | None:
    """Choose the credential with the least reach that may log on.

    Args:
        role: Of the target. A controller has no local accounts, so it never gets the site's local administrator.
        domain_name: Of the target; None when nobody knows it, and then no domain account goes there.
        own: Credentials of this very host.
        shared: All others.
        policy: Whether a domain administrator may log on to hosts that are no controllers.

    Returns:
        None when there is none that may.
    """
    ranked = [(0 if credential.type == "winrm" else 1, credential) for credential in own]
    for credential in shared:
        rank = _rank(credential, role, domain_name, policy)
        if rank is not None:
            ranked.append((rank, credential))
    if not ranked:
        return None
    return min(ranked, key=lambda pair: (pair[0], pair[1].id, -pair[1].version))[1]


def _rank(credential: Credential, role: ComputerRole, domain_name: str | None, policy: SitePolicy) -> int | None:
    controller = role == "domain_controller"
    if credential.type == "local_admin":
        return None if credential.host or controller else 2
    if not credential.is_domain or not _same_domain(credential, domain_name):
        return None
    if credential.type == "service_account":
        return 4
    if controller:
        return 3
    return 5 if policy.allow_domain_admin_on_hosts else None


def _same_domain(credential: Credential, domain_name: str | None) -> bool:
    if not domain_name:
        return False
    names = {(name or "").rstrip(".").casefold() for name in (credential.domain_name, credential.netbios_name)} - {""}
    return domain_name.rstrip(".").casefold() in names
