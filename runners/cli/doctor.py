"""``msp doctor HOST``: why a host does not work, step by step, down to one reason and one remedy.

Without ``--user`` nothing of a credential is involved. Exit code 0 when nothing stands in the way, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from msp_sdk.errors import ConfigError, LogonNotAllowedError, MspError
from msp_sdk.secret import Secret
from runners.cli.common import plain, print_json, read_text_file
from runners.cli.directory import (
    add_directory_options,
    asking_for_trust,
    directory_options,
    find_domain,
    host_pins,
    make_credential,
    make_resolver,
    open_ledger,
)
from runners.cli.fleet import local_credential

if TYPE_CHECKING:
    from msp_sdk.models.credential import Credential
    from msp_sdk.models.domain import Domain
    from msp_sdk.models.finding import Finding, Verdict
    from msp_sdk.network.excluded import ExcludedNetworks
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.network.resolver import Resolver
    from msp_sdk.reachability.doctor import HostDoctor
    from msp_sdk.reachability.doctor_directory import DomainDirectory

_STEP_WIDTH = 13
_MARKS = {True: "ok", False: "FAIL", None: "-"}
_NARROWEST = 60
# A remedy at a site, and what stands for it on the command line.
_HERE = {
    "certificate-untrusted": "Here: --host-ca FILE.",
    "ntlm-not-allowed": "Here: --allow-ntlm.",
    "kdc-unknown": "Here: --domain DOMAIN.",
}


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="why a host does not work, and what to do about it")
    parser.add_argument("host", metavar="HOST", help="name or address")
    parser.add_argument("--domain", metavar="DOMAIN", help="the host's domain; else that of --user or of HOST")
    parser.add_argument("--host-ca", metavar="FILE", action="append", default=[], help="CA of the hosts' certificates")
    parser.add_argument(
        "--exclude", metavar="NETWORK", action="append", default=[], help="network or address that nothing is sent to"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_directory_options(parser, user_required=False)
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    # Loading what it takes is long, and in the loop Ctrl-C would wait for it.
    import_module("msp_sdk.reachability.doctor")
    return _examine(options)


async def _examine(options: argparse.Namespace) -> int:
    import time
    from datetime import UTC, datetime

    from msp_sdk.models.finding import Examination, judge

    async with _open_doctor(options) as (doctor, credential):
        begun, begun_at = time.monotonic(), datetime.now(UTC)
        screen = _Screen(quiet=options.json)
        findings: list[Finding] = []
        async with contextlib.aclosing(doctor.findings(options.host, credential)) as found:
            async for finding in found:
                findings.append(finding)
                screen.show(finding)
        verdict = judge(findings)
        screen.end(verdict)
    if options.json:
        took_s = round(time.monotonic() - begun, 3)
        print_json(Examination(options.host, tuple(findings), verdict, begun_at, took_s))
    return 0 if verdict.ok else 1


class _Screen:
    """Findings as a person reads them, a line each as it comes."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._left_out: list[Finding] = []
        self._columns = max(_NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0

    def show(self, finding: Finding) -> None:
        """Show a finding."""
        if finding.ok is None:
            self._left_out.append(finding)
            return
        self._flush()
        mark = "note" if finding.ok and finding.code else _MARKS[finding.ok]
        self._write(f"  {mark.ljust(4)}  {finding.step.ljust(_STEP_WIDTH)}", finding.title)

    def end(self, verdict: Verdict) -> None:
        """Show what it all comes to."""
        self._flush()
        if self._quiet:
            return
        sys.stdout.write("\n")
        self._write("Result      ", verdict.title if verdict.code is None else f"{verdict.code}: {verdict.title}")
        remedy = " ".join(part for part in (verdict.remedy, _HERE.get(verdict.code or "", "")) if part)
        if remedy:
            self._write("What to do  ", remedy)

    def _flush(self) -> None:
        """Steps that were left out one after the other share a line; the first says why."""
        left_out, self._left_out = self._left_out, []
        if not left_out:
            return
        head = left_out[0].step if len(left_out) == 1 else f"{len(left_out)} steps"
        range_ = "" if len(left_out) == 1 else f"{left_out[0].step} … {left_out[-1].step}: "
        self._write(f"  {_MARKS[None].ljust(4)}  {head.ljust(_STEP_WIDTH)}", range_ + left_out[0].title)

    def _write(self, head: str, text: str) -> None:
        if self._quiet:
            return
        line = f"{head}  {plain(text)}"
        if self._columns:
            line = textwrap.fill(line, self._columns, subsequent_indent=" " * (len(head) + 2), break_long_words=False)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@contextlib.asynccontextmanager
async def _open_doctor(options: argparse.Namespace) -> AsyncIterator[tuple[HostDoctor, Credential | None]]:
    from msp_sdk.network.excluded import ExcludedNetworks
    from msp_sdk.network.kdcs import kdcs_of
    from msp_sdk.reachability.doctor import DoctorOptions, HostDoctor
    from msp_sdk.windows.shell import HostPolicy, WindowsShells

    excluded = ExcludedNetworks.parse(part for entry in options.exclude for part in entry.split(","))
    # Servers that a person named are instead of the system's, not beside them.
    how = DoctorOptions(compare=() if options.resolver else None, excluded=excluded)
    policy = HostPolicy(
        allow_ntlm=options.allow_ntlm,
        trusted_cas=tuple(read_text_file(path) for path in options.host_ca),
        pins=host_pins().all(),
    )
    ledger = open_ledger() if options.user else None
    domain, failure = await _domain_of(options, excluded)
    resolver = _resolver_of(options, domain)
    if ledger is None:
        if failure is not None:
            sys.stderr.write(f"{plain(f'without the domain: {failure}')}\n")
        yield HostDoctor(domain=domain, resolver=resolver, policy=policy, options=how), None
        return
    credential, refusal = await _credential_of(options, domain, failure, ledger)
    async with contextlib.AsyncExitStack() as stack:
        directory: Any = None
        if refusal is not None:
            directory = _NoDirectory(refusal)
        elif credential.is_domain and domain is not None:
            directory = _AskingDirectory(domain, ledger, options)
            stack.push_async_callback(directory.aclose)
        domains = () if domain is None else (domain,)
        shells = WindowsShells(ledger, policy=lambda: policy, kdcs=lambda wanted: kdcs_of(domains, wanted))
        stack.push_async_callback(shells.aclose)
        yield (
            HostDoctor(
                domain=domain, resolver=resolver, shells=shells, policy=policy, directory=directory, options=how
            ),
            credential,
        )


def _domain_name(options: argparse.Namespace) -> str | None:
    """The domain that is meant; None for a host's own account, and where nothing names one."""
    if options.domain:
        return str(options.domain)
    if not options.user or options.user.startswith(".\\"):
        return None
    from msp_sdk.windows.identity import is_address

    _, at, suffix = options.user.rpartition("@")
    # An address has no domain; of 10.1.2.3 it would be 1.2.3.
    parent = "" if is_address(options.host.strip("[]").rstrip(".")) else options.host.rstrip(".").partition(".")[2]
    name = suffix if at else parent
    if "." not in name:
        raise ConfigError("the domain of the account is not known.", remedy="Give --domain DOMAIN.")
    return str(name)


async def _domain_of(options: argparse.Namespace, excluded: ExcludedNetworks) -> tuple[Domain | None, MspError | None]:
    """The domain, or why it was not found: that is a finding, and the steps that need none are taken all the same."""
    from msp_sdk.reachability.doctor_case import without_excluded

    name = _domain_name(options)
    if name is None:
        return None, None
    search = options.search
    try:
        domain = without_excluded(await find_domain(options, name, excluded), excluded)
    except ConfigError:
        raise
    except MspError as error:
        return None, error
    finally:
        options.search = search
    return domain, None


def _resolver_of(options: argparse.Namespace, domain: Domain | None) -> Resolver:
    from msp_sdk.network.resolver import Resolver, parse_server, read_resolv_conf

    search = tuple(options.search) or ((domain.name,) if domain is not None else read_resolv_conf().search)
    if options.resolver or domain is None:
        return Resolver(make_resolver(options).servers, search=search)
    servers = tuple(parse_server(server) for server in domain.dns_servers)
    return Resolver(servers or None, search=search)


async def _credential_of(
    options: argparse.Namespace, domain: Domain | None, failure: MspError | None, ledger: LogonLedger
) -> tuple[Credential, MspError | None]:
    """The credential, and why it cannot be proven at a controller, where that is known already."""
    from msp_sdk.models.credential import Credential

    if options.user.startswith(".\\"):
        try:
            return local_credential(options, ledger), None
        except LogonNotAllowedError:
            # The ledger says so again when its turn comes.
            return _without_password(Credential.typed(options.user, Secret(""), type="local_admin")), None
    name = _domain_name(options)
    if domain is None:
        return _without_password(Credential.typed(options.user, Secret(""), domain_name=name)), failure
    shape = Credential.typed(options.user, Secret(""), domain_name=domain.name, netbios_name=domain.netbios_name)
    try:
        return await make_credential(options, domain, ledger), None
    except ConfigError:
        raise
    except MspError as error:
        return _without_password(shape), error


def _without_password(shape: Credential) -> Credential:
    """A credential that is only spoken of: whoever opens it finds nothing."""
    from attrs import evolve

    def opener() -> NoReturn:
        raise ConfigError("no password was asked for.")

    return evolve(shape, opener=opener)


class _NoDirectory:
    """Stands where no controller can be asked, and says why."""

    def __init__(self, error: MspError) -> None:
        self._error = error

    async def prove(self, credential: Credential) -> str:
        del credential
        raise self._error

    async def holders(self, principals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        del principals
        raise self._error

    async def aclose(self) -> None:
        """Nothing is open."""


class _AskingDirectory:
    """The domain's directory, which asks a person about certificates that nobody knows."""

    def __init__(self, domain: Domain, ledger: LogonLedger, options: argparse.Namespace) -> None:
        from msp_sdk.reachability.doctor_directory import DomainDirectory

        self._domain = domain
        self._directory: DomainDirectory = DomainDirectory(domain, ledger, options=directory_options(options))

    async def prove(self, credential: Credential) -> str:
        """Log on at a controller, once."""
        return await asking_for_trust(self._domain, credential, self._directory.prove)

    async def holders(self, principals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Who holds these service names."""
        return await self._directory.holders(principals)

    async def aclose(self) -> None:
        """End the session."""
        await self._directory.aclose()
