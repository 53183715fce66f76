"""Looking at one controller without a credential: netlogon ping, doors, rootDSE, certificate. What it says is kept.

All addresses are tried at once and the first that answers is the one: a name may have a stale address, or one of a
family that does not reach here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from attrs import frozen

from msp_sdk.directory.root_dse import RootDse
from msp_sdk.directory.session import read_root_dse, see_certificate
from msp_sdk.discovery import evidence as kinds
from msp_sdk.discovery.cldap import ping
from msp_sdk.discovery.netlogon import ControllerFlags, NetlogonAnswer
from msp_sdk.discovery.options import DiscoveryOptions
from msp_sdk.errors import DiscoveryError, MspError
from msp_sdk.models.domain import DomainController, Evidence, SeenCertificate
from msp_sdk.network.probe import DoorProber
from msp_sdk.network.threads import ThreadPool

# LDAPS, global catalog, Kerberos, file sharing, WinRM; LDAP itself is where SRV says.
DOORS = (636, 3268, 88, 445, 5985, 5986)
_THREADS = 8
_ADDRESSES_TRIED = 4
# Kerberos refuses at five minutes; two are worth a word.
_SKEW_WORTH_A_WORD = timedelta(minutes=2)


@frozen
class Seen:
    """What a controller showed of itself.

    Attributes:
        controller: With what was learnt; the address that answered comes first.
        evidence: Of all that was asked.
    """

    controller: DomainController
    evidence: tuple[Evidence, ...] = ()
    netlogon: NetlogonAnswer | None = None
    root: RootDse | None = None
    certificate: SeenCertificate | None = None

    def domains(self) -> tuple[str, ...]:
        """The domains that it says it holds; one, unless it contradicts itself."""
        said = (self.netlogon.domain_name if self.netlogon else None, self.root.domain_name if self.root else None)
        return tuple(dict.fromkeys(name for name in said if name))


@frozen
class _Reached:
    address: str
    netlogon: NetlogonAnswer | None = None
    is_open: bool = False
    evidence: tuple[Evidence, ...] = ()


class Onlooker:
    """Looks at controllers; close it after use."""

    def __init__(self, options: DiscoveryOptions) -> None:
        self._options = options
        self._prober = DoorProber(options.doors)
        self._pool = ThreadPool("discovery", _THREADS)

    def close(self) -> None:
        """Take no more questions."""
        self._pool.close()

    async def reach(
        self, controller: DomainController, domain_name: str | None
    ) -> tuple[DomainController, _Reached | None, list[Evidence]]:
        """Find the address that answers; the controller comes back with that one first."""
        evidence: list[Evidence] = []
        tries = [
            asyncio.ensure_future(self._at(address, controller, domain_name))
            for address in controller.addresses[:_ADDRESSES_TRIED]
        ]
        best: _Reached | None = None
        try:
            for next_one in asyncio.as_completed(tries):
                reached = await next_one
                evidence += reached.evidence
                if reached.netlogon is not None or reached.is_open:
                    best = reached
                    break
        finally:
            for each in tries:
                each.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        if best is None:
            return controller, None, evidence
        rest = (address for address in controller.addresses if address != best.address)
        return attrs.evolve(controller, addresses=(best.address, *rest)), best, evidence

    async def _at(self, address: str, controller: DomainController, domain_name: str | None) -> _Reached:
        async def netlogon() -> tuple[NetlogonAnswer | None, Evidence | None]:
            try:
                answer = await ping(address, controller.port, domain_name, waits_s=self._options.ping_waits_s)
            except DiscoveryError as error:
                return None, Evidence(kinds.CLDAP_FAILED, controller.fqdn, error.detail)
            if answer is None:
                nothing = f"{address} has nothing to tell of {domain_name or 'a domain'}."
                return None, Evidence(kinds.CLDAP_DISAGREES, controller.fqdn, nothing)
            return answer, None

        (answer, trouble), door = await asyncio.gather(netlogon(), self._prober.knock(address, controller.port))
        return _Reached(address, answer, door.state == "open", () if trouble is None else (trouble,))

    async def meet(self, controller: DomainController) -> Seen:
        """Ask whether somebody is a controller at all, and of what; no more than that takes."""
        controller, reached, evidence = await self.reach(controller, None)
        if reached is None:
            return Seen(controller, tuple(evidence))
        silent = reached.netlogon is None
        root = await self._root_dse(controller, reached, None, evidence) if silent else None
        return Seen(controller, tuple(evidence), reached.netlogon, root)

    async def look(self, controller: DomainController, domain_name: str | None) -> Seen:
        """Ask a controller everything that anybody may ask.

        Args:
            controller: With its addresses.
            domain_name: The domain that it is to hold; None lets it say.
        """
        if not controller.addresses:
            nowhere = Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, "DNS knows no address for it.")
            return Seen(controller, (nowhere,))
        controller, reached, evidence = await self.reach(controller, domain_name)
        if reached is None:
            where = ", ".join(controller.addresses[:_ADDRESSES_TRIED])
            silent = Evidence(
                kinds.ROOT_DSE_FAILED, controller.fqdn, f"{where} answers on port {controller.port} neither way."
            )
            return Seen(controller, (*evidence, silent))
        answer = reached.netlogon
        if answer is not None:
            agrees = domain_name is None or answer.domain_name == domain_name
            kind = kinds.CLDAP if agrees else kinds.CLDAP_DISAGREES
            evidence.append(Evidence(kind, controller.fqdn, answer.describe()))
        doors, root, certificate = await asyncio.gather(
            self._doors(controller, reached),
            self._root_dse(controller, reached, domain_name, evidence),
            self._certificate(controller, reached, evidence),
        )
        if doors:
            evidence.append(Evidence(kinds.DOORS, controller.fqdn, ", ".join(map(str, doors))))
        return Seen(_told(controller, doors, answer, root), tuple(evidence), answer, root, certificate)

    async def _doors(self, controller: DomainController, reached: _Reached) -> tuple[int, ...]:
        knocks = await asyncio.gather(
            *(self._prober.knock(reached.address, port) for port in DOORS if port != controller.port)
        )
        found = {door.port for door in knocks if door.state == "open"}
        return tuple(sorted(found | ({controller.port} if reached.is_open else set())))

    async def _root_dse(
        self, controller: DomainController, reached: _Reached, domain_name: str | None, evidence: list[Evidence]
    ) -> RootDse | None:
        if not reached.is_open:
            closed = f"{reached.address} TCP {controller.port} is closed."
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, closed))
            return None
        only = attrs.evolve(controller, addresses=(reached.address,))
        try:
            root = await self._pool.run(read_root_dse, only, self._options.directory)
        except MspError as error:
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, error.detail))
            return None
        agrees = root.domain_name is not None and domain_name in (None, root.domain_name)
        said = (
            f"says it holds {root.domain_name}, functional level {root.functional_level},"
            f" {len(root.supported_controls)} controls, {' '.join(root.sasl_mechanisms) or 'no SASL'}"
        )
        evidence.append(
            Evidence(
                kinds.ROOT_DSE if agrees else kinds.ROOT_DSE_DISAGREES, root.dns_host_name or controller.fqdn, said
            )
        )
        off = describe_skew(root, self._options.clock())
        if off is not None:
            evidence.append(Evidence(kinds.CLOCK_SKEW, controller.fqdn, off))
        return root

    async def _certificate(
        self, controller: DomainController, reached: _Reached, evidence: list[Evidence]
    ) -> SeenCertificate | None:
        if not reached.is_open:
            return None
        only = attrs.evolve(controller, addresses=(reached.address,))
        try:
            seen = await self._pool.run(see_certificate, only, self._options.directory)
        except MspError as error:
            evidence.append(Evidence(kinds.CERTIFICATE_NONE, controller.fqdn, error.detail))
            return None
        evidence.append(Evidence(kinds.CERTIFICATE, controller.fqdn, seen.sha256))
        return seen


def describe_skew(root: RootDse, now: datetime) -> str | None:
    """How far a controller's clock is from ours, in words; None when it is near enough or unknown."""
    skew = root.clock_skew(now)
    if skew is None or abs(skew) <= _SKEW_WORTH_A_WORD:
        return None
    return f"its clock is {abs(skew.total_seconds()):.0f} s {'ahead of' if skew > timedelta() else 'behind'} ours"


def _told(
    controller: DomainController, doors: tuple[int, ...], answer: NetlogonAnswer | None, root: RootDse | None
) -> DomainController:
    """The controller with what it told of itself."""
    site = (answer.ad_site if answer else None) or (root.ad_site if root else None)
    told = attrs.evolve(controller, doors=doors, ad_site=site)
    if root is not None:
        told = attrs.evolve(told, functional_level=root.functional_level, sasl_mechanisms=root.sasl_mechanisms)
    if answer is None:
        return told
    return attrs.evolve(
        told,
        is_global_catalog=ControllerFlags.GC in answer.flags,
        is_read_only=ControllerFlags.WRITABLE not in answer.flags,
        is_primary=ControllerFlags.PDC in answer.flags,
    )


async def first_site(seen: Sequence[asyncio.Future[Seen]]) -> str | None:
    """Our own site, as the first controller that says one has it."""
    for next_one in asyncio.as_completed(seen):
        netlogon = (await next_one).netlogon
        if netlogon is not None:
            return netlogon.client_site or None
    return None
