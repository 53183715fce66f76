"""Base plus changes is the whole directory, at real sockets: two controllers of which one is behind, two accounts.

``test_changes_laws.py`` draws more, against a model; here everything between is real: rights, tombstones, units that
hide what is in them, cookies that travel, and numbers that do not.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from attrs import mutable
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
from msp_sdk.errors import DirectoryError
from msp_sdk.models.computer import Computer, Enumeration, EnumerationScope, apply_changes
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry, make_entry, make_service_account_entry

DOMAIN = "x.test"
BASE = "DC=x,DC=test"
NOW = datetime.now(UTC)
CERTIFICATE = EstateCA.make("X CA").issue([f"dc1.{DOMAIN}", f"dc2.{DOMAIN}"])
UNITS = ("Clinic", "Lab", "Hidden")
SYSTEMS = ("Windows 11 Pro", "Windows Server 2022", None)
SCOPES = (EnumerationScope(), EnumerationScope(excluded_ous=("Lab",), names=("pc*", "re*")))
# One reads tombstones and hidden units; the other one is an ordinary account.
SEEING, BLIND = "seeing", "blind"

Step = tuple[str, int, int]


@mutable
class Story:
    """What happens at the first controller; the second one hears of it when it is told to."""

    spec: DirectorySpec
    behind: DirectorySpec
    made_count: int = 0

    def happen(self, kind: str, which: int, how: int) -> None:
        """One thing, to one computer or unit of those that there are."""
        computers = [entry.dn for entry in self.spec.entries if not entry.dn.startswith("OU=")]
        units = [entry.dn for entry in self.spec.entries if entry.dn.startswith("OU=")]
        if kind == "replicate":
            self.behind.replicate()
        elif kind == "rename-unit":
            # The first alone: scopes and rights are by name, and a scope whose container is gone is an error.
            self.spec.move(units[0], BASE, name=f"Unit{self._next()}")
        elif kind == "join" or not computers:
            place = [f"CN=Computers,{BASE}", *units][which % (len(units) + 1)].removesuffix(f",{BASE}")
            entry = make_computer_entry(f"PC{self._next()}", SYSTEMS[how % 3], domain=DOMAIN, ou=place, seen_at=NOW)
            self.spec.put(entry)
        else:
            self._happen_to(computers[which % len(computers)], kind, how, units)

    def _happen_to(self, dn: str, kind: str, how: int, units: Sequence[str]) -> None:
        parent = dn.partition(",")[2]
        match kind:
            case "delete":
                self.spec.delete(dn)
            case "move":
                self.spec.move(dn, [f"CN=Computers,{BASE}", *units][how % (len(units) + 1)])
            case "rename":
                self.spec.move(dn, parent, name=f"RE{self._next()}")
            case _:
                values = ({"operatingSystem": SYSTEMS[how % 3]}, {"userAccountControl": 4096 | 2 * (how % 2)})
                self.spec.change(dn, values[how % 2])

    def _next(self) -> int:
        self.made_count += 1
        return self.made_count


def make_story() -> Story:
    units = [
        make_entry(f"OU={name},{BASE}", {"objectClass": ("top", "organizationalUnit"), "name": name}) for name in UNITS
    ]
    spec = DirectorySpec(DOMAIN, "X", [*units, make_service_account_entry("gmsa", domain=DOMAIN)])
    story = Story(spec, spec.replica("dc2", delay_s=math.inf))
    spec.rights.hidden.add(f"OU=Hidden,{BASE}")
    spec.rights.reads_hidden.add(SEEING)
    spec.rights.reads_deleted.add(SEEING)
    for number in range(6):
        story.happen("join", number, number)
    story.behind.replicate()
    return story


def open_reader(server: LdapServer, account: str, scope: EnumerationScope, ledger: LogonLedger) -> ADEnumerator:
    trusted = (TrustedCertificate(sha256=CERTIFICATE.sha256),)
    credential = Credential.typed(account, Secret("right"), domain_name=DOMAIN, trusted_certificates=trusted)
    directory = DirectoryOptions(connect_timeout_s=10, receive_timeout_s=20, doors=("starttls",))
    options = EnumerationOptions(directory=directory, scope=scope, clock=lambda: NOW)
    domain = Domain(DOMAIN, (DomainController(server.fqdn, server.port, (server.address,)),), NOW)
    return ADEnumerator(domain, credential, ledger=ledger, options=options)


async def follow(reader: ADEnumerator, kept: Enumeration, *, complete: bool) -> Enumeration:
    """What the daemon does at a check-in: changes where they go on, a full reading where they do not."""
    assert kept.cursor is not None
    try:
        changes = await reader.changes(since=kept.cursor)
    except DirectoryError as error:
        if error.code != "cursor-lost":
            raise
        return await reader.enumerate()
    if changes.at_another_controller:
        return await reader.enumerate()
    assert changes.complete == complete
    return apply_changes(kept, changes)


def by_guid(enumeration: Enumeration) -> dict[str, Computer]:
    found = {computer.object_guid: computer for computer in enumeration.computers}
    assert len(found) == len(enumeration.computers)
    return found


async def judge(turns: Sequence[tuple[Sequence[Step], bool]], scope: EnumerationScope, *, dirsync: bool) -> None:
    story = make_story()
    accounts = Accounts([Account(name, "right", "X", DOMAIN) for name in (SEEING, BLIND)])
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ledger = LogonLedger(Path(folder) / "logons.db")
        readers = {}
        for number, spec in enumerate((story.spec, story.behind)):
            server = await stack.enter_async_context(LdapServer(spec, accounts, certificate=CERTIFICATE))
            server.faults.refuse_dirsync = not dirsync
            for account in (SEEING, BLIND):
                reader = open_reader(server, account, scope, ledger)
                readers[account, number] = await stack.enter_async_context(reader)
        kept = {account: await readers[account, 0].enumerate() for account in (SEEING, BLIND)}
        # At the end all is replicated: what comes after the reconciling reading are no deletions of before.
        for steps, at_second in (*turns, ([("replicate", 0, 0)], turns[-1][1])):
            for step in steps:
                story.happen(*step)
            for account, before in kept.items():
                kept[account] = await follow(readers[account, at_second], before, complete=account == SEEING)
        last = turns[-1][1]
        for account in (SEEING, BLIND):
            reader = readers[account, last]
            full = await reader.enumerate()
            found, wanted = by_guid(kept[account]), by_guid(full)
            if account == BLIND:
                # What is there is as it is; too much is only what was deleted, or hidden from this account.
                assert {guid: found[guid] for guid in wanted} == wanted
                # The full reading is what reconciles; changes go on from there.
                kept[account] = full
                continue
            assert found == wanted
            assert kept[account].service_accounts_count == full.service_accounts_count
        for step in (("change", 0, 0), ("join", 0, 0), ("change", 1, 3), ("replicate", 0, 0)):
            story.happen(*step)
        for account, before in kept.items():
            reader = readers[account, last]
            after = await follow(reader, before, complete=account == SEEING)
            full = await reader.enumerate()
            assert by_guid(after) == by_guid(full)
            assert after.service_accounts_count == full.service_accounts_count


KINDS = ("join", "delete", "move", "rename", "change", "rename-unit", "replicate")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 5)), min_size=2, max_size=8)


# A story is short as it is drawn; to shrink one takes minutes of logons.
@settings(deadline=None, max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.lists(st.tuples(STEPS, st.booleans()), min_size=2, max_size=4), st.sampled_from(SCOPES), st.booleans())
def test_base_plus_changes_is_the_whole_and_for_an_ordinary_account_after_the_reconciling_reading(
    turns, scope, dirsync
):
    asyncio.run(judge(turns, scope, dirsync=dirsync))
