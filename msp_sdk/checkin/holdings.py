"""What an appliance holds from Central between check-ins: credentials (sealed), targets, policy. Memory only.

Rules without I/O: how a reply changes the holdings. ``None`` means unchanged, an empty list means none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import evolve, field, frozen

from msp_sdk.errors import StateError
from msp_sdk.models.checkin import CheckinReply, DomainCredential, SiteCredential, SitePolicy, WindowsTarget
from msp_sdk.models.credential import Credential, SealedSecret
from msp_sdk.models.rollout import Rollout
from msp_sdk.models.scope import SiteScope
from msp_sdk.models.target import ManualTarget
from msp_sdk.secret import Secret

# Opens an envelope for a credential; given the place (host or domain) it is for.
Opener = Callable[[SealedSecret, Credential], Secret]


@frozen
class Holdings:
    """What Central has given us.

    Attributes:
        credentials: None until the first check-in; empty when there are none.
        credentials_version: What we say at the next check-in; None asks for everything.
        seen_versions: The highest version of each credential that was ever offered; a lower one is refused.
        domain_names: The full names of domains, by their folded NetBIOS names; :func:`learn_domain_names`.
    """

    credentials: tuple[Credential, ...] | None = None
    credentials_version: int | None = None
    manual_targets: tuple[ManualTarget, ...] = ()
    targets_version: int | None = None
    policy: SitePolicy = field(factory=SitePolicy)
    scope: SiteScope = field(factory=SiteScope)
    rollouts: tuple[Rollout, ...] = ()
    awaiting: tuple[str, ...] = ()
    wished: Mapping[str, int] = field(factory=dict)
    seen_versions: Mapping[str, int] = field(factory=dict)
    domain_names: Mapping[str, str] = field(factory=dict)

    def credential(self, credential_id: str) -> Credential | None:
        """The credential with this id, or None (any more)."""
        return next((entry for entry in self.credentials or () if entry.id == credential_id), None)

    def for_domain(self, domain_name: str) -> tuple[Credential, ...]:
        """The credentials for a domain, those that need the fewest rights first."""
        folded = domain_name.rstrip(".").casefold()
        fitting = (
            entry for entry in self.credentials or () if (entry.domain_name or "").rstrip(".").casefold() == folded
        )
        return tuple(
            sorted((entry for entry in fitting if entry.is_domain), key=lambda entry: entry.type != "service_account")
        )


def absorb(holdings: Holdings, reply: CheckinReply, opener: Opener) -> Holdings:
    """The holdings after a reply.

    Args:
        holdings: What was held before.
        reply: What Central said.
        opener: Opens sealed passwords, at the moment of use.
    """
    changed = evolve(
        holdings,
        policy=reply.site_policy,
        scope=reply.site_scope,
        rollouts=reply.rollouts,
        awaiting=reply.awaiting,
        wished=reply.wished,
    )
    if reply.manual_targets is not None:
        changed = evolve(changed, manual_targets=reply.manual_targets, targets_version=reply.targets_version)
    lists = (reply.domain_credentials, reply.site_credentials, reply.windows_targets)
    if all(entry is None for entry in lists):
        return changed
    offered = (
        *(_from_domain(entry, opener) for entry in reply.domain_credentials or ()),
        *(_from_site(entry, opener) for entry in reply.site_credentials or ()),
        *(_from_host(entry, opener) for entry in reply.windows_targets or ()),
    )
    # An older version than one that we have seen is a replay, or a restored database: it is not used.
    fresh = tuple(entry for entry in offered if entry.version >= holdings.seen_versions.get(entry.id, 0))
    seen = {**holdings.seen_versions, **{entry.id: entry.version for entry in fresh}}
    changed = evolve(changed, credentials=fresh, credentials_version=reply.credentials_version, seen_versions=seen)
    return learn_domain_names(changed, changed.domain_names)


def learn_domain_names(holdings: Holdings, domain_names: Mapping[str, str]) -> Holdings:
    """The holdings with each credential under the full name of its domain: people store it under the short one too.

    Args:
        holdings: What is held.
        domain_names: Full names by folded NetBIOS names.
    """
    credentials = holdings.credentials and tuple(
        _under_full_name(entry, domain_names) for entry in holdings.credentials
    )
    return evolve(holdings, credentials=credentials, domain_names=domain_names)


def _under_full_name(credential: Credential, domain_names: Mapping[str, str]) -> Credential:
    # Its opener goes on with the name that it was sealed under.
    short_name = credential.domain_name or ""
    full_name = domain_names.get(short_name.casefold())
    if full_name is None:
        return credential
    return evolve(credential, domain_name=full_name, netbios_name=credential.netbios_name or short_name)


def _opened_by(
    sealed: SealedSecret | None, password: Secret | None, opener: Opener
) -> Callable[[Callable[[], Credential]], Callable[[], Secret]]:
    def bind(credential: Callable[[], Credential]) -> Callable[[], Secret]:
        def open_now() -> Secret:
            if sealed is not None:
                return opener(sealed, credential())
            if password is not None:
                return password
            raise StateError("this credential came without a password.", code="credential-without-password")

        return open_now

    return bind


def _make(credential: Credential, sealed: SealedSecret | None, password: Secret | None, opener: Opener) -> Credential:
    # The opener needs the credential's own facts for the envelope's context, and the credential needs its opener.
    return evolve(credential, opener=_opened_by(sealed, password, opener)(lambda: credential))


def _unopenable() -> Secret:
    raise StateError("this credential has no opener.")


def _from_domain(entry: DomainCredential, opener: Opener) -> Credential:
    plain = Credential(
        id=entry.id,
        version=entry.version,
        type=entry.kind,
        username=entry.username,
        opener=_unopenable,
        domain_name=entry.domain_name,
        netbios_name=entry.netbios_name,
        trusted_certificates=entry.trusted_certificates,
    )
    return _make(plain, entry.sealed_password, entry.password, opener)


def _from_site(entry: SiteCredential, opener: Opener) -> Credential:
    plain = Credential(
        id=entry.id,
        version=entry.version,
        type=entry.kind,
        username=entry.username,
        opener=_unopenable,
        trusted_certificates=entry.trusted_certificates,
    )
    return _make(plain, entry.sealed_password, entry.password, opener)


def _from_host(entry: WindowsTarget, opener: Opener) -> Credential:
    plain = Credential(
        id=entry.id,
        version=entry.version,
        type=entry.role,
        username=entry.username,
        opener=_unopenable,
        host=entry.hostname,
        port=entry.port,
        use_ssl=entry.use_ssl,
    )
    return _make(plain, entry.sealed_password, entry.password, opener)
