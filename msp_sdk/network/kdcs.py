"""Which KDCs know an account: the controllers of its domain, by their addresses. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import field, frozen

from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.kerberos_process import KDC_PORT

# A large domain has hundreds of controllers; who finds so many silent is cut off from all of them.
_MANY = 8
# One of each kind.
_ADDRESSES = 2


def _capitals(name: str) -> str:
    return name.upper()


@frozen
class Kdc:
    """A KDC of an account's domain.

    Attributes:
        address: Where it is; names are never resolved here.
        realm: The domain's name, in capitals.
        netbios_name: The domain's short name, if known.
        name: What the ledger and messages call it.
    """

    address: str
    realm: str = field(converter=_capitals)
    port: int = KDC_PORT
    netbios_name: str | None = None
    name: str = ""


Kdcs = Callable[[Credential], Sequence[Kdc]]
"""The KDCs of a credential's domain, in the order in which they are asked. Empty where none is known."""


def kdcs_of(
    domains: Iterable[Domain], credential: Credential, excluded: ExcludedNetworks | None = None
) -> tuple[Kdc, ...]:
    """The KDCs for a credential: the controllers of its domain, in their order, by their first two addresses.

    Args:
        domains: As discovered.
        credential: Whose.
        excluded: Where nobody is asked.

    Returns:
        Empty for a local account, and where its domain was not found or none of its controllers has an address.
    """
    wanted = (credential.domain_name or "").casefold()
    if not credential.is_domain or not wanted:
        return ()
    return tuple(
        Kdc(
            address,
            domain.name,
            netbios_name=domain.netbios_name or credential.netbios_name,
            name=controller.fqdn,
        )
        for domain in domains
        if domain.name.casefold() == wanted
        for controller in domain.controllers
        for address in controller.addresses[:_ADDRESSES]
        if excluded is None or not excluded.covers(address)
    )[:_MANY]
