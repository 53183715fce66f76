"""Looking at one controller without a credential: netlogon ping, doors, rootDSE, certificate. What it says is kept.

All addresses are tried at once and the first that answers is the one: a name may have a stale address, or one of a
family that does not reach here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

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

T = TypeVar("T")
# LDAPS, global catalog, Kerberos, file sharing, WinRM; LDAP itself is where SRV says.
DOORS = (636, 3268, 88, 445, 5985, 5986)
# So many calls at once, of controllers that answer pings and, apart from them, of those that keep silent: one that
# takes connections and never answers keeps a thread for seconds, and must not hold up those that are well.
_THREADS = 32
_ADDRESSES_TRIED = 4
_BEST = 2
# The longest name of DNS is 253, and a distinguished name of one is not much longer.
_TEXT_MAX, _MECHANISMS_MAX, _CONTROLS_MAX, _LEVEL_MAX = 1000, 32, 200, 99
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

    def holds(self, domain_name: str) -> bool:
        """True when it says so, by ping or rootDSE, and says nothing else by the other."""
        return self.domains() == (domain_name,)

    def domains(self) -> tuple[str, ...]:
        """The domains that it says it holds: one, or several that contradict each other; none in other directories."""
        if self.root is not None and not is_active_directory(self.root):
            return ()
        said = (self.netlogon.domain_name if self.netlogon else None, self.root.domain_name if self.root else None)
        return tuple(dict.fromkeys(name for name in said if name))


@frozen
class _Reached:
    """What an address showed at first: an answer to the ping, and which doors of LDAP are open."""

    address: str
    netlogon: NetlogonAnswer | None = None
    doors: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def worth(self, domain_name: str | None) -> int:
        """0 where nobody is; the highest where the controller is."""
        if self.netlogon is None or domain_name not in (None, self.netlogon.domain_name):
            return min(1, len(self.doors))
        return _BEST


class Onlooker:
    """Looks at controllers; close it after use."""

    def __init__(self, options: DiscoveryOptions) -> None:
        self._options = options
        self._prober = DoorProber(options.doors, pace=options.pace)
        # Meetings are few and have a deadline: behind a sweep they would end before they began.
        self._unpaced_prober = DoorProber(options.doors)
        self._pool = ThreadPool("discovery", _THREADS)
        self._pool_of_silent = ThreadPool("discovery-silent", _THREADS)

    def close(self) -> None:
        """Take no more questions."""
        self._pool.close()
        self._pool_of_silent.close()

    async def _call(self, reached: _Reached, function: Callable[..., T], controller: DomainController) -> T:
        pool = self._pool_of_silent if reached.netlogon is None else self._pool
        return await pool.run(function, controller, self._options.directory)

    async def reach(
        self, controller: DomainController, domain_name: str | None, *, at_once: bool = False
    ) -> tuple[DomainController, _Reached | None, list[Evidence]]:
        """Find the address that answers best; the controller comes back with that one first.

        It waits for its turn among all that knocks at doors, or knocks ``at_once``.

        At a stale address may stand another machine, whose LDAP is open too.
        """
        evidence: list[Evidence] = []
        prober = self._unpaced_prober if at_once else self._prober
        tries = [
            asyncio.ensure_future(self._at(address, controller, domain_name, prober))
            for address in controller.addresses[:_ADDRESSES_TRIED]
            if not self._options.doors.excluded.covers(address)
        ]
        best: _Reached | None = None
        try:
            for next_one in asyncio.as_completed(tries):
                reached = await next_one
                evidence += reached.evidence
                worth = reached.worth(domain_name)
                if worth > (best.worth(domain_name) if best else 0):
                    best = reached
                if worth == _BEST:
                    break
        finally:
            for each in tries:
                each.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        if best is None:
            return controller, None, evidence
        rest = (address for address in controller.addresses if address != best.address)
        return attrs.evolve(controller, addresses=(best.address, *rest)), best, evidence

    async def _at(
        self, address: str, controller: DomainController, domain_name: str | None, prober: DoorProber
    ) -> _Reached:
        async def netlogon() -> tuple[NetlogonAnswer | None, Evidence | None]:
            try:
                answer = await ping(address, controller.port, domain_name, waits_s=self._options.ping_waits_s)
            except DiscoveryError as error:
                return None, Evidence(kinds.CLDAP_FAILED, controller.fqdn, error.detail)
            if answer is None:
                nothing = f"{address} has nothing to tell of {domain_name or 'a domain'}."
                return None, Evidence(kinds.CLDAP_DISAGREES, controller.fqdn, nothing)
            return answer, None

        # Some firewalls let nothing but LDAPS pass.
        ports = (controller.port, self._options.directory.ldaps_port)
        (answer, trouble), doors = await asyncio.gather(
            netlogon(), asyncio.gather(*(prober.knock(address, port) for port in ports))
        )
        is_open = tuple(door.port for door in doors if door.state == "open")
        return _Reached(address, answer, is_open, () if trouble is None else (trouble,))

    async def meet(self, controller: DomainController) -> Seen:
        """Ask whether somebody is a controller at all, and of what; no more than that takes."""
        controller, reached, evidence = await self.reach(controller, None, at_once=True)
        if reached is None:
            return Seen(controller, tuple(evidence))
        silent = reached.netlogon is None
        root = await self._root_dse(controller, reached, evidence) if silent else None
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
            tried = controller.addresses[:_ADDRESSES_TRIED]
            where, excluded = ", ".join(tried), self._options.doors.excluded
            said = f"{where} answers neither on port {controller.port} nor by LDAPS."
            if all(excluded.covers(address) for address in tried):
                said = f"{where} is excluded, so nothing was sent there."
            return Seen(controller, (*evidence, Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, said)))
        answer = reached.netlogon
        doors, (root, skew_s, certificate) = await asyncio.gather(
            self._doors(reached), self._root_dse_and_certificate(controller, reached, evidence)
        )
        if doors:
            evidence.append(Evidence(kinds.DOORS, controller.fqdn, ", ".join(map(str, doors))))
        told = attrs.evolve(_told(controller, doors, answer, root), clock_skew_s=skew_s)
        seen = Seen(told, (), answer, root, certificate)
        # One that contradicts itself, or is a directory of another kind, proves nothing.
        agrees = seen.domains() != () if domain_name is None else seen.holds(domain_name)
        if answer is not None:
            kind = kinds.CLDAP if agrees else kinds.CLDAP_DISAGREES
            evidence.append(Evidence(kind, controller.fqdn, answer.describe()))
        if root is not None:
            kind = kinds.ROOT_DSE if agrees else kinds.ROOT_DSE_DISAGREES
            evidence.append(Evidence(kind, root.dns_host_name or controller.fqdn, _describe(root)))
        return attrs.evolve(seen, evidence=tuple(evidence))

    async def _doors(self, reached: _Reached) -> tuple[int, ...]:
        knocks = await asyncio.gather(
            *(self._prober.knock(reached.address, port) for port in DOORS if port not in reached.doors)
        )
        return tuple(sorted({*reached.doors, *(door.port for door in knocks if door.state == "open")}))

    def _only(self, controller: DomainController, reached: _Reached) -> DomainController:
        """The controller as it was reached, by that address and an open door."""
        port = controller.port if controller.port in reached.doors else self._options.directory.ldaps_port
        return attrs.evolve(controller, addresses=(reached.address,), port=port)

    async def _root_dse_and_certificate(
        self, controller: DomainController, reached: _Reached, evidence: list[Evidence]
    ) -> tuple[RootDse | None, float | None, SeenCertificate | None]:
        """One after the other: whoever does not answer the first question is not asked the second one."""
        root = await self._root_dse(controller, reached, evidence)
        if root is None:
            return None, None, None
        skew = root.clock_skew(self._options.clock())
        certificate = await self._certificate(controller, reached, evidence)
        return root, None if skew is None else skew.total_seconds(), certificate

    async def _root_dse(
        self, controller: DomainController, reached: _Reached, evidence: list[Evidence]
    ) -> RootDse | None:
        if not reached.doors:
            closed = f"{reached.address} TCP {controller.port} is closed."
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, closed))
            return None
        only = self._only(controller, reached)
        try:
            root = await self._call(reached, read_root_dse, only)
        except MspError as error:
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, error.detail))
            return None
        if not _is_sane(root):
            nonsense = f"what {reached.address} says of itself is longer than any controller's."
            evidence.append(Evidence(kinds.ROOT_DSE_FAILED, controller.fqdn, nonsense))
            return None
        off = describe_skew(root, self._options.clock())
        if off is not None:
            evidence.append(Evidence(kinds.CLOCK_SKEW, controller.fqdn, off))
        return root

    async def _certificate(
        self, controller: DomainController, reached: _Reached, evidence: list[Evidence]
    ) -> SeenCertificate | None:
        only = self._only(controller, reached)
        try:
            seen = await self._call(reached, see_certificate, only)
        except MspError as error:
            evidence.append(Evidence(kinds.CERTIFICATE_NONE, controller.fqdn, error.detail))
            return None
        evidence.append(Evidence(kinds.CERTIFICATE, controller.fqdn, seen.sha256))
        return seen


def is_active_directory(root: RootDse) -> bool:
    """True for a controller; FreeIPA and others have a default naming context and SRV records too.

    Source: MS-ADTS 3.1.1.3.2 (rootDomainNamingContext, domainControllerFunctionality).
    """
    return root.domain_name is not None and root.forest is not None and root.functional_level is not None


def _is_sane(root: RootDse) -> bool:
    """False for a rootDSE that no controller has: what we keep of it goes into reports."""
    texts = (root.base_dn, root.dns_host_name, root.forest, root.ad_site, *root.sasl_mechanisms)
    levels = (root.functional_level, root.domain_level, root.forest_level)
    return (
        all(len(text) <= _TEXT_MAX for text in (*texts, *root.supported_controls) if text is not None)
        and len(root.sasl_mechanisms) <= _MECHANISMS_MAX
        and len(root.supported_controls) <= _CONTROLS_MAX
        and all(0 <= level <= _LEVEL_MAX for level in levels if level is not None)
    )


def _describe(root: RootDse) -> str:
    """One line for evidence."""
    if not is_active_directory(root):
        return f"is a directory of another kind, of {root.domain_name or 'no domain'}"
    return (
        f"says it holds {root.domain_name}, functional level {root.functional_level},"
        f" {len(root.supported_controls)} controls, {' '.join(root.sasl_mechanisms) or 'no SASL'}"
    )


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
        told = attrs.evolve(
            told,
            functional_level=root.functional_level,
            sasl_mechanisms=root.sasl_mechanisms,
            supported_controls=root.supported_controls,
        )
    if answer is None:
        return told
    return attrs.evolve(
        told,
        is_global_catalog=ControllerFlags.GC in answer.flags,
        is_read_only=ControllerFlags.WRITABLE not in answer.flags,
        is_primary=ControllerFlags.PDC in answer.flags,
    )
