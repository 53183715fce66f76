"""Several domains at one site: each is read from its own controllers, in turn; and what of a discovery is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve

from msp_sdk.enumeration import KnownDomain
from msp_sdk.errors import BindRejectedError, ConfigError, DirectoryError, LogonRejectedError
from msp_sdk.models.credential import NewDomainCredential, TrustedCertificate
from msp_sdk.models.domain import DomainController, DomainDiscovery
from msp_sdk.models.scope import EnumerationScope, SiteScope
from msp_sdk.secret import Secret
from runners.appliance.domain_watch import essence
from runners.appliance.kept_connection import KeptConnections
from runners.appliance.survey import Survey

DOMAIN = "northvalley.test"
SISTER = "sister.test"


async def trust(watched: Any) -> None:
    """Discovery names a second domain, and somebody has given an account for it."""
    domains = watched.survey.domains
    (first,) = domains.discovery.domains
    domains.discovery = evolve(domains.discovery, domains=(first, evolve(first, name=SISTER, netbios_name="SISTER")))
    watched.tools.state.save("discovery", domains.discovery)
    await watched.lab.partner.create_domain_credential(
        watched.lab.site_id,
        NewDomainCredential(
            domain_name=SISTER,
            username="svc@sister.test",
            password=Secret("of-the-sister"),
            credential_type="service_account",
        ),
    )


def with_two(open_lab: Callable[..., Any], scripted: Any, work: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        first, second = scripted.directory("SRV1"), scripted.directory()
        second.put(scripted.computer("SIS1", domain_name=SISTER))
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            watched = scripted.watched(lab, tools, first)
            directories = {DOMAIN: first, SISTER: second}
            tools.directory = KeptConnections(
                lambda domain, account: directories[domain.name].reader(domain, account), tools.ledger.refuse
            )
            watched.survey = type(watched.survey)(tools)
            await watched.turn()
            await trust(watched)
            await work(watched, first, second)

    asyncio.run(run())


def results(watched: Any) -> list[tuple[str, str]]:
    found = [report["results"] for report in watched.reports() if report["results"]]
    return [(entry["kind"], entry["domain_name"]) for entry in found]


def test_each_domain_is_read_from_its_own_controllers_with_a_report_of_its_own_and_followed(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        await watched.turn()
        assert (first.asked, second.asked) == (["full", "full"], ["full"]), "a new credential wishes a reading"
        assert (first.binds[-1], second.binds) == (watched.lab.estate.credential.upn, ["svc@sister.test"])
        assert results(watched) == [("full", DOMAIN), ("full", SISTER)]
        assert watched.tools.completed.completed["enumeration"] == 2
        assert await watched.names() == ["SIS1", "SRV1"]
        assert {target.hostname for target in watched.survey.merge.targets} == {"SIS1", "SRV1"}

        second.put(scripted.computer("SIS2", domain_name=SISTER))
        await watched.turn()
        assert results(watched) == [("changes", SISTER)]
        assert await watched.names() == ["SIS1", "SIS2", "SRV1"]
        assert {target.hostname for target in watched.survey.merge.targets} == {"SIS1", "SIS2", "SRV1"}
        assert (len(first.binds), len(second.binds)) == (1, 1)

        # Over a restart each goes on from where it was.
        watched.survey = type(watched.survey)(watched.tools)
        await watched.turn()
        assert (first.asked[-1], second.asked[-1]) == ("c0", "c2")

    with_two(open_lab, scripted, work)


def test_a_domain_that_cannot_be_read_holds_up_no_other_one_and_says_why(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        second.logon_failure = LogonRejectedError("the password is wrong.", code="wrong-password")
        await watched.turn()
        (failed,) = [report["failed"] for report in watched.reports() if report["failed"]]
        assert (failed["domain_name"], failed["code"]) == (SISTER, "wrong-password")
        assert [(entry["controller"], entry["code"]) for entry in failed["failures"]] == [("dc1", "wrong-password")]
        assert watched.survey.problems == {f"enumeration:{SISTER}": "wrong-password"}
        assert watched.tools.completed.completed["enumeration"] == 2, "it ended, one way or the other"
        assert await watched.names() == ["SRV1"]
        # A restart asks nobody again.
        watched.survey = type(watched.survey)(watched.tools)
        await watched.turn()
        assert (len(second.binds), results(watched)) == (1, [])

    with_two(open_lab, scripted, work)


def test_a_scope_of_one_domain_leaves_the_other_one_out_and_holds_up_neither(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        await watched.turn()
        assert await watched.names() == ["SIS1", "SRV1"]
        site_id = watched.lab.site_id
        tools = watched.tools
        directories = {DOMAIN: first, SISTER: second}

        def make(domain: Any, account: Any) -> Any:
            tools.enumerator(domain, account)  # what the scope says of this domain is the real one's to judge
            return directories[domain.name].reader(domain, account)

        await tools.directory.close()
        tools.directory = KeptConnections(make, tools.ledger.refuse)
        watched.survey = type(watched.survey)(tools)
        await watched.lab.partner.change_site(site_id, scope=SiteScope(ous=("OU=X,DC=northvalley,DC=test",)))
        await watched.lab.partner.wish_enumeration(site_id)
        asked = len(second.asked)
        await watched.turn()
        assert watched.tools.completed.completed["enumeration"] == 3, "neither holds it up"
        assert watched.survey.directory.problems == {f"enumeration:{SISTER}": "domain-out-of-scope"}
        assert len(second.asked) == asked, "nothing of it is read"
        assert "SIS1" not in {target.hostname for target in watched.survey.merge.targets}
        assert await watched.names() == ["SRV1"]
        await watched.lab.partner.change_site(site_id, scope=SiteScope())
        await watched.turn()
        assert watched.survey.directory.problems == {}
        assert await watched.names() == ["SIS1", "SRV1"]

    with_two(open_lab, scripted, work)


def test_an_excluded_container_of_one_domain_need_not_be_in_the_other_one(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        tools = watched.tools
        directories = {DOMAIN: first, SISTER: second}
        missing = ConfigError("the directory knows no container 'Imaging'.", code="scope-not-found")

        def make(domain: Any, account: Any) -> Any:
            second.failure = None if tools.optional_ous(SISTER) == ("Imaging",) else missing
            return directories[domain.name].reader(domain, account)

        tools.directory = KeptConnections(make, tools.ledger.refuse)
        first.scope = EnumerationScope(excluded_ous=("Imaging",))
        first.failure = DirectoryError("no answer.", code="unreachable-controller", retryable=True)
        await watched.turn()
        assert watched.survey.problems[f"enumeration:{SISTER}"] == "scope-not-found", "nobody is known to hold it"
        first.failure = None
        await watched.turn()
        assert await watched.names() == ["SIS1", "SRV1"]
        assert tools.optional_ous(DOMAIN) == (), "where it was it must stay: it may have been renamed"
        watched.survey = type(watched.survey)(tools)
        tools.excluded_ous.clear()
        await watched.turn()
        assert (tools.optional_ous(DOMAIN), tools.optional_ous(SISTER)) == ((), ("Imaging",)), "also after a restart"

    with_two(open_lab, scripted, work)


def test_a_credential_stored_under_the_netbios_name_reads_the_domain_and_opens_its_hosts(
    open_lab: Callable[..., Any],
) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            server = lab.estate.directories[0]
            await lab.partner.create_domain_credential(
                lab.site_id,
                NewDomainCredential(
                    domain_name=server.spec.netbios_name.lower(),
                    username=lab.estate.credential.upn,
                    password=Secret(lab.estate.credential.password),
                    credential_type="service_account",
                    trusted_certificates=tuple(
                        TrustedCertificate(sha256=each.certificate_sha256) for each in lab.estate.directories
                    ),
                ),
            )
            survey = Survey(tools)
            await lab.beat(tools)
            await survey.domains.discover()
            await survey.directory.enumerate()
            await survey.merge_targets()
            await lab.beat(tools)
            assert len(await lab.partner.computers(lab.site_id)) == 12
            assert survey.merge is not None
            found = [target for target in survey.merge.targets if target.role != "domain_controller"]
            assert found
            assert all(target.credential_id for target in found)

    asyncio.run(run())


def test_what_fails_for_good_answers_the_wish_and_is_tried_again_when_it_may_be_mended(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        directory, tools = watched.directory, watched.tools
        directory.failure = BindRejectedError("it shows another certificate.", code="certificate-untrusted")
        await watched.lab.partner.wish_enumeration(watched.lab.site_id)
        await watched.turn()
        assert tools.completed.completed["enumeration"] == 2
        (failed,) = [report["failed"] for report in watched.reports() if report["failed"]]
        assert (failed["code"], failed["generation"]) == ("certificate-untrusted", 2)
        await watched.tools.checkin.flush()
        directory.failure = None
        watched.survey = type(watched.survey)(tools)  # a restart forgets no reason
        await watched.survey.directory.enumerate()
        await watched.turn(4000)
        assert watched.survey.problems == {}

    scripted.watching(work)


def test_what_was_refused_of_a_domain_that_nothing_names_any_more_is_forgotten_with_it(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    async def work(watched: Any, first: Any, second: Any) -> None:
        second.put(scripted.computer("SIS1", os_name="Windows\0", domain_name=SISTER))
        await watched.turn()
        await watched.names()
        assert watched.tools.checkin.refused[f"enumeration:{SISTER}"] == "report-refused"
        domains = watched.survey.domains
        domains.discovery = evolve(domains.discovery, domains=domains.discovery.domains[:1])
        await watched.survey.directory.enumerate()
        assert f"enumeration:{SISTER}" not in watched.tools.checkin.refused

    with_two(open_lab, scripted, work)


def test_domains_that_a_directory_knows_are_looked_for_and_told(open_lab: Callable[..., Any], scripted: Any) -> None:
    async def run() -> None:
        async with open_lab() as lab, lab.tools() as tools:
            await lab.give_credential()
            directory = scripted.directory("SRV1")
            directory.other_domains = (KnownDomain(SISTER), KnownDomain(DOMAIN.upper()))
            watched = scripted.watched(lab, tools, directory)
            await watched.turn()
            asked = lab.estate.dns.count(f"_ldap._tcp.dc._msdcs.{SISTER}")
            assert asked == 0
            await watched.turn()
            assert lab.estate.dns.count(f"_ldap._tcp.dc._msdcs.{SISTER}") > 0
            asked = lab.estate.dns.count(f"_ldap._tcp.dc._msdcs.{SISTER}")
            await watched.turn()
            assert lab.estate.dns.count(f"_ldap._tcp.dc._msdcs.{SISTER}") == asked, "a lead is followed once"

    asyncio.run(run())


def test_a_domain_whose_controllers_are_silent_is_tried_again_while_the_other_one_goes_on(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 24."""

    async def work(watched: Any, first: Any, second: Any) -> None:
        second.failure = DirectoryError("no answer.", code="unreachable-controller", retryable=True)
        await watched.turn()
        assert watched.tools.completed.completed["enumeration"] == 1
        assert await watched.names() == ["SRV1"]
        first.put(scripted.computer("SRV2"))
        second.failure = None
        await watched.turn(400)
        assert watched.tools.completed.completed["enumeration"] == 2
        assert first.asked.count("full") == 2, "what was read for this wish is not read for it again"
        assert await watched.names() == ["SIS1", "SRV1", "SRV2"]

    with_two(open_lab, scripted, work)


def test_a_withdrawn_credential_ends_the_connection_to_its_own_domain_alone(
    open_lab: Callable[..., Any], scripted: Any
) -> None:
    """Lesson 13."""

    async def work(watched: Any, first: Any, second: Any) -> None:
        await watched.turn()
        stored = await watched.lab.partner.credentials(watched.lab.site_id)
        (gone,) = [entry for entry in stored if entry.domain_name == SISTER]
        await watched.lab.partner.delete_credential(watched.lab.site_id, gone.id)
        await watched.lab.beat(watched.tools)
        await watched.survey.directory.let_go()
        assert (first.open_count, second.open_count) == (1, 0)

    with_two(open_lab, scripted, work)


def test_a_domain_that_is_silent_while_another_one_is_found_stays(open_lab: Callable[..., Any], scripted: Any) -> None:
    """Lesson 19."""

    async def work(watched: Any, _first: Any, _second: Any) -> None:
        await watched.turn()
        await watched.turn(25 * 3600)  # DNS names the first domain alone
        assert [domain.name for domain in watched.survey.domains.found] == [DOMAIN, SISTER]
        assert watched.survey.problems["discovery"] == "unreachable-controller"

    with_two(open_lab, scripted, work)


def test_what_flaps_makes_no_report_and_is_told_with_the_next_true_change(scripted: Any) -> None:
    async def work(watched: Any) -> None:
        found: DomainDiscovery = watched.survey.domains.discovery
        (domain,) = found.domains

        def with_controllers(change: Callable[[DomainController], DomainController]) -> DomainDiscovery:
            return evolve(found, domains=(evolve(domain, controllers=tuple(map(change, domain.controllers))),))

        assert essence(with_controllers(lambda entry: evolve(entry, doors=(389,)))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, clock_skew_s=3.0))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, supported_controls=("1.2",)))) == essence(found)
        assert essence(with_controllers(lambda entry: evolve(entry, is_read_only=True))) != essence(found)
        assert essence(evolve(found, domains=())) != essence(found)

    scripted.watching(work)
