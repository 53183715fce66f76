"""``msp partner``: the partner's side of Central from a shell."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from msp_sdk.errors import ConfigError
from runners.cli.common import (
    add_partner_options,
    open_partner,
    print_json,
    print_line,
    print_qr,
    print_table,
    read_json_file,
    read_password,
    read_text_file,
)
from runners.cli.site_scope import add_scope_options, read_scope, show_or_set_scope


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("partner", help="sites, codes, credentials, targets, packages, rollouts")
    nouns = parser.add_subparsers(dest="noun", required=True, metavar="NOUN")
    _add_sites(nouns)
    _add_appliances(nouns)
    _add_codes(nouns)
    _add_credentials(nouns)
    _add_targets(nouns)
    _add_packages(nouns)
    _add_rollouts(nouns)
    _action(nouns, "login-code", _login_code, "a code that opens Central's pages once")


def _action(parent: Any, name: str, run: Any, text: str, *arguments: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parent.add_parser(name, help=text)
    for argument in arguments:
        parser.add_argument(argument, metavar=argument.upper())
    add_partner_options(parser)
    parser.set_defaults(run=run)
    return parser


def _verbs(nouns: Any, name: str, text: str) -> Any:
    return nouns.add_parser(name, help=text).add_subparsers(dest="verb", required=True, metavar="VERB")


def _add_sites(nouns: Any) -> None:
    verbs = _verbs(nouns, "sites", "customer locations")
    _action(verbs, "list", _sites_list, "all sites")
    create = _action(verbs, "create", _sites_create, "make a site", "name")
    create.add_argument("--time-zone", default="UTC")
    create.add_argument("--allow-ntlm", action="store_true", help="NTLM inside WinRM's own encryption, without TLS")
    create.add_argument("--trust-ca", metavar="FILE", action="append", default=[], help="PEM of a CA of the hosts")
    add_scope_options(create)
    scope = _action(
        verbs, "scope", show_or_set_scope, "show which computers belong to a site; with options, set it anew", "site"
    )
    add_scope_options(scope)
    scope.add_argument("--everything", action="store_true", help="all computers of its domains belong to the site")
    _action(verbs, "status", _sites_status, "how far a site has come", "site")
    _action(verbs, "hosts", _sites_hosts, "every computer of a site, its agent or the reason", "site")
    _action(verbs, "domains", _sites_domains, "what discovery found, certificates included", "site")


def _add_appliances(nouns: Any) -> None:
    verbs = _verbs(nouns, "appliances", "appliances of a site")
    _action(verbs, "list", _appliances_list, "all appliances of a site", "site")
    for verb, text in (
        ("approve", "let one in that waits for approval"),
        ("revoke", "end its key now"),
        ("replace", "let new hardware take its place"),
    ):
        _action(verbs, verb, _appliances_change, text, "site", "id")


def _add_codes(nouns: Any) -> None:
    verbs = _verbs(nouns, "codes", "provision codes")
    create = _action(verbs, "create", _codes_create, "make a provision code")
    create.add_argument("--site", metavar="SITE", help="an existing site; else a new one is made")
    create.add_argument("--name", help="the new site's name")
    create.add_argument("--days", type=int, default=30)
    create.add_argument("--uses", type=int, default=1)
    create.add_argument("--auto-approve", action="store_true")
    _action(verbs, "list", _codes_list, "all codes")
    _action(verbs, "revoke", _codes_revoke, "revoke a pending code", "id")


def _add_credentials(nouns: Any) -> None:
    verbs = _verbs(nouns, "credentials", "credentials of a site; secrets are never readable again")
    _action(verbs, "list", _credentials_list, "all credentials and what became of them", "site")
    add = _action(verbs, "add", _credentials_add, "store a credential", "site")
    add.add_argument("--type", choices=["service_account", "domain_admin", "winrm", "local_admin"], required=True)
    add.add_argument("--user", required=True, metavar="USER", help=r"user@domain, DOMAIN\user or .\user")
    add.add_argument("--domain", metavar="DOMAIN", help="for service_account and domain_admin")
    add.add_argument("--host", metavar="HOST", help="for winrm, and for local_admin of one host")
    add.add_argument("--password-file", metavar="FILE", help="else MSP_PASSWORD, else a prompt")
    add.add_argument(
        "--trust-certificate", metavar="SHA256", action="append", default=[], help="a controller's certificate"
    )
    rotate = _action(verbs, "rotate", _credentials_rotate, "store a new password, without a gap", "site", "id")
    rotate.add_argument("--password-file", metavar="FILE", help="else MSP_PASSWORD, else a prompt")
    _action(verbs, "retry", _credentials_retry, "allow exactly one more attempt", "site", "id")
    _action(verbs, "delete", _credentials_delete, "destroy a credential", "site", "id")


def _add_targets(nouns: Any) -> None:
    verbs = _verbs(nouns, "targets", "targets set by hand")
    _action(verbs, "list", _targets_list, "targets set by hand", "site")
    _action(verbs, "set", _targets_set, "replace them by a JSON file (a list of objects)", "site", "file")


def _add_packages(nouns: Any) -> None:
    verbs = _verbs(nouns, "packages", "agent packages")
    _action(verbs, "list", _packages_list, "all packages")
    add = _action(verbs, "add", _packages_add, "announce and upload a package", "file")
    add.add_argument("--name", required=True)
    add.add_argument("--version", required=True)
    add.add_argument("--manifest", required=True, metavar="FILE", help="JSON: how it is installed and recognised")


def _add_rollouts(nouns: Any) -> None:
    verbs = _verbs(nouns, "rollouts", "deployments to many")
    _action(verbs, "list", _rollouts_list, "all rollouts of a site", "site")
    create = _action(verbs, "create", _rollouts_create, "begin a rollout", "site")
    create.add_argument("--package", metavar="SHA256", required=True)
    create.add_argument("--role", action="append", choices=["server", "workstation", "domain_controller", "other"])
    create.add_argument("--include", metavar="HOST", action="append", default=[])
    create.add_argument("--exclude", metavar="HOST", action="append", default=[])
    for verb, text in (
        ("pause", "hold a rollout"),
        ("resume", "let it go on"),
        ("cancel", "end it; what is installed stays"),
        ("retry", "try the hosts again now that have no agent"),
    ):
        _action(verbs, verb, _rollouts_change, text, "site", "id")


async def _sites_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        sites = await partner.sites()
    if options.json:
        print_json({"items": sites})
    else:
        print_table(("SITE", "NAME", "MADE"), ((site.site_id, site.name, site.created_at.date()) for site in sites))


async def _sites_create(options: argparse.Namespace) -> None:
    from msp_sdk.models.site import NewSite

    new = NewSite(
        name=options.name,
        time_zone=options.time_zone,
        allow_ntlm=options.allow_ntlm,
        trusted_cas=tuple(read_text_file(path) for path in options.trust_ca),
        scope=read_scope(options),
    )
    async with open_partner(options) as partner:
        site = await partner.create_site(new)
    if options.json:
        print_json(site)
    else:
        print_line(site.site_id)


async def _sites_status(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        status = await partner.status(options.site)
    if options.json:
        print_json(status)
        return
    details = status.details
    print_line(f"{status.phase} ({status.progress} %)")
    print_line(f"domain      {details.domain_discovered or '-'} (directory: {details.directory})")
    print_line(f"servers     {details.servers_found}")
    print_line(f"workstations {details.workstations_found}")
    print_line(f"agents      {details.agents_deployed} running, {details.agents_failed} failed")
    for entry in details.awaiting:
        print_line(f"awaiting    {entry}")


async def _sites_hosts(options: argparse.Namespace) -> None:
    from runners.cli.hosts import read_hosts

    async with open_partner(options) as partner:
        hosts = await read_hosts(partner, options.site)
    if options.json:
        print_json({"items": hosts})
        return
    print_table(
        ("HOST", "ROLE", "STATE", "REASON", "AGENT"),
        ((host.hostname, host.role, host.state, host.reason, host.agent_version) for host in hosts),
    )


async def _sites_domains(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        reports = await partner.domains(options.site)
    if options.json:
        print_json({"items": reports})
        return
    for report in reports:
        domain = report.discovered_domain
        if domain is None:
            print_line("no domain was found")
            continue
        print_line(f"{domain.domain_name}  confidence {domain.confidence}  {', '.join(domain.domain_controllers)}")
        for certificate in domain.certificates:
            print_line(f"  certificate of {certificate.controller}: {certificate.sha256}")


async def _appliances_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        appliances = await partner.appliances(options.site)
    if options.json:
        print_json({"items": appliances})
        return
    print_table(
        ("ID", "STATE", "HOST", "LAST SEEN"),
        ((entry.id, entry.state, entry.hostname, entry.last_seen_at) for entry in appliances),
    )


async def _appliances_change(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        change = {"approve": partner.approve, "revoke": partner.revoke, "replace": partner.replace}[options.verb]
        appliance = await change(options.site, options.id)
    if options.json:
        print_json(appliance)
    else:
        print_line(f"{appliance.id}: {appliance.state}")


async def _codes_create(options: argparse.Namespace) -> None:
    from msp_sdk.models.provision import ProvisionRequest

    request = ProvisionRequest(
        client_name=options.name,
        site_id=options.site,
        expires_in_days=options.days,
        uses=options.uses,
        auto_approve=options.auto_approve,
    )
    async with open_partner(options) as partner:
        provision = await partner.create_provision(request)
    if options.json:
        print_json(provision)
        return
    print_line(f"{provision.provision_code}  (site {provision.site_id}, until {provision.expires_at:%Y-%m-%d})")
    if provision.qr_content:
        print_qr(provision.qr_content)


async def _codes_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        provisions = await partner.provisions()
    if options.json:
        print_json({"items": provisions})
        return
    print_table(
        ("ID", "SITE", "STATUS", "USED", "CODE"),
        (
            (entry.id, entry.site_id, entry.status, f"{entry.used}/{entry.uses}", entry.provision_code)
            for entry in provisions
        ),
    )


async def _codes_revoke(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        await partner.revoke_provision(options.id)
    _say_done(options, "revoked")


async def _credentials_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        credentials = await partner.credentials(options.site)
    if options.json:
        print_json({"items": credentials})
        return
    print_table(
        ("ID", "VERSION", "TYPE", "USER", "FOR", "STATE"),
        (
            (
                entry.id,
                entry.version,
                entry.type,
                entry.username,
                entry.domain_name or entry.host or "every host",
                f"{entry.state} ({entry.state_code})" if entry.state_code else entry.state,
            )
            for entry in credentials
        ),
    )


async def _credentials_add(options: argparse.Namespace) -> None:
    from msp_sdk.models.credential import DOMAIN_TYPES, NewCredential, TrustedCertificate
    from msp_sdk.network.pins import parse_sha256

    if (options.type in DOMAIN_TYPES) != bool(options.domain):
        raise ConfigError(f"a {options.type} {'needs' if options.type in DOMAIN_TYPES else 'takes no'} --domain.")
    if options.type == "winrm" and not options.host:
        raise ConfigError("a winrm credential needs --host.")
    new = NewCredential(
        type=options.type,
        username=options.user,
        password=read_password(options.password_file, f"Password of {options.user}"),
        host=options.host,
        domain_name=options.domain,
        trusted_certificates=tuple(TrustedCertificate(sha256=parse_sha256(text)) for text in options.trust_certificate),
    )
    async with open_partner(options) as partner:
        stored = await partner.create_credential(options.site, new)
    if options.json:
        print_json(stored)
    else:
        print_line(stored.id)


async def _credentials_retry(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        stored = await partner.retry_credential(options.site, options.id)
    if options.json:
        print_json(stored)
    else:
        print_line(f"version {stored.version}: one more attempt")


async def _credentials_rotate(options: argparse.Namespace) -> None:
    from msp_sdk.models.credential import NewCredential

    async with open_partner(options) as partner:
        held = {entry.id: entry for entry in await partner.credentials(options.site)}
        old = held.get(options.id)
        if old is None:
            raise ConfigError(f"the site has no credential {options.id}.", remedy="`list` shows those it has.")
        new = NewCredential(
            type=old.type,
            username=old.username,
            password=read_password(options.password_file, f"New password of {old.username}"),
            host=old.host,
            domain_name=old.domain_name,
            netbios_name=old.netbios_name,
            port=old.port,
            use_ssl=old.use_ssl,
            trusted_certificates=old.trusted_certificates,
        )
        stored = await partner.rotate_credential(options.site, options.id, new)
    if options.json:
        print_json(stored)
    else:
        print_line(f"version {stored.version}")


def _say_done(options: argparse.Namespace, what: str) -> None:
    if options.json:
        print_json({"id": options.id, "state": what})
    else:
        print_line(f"{options.id}: {what}")


async def _credentials_delete(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        await partner.delete_credential(options.site, options.id)
    _say_done(options, "deleted")


async def _targets_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        targets = await partner.manual_targets(options.site)
    if options.json:
        print_json({"items": targets})
        return
    print_table(
        ("HOST", "PORT", "ROLE", "EXCLUDED"),
        ((target.hostname, target.port, target.role, target.excluded or None) for target in targets),
    )


async def _targets_set(options: argparse.Namespace) -> None:
    from msp_sdk.models.target import ManualTarget

    targets = read_json_file(options.file, tuple[ManualTarget, ...])
    async with open_partner(options) as partner:
        kept = await partner.set_manual_targets(options.site, targets)
    if options.json:
        print_json({"items": kept})
    else:
        print_line(f"{len(kept)} targets")


async def _packages_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        packages = await partner.packages()
    if options.json:
        print_json({"items": packages})
        return
    print_table(
        ("NAME", "VERSION", "SHA256", "UPLOADED"),
        ((package.name, package.version, package.sha256, package.uploaded) for package in packages),
    )


async def _packages_add(options: argparse.Namespace) -> None:
    from msp_sdk.models.package import AgentPackage, PackageManifest

    try:
        content = Path(options.file).read_bytes()  # noqa: ASYNC240 (nothing else runs in this process)
    except OSError as error:
        raise ConfigError(f"{options.file} cannot be read: {error.strerror}.") from error
    package = AgentPackage(
        name=options.name,
        version=options.version,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        manifest=read_json_file(options.manifest, PackageManifest),
    )
    async with open_partner(options) as partner:
        await partner.create_package(package)
        stored = await partner.upload_package(package.sha256, content)
    if options.json:
        print_json(stored)
    else:
        print_line(stored.sha256)


async def _rollouts_list(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        rollouts = await partner.rollouts(options.site)
    if options.json:
        print_json({"items": rollouts})
        return
    print_table(
        ("ID", "STATE", "ACTION", "PACKAGE", "VERSION", "ROLES"),
        (
            (
                entry.id,
                entry.state,
                entry.action,
                entry.package.name,
                entry.package.version,
                ",".join(entry.scope.roles),
            )
            for entry in rollouts
        ),
    )


async def _rollouts_create(options: argparse.Namespace) -> None:
    from msp_sdk.models.rollout import DEFAULT_ROLES, NewRollout, RolloutScope

    scope = RolloutScope(
        roles=tuple(options.role) if options.role else DEFAULT_ROLES,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
    )
    async with open_partner(options) as partner:
        rollout = await partner.create_rollout(options.site, NewRollout(options.package, scope=scope))
    if options.json:
        print_json(rollout)
    else:
        print_line(rollout.id)


async def _rollouts_change(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        change = {
            "pause": partner.pause_rollout,
            "resume": partner.resume_rollout,
            "cancel": partner.cancel_rollout,
            "retry": partner.retry_rollout,
        }[options.verb]
        rollout = await change(options.site, options.id)
    if options.json:
        print_json(rollout)
    else:
        print_line(f"{rollout.id}: {rollout.state}")


async def _login_code(options: argparse.Namespace) -> None:
    async with open_partner(options) as partner:
        code = await partner.login_code()
    if options.json:
        print_json(code)
    else:
        print_line(f"{code.code.reveal()}  at {partner.central}/login until {code.expires_at:%H:%M} UTC")
