"""What of a domain is read: containers, names, roles, groups; and which other domains there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from msp_sdk.directory.entry import render_sid
from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
from msp_sdk.enumeration.connecting import nearest_first
from msp_sdk.enumeration.filters import equals, is_guid
from msp_sdk.enumeration.scope import container_path, normalise_scope
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import EnumerationScope
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry, make_entry

DOMAIN = "northvalley.test"
BASE = "DC=northvalley,DC=test"
CERTIFICATE = EstateCA.make("Northvalley CA").issue([f"dc1.{DOMAIN}"])

pytestmark = pytest.mark.anyio


def make_entries() -> list:
    ws1 = make_computer_entry("WS1", "Windows 11 Pro", domain=DOMAIN, ou=r"OU=A\,B,OU=Clinic", memberOf=f"CN=In,{BASE}")
    return [
        make_computer_entry("SRV1", "Windows Server 2019 Standard", domain=DOMAIN, ou="OU=Servers,OU=Clinic"),
        ws1,
        make_computer_entry("WS2", "Windows 11 Pro", domain=DOMAIN, primaryGroupID=1601),
        make_entry(f"CN=In,{BASE}", {"objectClass": ("top", "group"), "cn": "In", "memberOf": f"CN=Out,{BASE}"}),
        make_entry(f"CN=Out,{BASE}", {"objectClass": ("top", "group"), "cn": "Out", "sAMAccountName": "Out"}),
        make_entry(
            f"CN=Domain Computers,CN=Users,{BASE}",
            {
                "objectClass": ("top", "group"),
                "cn": "Domain Computers",
                "objectSid": render_sid("S-1-5-21-1111-2222-3333-515"),
                "memberOf": f"CN=All,{BASE}",
            },
        ),
        make_entry(f"CN=All,{BASE}", {"objectClass": ("top", "group"), "cn": "All"}),
        make_entry(
            f"CN=other.test,CN=System,{BASE}",
            {
                "objectClass": ("top", "trustedDomain"),
                "trustPartner": "Other.test",
                "flatName": "OTHER",
                "trustDirection": 3,
                "trustType": 2,
            },
        ),
        make_entry(
            f"CN=REALM.TEST,CN=System,{BASE}",
            {"objectClass": ("top", "trustedDomain"), "trustPartner": "REALM.TEST", "trustType": 3},
        ),
    ]


@pytest.fixture
def enumerator(tmp_path):
    @asynccontextmanager
    async def start(
        scope: EnumerationScope | None = None, optional_ous: tuple[str, ...] = ()
    ) -> AsyncIterator[ADEnumerator]:
        accounts = Accounts([Account("svc", "right", "NORTHVALLEY", DOMAIN)])
        async with LdapServer(
            DirectorySpec(DOMAIN, "NVALLEY", make_entries()), accounts, certificate=CERTIFICATE
        ) as server:
            credential = Credential.typed(
                "svc",
                Secret("right"),
                domain_name=DOMAIN,
                trusted_certificates=(TrustedCertificate(sha256=CERTIFICATE.sha256),),
            )
            domain = Domain(DOMAIN, (DomainController(server.fqdn, server.port, ("127.0.0.1",)),), datetime.now(UTC))
            options = EnumerationOptions(
                directory=DirectoryOptions(connect_timeout_s=2, receive_timeout_s=5, ldaps_port=1),
                scope=scope or EnumerationScope(),
                optional_ous=optional_ous,
            )
            ledger = LogonLedger(tmp_path / "logons.db")
            async with ADEnumerator(domain, credential, ledger=ledger, options=options) as found:
                found.server = server
                yield found

    return start


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (EnumerationScope(), ["srv1", "ws1", "ws2"]),
        (EnumerationScope(ous=("clinic",)), ["srv1", "ws1"]),
        (EnumerationScope(ous=(rf"OU=A\,B,OU=Clinic,{BASE}",)), ["ws1"]),
        (EnumerationScope(excluded_ous=("Clinic/A,B",)), ["srv1", "ws2"]),
        (EnumerationScope(ous=("Clinic",), excluded_ous=("Clinic/Servers",)), ["ws1"]),
        (EnumerationScope(ous=("computers",)), ["ws2"]),
        (EnumerationScope(names=("WS*",)), ["ws1", "ws2"]),
        (EnumerationScope(names=("WS*",), excluded_names=("?s2",)), ["ws1"]),
        (EnumerationScope(roles=("server",)), ["srv1"]),
        (EnumerationScope(groups=("Out",)), ["ws1"]),
        (EnumerationScope(groups=(f"CN=In,{BASE}",)), ["ws1"]),
        (EnumerationScope(groups=("Out",), names=("srv*",)), []),
        # A primary group lists nobody.
        (EnumerationScope(groups=("Domain Computers",)), ["srv1", "ws1"]),
        (EnumerationScope(groups=("All",)), ["srv1", "ws1"]),
    ],
)
async def test_a_scope_reads_what_it_names(enumerator, scope, names):
    async with enumerator(scope) as it:
        enumeration = await it.enumerate()
        assert sorted(computer.hostname for computer in enumeration.computers) == names
        assert sorted([computer.hostname async for computer in it.stream()]) == names


async def test_a_group_that_does_not_exist_is_an_error_and_no_empty_result(enumerator):
    # Lesson 24.
    async with enumerator(EnumerationScope(groups=("Nobody*",))) as it:
        with pytest.raises(ConfigError, match="no group"):
            await it.enumerate()


@pytest.mark.parametrize(
    "scope",
    [
        EnumerationScope(ous=("Clin",)),
        EnumerationScope(ous=("Clinic", "Clinic/Severs")),
        EnumerationScope(excluded_ous=(f"OU=Severs,OU=Clinic,{BASE}",)),
    ],
)
async def test_a_container_that_does_not_exist_is_an_error_and_no_empty_result(enumerator, scope):
    # Lesson 24.
    async with enumerator(scope) as it:
        with pytest.raises(ConfigError, match="no container") as caught:
            await it.enumerate()
        assert caught.value.code == "scope-not-found"
        with pytest.raises(ConfigError):
            _ = [computer async for computer in it.stream()]


async def test_an_excluded_container_that_need_not_be_here_excludes_nothing_and_is_not_named_by_the_reading(enumerator):
    scope = EnumerationScope(excluded_ous=("Imaging/Old", "Clinic"))
    async with enumerator(scope, optional_ous=("imaging/old",)) as it:
        kept = await it.enumerate()
        assert [computer.hostname for computer in kept.computers] == ["ws2"]
        assert kept.scope.excluded_ous == ("Clinic",)
        it.server.spec.change(f"CN=SRV1,OU=Servers,OU=Clinic,{BASE}", {"description": "moved"})
        assert len((await it.changes(since=kept.cursor or "")).removed) == 1
    async with enumerator(EnumerationScope(ous=("Imaging",)), optional_ous=("Imaging",)) as it:
        with pytest.raises(ConfigError):
            await it.enumerate()


async def test_groups_are_asked_about_who_changed_alone(enumerator):
    async with enumerator(EnumerationScope(groups=("Out",))) as it:
        kept = await it.enumerate()
        before = it.server.searches_count
        unchanged = await it.changes(since=kept.cursor or "")
        quiet = it.server.searches_count - before
        it.server.spec.change(f"CN=WS2,CN=Computers,{BASE}", {"description": "moved", "memberOf": f"CN=In,{BASE}"})
        it.server.spec.change(f"CN=SRV1,OU=Servers,OU=Clinic,{BASE}", {"description": "moved"})
        changes = await it.changes(since=unchanged.cursor)
        assert [computer.hostname for computer in changes.changed] == ["ws2"]
        assert [entry.reason for entry in changes.removed] == ["out-of-scope"]
        before = it.server.searches_count
        await it.changes(since=changes.cursor)
        assert it.server.searches_count - before == quiet, "who did not change is not asked about"


async def test_the_networks_of_ad_sites_are_read_and_a_site_that_does_not_exist_is_an_error(enumerator):
    async with enumerator() as it:
        it.server.spec.subnets.update({"10.1.0.0/16": "Oslo", "10.1.2.0/24": "Bergen"})
        found = await it.ad_subnets(["oslo"])
        assert {(entry.network, entry.ad_site) for entry in found} == {
            ("10.1.0.0/16", "Oslo"),
            ("10.1.2.0/24", "Bergen"),
        }
        with pytest.raises(ConfigError, match="no AD site 'Olso'") as caught:
            await it.ad_subnets(["Olso"])
        assert caught.value.code == "scope-not-found"


async def test_who_left_a_group_is_not_seen_so_changes_are_not_complete(enumerator):
    async with enumerator(EnumerationScope(groups=("Out",))) as it:
        kept = await it.enumerate()
        assert not (await it.changes(since=kept.cursor or "")).complete


async def test_other_domains_are_found_and_not_read(enumerator):
    async with enumerator() as it:
        trusted = await it.trusted_domains()
        forest = await it.forest_domains()
        others = await it.other_domains()
    assert [(entry.name, entry.netbios_name, entry.direction) for entry in trusted] == [("other.test", "OTHER", "both")]
    assert [entry.name for entry in others] == ["other.test"]
    assert [(entry.name, entry.netbios_name, entry.in_forest) for entry in forest] == [(DOMAIN, "NVALLEY", True)]


@pytest.mark.parametrize(
    "scope",
    [
        EnumerationScope(ous=("OU=X,DC=other,DC=test",)),
        EnumerationScope(ous=(BASE,)),
        EnumerationScope(excluded_ous=("/",)),
        EnumerationScope(roles=("printer",)),
    ],
)
def test_a_scope_that_cannot_be_meant_is_refused(scope):
    with pytest.raises(ConfigError):
        normalise_scope(scope, DOMAIN)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (rf"OU=A\,B/C,OU=Clinic,{BASE}", r"Clinic/A,B\/C"),
        ("OU=Servers,OU=Clinic", "Clinic/Servers"),
        ("CN=Computers,dc=NorthValley,dc=test", "Computers"),
        ("Clinic/Servers/", "Clinic/Servers"),
    ],
)
def test_a_container_has_one_spelling(text, path):
    assert container_path(text, DOMAIN) == path


def test_a_scope_is_sure_only_of_what_it_looked_at():
    # Only what it is sure of may be missed, and marked as vanished.
    computer = {"hostname": "WS1", "ou_path": r"Clinic/A\/B", "role": "workstation"}
    assert EnumerationScope().covers(**computer)
    assert EnumerationScope().is_everything
    assert EnumerationScope(ous=(r"clinic/a\/b",), names=("ws?",), roles=("workstation",)).covers(**computer)
    for narrow in (
        EnumerationScope(ous=("Clinic/A",)),
        EnumerationScope(excluded_ous=("CLINIC",)),
        EnumerationScope(names=("srv*",)),
        EnumerationScope(roles=("server",)),
        EnumerationScope(groups=("anybody",)),
    ):
        assert not narrow.covers(**computer)
        assert not narrow.is_everything


def test_controllers_of_our_own_site_come_first_and_keep_their_order():
    # Lesson 23.
    sites = {"dc1": "Berlin", "dc2": None, "dc3": "OSLO", "dc4": "oslo"}
    controllers = tuple(DomainController(name, ad_site=ad_site) for name, ad_site in sites.items())
    for ours, order in (("Oslo", ["dc3", "dc4", "dc1", "dc2"]), (None, ["dc1", "dc2", "dc3", "dc4"])):
        domain = Domain(DOMAIN, controllers, datetime.now(UTC), ad_site=ours)
        assert [controller.fqdn for controller in nearest_first(domain)] == order


def test_values_in_filters_cannot_end_them():
    assert equals("cn", "a)(b*\\\0") == r"(cn=a\29\28b\2a\5c\00)"
    assert is_guid("00112233-4455-6677-8899-aabbccddeeff").startswith(r"(objectGUID=\33\22\11\00")
