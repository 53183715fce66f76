"""The stand-ins against foreign clients: ldapsearch, ldap3, sansldap and dig judge them, not our own code."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dns.rdatatype
import ldap3
import pytest
import sansldap
import spnego
from ldap3.core.exceptions import LDAPExtensionError
from sansldap._messages import PackingOptions, unpack_ldap_message
from sansldap.asn1 import ASN1Reader, NotEnougData
from spnego.channel_bindings import GssChannelBindings

from msp_sdk import testing
from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA, write_private
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import (
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_WORKSTATION,
    make_computer_entry,
    make_entry,
    make_service_account_entry,
)
from msp_sdk.testing.directory_faults import BROKEN
from msp_sdk.testing.directory_filter import matches
from msp_sdk.testing.directory_wire import write_entry
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.estate import Estate, EstateSpec
from tests.real import need

DOMAIN = "northvalley.test"
BASE = "DC=northvalley,DC=test"
CERTIFICATE = EstateCA.make("Northvalley CA").issue([f"dc1.{DOMAIN}"])
SIZE_LIMIT_EXCEEDED = 4
INVALID_CREDENTIALS = 49
STRONGER_AUTH_REQUIRED = 8
OPERATIONS_ERROR = 1
UNWILLING_TO_PERFORM = 53

pytestmark = pytest.mark.anyio


async def run(*command: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
    )
    async with asyncio.timeout(30):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


def make_server(count: int) -> LdapServer:
    entries = [make_computer_entry(f"SRV{n}", "Windows Server 2022", domain=DOMAIN) for n in range(count)]
    accounts = Accounts([Account("svc", "right", "NORTHVALLEY", DOMAIN)])
    return LdapServer(DirectorySpec(DOMAIN, "NORTHVALLEY", entries), accounts, certificate=CERTIFICATE)


@pytest.fixture
def ldapsearch(tmp_path):
    need("ldapsearch")

    async def search(server: LdapServer, *more: str, password: str = "right", tls: bool = True, bind: bool = True):
        secret = write_private(tmp_path / "password", password.encode())
        logon = ("-D", f"svc@{DOMAIN}", "-y", str(secret)) if bind else ()
        return await run(
            "ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://127.0.0.1:{server.port}",
            *(("-ZZ",) if tls else ()), *logon, *more,
            env={"LDAPTLS_REQCERT": "never", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    return search


async def test_ldapsearch_without_paging_is_cut_at_a_thousand_and_with_paging_gets_all(ldapsearch):
    # Lesson 27.
    async with make_server(1234) as server:
        code, out, _ = await ldapsearch(server, "-b", BASE, "(objectCategory=computer)", "cn")
        assert (code, out.count("\ncn: ")) == (SIZE_LIMIT_EXCEEDED, 1000)
        code, out, _ = await ldapsearch(server, "-E", "pr=500/noprompt", "-b", BASE, "(objectCategory=computer)", "cn")
        assert (code, out.count("\ncn: ")) == (0, 1234)
        # The referrals to the other partitions, as from a domain's root.
        assert out.count("# refldap://") == 3


async def test_ldapsearch_is_refused_in_clear_with_a_wrong_password_and_without_a_bind(ldapsearch):
    async with make_server(1) as server:
        code, _, error = await ldapsearch(server, "-b", BASE, tls=False)
        assert (code, "integrity checking" in error) == (STRONGER_AUTH_REQUIRED, True)
        code, _, error = await ldapsearch(server, "-b", BASE, password="wrong")
        assert (code, "data 52e" in error) == (INVALID_CREDENTIALS, True)
        code, _, error = await ldapsearch(server, "-b", BASE, bind=False)
        assert (code, "successful bind" in error) == (OPERATIONS_ERROR, True)
        code, out, _ = await ldapsearch(server, "-b", "", "-s", "base", bind=False)
        assert (code, f"dnsHostName: dc1.{DOMAIN}" in out) == (0, True)


async def test_three_wrong_passwords_lock_the_account_and_say_so(ldapsearch):
    async with make_server(1) as server:
        for _ in range(3):
            await ldapsearch(server, "-b", BASE, password="wrong")
        code, _, error = await ldapsearch(server, "-b", BASE)
        assert (code, "data 775" in error) == (INVALID_CREDENTIALS, True)


async def test_a_page_holds_a_thousand_entries_whatever_size_is_asked_for():
    # Lesson 27: whoever asks for more and takes the first page for all of it has a part.
    def work(client: ldap3.Connection) -> None:
        cookie = b""
        while True:
            client.search(BASE, "(objectClass=computer)", attributes=["cn"], paged_size=5000, paged_cookie=cookie)
            pages.append(sum(part["type"] == "searchResEntry" for part in client.response))
            cookie = client.result["controls"]["1.2.840.113556.1.4.319"]["value"]["cookie"]
            if not cookie:
                return

    pages: list[int] = []
    async with make_server(2345) as server:
        await with_ldap3(server, work)
    assert pages == [1000, 1000, 345]


@contextmanager
def ldap3_bound(server: LdapServer) -> Iterator[ldap3.Connection]:
    """A foreign client that is logged on over StartTLS."""
    tls = ldap3.Tls(validate=ssl.CERT_NONE)
    account = server.accounts.all[0]
    target = ldap3.Server(server.address, server.port, tls=tls, get_info=ldap3.NONE)
    client = ldap3.Connection(
        target,
        account.upn,
        account.password,
        auto_bind=ldap3.AUTO_BIND_TLS_BEFORE_BIND,
        auto_referrals=False,
        auto_range=False,
        return_empty_attributes=False,
        receive_timeout=5,
    )
    try:
        yield client
    finally:
        client.unbind()


async def with_ldap3(server: LdapServer, work: Callable[[ldap3.Connection], Any]) -> Any:
    def run_it() -> Any:
        with ldap3_bound(server) as client:
            return work(client)

    return await asyncio.to_thread(run_it)


async def test_ldap3_completes_ranges_and_is_refused_what_the_directory_does_not_do():
    members = [f"CN=PC{n},CN=Computers,{BASE}" for n in range(3200)]
    group, computer = f"CN=Everyone,{BASE}", f"CN=SRV0,CN=Computers,{BASE}"

    def work(client: ldap3.Connection) -> None:
        found, asked = [], "member"
        while asked:
            client.search(group, "(objectClass=*)", ldap3.BASE, attributes=[asked])
            [(named, values)] = [
                pair for pair in client.response[0]["raw_attributes"].items() if pair[0].startswith("member;")
            ]
            assert len(values) <= 1500
            found += values
            last = named.rpartition("-")[2]
            asked = "" if last == "*" else f"member;range={int(last) + 1}-*"
        assert [value.decode() for value in found] == members

        assert not client.search("DC=other,DC=test", "(cn=*)")
        assert (client.result["description"], client.result["referrals"]) == (
            "referral",
            ["ldap://other.test/DC=other,DC=test"],
        )
        client.search(BASE, "(cn=SRV0)")
        assert [part["type"] for part in client.response] == ["searchResEntry", *["searchResRef"] * 3]
        for refused in (
            lambda: client.search(BASE, "(cn:1.2.3.4:=x)"),
            lambda: client.search(BASE, "(cn=*)", controls=[("1.2.840.113556.1.4.473", True, None)]),
            lambda: client.modify(computer, {"description": [(ldap3.MODIFY_REPLACE, ["x"])]}),
            lambda: client.delete(computer),
            lambda: client.compare(computer, "cn", "SRV0"),
        ):
            assert not refused()
            told.append(client.result["description"])

    told: list[str] = []
    async with make_server(1) as server:
        server.spec.put(make_entry(group, {"objectClass": ("top", "group"), "member": members}))
        await with_ldap3(server, work)
    assert told == [
        "inappropriateMatching",
        "unavailableCriticalExtension",
        "insufficientAccessRights",
        "insufficientAccessRights",
        "unwillingToPerform",
    ]


async def test_ldap3_follows_changes_by_dirsync_and_sees_tombstones_only_where_it_may():
    # Lesson 53.
    changed, deleted = f"CN=SRV1,CN=Computers,{BASE}", f"CN=SRV2,CN=Computers,{BASE}"
    asked = ["name", "operatingSystem", "operatingSystemVersion", "isDeleted"]

    async with make_server(4) as server:

        def work(client: ldap3.Connection) -> None:
            def changes(sync: Any) -> dict[str, dict[str, list[bytes]]]:
                return {
                    part["dn"]: {key: value for key, value in part["raw_attributes"].items() if key in asked}
                    for part in sync.loop()
                }

            def begin(*, object_security: bool) -> Any:
                return client.extend.microsoft.dir_sync(
                    BASE, "(objectClass=computer)", attributes=asked, object_security=object_security,
                    incremental_values=False,
                )  # fmt: skip

            sync = begin(object_security=True)
            assert len(changes(sync)) == 4
            server.spec.change(changed, {"operatingSystem": None, "description": "till"})
            server.spec.delete(deleted)
            # A removal is an attribute without values, and of what stayed nothing is told.
            assert changes(sync) == {changed: {"operatingSystem": None}}
            server.spec.change(changed, {"operatingSystem": "Windows 10 Pro"})
            server.spec.rights.reads_deleted.add("svc")
            server.spec.delete(f"CN=SRV3,CN=Computers,{BASE}")
            [now, gone] = changes(sync).values()
            assert now == {"operatingSystem": [b"Windows 10 Pro"]}
            assert (gone["isDeleted"], gone["operatingSystem"]) == ([b"TRUE"], None)
            with pytest.raises(LDAPExtensionError, match="insufficientAccessRights"):
                begin(object_security=False).loop()

        await with_ldap3(server, work)


async def test_two_controllers_number_for_themselves_and_hear_of_each_other_when_told_to():
    async with make_server(1) as first:
        partner = first.spec.replica("dc2", delay_s=math.inf)
        async with LdapServer(partner, first.accounts, certificate=CERTIFICATE) as second:

            def read(client: ldap3.Connection) -> tuple[int, bool]:
                client.search("", "(objectClass=*)", ldap3.BASE, attributes=["highestCommittedUSN"])
                number = int(client.response[0]["raw_attributes"]["highestCommittedUSN"][0])
                client.search(BASE, "(cn=LATE)")
                return number, "searchResEntry" in {part["type"] for part in client.response}

            first.spec.put(make_computer_entry("LATE", None, domain=DOMAIN))
            (number, here), (other, there) = [await with_ldap3(server, read) for server in (first, second)]
            assert (here, there, number != other) == (True, False, True)
            partner.replicate()
            assert await with_ldap3(second, read) == (other + 1, True)


class SaslClient:
    """NTLM by SASL as sansldap and pyspnego speak it."""

    def __init__(self, server: LdapServer, *, tls: bool, bound: bytes | None = None, signs: bool = True) -> None:
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        self._messages = sansldap.LDAPClient()
        if tls:
            self._ask(self._messages.extended_request("1.3.6.1.4.1.1466.20037"))
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)
        bindings = None if bound is None else GssChannelBindings(application_data=b"tls-server-end-point:" + bound)
        wanted = spnego.ContextReq.none
        wanted |= spnego.ContextReq.integrity | spnego.ContextReq.confidentiality if signs else 0
        self.context = spnego.client(
            "NORTHVALLEY\\svc",
            "right",
            protocol="ntlm",
            options=spnego.NegotiateOptions.use_ntlm,
            channel_bindings=bindings,
            context_req=wanted,
        )

    def bind(self) -> tuple[int, str]:
        token = None
        while True:
            token = self.context.step(token)
            answer = self._ask(self._messages.bind("", sansldap.SaslCredential("GSS-SPNEGO", token)))
            if answer.result.result_code != sansldap.LDAPResultCode.SASL_BIND_IN_PROGRESS:
                return answer.result.result_code, answer.result.diagnostics_message
            token = answer.server_sasl_creds

    def sealed_base(self) -> list[bytes]:
        """What a sealed question for the domain's root is answered with."""
        wanted = sansldap.LDAPFilter.from_string("(objectClass=*)")
        self._messages.search_request(BASE, sansldap.SearchScope.BASE, filter=wanted, attributes=["name"])
        sealed = self.context.wrap(self._messages.data_to_send()).data
        self._socket.sendall(len(sealed).to_bytes(4, "big") + sealed)
        size = int.from_bytes(self._socket.recv(4, socket.MSG_WAITALL), "big")
        entry = self._messages.receive(self.context.unwrap(self._socket.recv(size, socket.MSG_WAITALL)).data)[0]
        return entry.attributes[0].values

    def _ask(self, _: int) -> Any:
        self._socket.sendall(self._messages.data_to_send())
        while True:
            if messages := self._messages.receive(self._socket.recv(65536)):
                return messages[0]

    def close(self) -> None:
        self._socket.close()


async def test_ntlm_must_sign_in_clear_and_bind_to_its_channel_under_tls_where_that_is_demanded():
    digest = bytes.fromhex(CERTIFICATE.sha256)

    async def bind(server: LdapServer, *, sealed: bool = False, **how: Any) -> tuple[int, str]:
        def run_it() -> tuple[int, str]:
            client = SaslClient(server, **how)
            try:
                code, text = client.bind()
                if sealed:
                    assert client.sealed_base() == [b"northvalley"]
            finally:
                client.close()
            return int(code), text

        return await asyncio.to_thread(run_it)

    async with make_server(1) as server:
        assert (await bind(server, tls=False, sealed=True))[0] == 0
        assert (await bind(server, tls=True, bound=digest, signs=False))[0] == 0
        for bound in (None, bytes(32)):
            code, text = await bind(server, tls=True, bound=bound, signs=False)
            assert (code, "data 80090346" in text) == (INVALID_CREDENTIALS, True)
        code, text = await bind(server, tls=False, signs=False)
        assert (code, "integrity checking" in text) == (STRONGER_AUTH_REQUIRED, True)
        server.demands_signing = server.demands_binding = False
        assert (await bind(server, tls=False, signs=False))[0] == 0
        assert (await bind(server, tls=True, signs=False))[0] == 0
        # MS-ADTS 5.1.2.2: TLS, or SASL's own protection, and never the one inside the other.
        for bound in (None, digest):
            assert (await bind(server, tls=True, bound=bound))[0] == UNWILLING_TO_PERFORM
        assert [seen.outcome for seen in server.binds[-2:]] == ["sealed-in-tls"] * 2


@pytest.mark.parametrize("break_it", BROKEN, ids=[each.__name__ for each in BROKEN])
async def test_a_broken_message_is_broken_to_a_foreign_reader_too(break_it):
    whole = write_entry(7, f"CN=SRV1,{BASE}", [("cn", [b"SRV1"])])
    assert unpack_ldap_message(ASN1Reader(whole), PackingOptions()).message_id == 7
    with pytest.raises((ValueError, NotEnougData)):
        unpack_ldap_message(ASN1Reader(break_it(whole)), PackingOptions())


async def test_computers_come_and_go_in_a_running_estate_and_every_controller_says_so():
    async with Estate(EstateSpec(computers=12)) as estate:

        def look(client: ldap3.Connection) -> dict[str, dict[str, Any]]:
            wanted = ["name", "operatingSystem", "dNSHostName", "userAccountControl", "objectGUID"]
            client.search(BASE, "(&(objectClass=computer)(name=PC-9*))", attributes=wanted)
            return {
                part["raw_attributes"]["name"][0].decode(): part["raw_attributes"]
                for part in client.response
                if part["type"] == "searchResEntry"
            }

        async def seen() -> dict[str, dict[str, Any]]:
            return await with_ldap3(estate.directories[1], look)

        def truths() -> dict[str, str]:
            return {each["name"]: each["truth"] for each in estate.computer_facts() if each["name"].startswith("PC-9")}

        await estate.join("PC-91")
        assert truths() == {"PC-91": "new"}
        first = (await seen())["PC-91"]
        assert not {"operatingSystem", "dNSHostName"} & set(first)

        await estate.boot("pc-91")
        assert truths() == {"PC-91": "agent"}
        assert (await seen())["PC-91"]["operatingSystem"] == [b"Windows 11 Pro"]
        address = estate.hosts["PC-91"].address
        assert str(estate.zone.answer(estate.zone.name("pc-91"), dns.rdatatype.A)[0]) == address

        await estate.rename("PC-91", "PC-92")
        renamed = await seen()
        assert set(renamed) == {"PC-92"}
        assert renamed["PC-92"]["objectGUID"] == first["objectGUID"]
        assert (estate.hosts["PC-92"].machine.name, estate.hosts["PC-92"].address) == ("PC-92", address)

        await estate.disable("PC-92")
        assert (await seen())["PC-92"]["userAccountControl"] == [b"4098"]
        await estate.remove("PC-92")
        assert (await seen(), truths(), "PC-92" in estate.hosts) == ({}, {}, False)

        await estate.join("PC-91")
        assert (await seen())["PC-91"]["objectGUID"] != first["objectGUID"], "another computer of the same name"


async def test_the_estates_process_obeys_orders_and_answers_what_it_cannot_do_with_an_error():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "msp_sdk.testing.estate", "--computers", "12",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    orders = (
        "join PC-91",
        "boot PC-91",
        "join PC-91",
        "boot DC1",
        "remove nobody",
        "rename PC-91 a.b",
        "no such",
        "computers",
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate("".join(f"{order}\n" for order in orders).encode())
    _, joined, booted, *refused, computers = map(json.loads, out.splitlines())
    assert (joined, booted) == ({"done": "join PC-91"}, {"done": "boot PC-91"})
    assert [set(answer) for answer in refused] == [{"error"}] * 5
    assert {"name": "PC-91", "role": "workstation", "truth": "agent"} in computers
    assert process.returncode == 0


async def test_dig_reads_srv_addresses_and_the_lack_of_a_name():
    need("dig")
    zone = DnsZone(DOMAIN)
    zone.add_controller("dc1", "127.77.0.1", port=3890, priority=1, weight=7)
    async with DnsServer(zone) as dns:
        ask = ("dig", "@127.0.0.1", "-p", str(dns.port), "+tries=1", "+time=5")
        _, out, _ = await run(*ask, "+short", "SRV", f"_ldap._tcp.dc._msdcs.{DOMAIN}")
        assert out.strip() == f"1 7 3890 dc1.{DOMAIN}."
        _, out, _ = await run(*ask, "+short", "+tcp", "A", f"DC1.{DOMAIN}")
        assert out.strip() == "127.77.0.1"
        _, out, _ = await run(*ask, "A", f"nobody.{DOMAIN}")
        assert "status: NXDOMAIN" in out
        _, out, _ = await run(*ask, "A", f"_msdcs.{DOMAIN}")
        assert "status: NOERROR" in out
        assert "ANSWER: 0" in out


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(objectCategory=computer)", {"DC1", "WS1", "OFF1", "gmsa1"}),
        ("(&(objectClass=computer)(!(objectClass=msDS-GroupManagedServiceAccount)))", {"DC1", "WS1", "OFF1"}),
        ("(userAccountControl:1.2.840.113556.1.4.803:=2)", {"OFF1"}),
        ("(|(cn=ws1)(cn=DC1))", {"DC1", "WS1"}),
        ("(operatingSystem=*)", {"DC1", "WS1", "OFF1"}),
        ("(operatingSystem=windows*pro)", {"WS1", "OFF1"}),
        ("(userAccountControl>=8192)", {"DC1"}),
        ("(userAccountControl<=4096)", {"WS1", "gmsa1"}),
        ("(cn~=ws1)", {"WS1"}),
    ],
)
async def test_filters_pick_as_a_directory_does(text, found):
    entries = [
        make_computer_entry("DC1", "Windows Server 2022 Standard", domain=DOMAIN, uac=UAC_CONTROLLER),
        make_computer_entry("WS1", "Windows 11 Pro", domain=DOMAIN),
        make_computer_entry("OFF1", "Windows 10 Pro", domain=DOMAIN, uac=UAC_WORKSTATION | UAC_DISABLED),
        make_service_account_entry("gmsa1", domain=DOMAIN),
    ]
    wanted = sansldap.LDAPFilter.from_string(text)
    assert {entry.attributes["cn"][0].decode() for entry in entries if matches(wanted, entry)} == found


async def test_every_name_of_the_public_face_is_there():
    assert [name for name in testing.__all__ if getattr(testing, name, None) is None] == []
    assert sorted(testing.__all__) == testing.__all__


async def test_a_certificate_and_its_key_are_written_for_their_owner_alone(tmp_path):
    for path in CERTIFICATE.write(tmp_path, "server"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert CERTIFICATE.key_pem.decode() not in repr(CERTIFICATE)
