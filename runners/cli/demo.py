"""``msp demo``: the whole job on one machine, without root and with nothing but loopback.

Central on SQLite, an estate without Windows, an appliance; each a real process. The demo plays the partner through
the public API. It knows what is true of the estate, and checks at the end that Central says exactly that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msp_sdk.errors import StateError
from runners.cli.hosts import HostLine, read_hosts

if TYPE_CHECKING:
    from msp_sdk.models.site import DeploymentStatus, Site
    from msp_sdk.partner import PartnerClient
    from runners.cli.processes import Child
    from runners.cli.view import LiveView, PlainView

FAULTS = {
    "wrong-password": "the partner stores a wrong password: one attempt, then it is said and never tried again",
    "unreachable-controller": "DNS names controllers, but none of them answers",
}
_POLL_S = 0.25
_LONGEST_S = 180.0
# The appliance checks in every second here, instead of every minute.
_INTERVAL_S = 1.0


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="the whole job on this machine: see it work")
    parser.add_argument("--computers", type=int, default=40, metavar="N", help="how many computers (default 40)")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="Central's port; default a free one")
    parser.add_argument("--exit-when-complete", action="store_true", help="check the outcome and end")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="show how trouble looks")
    parser.add_argument("--folder", metavar="DIR", help="keep everything there instead of in a folder that is removed")
    parser.set_defaults(run=run_demo)


async def run_demo(options: argparse.Namespace) -> int:
    """Run the demo until it is complete or interrupted; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    folder = await asyncio.to_thread(_make_folder, options.folder)
    try:
        show = asyncio.create_task(_show(options, folder))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({show, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if show.done():
            return show.result()
        show.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await show
        return 130
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)


def _make_folder(wanted: str | None) -> Path:
    folder = Path(wanted or tempfile.mkdtemp(prefix="msp-demo-"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


async def _show(options: argparse.Namespace, folder: Path) -> int:
    from msp_sdk.partner import PartnerClient
    from msp_sdk.secret import Secret
    from runners.cli.view import make_view

    async with contextlib.AsyncExitStack() as stack:
        key, url = await _start_central(stack, folder, options.port)
        estate, facts = await _start_estate(stack, folder, options)
        partner = await stack.enter_async_context(PartnerClient(url, Secret(key)))
        site = await _prepare_site(partner, facts, options)
        login = await partner.login_code()
        view = make_view(f"{url}/sites/{site.site_id}", login.code.reveal())
        stack.push(view.__exit__)
        view.__enter__()
        await _start_appliance(stack, folder, partner, site, facts, url)
        async with asyncio.timeout(_LONGEST_S if options.exit_when_complete else None):
            try:
                outcome = await _play_partner(partner, site, facts, view, options)
            except TimeoutError:
                status = await partner.status(site.site_id)
                raise StateError(
                    f"after {_LONGEST_S:.0f} s the site is still {status.phase}.", code="not-complete"
                ) from None
        if options.fault:
            await _say_what_the_fault_did(estate, view)
        if outcome is None:
            hosts = await read_hosts(partner, site.site_id)
            mistakes = compare(hosts, facts["computers"])
            mistakes += await _compare_machines(estate, facts["computers"])
            _say_summary(view, hosts, mistakes)
            if mistakes:
                return 1
        if options.exit_when_complete:
            if outcome is not None:
                view.say(f"not complete: {outcome}")
            return 0 if outcome is None else 1
        view.say("Ctrl-C ends the demo and removes it.")
        await _watch_for_ever(partner, site, view)
    return 0


def compare(hosts: Sequence[HostLine], truth: Sequence[dict[str, Any]]) -> list[str]:
    """Where Central's list differs from the truth about the estate; empty when it is true of every host."""
    said = {host.hostname.casefold(): host for host in hosts}
    mistakes = []
    for computer in truth:
        host = said.pop(computer["name"].casefold(), None)
        if host is None:
            mistakes.append(f"{computer['name']} is not listed at all")
            continue
        answer = "agent" if host.state == "agent" else host.reason
        if answer != computer["truth"]:
            mistakes.append(f"{host.hostname}: {answer} is said, {computer['truth']} is true ({host.detail or '-'})")
    return mistakes + [f"{name} is listed, but there is no such computer" for name in said]


async def _compare_machines(estate: Child, truth: Sequence[dict[str, Any]]) -> list[str]:
    """Ask the machines themselves whether the agent runs; nobody else is believed."""
    machines = json.loads(await estate.ask(b"machines"))
    mistakes = []
    for computer in truth:
        machine = machines.get(computer["name"])
        running = bool(machine and machine["agent_running"])
        if running != (computer["truth"] == "agent"):
            mistakes.append(f"{computer['name']}: the agent {'runs' if running else 'does not run'} on the machine")
        if machine and machine["violations"]:
            mistakes.append(f"{computer['name']}: {machine['violations'][0]}")
    return mistakes


async def _start_central(stack: contextlib.AsyncExitStack, folder: Path, port: int) -> tuple[str, str]:
    from runners.cli.processes import Child

    database = f"sqlite:///{folder / 'central.db'}"
    log = folder / "central.log"
    arguments = ("central", "bootstrap", "--database", database, "--partner", "Demo MSP", "--email", "demo@msp.invalid")
    bootstrap = await Child.start("Central's bootstrap", "runners.cli", arguments, log=log)
    key = (await bootstrap.finish(b"")).decode().split()[-1]
    serving = ("central", "serve", "--database", database, "--port", str(port))
    central = await Child.start("Central", "runners.cli", serving, log=log)
    stack.push_async_callback(central.stop)
    url = (await central.ask()).decode().split()[-1]
    stack.callback(central.drain().cancel)
    return key, url


async def _start_estate(
    stack: contextlib.AsyncExitStack, folder: Path, options: argparse.Namespace
) -> tuple[Child, dict[str, Any]]:
    from runners.cli.processes import Child

    arguments = ["--computers", str(options.computers)]
    if options.fault == "unreachable-controller":
        arguments.append("--no-directory")
    estate = await Child.start("the estate", "msp_sdk.testing.estate", arguments, log=folder / "estate.log")
    stack.push_async_callback(estate.stop)
    return estate, json.loads(await estate.ask())


async def _prepare_site(partner: PartnerClient, facts: dict[str, Any], options: argparse.Namespace) -> Site:
    from msp_sdk.models.package import AgentPackage
    from msp_sdk.models.site import AutoRollout, NewSite
    from msp_sdk.wire.converter import decode_bytes, structure

    package = structure(facts["package"], AgentPackage)
    await partner.create_package(package)
    await partner.upload_package(package.sha256, decode_bytes(facts["package_content"]))
    del options
    return await partner.create_site(
        NewSite(
            name="Northvalley Clinic",
            checkin_interval_seconds=_INTERVAL_S,
            auto_rollout=AutoRollout(package.sha256),
            # Hosts without an HTTPS listener are reached by NTLM inside WinRM's own encryption here.
            allow_ntlm=True,
            trusted_cas=(facts["ca_pem"],),
        )
    )


async def _start_appliance(
    stack: contextlib.AsyncExitStack,
    folder: Path,
    partner: PartnerClient,
    site: Site,
    facts: dict[str, Any],
    url: str,
) -> None:
    from msp_sdk.models.provision import ProvisionRequest
    from runners.cli.processes import Child

    provision = await partner.create_provision(ProvisionRequest(site_id=site.site_id))
    config = folder / "appliance" / "config.yaml"
    log = folder / "appliance.log"
    claim = await Child.start(
        "the claim",
        "runners.cli",
        ("appliance", "claim", "-", "--central", url, "--config", str(config)),
        log=log,
    )
    await claim.finish(f"{provision.provision_code}\n".encode())
    appliance = await Child.start(
        "the appliance",
        "runners.cli",
        ("appliance", "run", "--config", str(config), "--resolver", facts["dns"], "--search", facts["domain"]),
        log=log,
    )
    stack.push_async_callback(appliance.stop)
    stack.callback(appliance.drain().cancel)


async def _play_partner(
    partner: PartnerClient,
    site: Site,
    facts: dict[str, Any],
    view: PlainView | LiveView,
    options: argparse.Namespace,
) -> str | None:
    """Watch the site; give the credential when it is asked for. None when complete, else why it will not be."""
    given = False
    async for status in _statuses(partner, site, view):
        if status.phase == "complete":
            return None
        if not given and status.phase == "awaiting_credentials":
            await _give_credential(partner, site, facts, wrong=options.fault == "wrong-password")
            view.say(f"the partner stores one credential: {facts['username']}")
            given = True
        refused = [entry for entry in await partner.credentials(site.site_id) if entry.state == "refused"]
        if refused:
            view.show(status, await read_hosts(partner, site.site_id))
            return f"the credential {refused[0].username} was refused: {refused[0].state_code}"
        if any(entry.endswith(":unreachable-controller") for entry in status.details.awaiting):
            return "no controller of the domain answers, so no domain is believed; it is looked for again"
    raise AssertionError("the statuses never end")


async def _statuses(partner: PartnerClient, site: Site, view: PlainView | LiveView) -> AsyncIterator[DeploymentStatus]:
    while True:
        status = await partner.status(site.site_id)
        view.show(status, await read_hosts(partner, site.site_id))
        yield status
        await asyncio.sleep(_POLL_S)


async def _watch_for_ever(partner: PartnerClient, site: Site, view: PlainView | LiveView) -> None:
    async for _ in _statuses(partner, site, view):
        await asyncio.sleep(1.0)


async def _give_credential(partner: PartnerClient, site: Site, facts: dict[str, Any], *, wrong: bool) -> None:
    from msp_sdk.models.credential import NewDomainCredential, TrustedCertificate
    from msp_sdk.secret import Secret

    reports = await partner.domains(site.site_id)
    seen = {
        certificate.sha256
        for report in reports
        if report.discovered_domain is not None
        for certificate in report.discovered_domain.certificates
    }
    strangers = seen - set(facts["certificates"])
    if strangers:
        # A person would look at it here; the demo knows its own and gives no password to others.
        raise StateError(
            "the appliance saw a certificate that is not the estate's.",
            code="certificate-untrusted",
            remedy="Something else listens on the estate's addresses.",
        )
    password = "not-the-password" if wrong else facts["password"]
    await partner.create_domain_credential(
        site.site_id,
        NewDomainCredential(
            domain_name=facts["domain"],
            username=facts["username"],
            password=Secret(password),
            credential_type="service_account",
            trusted_certificates=tuple(TrustedCertificate(sha256=digest) for digest in sorted(seen)),
        ),
    )


async def _say_what_the_fault_did(estate: Child, view: PlainView | LiveView) -> None:
    accounts = json.loads(await estate.ask(b"accounts"))
    for account in accounts:
        if account["attempts"]:
            view.say(f"bad-password count of {account['username']} in the directory: {account['bad_password_count']}")


def _say_summary(view: PlainView | LiveView, hosts: Sequence[HostLine], mistakes: Sequence[str]) -> None:
    from runners.cli.view import summarise

    for reason, count in summarise(hosts):
        view.say(f"{count:5d}  {reason}")
    for mistake in mistakes:
        view.say(f"WRONG  {mistake}")
    if not mistakes:
        view.say(f"complete: each of {len(hosts)} computers runs the agent or is listed with its true reason")


__all__ = ["add_to", "compare", "run_demo"]
