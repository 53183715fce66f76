"""What changed, followed at a directory over a real socket that tells changes as Windows does."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from msp_sdk.directory.entry import Entry
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.directory.sync import SyncCursor, render_cursor
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
from msp_sdk.errors import ConfigError, DirectoryError
from msp_sdk.models.computer import EnumerationChanges, EnumerationScope, apply_changes
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry, make_entry, make_service_account_entry

DOMAIN = "northvalley.test"
BASE = "DC=northvalley,DC=test"
CA = EstateCA.make("Northvalley CA")
CERTIFICATE = CA.issue([f"dc1.{DOMAIN}", f"dc2.{DOMAIN}"])

pytestmark = pytest.mark.anyio


def make_unit(name: str) -> Entry:
    return make_entry(f"OU={name},{BASE}", {"objectClass": ("top", "organizationalUnit"), "name": name})


class Site:
    """Two controllers that replicate, and an account that is an ordinary one until a test says otherwise."""

    def __init__(self, servers: list[LdapServer], ledger: LogonLedger) -> None:
        self.servers = servers
        self.spec = servers[0].spec
        self.ledger = ledger

    def enumerator(self, *servers: LdapServer, scope: EnumerationScope | None = None) -> ADEnumerator:
        chosen = servers or tuple(self.servers)
        controllers = tuple(DomainController(server.fqdn, server.port, ("127.0.0.1",)) for server in chosen)
        credential = Credential.typed(
            "svc",
            Secret("right"),
            domain_name=DOMAIN,
            trusted_certificates=(TrustedCertificate(sha256=CERTIFICATE.sha256),),
        )
        options = EnumerationOptions(
            directory=DirectoryOptions(connect_timeout_s=2, receive_timeout_s=5, ldaps_port=1),
            scope=scope or EnumerationScope(),
        )
        domain = Domain(DOMAIN, controllers, datetime.now(UTC))
        return ADEnumerator(domain, credential, ledger=self.ledger, options=options)

    def dn(self, name: str) -> str:
        return next(entry.dn for entry in self.spec.entries if entry.dn.startswith(f"CN={name},"))


@pytest.fixture
def site(tmp_path) -> Callable[[], object]:
    @asynccontextmanager
    async def start() -> AsyncIterator[Site]:
        spec = DirectorySpec(
            DOMAIN,
            "NVALLEY",
            [
                make_computer_entry("SRV1", "Windows Server 2019 Standard", domain=DOMAIN, ou="OU=Servers"),
                make_computer_entry("WS1", "Windows 11 Pro", domain=DOMAIN),
                make_computer_entry("WS2", "Windows 11 Pro", domain=DOMAIN),
                make_service_account_entry("gmsa1", domain=DOMAIN),
            ],
            invocation_id=uuid.UUID(int=1),
        )
        accounts = Accounts([Account("svc", "right", "NORTHVALLEY", DOMAIN)])
        async with (
            LdapServer(spec, accounts, certificate=CERTIFICATE) as first,
            LdapServer(
                spec.replica("dc2", invocation_id=uuid.UUID(int=500_000)), accounts, certificate=CERTIFICATE
            ) as second,
        ):
            yield Site([first, second], LogonLedger(tmp_path / "logons.db"))

    return start


async def test_what_changed_is_told_whole_although_the_delta_was_not(site):
    # Lesson 53: Windows sends only what changed.
    async with site() as it, it.enumerator() as enumerator:
        kept = await enumerator.enumerate()
        assert kept.cursor is not None
        it.spec.change(it.dn("WS1"), {"operatingSystem": "Windows 10 Enterprise", "dNSHostName": None})
        changes = await enumerator.changes(since=kept.cursor)
        (computer,) = changes.changed
        assert (computer.sam_account_name, computer.os_name) == ("WS1$", "Windows 10 Enterprise")
        assert (computer.skipped_reason, computer.role, computer.enabled) == ("no-name", "workstation", True)
        assert set(apply_changes(kept, changes).computers) == set((await enumerator.enumerate()).computers)
        # What was told once is not told again.
        assert (await enumerator.changes(since=changes.cursor)).changed == ()
        assert len(it.servers[0].password_binds) == 1


async def test_nothing_new_is_an_empty_result_with_a_cursor(site):
    async with site() as it, it.enumerator() as enumerator:
        kept = await enumerator.enumerate()
        assert kept.cursor is not None
        changes = await enumerator.changes(since=kept.cursor)
        assert (changes.changed, changes.removed, changes.service_accounts_count) == ((), (), None)
        assert (await enumerator.changes(since=changes.cursor)).changed == ()


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_a_computer_that_joins_is_new_at_first_and_a_target_when_its_facts_arrive(site, refuse_dirsync):
    async with site() as it, it.enumerator() as enumerator:
        it.servers[0].faults.refuse_dirsync = refuse_dirsync
        kept = await enumerator.enumerate()
        assert kept.cursor is not None
        it.spec.put(make_computer_entry("NOON1", None, domain=DOMAIN))
        first = await enumerator.changes(since=kept.cursor)
        assert [(computer.hostname, computer.skipped_reason) for computer in first.changed] == [("NOON1", "new")]
        it.spec.change(
            it.dn("NOON1"), {"operatingSystem": "Windows 11 Pro", "dNSHostName": f"noon1.{DOMAIN}", "pwdLastSet": 0}
        )
        second = await enumerator.changes(since=first.cursor)
        assert [(computer.fqdn, computer.skipped_reason) for computer in second.changed] == [(f"noon1.{DOMAIN}", None)]


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_deletions_are_claimed_only_by_an_account_that_reads_them(site, refuse_dirsync):
    # Lesson 53: a plain account sees no tombstones.
    async with site() as it, it.enumerator() as enumerator:
        it.servers[0].faults.refuse_dirsync = refuse_dirsync
        kept = await enumerator.enumerate()
        assert kept.cursor is not None
        gone = next(computer for computer in kept.computers if computer.hostname == "ws2")
        it.spec.delete(it.dn("WS2"))
        blind = await enumerator.changes(since=kept.cursor)
        assert (blind.removed, blind.changed, blind.complete) == ((), (), False)
        it.spec.rights.reads_deleted.add("svc")
        seeing = await enumerator.changes(since=kept.cursor)
        assert [(entry.object_guid, entry.reason) for entry in seeing.removed] == [(gone.object_guid, "deleted")]
        assert seeing.complete
        assert gone not in apply_changes(kept, seeing).computers


async def test_managed_service_accounts_are_counted_anew_when_a_change_names_one(site):
    async with site() as it, it.enumerator() as enumerator:
        it.spec.rights.reads_deleted.add("svc")
        kept = await enumerator.enumerate()
        assert (kept.service_accounts_count, kept.cursor is not None) == (1, True)
        it.spec.put(make_service_account_entry("gmsa2", domain=DOMAIN))
        changes = await enumerator.changes(since=kept.cursor or "")
        kept = apply_changes(kept, changes)
        assert (changes.changed, kept.service_accounts_count) == ((), 2)
        it.spec.delete(it.dn("gmsa1"))
        kept = apply_changes(kept, await enumerator.changes(since=kept.cursor or ""))
        assert kept.service_accounts_count == 1


async def test_a_dirsync_cursor_goes_on_at_another_controller(site):
    async with site() as it:
        async with it.enumerator(it.servers[0]) as enumerator:
            cursor = (await enumerator.enumerate()).cursor
        it.spec.change(it.dn("WS1"), {"operatingSystem": "Windows 10 Pro"})
        async with it.enumerator(it.servers[1]) as enumerator:
            changes = await enumerator.changes(since=cursor or "")
        assert "Windows 10 Pro" in [computer.os_name for computer in changes.changed]
        assert changes.source.startswith("dc2")
        assert (changes.at_another_controller, changes.complete) == (True, False)


async def test_changes_of_a_controller_that_is_behind_are_called_incomplete_and_a_full_reading_there_heals(site):
    async with site() as it:
        first, second = it.servers
        it.spec.rights.reads_deleted.add("svc")
        second.spec.replication_delay_s = math.inf
        async with it.enumerator(first) as enumerator:
            kept = await enumerator.enumerate()
            it.spec.change(it.dn("WS1"), {"operatingSystem": "Windows 11 Enterprise"})
            changes = await enumerator.changes(since=kept.cursor or "")
            assert (changes.at_another_controller, changes.complete) == (False, True)
            kept = apply_changes(kept, changes)
        # The second one has not heard of it, and has news of its own about the same computer.
        second.spec.change(it.dn("WS1"), {"description": "front desk"})
        async with it.enumerator(second) as enumerator:
            behind = await enumerator.changes(since=kept.cursor or "")
            assert [computer.os_name for computer in behind.changed] == ["Windows 11 Pro"]
            assert (behind.at_another_controller, behind.complete) == (True, False)
            kept = await enumerator.enumerate()
            second.spec.replicate()
            after = await enumerator.changes(since=kept.cursor or "")
            assert [computer.os_name for computer in after.changed] == ["Windows 11 Enterprise"]
            assert (after.at_another_controller, after.complete) == (False, True)


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_computers_in_a_unit_that_is_renamed_are_read_anew_though_nothing_names_them(site, refuse_dirsync):
    async with site() as it:
        for name in ("Servers", "Retired"):
            it.spec.put(make_unit(name))
        it.servers[0].faults.refuse_dirsync = refuse_dirsync
        async with it.enumerator(scope=EnumerationScope(excluded_ous=("Retired",))) as enumerator:
            kept = await enumerator.enumerate()
            assert "srv1" in [computer.hostname for computer in kept.computers]
            it.spec.move(f"OU=Servers,{BASE}", BASE, name="Racks")
            changes = await enumerator.changes(since=kept.cursor or "")
            assert [(computer.hostname, computer.ou_path) for computer in changes.changed] == [("srv1", "Racks")]
            it.spec.move(f"OU=Racks,{BASE}", f"OU=Retired,{BASE}")
            changes = await enumerator.changes(since=changes.cursor)
            assert ([entry.reason for entry in changes.removed], changes.changed) == (["out-of-scope"], ())
            # A unit is no computer: nobody is told that one of them is gone.
            it.spec.rights.reads_deleted.add("svc")
            it.spec.put(make_unit("Empty"))
            it.spec.delete(f"OU=Empty,{BASE}")
            changes = await enumerator.changes(since=changes.cursor)
            assert (changes.removed, changes.changed) == ((), ())


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
@pytest.mark.parametrize("scope", [EnumerationScope(ous=("Servers",)), EnumerationScope(excluded_ous=("Servers",))])
async def test_a_unit_of_the_scope_that_is_renamed_is_said_and_moves_nobody_in_or_out(site, scope, refuse_dirsync):
    # Lesson 24.
    async with site() as it:
        it.spec.put(make_unit("Servers"))
        it.servers[0].faults.refuse_dirsync = refuse_dirsync
        async with it.enumerator(it.servers[0], scope=scope) as enumerator:
            kept = await enumerator.enumerate()
            it.spec.move(f"OU=Servers,{BASE}", BASE, name="Racks")
            for _ in range(2):
                with pytest.raises(ConfigError) as caught:
                    await enumerator.changes(since=kept.cursor or "")
                assert caught.value.code == "scope-not-found"
            it.spec.move(f"OU=Racks,{BASE}", BASE, name="Servers")
            changes = await enumerator.changes(since=kept.cursor or "")
            assert set(apply_changes(kept, changes).computers) == set(kept.computers)


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
@pytest.mark.parametrize("scope", [EnumerationScope(ous=("Servers",)), EnumerationScope(excluded_ous=("Servers",))])
async def test_a_unit_of_the_scope_that_is_renamed_while_all_is_read_is_said(site, scope, refuse_dirsync):
    # Lesson 24. The cursor holds the rename already: no change would tell of it.
    async with site() as it:
        it.spec.put(make_unit("Servers"))
        first = it.servers[0]
        first.faults.refuse_dirsync = refuse_dirsync

        def rename(message: bytes) -> bytes:
            if b"sAMAccountName" in message:
                first.faults.garble = None
                it.spec.move(f"OU=Servers,{BASE}", BASE, name="Racks")
            return message

        async with it.enumerator(first, scope=scope) as enumerator:
            first.faults.garble = rename
            with pytest.raises(ConfigError) as caught:
                await enumerator.enumerate()
            assert first.faults.garble is None
            assert caught.value.code == "scope-not-found"
            it.spec.move(f"OU=Racks,{BASE}", BASE, name="Servers")
            first.faults.garble = rename
            with pytest.raises(ConfigError):
                _ = [computer async for computer in enumerator.stream()]
            assert first.faults.garble is None


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_a_plain_container_that_is_renamed_is_said_when_a_computer_of_it_changes(site, refuse_dirsync):
    # Nothing names such a container: its computers would come in, and the changes be called complete.
    async with site() as it:
        it.spec.put(make_entry(f"CN=Kiosks,{BASE}", {"objectClass": ("top", "container"), "name": "Kiosks"}))
        it.spec.put(make_computer_entry("TILL1", "Windows 11 Pro", domain=DOMAIN, ou="CN=Kiosks"))
        it.servers[0].faults.refuse_dirsync = refuse_dirsync
        scope = EnumerationScope(excluded_ous=("Kiosks",))
        async with it.enumerator(it.servers[0], scope=scope) as enumerator:
            kept = await enumerator.enumerate()
            it.spec.move(f"CN=Kiosks,{BASE}", BASE, name="Stands")
            it.spec.change(it.dn("TILL1"), {"operatingSystem": "Windows 10 Pro"})
            with pytest.raises(ConfigError) as caught:
                await enumerator.changes(since=kept.cursor or "")
        assert caught.value.code == "scope-not-found"


async def meanwhile(it: Site, happens: Callable[[], object]) -> EnumerationChanges:
    """Changes after a unit was renamed, when something happens between their telling it and the look into it."""
    first = it.servers[0]
    for name in ("Empty", "Servers"):
        it.spec.put(make_unit(name))
    async with it.enumerator(first) as enumerator:
        kept = await enumerator.enumerate()
        it.spec.move(f"OU=Empty,{BASE}", BASE, name="Bare")
        it.spec.move(f"OU=Servers,{BASE}", BASE, name="Racks")

        def act(message: bytes) -> bytes:
            if b"OU=Racks" in message:
                first.faults.garble = None
                happens()
            return message

        first.faults.garble = act
        changes = await enumerator.changes(since=kept.cursor or "")
    assert first.faults.garble is None
    return changes


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_a_renamed_unit_that_is_gone_before_it_is_looked_into_keeps_back_nothing_else(site, refuse_dirsync):
    async with site() as it:
        faults = it.servers[0].faults
        faults.refuse_dirsync = refuse_dirsync

        def answered(message: bytes) -> bytes:
            if b"it is gone" in message:
                faults.search_answer = faults.garble = None
            return message

        def lose() -> None:
            faults.search_answer, faults.garble = (32, "it is gone"), answered

        changes = await meanwhile(it, lose)
        assert [(computer.hostname, computer.ou_path) for computer in changes.changed] == [("srv1", "Racks")]


@pytest.mark.parametrize("refuse_dirsync", [False, True], ids=["dirsync", "usn"])
async def test_a_renamed_unit_that_cannot_be_looked_into_is_an_error_and_not_an_empty_one(site, refuse_dirsync):
    # Lesson 24: its computers would stay where they are no more, and the cursor be past it.
    async with site() as it:
        faults = it.servers[0].faults
        faults.refuse_dirsync = refuse_dirsync

        def refuse() -> None:
            faults.search_answer = (11, "enough for today")

        with pytest.raises(DirectoryError, match="enough"):
            await meanwhile(it, refuse)


async def test_a_count_of_one_controller_is_lost_at_another(site):
    async with site() as it:
        for server in it.servers:
            server.faults.refuse_dirsync = True
        # The other one has counted further: only its database tells that this is another count.
        assert it.servers[0].spec.log.usn < it.servers[1].spec.log.usn
        async with it.enumerator(it.servers[0]) as enumerator:
            cursor = (await enumerator.enumerate()).cursor
            assert (await enumerator.changes(since=cursor or "")).changed == ()
        async with it.enumerator(it.servers[1], it.servers[0]) as enumerator:
            with pytest.raises(DirectoryError) as caught:
                await enumerator.changes(since=cursor or "")
            # Nobody goes from one to the next with it: each would be a logon.
            assert enumerator.source == f"dc2.{DOMAIN} starttls"
        assert (caught.value.code, caught.value.retryable) == ("cursor-lost", False)


async def test_a_cursor_of_another_domain_is_lost(site):
    async with site() as it, it.enumerator() as enumerator:
        await enumerator.enumerate()
        cursor = render_cursor(SyncCursor("dirsync", "DC=other,DC=test", b"1"))
        with pytest.raises(DirectoryError) as caught:
            await enumerator.changes(since=cursor)
        assert caught.value.code == "cursor-lost"


async def test_what_leaves_the_scope_is_removed_for_a_reason_of_its_own(site):
    async with site() as it, it.enumerator(scope=EnumerationScope(ous=("OU=Servers," + BASE,))) as enumerator:
        kept = await enumerator.enumerate()
        assert [computer.hostname for computer in kept.computers] == ["srv1"]
        assert kept.scope.ous == ("Servers",)
        it.spec.move(it.dn("SRV1"), f"CN=Computers,{BASE}")
        it.spec.move(it.dn("WS1"), f"OU=Servers,{BASE}")
        changes = await enumerator.changes(since=kept.cursor or "")
        assert [computer.hostname for computer in changes.changed] == ["ws1"]
        assert [entry.reason for entry in changes.removed] == ["out-of-scope"]
        assert [computer.hostname for computer in apply_changes(kept, changes).computers] == ["ws1"]


async def test_a_scope_of_groups_is_never_complete_since_who_leaves_one_has_not_changed(site):
    async with site() as it:
        it.spec.rights.reads_deleted.add("svc")
        outer, inner = f"CN=Outer,{BASE}", f"CN=Inner,{BASE}"
        it.spec.put(make_entry(outer, {"objectClass": ("top", "group"), "cn": "Outer"}))
        it.spec.put(make_entry(inner, {"objectClass": ("top", "group"), "cn": "Inner", "memberOf": outer}))
        for name in ("WS1", "WS2"):
            it.spec.change(it.dn(name), {"memberOf": inner})
        async with it.enumerator(scope=EnumerationScope(groups=("Outer",))) as enumerator:
            kept = await enumerator.enumerate()
            assert {computer.hostname for computer in kept.computers} == {"ws1", "ws2"}
            it.spec.change(inner, {"memberOf": None})
            changes = await enumerator.changes(since=kept.cursor or "")
            assert (changes.removed, changes.complete) == ((), False)
            assert (await enumerator.enumerate()).computers == ()


async def test_an_object_that_cannot_be_read_back_is_not_spoken_of(site):
    async with site() as it, it.enumerator() as enumerator:
        kept = await enumerator.enumerate()
        it.spec.move(it.dn("WS1"), f"OU=Hidden,{BASE}")
        it.spec.rights.hidden.add(f"OU=Hidden,{BASE}")
        changes = await enumerator.changes(since=kept.cursor or "")
        assert (changes.changed, changes.removed) == ((), ())


async def test_changes_that_break_off_claim_nothing_and_go_on_at_the_next_controller(site):
    async with site() as it, it.enumerator() as enumerator:
        kept = await enumerator.enumerate()
        for name in ("WS1", "WS2", "SRV1"):
            it.spec.change(it.dn(name), {"operatingSystem": "Windows 10 Pro"})
        it.servers[0].faults.drop_after_entries = it.servers[0].entries_sent_count + 2
        changes = await enumerator.changes(since=kept.cursor or "")
        assert changes.source.startswith("dc2")
        assert {computer.hostname for computer in changes.changed} >= {"ws1", "ws2", "srv1"}
        it.servers[1].faults.drop_after_entries = it.servers[1].entries_sent_count + 2
        with pytest.raises(DirectoryError) as caught:
            await enumerator.changes(since=kept.cursor or "")
        assert caught.value.retryable


async def test_the_password_of_a_controllers_repair_mode_is_laps_too(site):
    async with site() as it:
        kept = {"msLAPS-PasswordExpirationTime": 1, "msLAPS-EncryptedDSRMPassword": b"hidden"}
        it.spec.change(it.dn("SRV1"), kept)
        for rights, wanted in (((), ("windows", False)), (("svc",), ("windows-encrypted", True))):
            it.spec.rights.reads_confidential.update(rights)
            async with it.enumerator() as enumerator:
                enumeration = await enumerator.enumerate()
            found = {computer.hostname: (computer.laps, computer.laps_readable) for computer in enumeration.computers}
            assert found["srv1"] == wanted


async def test_laps_is_told_with_whether_it_is_readable_and_no_password_is_sent(site):
    async with site() as it:
        it.spec.change(it.dn("WS1"), {"msLAPS-PasswordExpirationTime": 1, "msLAPS-EncryptedPassword": b"hidden"})
        it.spec.change(it.dn("WS2"), {"ms-Mcs-AdmPwdExpirationTime": 1, "ms-Mcs-AdmPwd": "hunter2"})
        sent: list[bytes] = []
        it.servers[0].faults.garble = lambda message: sent.append(message) or message
        for rights, wanted in (
            ((), {"ws1": ("windows", False), "ws2": ("legacy", False), "srv1": (None, None)}),
            (("svc",), {"ws1": ("windows-encrypted", True), "ws2": ("legacy", True), "srv1": (None, None)}),
        ):
            it.spec.rights.reads_confidential.update(rights)
            async with it.enumerator() as enumerator:
                enumeration = await enumerator.enumerate()
            found = {computer.hostname: (computer.laps, computer.laps_readable) for computer in enumeration.computers}
            assert found == wanted
            assert b"WS1" in b"".join(sent)
            assert b"hunter2" not in b"".join(sent)
            assert b"hidden" not in b"".join(sent)
