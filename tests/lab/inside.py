"""What a test of the lab does inside its network namespace: one scenario, parameters as JSON on stdin, JSON out.

An error of ours is an answer too: ``{"error": class, "code": …, "detail": …}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import evolve

from msp_sdk.directory.session import DirectoryOptions, read_root_dse, see_certificate
from msp_sdk.enumeration.enumerator import ADEnumerator, EnumerationOptions, with_addresses
from msp_sdk.errors import MspError
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainDiscovery
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver, order_controllers
from msp_sdk.secret import Secret
from msp_sdk.wire.converter import unstructure

DOMAIN = "northvalley.test"


def resolver_of(given: dict[str, Any]) -> Resolver:
    return Resolver(servers=[(given["dns"], 53)], search=given.get("search", [DOMAIN]))


def credential_of(given: dict[str, Any]) -> Credential:
    password = Secret(given["password"])
    return Credential(
        "lab",
        given.get("version", 1),
        "service_account",
        given["username"],
        lambda: password,
        DOMAIN,
        trusted_certificates=tuple(TrustedCertificate(**entry) for entry in given["trusted"]),
    )


async def discover(given: dict[str, Any]) -> Any:
    """Find the domain by its DNS, knowing only the address of a DNS server and a search domain."""
    return unstructure(await _discover(given))


async def _discover(given: dict[str, Any]) -> DomainDiscovery:
    from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer

    options = DiscoveryOptions(resolvers=((given["dns"], 53),), search=tuple(given.get("search", [DOMAIN])))
    return await DomainDiscoverer(options=options).discover()


async def _domain(given: dict[str, Any]) -> Domain:
    """The domain as its SRV records name it, or as discovery found it where that is asked for."""
    if given.get("discovered"):
        found = await _discover(given)
        assert found.best is not None
        return found.best
    records = await resolver_of(given).srv(f"_ldap._tcp.dc._msdcs.{DOMAIN}")
    controllers = order_controllers(records, lambda _: 0)
    if "port" in given:
        controllers = tuple(evolve(controller, port=given["port"]) for controller in controllers)
    return Domain(DOMAIN, controllers, datetime.now(UTC), dns_servers=(given["dns"],))


async def look(given: dict[str, Any]) -> Any:
    """What anybody can learn of the controller: SRV, addresses, rootDSE, its certificate."""
    resolver = resolver_of(given)
    domain = await _domain(given)
    controller = evolve(domain.controllers[0], addresses=await resolver.addresses(domain.controllers[0].fqdn))
    options = DirectoryOptions()
    return {
        "controllers": [unstructure(entry) for entry in domain.controllers],
        "addresses": {
            name: list(await resolver.addresses(f"{name}.{DOMAIN}")) for name in ("dc1", "file1", "oldsrv", "nobody")
        },
        "root_dse": unstructure(await asyncio.to_thread(read_root_dse, controller, options)),
        "certificate": unstructure(await asyncio.to_thread(see_certificate, controller, options)),
    }


async def enumerate_all(given: dict[str, Any]) -> Any:
    """Read all computers, and their addresses from the domain's DNS."""
    ledger = LogonLedger(Path(given["ledger"]))
    domain = await _domain(given)
    directory = DirectoryOptions(doors=tuple(given["doors"])) if "doors" in given else DirectoryOptions()
    options = EnumerationOptions(directory=directory, resolver=resolver_of(given))
    async with ADEnumerator(domain, credential_of(given), ledger=ledger, options=options) as enumerator:
        enumeration = await enumerator.enumerate()
        netbios_name = await enumerator.netbios_name()
    located = await with_addresses(enumeration.computers, resolver_of(given))
    return {
        "source": enumeration.source,
        "netbios_name": netbios_name,
        "service_accounts_count": enumeration.service_accounts_count,
        "servers": [computer.hostname for computer in enumeration.servers],
        "workstations": [computer.hostname for computer in enumeration.workstations],
        "domain_controllers": [computer.hostname for computer in enumeration.domain_controllers],
        "computers": {computer.hostname: unstructure(computer) for computer in located},
    }


async def enumerate_times(given: dict[str, Any]) -> Any:
    """As :func:`enumerate_all`, several times over: what a second attempt with one ledger does."""
    ends = []
    for _ in range(given["times"]):
        try:
            ends.append(await enumerate_all(given))
        except MspError as error:
            ends.append({"error": type(error).__name__, "code": error.code, "detail": error.detail})
    return ends


SCENARIOS = {"look": look, "discover": discover, "enumerate": enumerate_all, "enumerate-times": enumerate_times}


def main() -> None:
    """Run the scenario that was asked for."""
    given = json.load(sys.stdin)
    try:
        found = asyncio.run(SCENARIOS[sys.argv[1]](given))
    except MspError as error:
        found = {"error": type(error).__name__, "code": error.code, "detail": error.detail}
    # What is a set has no order.
    json.dump(found, sys.stdout, default=sorted)


if __name__ == "__main__":
    main()
