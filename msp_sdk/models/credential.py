"""Credentials: where one is valid, and how it travels sealed.

A :class:`Credential` holds no secret; it knows how to open one at the moment of use.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Protocol

from attrs import field, frozen
from attrs.converters import optional

from msp_sdk.models.domain import without_final_dot
from msp_sdk.secret import Secret

CredentialType = Literal["service_account", "domain_admin", "winrm", "local_admin"]
CredentialStateName = Literal["unproven", "proven", "refused"]

DOMAIN_TYPES: frozenset[str] = frozenset({"service_account", "domain_admin"})


def is_local_name(username: str) -> bool:
    r"""True for ``name`` and ``.\name``, which no domain knows; false for ``DOMAIN\name`` and a UPN."""
    domain, separator, _ = username.partition("\\")
    return domain in ("", ".") if separator else "@" not in username


def account_of(username: str, domain_name: str | None, netbios_name: str | None = None) -> str:
    r"""One name for all spellings of one account, so that none of them gets a logon of its own.

    ``CORP\svc``, ``svc@CORP``, ``svc@corp.example``, ``corp.example\svc`` and ``svc`` are ``svc`` in the domain
    corp.example. What may be an account of the domain, since its NetBIOS name is not known, counts as one.

    Args:
        username: As typed.
        domain_name: The domain it is used in; None for a host's own accounts.
        netbios_name: The domain's short name, if known.

    Returns:
        Folded; the whole name for an account of elsewhere.
    """
    folded = username.casefold()
    ours = {name.casefold() for name in (domain_name, netbios_name) if name}
    before, backslash, user = folded.partition("\\")
    if not backslash:
        user, _, suffix = folded.rpartition("@")
        before = without_final_dot(suffix) if user else ""
    # A short name has no dot.
    may_be_ours = netbios_name is None and domain_name is not None and before != "" and "." not in before
    return user if before in ours or may_be_ours else folded


@frozen
class SealedSecret:
    """An envelope that only the device with the key ``key_id`` opens. ``blob`` is the HPKE output."""

    v: int
    suite: str
    key_id: str
    credential_id: str
    version: int
    blob: bytes
    signature: bytes | None = None


@frozen
class TrustedCertificate:
    """A certificate that the partner has seen and listed: by its digest, or as the PEM of a CA. One of both."""

    sha256: str | None = None
    ca_pem: str | None = None


@frozen
class CredentialState:
    """What an appliance found out about a credential.

    Attributes:
        code: Why it is refused; of an unproven one, what keeps the account out although its password was not refused.
    """

    id: str
    version: int
    state: CredentialStateName
    at: datetime
    code: str | None = None


@frozen
class Credential:
    r"""A credential and where it is valid; the secret is opened at use and then dropped.

    Attributes:
        id: Central's id, or ``typed`` for one that a person typed.
        version: Rises with every change and every retry.
        username: UPN, ``DOMAIN\\user`` or ``.\\user``.
        host: The one host it is for; None for a domain's or a whole site's.
        port: Of WinRM on that one host, where Central names one.
        use_ssl: Only HTTPS is allowed on that one host.
        opener: Gives the secret; called at the moment of use.
    """

    id: str
    version: int
    type: CredentialType
    username: str
    opener: Callable[[], Secret] = field(repr=False, eq=False)
    domain_name: str | None = field(default=None, converter=optional(without_final_dot))
    netbios_name: str | None = None
    host: str | None = None
    port: int | None = None
    use_ssl: bool = False
    trusted_certificates: tuple[TrustedCertificate, ...] = ()

    def open(self) -> Secret:
        """Open the secret. Call it only after the logon ledger has allowed the attempt."""
        return self.opener()

    @property
    def is_domain(self) -> bool:
        """True for an account of a domain, which locks everywhere at once."""
        return self.type in DOMAIN_TYPES

    @property
    def account(self) -> str:
        """The account, whatever the spelling; see :func:`account_of`."""
        return account_of(self.username, self.domain_name, self.netbios_name)

    def is_same_logon(self, other: Credential) -> bool:
        """Whether both are one account with one password, so that a refusal of one is one of both.

        Accounts of two domains, or of two hosts, are two. Where the account is one, both secrets are opened.
        """
        return self._place == other._place and self.account == other.account and self.open() == other.open()

    @property
    def _place(self) -> tuple[str, str]:
        return (self.domain_name or "").casefold(), (self.host or "").casefold()

    @property
    def ledger_key(self) -> str:
        """Under what name the logon ledger counts strikes; holds nothing of the secret.

        That of a typed credential does not depend on the NetBIOS name, which is known one time and not the next: what
        may be an account of the domain without it counts as one.
        """
        if self.id == "typed":
            account = account_of(self.username, self.domain_name)
            return f"typed:{(self.domain_name or self.host or '').casefold()}:{account}"
        return f"{self.id}:{self.version}"

    @classmethod
    def typed(
        cls,
        username: str,
        password: Secret,
        *,
        domain_name: str | None = None,
        netbios_name: str | None = None,
        host: str | None = None,
        type: CredentialType = "service_account",  # noqa: A002 (the wire's name)
        trusted_certificates: tuple[TrustedCertificate, ...] = (),
    ) -> Credential:
        """A credential that a person typed, for use without Central."""
        return cls(
            id="typed",
            version=1,
            type=type,
            username=username,
            opener=lambda: password,
            domain_name=domain_name,
            netbios_name=netbios_name,
            host=host,
            trusted_certificates=trusted_certificates,
        )


class CredentialSource(Protocol):
    """Where a client gets the credential of a target from."""

    def credential(self, credential_id: str) -> Credential | None:
        """The credential with this id, or None when there is none (any more)."""
        ...


@frozen
class NewCredential:
    """A credential as the partner types it. ``host`` or ``domain_name`` as the type has it."""

    type: CredentialType
    username: str
    password: Secret
    host: str | None = None
    domain_name: str | None = field(default=None, converter=optional(without_final_dot))
    netbios_name: str | None = None
    port: int | None = None
    use_ssl: bool = True
    trusted_certificates: tuple[TrustedCertificate, ...] = ()


@frozen
class NewDomainCredential:
    """A credential for a domain, as the partner types it."""

    domain_name: str
    username: str
    password: Secret
    credential_type: CredentialType = "domain_admin"
    trusted_certificates: tuple[TrustedCertificate, ...] = ()


@frozen
class StoredCredential:
    """A credential as the partner sees it again: everything but the secret."""

    id: str
    site_id: str
    version: int
    type: CredentialType
    username: str
    created_at: datetime
    updated_at: datetime
    host: str | None = None
    domain_name: str | None = None
    netbios_name: str | None = None
    port: int | None = None
    use_ssl: bool = True
    trusted_certificates: tuple[TrustedCertificate, ...] = ()
    state: CredentialStateName = "unproven"
    state_code: str | None = None
    state_at: datetime | None = None
