"""The client against the stand-in over real sockets: certificates, binds, paging, breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from msp_sdk.directory.ber import DIRSYNC, PAGED_RESULTS, SHOW_DELETED, Control
from msp_sdk.directory.entry import Entry
from msp_sdk.directory.logon_codes import SUB_CODES
from msp_sdk.directory.search import Continuation
from msp_sdk.directory.session import (
    DirectoryOptions,
    DirectorySession,
    open_anonymous,
    open_session,
    read_root_dse,
    see_certificate,
)
from msp_sdk.directory.sync import can_read_deleted, read_deleted_since, read_dirsync
from msp_sdk.errors import (
    BindRejectedError,
    ConfigError,
    DirectoryError,
    LogonError,
    LogonNotAllowedError,
    LogonRejectedError,
    PartialResultError,
    WireError,
)
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import DomainController
from msp_sdk.models.reason import REASONS
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry
from msp_sdk.testing.directory_faults import BROKEN, flip_byte

DOMAIN = "northvalley.test"
FQDN = f"dc1.{DOMAIN}"
PASSWORD = "pä²ß…'\"$x"
BASE = "DC=northvalley,DC=test"
CA = EstateCA.make("Northvalley CA")
CERTIFICATE = CA.issue([FQDN])

Open = Callable[..., Awaitable[DirectorySession]]


def make_account() -> Account:
    return Account("svc", PASSWORD, "NORTHVALLEY", DOMAIN)


def make_credential(
    password: str = PASSWORD, *, ca: bytes | None = None, sha256: str | None = CERTIFICATE.sha256
) -> Credential:
    listed = TrustedCertificate(ca_pem=ca.decode()) if ca else TrustedCertificate(sha256=sha256)
    trusted = (listed,) if ca or sha256 else ()
    return Credential.typed("svc", Secret(password), domain_name=DOMAIN, trusted_certificates=trusted)


class Lab:
    def __init__(self, server: LdapServer, account: Account, ledger: LogonLedger) -> None:
        self.server = server
        self.account = account
        self.ledger = ledger
        self.options = DirectoryOptions(
            connect_timeout_s=2, receive_timeout_s=3, ldaps_port=server.ldaps_port or 1, page_size=100
        )
        self.sessions: list[DirectorySession] = []

    @property
    def controller(self) -> DomainController:
        return DomainController(FQDN, self.server.port, (self.server.address,))

    async def open(self, credential: Credential, controller: DomainController | None = None) -> DirectorySession:
        session = await asyncio.to_thread(
            open_session, controller or self.controller, credential, ledger=self.ledger, options=self.options
        )
        self.sessions.append(session)
        return session


@pytest.fixture
def lab(tmp_path):
    @asynccontextmanager
    async def start(*, computers: int = 0, certificate=CERTIFICATE, ldaps: bool = True) -> AsyncIterator[Lab]:
        entries = [
            make_computer_entry(f"SRV{number}", "Windows Server 2022 Standard", domain=DOMAIN)
            for number in range(computers)
        ]
        account = make_account()
        spec = DirectorySpec(DOMAIN, "NORTHVALLEY", entries)
        async with LdapServer(
            spec, Accounts([account]), ldaps_port=0 if ldaps else None, certificate=certificate
        ) as server:
            lab = Lab(server, account, LogonLedger(tmp_path / "logons.db"))
            try:
                yield lab
            finally:
                for session in lab.sessions:
                    await asyncio.to_thread(session.close)

    return start


pytestmark = pytest.mark.anyio


async def read_all(session: DirectorySession) -> list[str]:
    def read() -> list[str]:
        pages = session.pages(BASE, "(objectCategory=computer)", ["name"])
        return [entry.text("name") or "" for page in pages for entry in page]

    return await asyncio.to_thread(read)


async def test_root_dse_is_read_without_a_bind_and_nothing_else_is(lab):
    async with lab() as it:
        root = await asyncio.to_thread(read_root_dse, it.controller, it.options)
        assert (root.domain_name, root.dns_host_name, root.ad_site) == (DOMAIN, FQDN, "Default-First-Site-Name")
        session = await asyncio.to_thread(open_anonymous, it.controller, it.options)
        with pytest.raises(DirectoryError, match="operationsError"):
            await read_all(session)
        await asyncio.to_thread(session.close)
        assert it.server.binds == []


async def test_a_certificate_is_seen_without_being_trusted(lab):
    async with lab() as it:
        seen = await asyncio.to_thread(see_certificate, it.controller, it.options)
        assert (seen.controller, seen.sha256) == (FQDN, CERTIFICATE.sha256)
        assert it.server.binds == []


@pytest.mark.parametrize("sha256", [None, "ab" * 32])
async def test_an_unlisted_certificate_is_refused_before_any_password_is_sent(lab, sha256):
    async with lab() as it:
        with pytest.raises(BindRejectedError) as caught:
            await it.open(make_credential(sha256=sha256))
        assert caught.value.code == "certificate-untrusted"
        assert caught.value.context["sha256"] == CERTIFICATE.sha256
        assert it.server.binds == []
        assert it.account.attempts == []
        # The ledger was not troubled: the next attempt, with the certificate listed, is the first.
        await it.open(make_credential())
        assert it.account.attempts == [(f"ldap {FQDN}", "ok")]


async def test_a_listed_certificate_needs_no_matching_name(lab):
    nameless = CA.issue([])
    async with lab(certificate=nameless) as it:
        session = await it.open(make_credential(sha256=nameless.sha256))
        assert session.certificate_sha256 == nameless.sha256


async def test_a_certificate_that_the_ca_verifies_is_enough(lab):
    async with lab() as it:
        session = await it.open(make_credential(ca=CA.pem))
        assert session.certificate_sha256 == CERTIFICATE.sha256


async def test_a_digest_that_does_not_match_gives_way_to_a_ca_that_verifies(lab):
    async with lab() as it:
        credential = Credential.typed(
            "svc",
            Secret(PASSWORD),
            domain_name=DOMAIN,
            trusted_certificates=(
                TrustedCertificate(sha256="ab" * 32),
                TrustedCertificate(ca_pem=CA.pem.decode()),
            ),
        )
        await it.open(credential)
        assert [seen.outcome for seen in it.server.binds] == ["ok"]


@pytest.mark.parametrize(
    ("certificate", "ca"),
    [(CA.issue([f"other.{DOMAIN}"]), CA), (CERTIFICATE, EstateCA.make("Another CA"))],
    ids=["another name", "another CA"],
)
async def test_a_ca_does_not_let_another_name_or_anothers_certificate_pass(lab, certificate, ca):
    async with lab(certificate=certificate) as it:
        with pytest.raises(BindRejectedError) as caught:
            await it.open(make_credential(ca=ca.pem))
        assert caught.value.code == "certificate-untrusted"
        assert caught.value.context["sha256"] == certificate.sha256
        assert it.server.binds == []


async def test_ldaps_is_used_where_start_tls_is_not_to_be_had(lab):
    async with lab() as it:
        closed = DomainController(FQDN, 1, (it.server.address,))
        session = await it.open(make_credential(), closed)
        assert session.source == f"{FQDN} ldaps"
        assert [seen.tls for seen in it.server.binds] == [True]


async def test_start_tls_is_used_where_ldaps_is_not_to_be_had_and_what_was_passed_over_is_told(lab):
    async with lab(ldaps=False) as it:
        session = await it.open(make_credential())
        assert session.source == f"{FQDN} starttls"
        skipped = {door.door: (door.controller, door.code) for door in session.skipped_doors}
        assert skipped["ldaps"] == (FQDN, "unreachable-controller")
        assert [seen.tls for seen in it.server.binds] == [True]


async def test_a_session_without_tls_has_no_certificate_and_is_not_bound(lab):
    async with lab() as it:
        session = await asyncio.to_thread(open_anonymous, it.controller, it.options)
        it.sessions.append(session)
        assert (session.certificate_sha256, session.bound) == (None, False)


async def test_a_controller_without_a_certificate_never_sees_a_password(lab):
    async with lab(certificate=None) as it:
        with pytest.raises(DirectoryError) as caught:
            await it.open(make_credential())
        assert it.server.binds == []
        assert caught.value.code == "no-tls"
        it.server.faults.refuse_tls = True
        with pytest.raises(DirectoryError):
            await it.open(make_credential())
        assert it.account.attempts == []


async def test_tls_refused_everywhere_is_told_and_nothing_is_sent(lab):
    async with lab() as it:
        it.server.faults.refuse_tls = True
        with pytest.raises(DirectoryError, match="no terms on TLS"):
            await it.open(make_credential())
        assert it.server.binds == []


async def test_a_wrong_password_is_counted_once_and_the_second_try_sends_nothing(lab):
    # Lesson 32: a refused password is never tried again by itself.
    async with lab() as it:
        with pytest.raises(LogonRejectedError) as caught:
            await it.open(make_credential("wrong"))
        assert caught.value.code == "wrong-password"
        assert "wrong" not in str(caught.value).replace("wrong-password", "")
        assert it.account.bad_password_count == 1
        connections = len(it.server.password_binds)
        with pytest.raises(LogonNotAllowedError) as again:
            await it.open(make_credential("wrong"))
        assert again.value.code == "wrong-password"
        assert it.account.bad_password_count == 1
        assert len(it.server.password_binds) == connections == 1


@pytest.mark.parametrize(
    ("sub_code", "reason"), [item for item in SUB_CODES.items() if item[0] not in ("52e", "525", "775", "80090346")]
)
async def test_each_sub_code_of_windows_is_told_apart(lab, sub_code, reason):
    # Lesson 28: "invalid credentials" is mostly something else.
    async with lab() as it:
        it.account.refusal = int(sub_code, 16)
        with pytest.raises(LogonRejectedError) as caught:
            await it.open(make_credential())
        assert caught.value.code == reason
        assert caught.value.remedy == REASONS[reason].remedy


async def test_a_locked_account_and_an_unknown_user_are_told_apart(lab):
    async with lab() as it:
        it.account.bad_password_count = 3
        with pytest.raises(LogonRejectedError) as locked:
            await it.open(make_credential())
        assert locked.value.code == "account-locked"
        stranger = attrs.evolve(make_credential(), username="nobody")
        with pytest.raises(LogonRejectedError) as unknown:
            await it.open(stranger)
        assert unknown.value.code == "no-such-user"


async def test_signing_demanded_is_no_wrong_password_and_uses_up_no_attempt(lab):
    async with lab() as it:
        it.server.faults.bind_answer = (8, "00002028: LdapErr: DSID-0C09023C, data 0, v4563")
        for _ in range(3):
            with pytest.raises(BindRejectedError) as caught:
                await it.open(make_credential())
            assert caught.value.code == "signing-required"
        it.server.faults.bind_answer = None
        await it.open(make_credential())


async def test_a_bind_whose_end_nobody_knows_is_repeated_once_and_never_twice(lab):
    async with lab() as it:
        it.server.faults.drop_at_bind = True
        for _ in range(2):
            with pytest.raises(LogonError, match="no clear answer"):
                await it.open(make_credential())
        with pytest.raises(LogonNotAllowedError) as caught:
            await it.open(make_credential())
        assert caught.value.code == "logon-outcome-unknown"
        assert [seen.outcome for seen in it.server.binds] == ["dropped", "dropped"]


async def test_a_connection_lost_before_the_bind_is_never_opened_anew_for_the_password(lab):
    async with lab() as it:
        loop = asyncio.get_running_loop()

        def lose_the_connection() -> Secret:
            # Our side of the handshake may end before the server's.
            while not it.server._tasks:
                time.sleep(0.01)
            for task in list(it.server._tasks):
                loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.2)
            return Secret(PASSWORD)

        credential = attrs.evolve(make_credential(), opener=lose_the_connection)
        with pytest.raises(LogonError):
            await it.open(credential)
        assert it.server.connections_count == 1
        assert it.server.binds == []


async def test_a_secret_that_does_not_open_uses_up_no_attempt(lab):
    async with lab() as it:

        def broken() -> Secret:
            raise WireError("this envelope does not open.")

        for _ in range(3):
            with pytest.raises(WireError):
                await it.open(attrs.evolve(make_credential(), opener=broken))
        await it.open(make_credential())
        assert it.account.attempts == [(f"ldap {FQDN}", "ok")]


async def test_an_empty_password_is_never_sent_as_an_anonymous_bind(lab):
    async with lab() as it:
        with pytest.raises(ConfigError, match="empty"):
            await it.open(make_credential(""))
        # A terminal with another character set leaves halves of characters.
        with pytest.raises(ConfigError, match="no text") as caught:
            await it.open(make_credential("gehe\udce9m"))
        assert "gehe" not in str(caught.value)
        assert it.server.binds == []


async def test_paging_reads_past_the_limit_and_passes_over_referrals(lab):
    # Lesson 27: the directory cuts answers at 1,000.
    async with lab(computers=1234) as it:
        session = await it.open(make_credential())
        names = await read_all(session)
        assert len(names) == len(set(names)) == 1234
        assert it.server.searches_count == 13


async def test_an_answer_without_paging_that_is_cut_is_partial_and_never_a_short_list(lab):
    # Lesson 27.
    unpaged = Continuation(lambda _: Control("1.2.840.113556.1.4.417"), lambda _: (b"", False))
    async with lab(computers=1001) as it:
        session = await it.open(make_credential())
        with pytest.raises(PartialResultError) as caught:
            await asyncio.to_thread(lambda: list(session.rounds(BASE, "(objectCategory=computer)", ["name"], unpaged)))
        assert len(caught.value.received) == 1000


async def test_a_connection_that_breaks_half_way_is_partial(lab):
    # Lesson 24: an error is never a short or an empty list.
    async with lab(computers=250) as it:
        session = await it.open(make_credential())
        it.server.faults.drop_after_entries = 150
        with pytest.raises(PartialResultError):
            await read_all(session)


async def test_a_connection_that_breaks_before_the_first_entry_is_an_error(lab):
    async with lab(computers=5) as it:
        session = await it.open(make_credential())
        it.server.faults.drop_after_entries = 0
        with pytest.raises(DirectoryError) as caught:
            await read_all(session)
        assert caught.value.retryable
        # The dead session answers with an error too, not with what it read before.
        with pytest.raises(DirectoryError):
            await read_all(session)


async def test_a_server_that_speaks_no_ldap_and_one_that_is_silent_are_errors_of_ours(lab):
    async with lab() as it:
        it.server.faults.nonsense = True
        with pytest.raises(DirectoryError):
            await asyncio.to_thread(read_root_dse, it.controller, it.options)
        it.server.faults.nonsense = False
        it.server.faults.delay_s = 30
        quick = DirectoryOptions(connect_timeout_s=1, receive_timeout_s=1, ldaps_port=1)
        with pytest.raises(DirectoryError):
            await asyncio.to_thread(read_root_dse, it.controller, quick)


HOSTILE = {
    "pages without an end": {"endless_pages": True},
    "another number": {"wrong_message_id": True},
    "entries after the end": {"entries_after_done": True},
    "byte by byte": {"drip_s": 0.05},
    "a good-bye": {"disconnect": "the controller is shutting down"},
    "silence": {"silent": True},
    "empty pages without an end": {"empty_pages": True},
    "a byte near the beginning": {"garble": flip_byte(2)},
    "a byte near the end": {"garble": flip_byte(-2)},
    **{each.__name__: {"garble": each} for each in BROKEN},
}


@pytest.mark.parametrize("faults", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_directory_ends_in_an_error_of_ours_and_never_in_a_short_list(lab, faults):
    # Lesson 24.
    async with lab(computers=250) as it:
        it.options = attrs.evolve(it.options, receive_timeout_s=0.5)
        session = await it.open(make_credential())
        for name, value in faults.items():
            setattr(it.server.faults, name, value)

        async def read_twice() -> None:
            # What came after a whole answer shows at the next one.
            await read_all(session)
            await read_all(session)

        with pytest.raises(DirectoryError):
            await read_twice()


async def test_changes_come_as_windows_tells_them_and_deletions_to_those_who_see_them(lab):
    # Lesson 53.
    attributes = ("name", "operatingSystem", "operatingSystemVersion", "isDeleted")

    def read_delta(session: DirectorySession, cookie: bytes = b"") -> tuple[list[Entry], bytes]:
        rounds = list(read_dirsync(session, BASE, "(objectClass=computer)", attributes, cookie))
        return [entry for part in rounds for entry in part.entries], rounds[-1].cookie

    async with lab(computers=5) as it:
        session = await it.open(make_credential())
        everything, cookie = await asyncio.to_thread(read_delta, session)
        assert len(everything) == 5
        changed, deleted = f"CN=SRV1,CN=Computers,{BASE}", f"CN=SRV2,CN=Computers,{BASE}"
        it.server.spec.change(changed, {"operatingSystem": None, "operatingSystemVersion": "10.0 (20348)"})
        it.server.spec.delete(deleted)
        assert not await asyncio.to_thread(can_read_deleted, session)
        [found], _ = await asyncio.to_thread(read_delta, session, cookie)
        assert found.dn == changed
        assert (found.values("operatingSystem"), found.text("operatingSystemVersion")) == ((), "10.0 (20348)")
        assert "name" not in found.attributes

        it.server.spec.rights.reads_deleted.add("svc")
        assert await asyncio.to_thread(can_read_deleted, session)
        both, _ = await asyncio.to_thread(read_delta, session, cookie)
        assert [entry.text("isDeleted") for entry in both if entry.dn != changed] == ["TRUE"]
        gone = await asyncio.to_thread(lambda: list(read_deleted_since(session, 0)))
        assert len([entry for page in gone for entry in page]) == 1


async def test_dirsync_that_is_not_allowed_is_told_from_a_cookie_that_is_lost(lab):
    async with lab(computers=1) as it:
        session = await it.open(make_credential())
        with pytest.raises(DirectoryError) as lost:
            await asyncio.to_thread(lambda: list(read_dirsync(session, BASE, "(cn=*)", ("name",), b"nonsense")))
        it.server.faults.refuse_dirsync = True
        with pytest.raises(DirectoryError) as refused:
            await asyncio.to_thread(lambda: list(read_dirsync(session, BASE, "(cn=*)", ("name",))))
        assert (lost.value.code, refused.value.code) == ("cursor-lost", "dirsync-refused")


async def test_the_root_dse_tells_the_clock_the_controls_and_when_bound_the_database(lab):
    async with lab() as it:
        root = await asyncio.to_thread(read_root_dse, it.controller, it.options)
        assert root.invocation_id is None
        assert {PAGED_RESULTS, DIRSYNC, SHOW_DELETED} <= set(root.supported_controls)
        assert root.supported_controls == tuple(sorted(root.supported_controls))
        assert root.sasl_mechanisms
        assert isinstance(root.highest_committed_usn, int)
        skew = root.clock_skew(datetime.now(UTC))
        assert skew is not None
        assert abs(skew) < timedelta(minutes=1)
        session = await it.open(make_credential())
        bound = await asyncio.to_thread(session.root_dse)
        assert bound.invocation_id is not None
        assert len(bound.invocation_id) == 36


async def test_no_session_shows_the_password(lab):
    async with lab() as it:
        session = await it.open(make_credential())
        link = session._link
        for shown in (session, link, vars(link), link._framer.__dict__):
            assert PASSWORD not in repr(shown)
            assert repr(PASSWORD.encode())[2:-1] not in repr(shown)
