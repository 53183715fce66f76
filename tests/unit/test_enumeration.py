"""ADEnumerator against directories over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest

from msp_sdk.directory.refusal import user_name
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions, with_addresses
from msp_sdk.enumeration.connecting import nearest_first
from msp_sdk.errors import (
    BindRejectedError,
    DirectoryError,
    DiscoveryError,
    LogonError,
    LogonNotAllowedError,
    LogonRejectedError,
    PartialResultError,
    StateError,
)
from msp_sdk.models.computer import Computer
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.resolver import Resolver, ResolverOptions, render_server
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import (
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_WORKSTATION,
    make_computer_entry,
    make_service_account_entry,
)
from msp_sdk.testing.dns import DnsServer, DnsZone

DOMAIN = "northvalley.test"
CA = EstateCA.make("Northvalley CA")
CERTIFICATES = {name: CA.issue([f"{name}.{DOMAIN}"]) for name in ("dc1", "dc2")}
QUICK = ResolverOptions(timeout_s=0.3, lifetime_s=0.6)

pytestmark = pytest.mark.anyio


def make_entries(count: int = 0) -> list:
    return [
        make_computer_entry("DC1", "Windows Server 2022 Standard", domain=DOMAIN, uac=UAC_CONTROLLER),
        make_computer_entry("SRV1", "Windows Server 2019 Standard", domain=DOMAIN, ou="OU=Servers"),
        make_computer_entry("WS1", "Windows 11 Enterprise", domain=DOMAIN),
        make_computer_entry("OLD1", "Windows 10 Pro", domain=DOMAIN, uac=UAC_WORKSTATION | UAC_DISABLED),
        make_computer_entry("LX1", "Red Hat Enterprise Linux", domain=DOMAIN),
        make_computer_entry("NEW1", None, domain=DOMAIN),
        make_service_account_entry("gmsa1", domain=DOMAIN),
        *(make_computer_entry(f"W{number}", "Windows 11 Pro", domain=DOMAIN) for number in range(count)),
    ]


def passed_over(enumerator: ADEnumerator) -> list[tuple[str, str]]:
    """The controllers that failed as a whole; doors are told beside them."""
    return [(failure.controller, failure.code) for failure in enumerator.failures if not failure.door]


class Estate:
    """Two controllers of one domain with one set of accounts."""

    def __init__(self, servers: list[LdapServer], account: Account, ledger: LogonLedger) -> None:
        self.servers = servers
        self.account = account
        self.ledger = ledger

    @property
    def domain(self) -> Domain:
        controllers = tuple(DomainController(server.fqdn, server.port, ("127.0.0.1",)) for server in self.servers)
        return Domain(DOMAIN, controllers, datetime.now(UTC))

    def enumerator(
        self, password: str = "right", *, trusted: bool = True, domain: Domain | None = None, page_size: int = 1000
    ) -> ADEnumerator:
        listed = [TrustedCertificate(sha256=certificate.sha256) for certificate in CERTIFICATES.values()]
        credential = Credential.typed(
            "svc",
            Secret(password),
            domain_name=DOMAIN,
            trusted_certificates=tuple(listed) if trusted else (),
        )
        directory = DirectoryOptions(connect_timeout_s=2, receive_timeout_s=5, ldaps_port=1, page_size=page_size)
        options = EnumerationOptions(directory=directory)
        return ADEnumerator(domain or self.domain, credential, ledger=self.ledger, options=options)


@pytest.fixture
def estate(tmp_path):
    @asynccontextmanager
    async def start(count: int = 0) -> AsyncIterator[Estate]:
        account = Account("svc", "right", "NORTHVALLEY", DOMAIN)
        accounts = Accounts([account])
        entries = make_entries(count)
        async with (
            LdapServer(DirectorySpec(DOMAIN, "NVALLEY", entries), accounts, certificate=CERTIFICATES["dc1"]) as first,
            LdapServer(
                DirectorySpec(DOMAIN, "NVALLEY", entries, hostname="dc2"), accounts, certificate=CERTIFICATES["dc2"]
            ) as second,
        ):
            yield Estate([first, second], account, LogonLedger(tmp_path / "logons.db"))

    return start


async def test_servers_workstations_and_the_rest_are_told_apart(estate):
    async with estate() as it, it.enumerator() as enumerator:
        enumeration = await enumerator.enumerate()
    assert [computer.hostname for computer in enumeration.servers] == ["dc1", "srv1"]
    assert [computer.hostname for computer in enumeration.workstations] == ["ws1", "old1"]
    assert [computer.hostname for computer in enumeration.domain_controllers] == ["dc1"]
    assert {computer.hostname: computer.skipped_reason for computer in enumeration.others} == {
        "lx1": "not-windows",
        "NEW1": "new",
    }
    assert enumeration.service_accounts_count == 1
    assert enumeration.source == f"dc1.{DOMAIN} starttls"
    assert it.account.attempts == [(f"ldap dc1.{DOMAIN}", "ok")]


async def test_more_than_a_thousand_computers_come_whole_by_one_bind(estate):
    # Lesson 27.
    async with estate(1500) as it, it.enumerator() as enumerator:
        enumeration = await enumerator.enumerate()
        again = await enumerator.enumerate()
        assert len(enumeration.computers) == len(again.computers) == 1506
        assert len({computer.object_guid for computer in enumeration.computers}) == 1506
        assert len(it.servers[0].password_binds) == 1


async def test_a_controller_out_of_reach_is_passed_over(estate):
    # Lesson 23: every controller, in order.
    async with estate() as it:
        dead = DomainController(f"dc0.{DOMAIN}", 1, ("127.0.0.1",))
        domain = Domain(DOMAIN, (dead, *it.domain.controllers), datetime.now(UTC))
        async with it.enumerator(domain=domain) as enumerator:
            enumeration = await enumerator.enumerate()
            assert enumeration.source == f"dc1.{DOMAIN} starttls"
            assert passed_over(enumerator) == [(f"dc0.{DOMAIN}", "unreachable-controller")]
            # Told of the last time alone: a daemon would collect them for months.
            await enumerator.prove()
            assert passed_over(enumerator) == [(f"dc0.{DOMAIN}", "unreachable-controller")]


async def test_no_controller_in_reach_is_an_error_and_never_an_empty_result(estate):
    # Lesson 24.
    async with estate() as it:
        dead = tuple(DomainController(f"dc{number}.{DOMAIN}", 1, ("127.0.0.1",)) for number in range(2))
        async with it.enumerator(domain=Domain(DOMAIN, dead, datetime.now(UTC))) as enumerator:
            with pytest.raises(DirectoryError) as caught:
                await enumerator.enumerate()
            assert (caught.value.code, caught.value.retryable) == ("unreachable-controller", True)
            assert len(passed_over(enumerator)) == 2
        async with it.enumerator(domain=Domain(DOMAIN, (), datetime.now(UTC))) as enumerator:
            with pytest.raises(DirectoryError):
                await enumerator.enumerate()


async def test_a_refused_password_is_seen_by_no_other_controller_and_sent_once(estate):
    # Lesson 32.
    async with estate() as it:
        async with it.enumerator("wrong") as enumerator:
            with pytest.raises(LogonRejectedError):
                await enumerator.enumerate()
            with pytest.raises(LogonNotAllowedError):
                await enumerator.enumerate()
            with pytest.raises(LogonNotAllowedError):
                async for _ in enumerator.stream():
                    pass
        assert it.account.bad_password_count == 1
        assert [len(server.binds) for server in it.servers] == [1, 0]


async def test_a_controller_that_breaks_off_at_the_logon_leaves_the_repetition_to_the_next_pass(estate):
    # Two such controllers would see the same password twice in one call.
    async with estate() as it:
        for server in it.servers:
            server.faults.drop_at_bind = True
        async with it.enumerator() as enumerator:
            with pytest.raises(LogonError) as caught:
                await enumerator.enumerate()
            assert (caught.value.code, caught.value.retryable) == ("logon-unanswered", True)
            assert [len(server.binds) for server in it.servers] == [1, 0]
            for server in it.servers:
                server.faults.drop_at_bind = False
            assert (await enumerator.enumerate()).computers


async def test_a_sub_code_that_nobody_knows_is_shown_and_not_called_a_wrong_password(estate):
    async with estate() as it, it.enumerator() as enumerator:
        it.account.refusal = 0x78F
        with pytest.raises(LogonRejectedError, match="data 78f") as caught:
            await enumerator.prove()
        assert caught.value.code == "logon-refused"
        with pytest.raises(LogonNotAllowedError):
            await enumerator.prove()


async def test_a_right_password_of_a_disabled_account_is_told_and_not_sent_again_at_once(estate):
    async with estate() as it, it.enumerator() as enumerator:
        it.account.refusal = 0x533
        with pytest.raises(LogonRejectedError) as caught:
            await enumerator.prove()
        assert (caught.value.retryable, caught.value.context["password_right"]) == (True, True)
        with pytest.raises(LogonNotAllowedError) as later:
            await enumerator.prove()
        assert (later.value.code, later.value.retryable) == ("account-disabled", True)
        assert len(it.servers[0].password_binds) == 1


async def test_after_a_cancellation_no_further_door_sees_the_password(estate):
    async with estate() as it:
        server = it.servers[0]
        # Its first address takes a connection and says nothing; the second would take the password.
        with socket.create_server(("127.0.0.9", server.port)) as silent:
            controller = DomainController(server.fqdn, server.port, ("127.0.0.9", "127.0.0.1"))
            domain = Domain(DOMAIN, (controller,), datetime.now(UTC))
            async with it.enumerator(domain=domain) as enumerator:
                task = asyncio.create_task(enumerator.enumerate())
                client, _ = await asyncio.to_thread(silent.accept)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                client.close()
        assert it.account.attempts == []
        assert it.servers[0].connections_count == 0
        assert it.ledger.state(enumerator.credential).state == "unproven"


def test_controllers_that_were_seen_open_come_first_then_those_of_our_own_site():
    far_dead, near_dead, far, near = (
        DomainController(name, ad_site=site, doors=doors)
        for name, site, doors in (
            ("far-dead", "There", ()),
            ("near-dead", "Here", ()),
            ("far", "There", (389,)),
            ("near", "Here", (389,)),
        )
    )
    domain = Domain(DOMAIN, (far_dead, near_dead, far, near), datetime.now(UTC), ad_site="here")
    assert nearest_first(domain) == (near, far, near_dead, far_dead)


def test_a_final_dot_is_no_part_of_a_domain():
    dotted = Domain(f"{DOMAIN}.", (DomainController(f"dc1.{DOMAIN}."),), datetime.now(UTC))
    assert (dotted.name, dotted.controllers[0].fqdn) == (DOMAIN, f"dc1.{DOMAIN}")
    typed = Credential.typed("svc", Secret("x"), domain_name=f"{DOMAIN}.")
    assert (typed.domain_name, user_name(typed)) == (DOMAIN, f"svc@{DOMAIN}")


async def test_unlisted_certificates_end_it_before_any_password_is_sent(estate):
    async with estate() as it:
        async with it.enumerator(trusted=False) as enumerator:
            with pytest.raises(BindRejectedError) as caught:
                await enumerator.enumerate()
        assert caught.value.code == "certificate-untrusted"
        assert it.account.attempts == []
        assert [server.binds for server in it.servers] == [[], []]


async def test_a_break_half_way_is_made_good_by_the_next_controller(estate):
    async with estate(300) as it:
        it.servers[0].faults.drop_after_entries = 150
        async with it.enumerator(page_size=100) as enumerator:
            enumeration = await enumerator.enumerate()
            assert len(enumeration.computers) == 306
            assert enumeration.source == f"dc2.{DOMAIN} starttls"
            assert passed_over(enumerator) == [(f"dc1.{DOMAIN}", "partial-result")]


@pytest.mark.parametrize("faults", [("nonsense",), ("refuse_dirsync", "empty_pages")])
async def test_a_controller_that_talks_nonsense_is_passed_over(estate, faults):
    async with estate(300) as it:
        for fault in faults:
            setattr(it.servers[0].faults, fault, True)
        async with it.enumerator(page_size=100) as enumerator:
            enumeration = await enumerator.enumerate()
            assert len(enumeration.computers) == 306
            assert enumeration.source == f"dc2.{DOMAIN} starttls"
            assert passed_over(enumerator)[0][0] == f"dc1.{DOMAIN}"


async def test_a_break_half_way_at_the_last_controller_is_a_partial_result_with_what_came(estate):
    # Lesson 24.
    async with estate(300) as it:
        for server in it.servers:
            server.faults.drop_after_entries = 150
        async with it.enumerator(page_size=100) as enumerator:
            with pytest.raises(PartialResultError) as caught:
                await enumerator.enumerate()
            assert 99 <= len(caught.value.received) < 150
            assert all(isinstance(computer, Computer) for computer in caught.value.received)
            # It is no state to stay in: the next one works.
            for server in it.servers:
                server.faults.drop_after_entries = None
            assert len((await enumerator.enumerate()).computers) == 306


async def test_a_session_that_the_controller_ended_while_idle_is_opened_anew_there(estate):
    async with estate() as it, it.enumerator() as enumerator:
        await enumerator.enumerate()
        for task in list(it.servers[0]._tasks):
            task.cancel()
        enumeration = await enumerator.enumerate()
        assert enumeration.source == f"dc1.{DOMAIN} starttls"
        assert passed_over(enumerator) == []
        assert len(it.servers[0].password_binds) == 2


async def test_a_stream_that_breaks_says_so_after_what_it_gave(estate):
    async with estate(300) as it:
        it.servers[0].faults.drop_after_entries = 150
        seen: list[str] = []

        async def read(enumerator: ADEnumerator) -> None:
            async for computer in enumerator.stream():
                seen.append(computer.hostname)  # noqa: PERF401 (what came before the break counts)

        async with it.enumerator(page_size=100) as enumerator:
            with pytest.raises(PartialResultError):
                await read(enumerator)
            assert len(seen) == 99
            # It is no state to stay in: the next one connects anew.
            it.servers[0].faults.drop_after_entries = None
            await read(enumerator)
        assert len(seen) == 99 + 306


async def test_a_stream_holds_a_page_and_not_the_directory(estate):
    async with estate(1500) as it, it.enumerator(page_size=100) as enumerator:
        peaks = []
        seen = 0
        tracemalloc.start()
        try:
            async for _ in enumerator.stream():
                seen += 1
                if seen % 500 == 0:
                    peaks.append(tracemalloc.get_traced_memory()[1])
                    tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
        assert seen == 1506
        assert peaks[-1] < peaks[0] * 1.5 + 200_000


async def test_an_empty_directory_is_an_empty_result_and_no_error(estate):
    async with estate() as it:
        it.servers[0].spec.entries.clear()
        async with it.enumerator() as enumerator:
            enumeration = await enumerator.enumerate()
        assert enumeration.computers == ()


async def test_a_credential_is_proven_by_exactly_one_bind(estate):
    async with estate() as it, it.enumerator() as enumerator:
        assert await enumerator.prove() == f"dc1.{DOMAIN}"
        assert await enumerator.prove() == f"dc1.{DOMAIN}"
        assert len(it.servers[0].password_binds) == 2
        assert it.ledger.state(enumerator.credential).state == "proven"


async def test_the_netbios_name_is_read_where_the_directory_keeps_it(estate):
    # Lesson 21: never guessed from the first label.
    async with estate() as it, it.enumerator() as enumerator:
        assert await enumerator.netbios_name() == "NVALLEY"


async def test_a_connect_that_was_cancelled_leaves_nothing_open(estate):
    async with estate() as it:
        it.servers[0].faults.delay_s = 0.2
        async with it.enumerator() as enumerator:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await enumerator.enumerate()
        assert enumerator.source is None


async def test_outside_its_block_an_enumerator_refuses_to_work(estate):
    async with estate() as it:
        with pytest.raises(StateError):
            await it.enumerator().enumerate()


async def test_controllers_without_addresses_are_found_by_the_domains_own_dns(estate):
    # Lesson 22.
    zone = DnsZone(DOMAIN)
    async with estate() as it, DnsServer(zone) as dns:
        zone.add_address("dc2", "127.0.0.1")
        controllers = tuple(DomainController(server.fqdn, server.port) for server in it.servers)
        domain = Domain(DOMAIN, controllers, datetime.now(UTC), dns_servers=(render_server(dns.server),))
        async with it.enumerator(domain=domain) as enumerator:
            enumeration = await enumerator.enumerate()
            assert enumeration.source == f"dc2.{DOMAIN} starttls"


async def test_addresses_are_looked_up_and_a_missing_one_is_a_reason(estate):
    zone = DnsZone(DOMAIN)
    async with estate() as it, DnsServer(zone) as dns:
        zone.add_address("srv1", "127.77.0.20")
        async with it.enumerator() as enumerator:
            enumeration = await enumerator.enumerate()
        resolver = Resolver([dns.server], options=QUICK)
        located = await with_addresses(enumeration.computers, resolver)
        assert [computer.hostname for computer in located] == [computer.hostname for computer in enumeration.computers]
        found = {computer.hostname: (computer.ip_addresses, computer.unreachable_reason) for computer in located}
        assert found["srv1"] == (("127.77.0.20",), None)
        assert found["ws1"] == ((), "no-address")
        dns.faults.silent = True
        with pytest.raises(DiscoveryError):
            await with_addresses(enumeration.computers, resolver)


@asynccontextmanager
async def relay(port: int, to: int) -> AsyncIterator[None]:
    """A controller that is back: what comes to this port goes on to another one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        further_reader, further_writer = await asyncio.open_connection("127.0.0.1", to)

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pass_on(reader, further_writer), pass_on(further_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield


async def test_a_controller_that_was_down_once_is_tried_again_by_the_next_reading(estate):
    async with estate(300) as it:
        first, second = it.domain.controllers
        with socket.create_server(("127.0.0.1", 0)) as placeholder:
            port = placeholder.getsockname()[1]
        domain = attrs.evolve(it.domain, controllers=(attrs.evolve(first, port=port), second))
        async with it.enumerator(domain=domain, page_size=100) as enumerator:
            assert (await enumerator.enumerate()).source.startswith("dc2")
            it.servers[1].faults.drop_after_entries = it.servers[1].entries_sent_count + 150
            async with relay(port, first.port):
                assert (await enumerator.enumerate()).source.startswith("dc1")
                assert len(it.servers[0].password_binds) == 1


async def test_work_after_a_cancelled_one_goes_on_to_the_next_controller(estate):
    async with estate(300) as it, it.enumerator(page_size=100) as enumerator:
        it.servers[0].faults.delay_s = 0.5
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enumerator.enumerate(), 0.8)
        it.servers[0].faults.delay_s = 0.0
        it.servers[0].faults.drop_after_entries = it.servers[0].entries_sent_count + 150
        assert (await enumerator.enumerate()).source.startswith("dc2")
