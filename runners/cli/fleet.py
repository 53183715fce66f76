"""What ``msp plan`` and ``msp deploy`` share: from a domain or names to targets, shells and a deployer."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from msp_sdk.errors import ConfigError, LogonNotAllowedError
from msp_sdk.secret import Secret
from runners.cli.common import read_json_file, read_password, read_text_file
from runners.cli.directory import (
    add_directory_options,
    asking_for_trust,
    directory_options,
    find_domain,
    make_credential,
    make_resolver,
    open_ledger,
    tell_passed_over,
)

if TYPE_CHECKING:
    from msp_sdk.deployment import AgentDeployer
    from msp_sdk.models.computer import Computer, Enumeration
    from msp_sdk.models.credential import Credential
    from msp_sdk.models.domain import Domain
    from msp_sdk.models.package import AgentPackage
    from msp_sdk.models.target import MergeResult, Target
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.windows.shell import WindowsShells


def add_fleet_options(parser: argparse.ArgumentParser) -> None:
    """Everything that planning takes."""
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="names or addresses; with --domain: only these")
    parser.add_argument("--domain", metavar="DOMAIN", help="take the targets from this domain")
    parser.add_argument("--package", metavar="FILE", required=True, help="the agent's file")
    parser.add_argument("--manifest", metavar="FILE", required=True, help="JSON: how it is installed and recognised")
    parser.add_argument("--package-name", default="agent")
    parser.add_argument("--package-version", required=True)
    parser.add_argument("--host-ca", metavar="FILE", action="append", default=[], help="CA of the hosts' certificates")
    parser.add_argument("--role", action="append", choices=["server", "workstation", "domain_controller"])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_directory_options(parser)


class _OneCredential:
    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def credential(self, credential_id: str) -> Credential | None:
        """The one that was typed."""
        return self._credential if credential_id == self._credential.id else None


def read_package(options: argparse.Namespace) -> tuple[AgentPackage, bytes]:
    """The package that the options name.

    Raises:
        ConfigError: A file cannot be read or is no manifest.
    """
    from msp_sdk.models.package import AgentPackage, PackageManifest

    try:
        content = Path(options.package).read_bytes()
    except OSError as error:
        raise ConfigError(f"{options.package} cannot be read: {error.strerror}.") from error
    manifest = read_json_file(options.manifest, PackageManifest)
    digest = hashlib.sha256(content).hexdigest()
    return AgentPackage(options.package_name, options.package_version, digest, len(content), manifest), content


@asynccontextmanager
async def open_fleet(options: argparse.Namespace) -> AsyncIterator[tuple[AgentDeployer, MergeResult]]:
    """The deployer and the merged targets.

    Raises:
        MspError: The domain was not found, the credential was refused, a file is wrong.
    """
    from msp_sdk.deployment import AgentDeployer

    package, content = read_package(options)
    async with open_hosts(options) as (shells, credential, merged):
        credentials = _OneCredential(credential)
        yield AgentDeployer(package, shell=shells, credentials=credentials, file=lambda: content), merged


@asynccontextmanager
async def open_hosts(options: argparse.Namespace) -> AsyncIterator[tuple[WindowsShells, Credential, MergeResult]]:
    """Shells, the credential for them, and the merged targets.

    Raises:
        MspError: The domain was not found, the credential was refused, a file is wrong.
    """
    from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
    from msp_sdk.network.kdcs import kdcs_of
    from msp_sdk.windows.shell import HostPolicy, WindowsShells

    ledger = open_ledger()
    domains: tuple[Domain, ...] = ()
    async with contextlib.AsyncExitStack() as stack:
        if options.domain:
            domain = await find_domain(options, options.domain)
            domains = (domain,)
            how = EnumerationOptions(directory=directory_options(options))

            async def read(credential: Credential) -> tuple[ADEnumerator, MergeResult]:
                async with contextlib.AsyncExitStack() as begun:
                    enumerator = ADEnumerator(domain, credential, ledger=ledger, options=how)
                    await begun.enter_async_context(enumerator)
                    merged = await _domain_targets(enumerator, options)
                    # It is asked again when a host's refusal wants a proof.
                    stack.push_async_exit(begun.pop_all())
                    return enumerator, merged

            enumerator, merged = await asking_for_trust(domain, await make_credential(options, domain, ledger), read)
            credential = enumerator.credential
            tell_passed_over(enumerator.failures, quietly=options.json)

            async def prove(_: Credential) -> None:
                await enumerator.prove()
        else:
            if not options.hosts:
                raise ConfigError("name hosts, or a --domain.")
            credential = local_credential(options, ledger)
            merged = await _named_targets(options, credential)
            prove = None  # type: ignore[assignment]
        policy = HostPolicy(
            allow_ntlm=options.allow_ntlm, trusted_cas=tuple(read_text_file(path) for path in options.host_ca)
        )
        shells = WindowsShells(ledger, policy=lambda: policy, prove=prove, kdcs=lambda wanted: kdcs_of(domains, wanted))
        stack.push_async_callback(shells.aclose)
        yield shells, credential, merged


async def _domain_targets(enumerator: object, options: argparse.Namespace) -> MergeResult:
    from msp_sdk.enumeration import ADEnumerator, with_addresses
    from msp_sdk.models.rollout import DEFAULT_ROLES, RolloutScope, why_out_of_scope
    from msp_sdk.models.target import MergeResult, SkippedTarget
    from msp_sdk.reachability import ReachabilityProber
    from msp_sdk.targets import TargetMerger

    assert isinstance(enumerator, ADEnumerator)  # noqa: S101 (imported late on purpose)
    enumeration = await enumerator.enumerate()
    if options.hosts:
        enumeration = evolve(enumeration, computers=_named(enumeration, options.hosts))
    located = await with_addresses(enumeration.computers, make_resolver(options))
    probed = [computer async for computer in ReachabilityProber().probe(located)]
    merged = TargetMerger().merge(
        credentials=[enumerator.credential], enumerated=evolve(enumeration, computers=tuple(probed))
    )
    scope = RolloutScope(roles=tuple(options.role) if options.role else DEFAULT_ROLES)
    kept: list[Target] = []
    skipped = list(merged.skipped)
    for target in merged.targets:
        # Who names a host wants that one, whatever its role.
        reason = None if options.hosts else why_out_of_scope(scope, target)
        if reason is None:
            kept.append(target)
        else:
            skipped.append(SkippedTarget(target.hostname, reason, target.object_guid, target.role))
    return MergeResult(tuple(kept), tuple(skipped))


def _named(enumeration: Enumeration, names: Sequence[str]) -> tuple[Computer, ...]:
    """The computers that were named; the others are not even probed.

    Raises:
        ConfigError: The directory holds no computer of that name, and somebody meant one.
    """
    found: dict[str, Computer] = {}
    unknown: list[str] = []
    for name in names:
        folded = name.rstrip(".").casefold()
        matches = [
            computer
            for computer in enumeration.computers
            if folded in (computer.hostname.casefold(), (computer.fqdn or "").casefold())
        ]
        found.update((computer.object_guid, computer) for computer in matches)
        if not matches:
            unknown.append(name)
    if unknown:
        raise ConfigError(
            f"{enumeration.domain_name} has no computer named {', '.join(unknown)}.",
            remedy="Give names as `msp enumerate` lists them.",
        )
    return tuple(found.values())


def local_credential(options: argparse.Namespace, ledger: LogonLedger) -> Credential:
    """The typed credential of hosts' own administrator.

    Raises:
        LogonNotAllowedError: It was refused before, and ``--try-again`` is missing; nothing was sent.
        ConfigError: It is no local account, or the password cannot be read.
    """
    from msp_sdk.models.credential import Credential

    if not options.user.startswith(".\\"):
        raise ConfigError(
            "without --domain the user is a local administrator of the hosts.",
            remedy=r"Give --user .\NAME, or --domain DOMAIN so that the account is proven at a controller first.",
        )
    state = ledger.state(Credential.typed(options.user, Secret(""), type="local_admin"))
    if state.state == "refused" and not options.try_again:
        raise LogonNotAllowedError(
            f"{options.user} was refused at {state.at:%Y-%m-%d %H:%M} UTC ({state.code}).",
            code=state.code,
            remedy="Accounts lock: give --try-again for exactly one more attempt.",
        )
    password = read_password(options.password_file, f"Password of {options.user}")
    credential = Credential.typed(options.user, password, type="local_admin")
    if options.try_again:
        ledger.allow_one_more(credential)
    ledger.begin_typed(credential)
    return credential


async def _named_targets(options: argparse.Namespace, credential: Credential) -> MergeResult:
    from msp_sdk.models.target import ManualTarget
    from msp_sdk.reachability import ReachabilityProber
    from msp_sdk.targets import TargetMerger

    merged = TargetMerger().merge(
        manual=[ManualTarget(hostname=name, role="server", credential_id=credential.id) for name in options.hosts],
        credentials=[credential],
    )
    prober = ReachabilityProber(resolve=make_resolver(options).addresses)
    return evolve(merged, targets=tuple([target async for target in prober.probe(merged.targets)]))
