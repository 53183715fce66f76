"""The stand-ins against foreign clients: ldapsearch and dig judge them, not our own code."""

from __future__ import annotations

import asyncio
import shutil

import pytest
import sansldap

from msp_sdk.testing.accounts import Account, Accounts
from msp_sdk.testing.certificates import EstateCA, write_private
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import (
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_WORKSTATION,
    make_computer_entry,
    make_service_account_entry,
)
from msp_sdk.testing.directory_filter import matches
from msp_sdk.testing.dns import DnsServer, DnsZone

DOMAIN = "northvalley.test"
BASE = "DC=northvalley,DC=test"
CERTIFICATE = EstateCA.make("Northvalley CA").issue([f"dc1.{DOMAIN}"])
SIZE_LIMIT_EXCEEDED = 4
INVALID_CREDENTIALS = 49
STRONGER_AUTH_REQUIRED = 8
OPERATIONS_ERROR = 1

pytestmark = pytest.mark.anyio
needs_ldapsearch = pytest.mark.skipif(shutil.which("ldapsearch") is None, reason="ldapsearch is not installed")
needs_dig = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")


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
    async def search(server: LdapServer, *more: str, password: str = "right", tls: bool = True, bind: bool = True):
        secret = write_private(tmp_path / "password", password.encode())
        logon = ("-D", f"svc@{DOMAIN}", "-y", str(secret)) if bind else ()
        return await run(
            "ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://127.0.0.1:{server.port}",
            *(("-ZZ",) if tls else ()), *logon, *more,
            env={"LDAPTLS_REQCERT": "never", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    return search


@needs_ldapsearch
async def test_ldapsearch_without_paging_is_cut_at_a_thousand_and_with_paging_gets_all(ldapsearch):
    # Lesson 27.
    async with make_server(1234) as server:
        code, out, _ = await ldapsearch(server, "-b", BASE, "(objectCategory=computer)", "cn")
        assert (code, out.count("\ncn: ")) == (SIZE_LIMIT_EXCEEDED, 1000)
        code, out, _ = await ldapsearch(server, "-E", "pr=500/noprompt", "-b", BASE, "(objectCategory=computer)", "cn")
        assert (code, out.count("\ncn: ")) == (0, 1234)
        # The referrals to the other partitions, as from a domain's root.
        assert out.count("# refldap://") == 3


@needs_ldapsearch
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


@needs_ldapsearch
async def test_three_wrong_passwords_lock_the_account_and_say_so(ldapsearch):
    async with make_server(1) as server:
        for _ in range(3):
            await ldapsearch(server, "-b", BASE, password="wrong")
        code, _, error = await ldapsearch(server, "-b", BASE)
        assert (code, "data 775" in error) == (INVALID_CREDENTIALS, True)


@needs_dig
async def test_dig_reads_srv_addresses_and_the_lack_of_a_name():
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
        ("(cn~=ws1)", set()),
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


async def test_a_certificate_and_its_key_are_written_for_their_owner_alone(tmp_path):
    for path in CERTIFICATE.write(tmp_path, "server"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert CERTIFICATE.key_pem.decode() not in repr(CERTIFICATE)
