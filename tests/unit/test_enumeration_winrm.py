"""Where LDAP is closed on every controller, one of them is asked to read its directory itself."""

from __future__ import annotations

import base64
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
from msp_sdk.enumeration.winrm import parse_entries
from msp_sdk.errors import ConfigError, DirectoryError, LogonError, LogonNotAllowedError, LogonRejectedError, WireError
from msp_sdk.models.computer import EnumerationScope
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry, make_service_account_entry
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.wsman import HostsThread, WsmanHost

DOMAIN = "corp.example"
ENTRIES = [
    make_computer_entry("DC1", "Windows Server 2022 Standard", domain=DOMAIN, uac=0x82000),
    make_computer_entry("WS,1", "Windows 11 Professionnel", domain=DOMAIN, ou=r"OU=A\,B,OU=Clinic"),
    make_computer_entry("SRV1", "Windows Server 2019 Standard", domain=DOMAIN, description="Füße | a=b"),
    make_service_account_entry("gmsa1", domain=DOMAIN),
]
CERTIFICATE = EstateCA.make("Corp CA").issue([f"dc1.{DOMAIN}"])

pytestmark = pytest.mark.anyio


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def controller_host(lab: HostLab) -> WsmanHost:
    host = lab.host("DC1")
    host.machine.is_controller = True
    host.machine.notes["directory"] = ENTRIES
    return host


def enumerator(lab: HostLab, host: WsmanHost, credential: Credential, *, port: int = 1, **options: Any) -> ADEnumerator:
    controller = DomainController(f"dc1.{DOMAIN}", port, (host.address,))
    directory = DirectoryOptions(connect_timeout_s=1, receive_timeout_s=2, ldaps_port=1)
    return ADEnumerator(
        Domain(DOMAIN, (controller,), datetime.now(UTC)),
        credential,
        ledger=lab.ledger,
        options=EnumerationOptions(directory=directory, **options),
    )


async def test_a_controller_reads_its_directory_for_its_administrator(lab):
    # Lesson 23: LDAP first, WinRM second.
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    lab.prove(credential)
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            enumeration = await it.enumerate()
        scope = EnumerationScope(ous=("Clinic",))
        async with enumerator(lab, host, credential, shells=shells, scope=scope) as it:
            scoped = await it.enumerate()
        await shells.aclose()
    assert enumeration.source == f"dc1.{DOMAIN} winrm"
    assert [(entry.hostname, entry.role) for entry in enumeration.computers] == [
        ("dc1", "domain_controller"),
        ("WS,1", "workstation"),
        ("srv1", "server"),
    ]
    assert enumeration.computers[1].ou_path == "Clinic/A,B"
    assert (enumeration.service_accounts_count, enumeration.cursor) == (1, None)
    assert [entry.hostname for entry in scoped.computers] == ["WS,1"]
    assert host.machine.violations == []


@pytest.mark.parametrize(
    "scope",
    [
        EnumerationScope(ous=("Clinc",)),
        EnumerationScope(ous=("Clinic", "Clinic/Old")),
        EnumerationScope(excluded_ous=("Clinic/A,C",)),
    ],
)
async def test_a_container_in_which_nothing_lies_is_an_error_there_and_no_empty_result(lab, scope):
    # Lesson 24: nobody can look it up.
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    lab.prove(credential)
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells, scope=scope) as it:
            with pytest.raises(ConfigError) as caught:
                await it.enumerate()
        await shells.aclose()
    assert caught.value.code == "scope-not-found"


async def test_what_need_not_be_in_a_domain_is_not_named_by_its_reading_there_either(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    lab.prove(credential)
    shells = lab.shells()
    # A container that holds no computer but a service account is there.
    scope = EnumerationScope(excluded_ous=("Imaging", "clinic", "Managed Service Accounts"))
    with HostsThread([host]):
        async with enumerator(
            lab, host, credential, shells=shells, scope=scope, optional_ous=("imaging", "Clinic")
        ) as it:
            enumeration = await it.enumerate()
        await shells.aclose()
    assert enumeration.scope.excluded_ous == ("clinic", "Managed Service Accounts")
    assert [entry.hostname for entry in enumeration.computers] == ["dc1", "srv1"]


async def test_a_controller_that_sends_no_computer_was_let_read_nothing(lab):
    # Lesson 24: it is one itself.
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    host.machine.notes["directory"] = []
    lab.prove(credential)
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            with pytest.raises(DirectoryError, match="not even itself"):
                await it.enumerate()
        await shells.aclose()


async def test_entries_without_an_identity_are_counted_there_too(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    hidden = make_computer_entry("HIDDEN1", "Windows 11 Pro", domain=DOMAIN, objectGUID=None)
    host.machine.notes["directory"] = [*ENTRIES, hidden]
    lab.prove(credential)
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            enumeration = await it.enumerate()
        await shells.aclose()
    assert (len(enumeration.computers), enumeration.unreadable_count) == (3, 1)


async def test_a_service_account_never_goes_there(lab):
    host, credential = controller_host(lab), lab.domain_credential()
    lab.prove(credential)
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            with pytest.raises(DirectoryError) as caught:
                await it.enumerate()
        await shells.aclose()
    assert (caught.value.code, caught.value.retryable) == ("unreachable-controller", True)
    assert "needs an administrator of the controller" in caught.value.detail
    assert lab.service.attempts == []


async def test_without_shells_the_error_says_that_nobody_tried(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    async with enumerator(lab, host, credential) as it:
        with pytest.raises(DirectoryError, match="WinRM on a controller was not tried"):
            await it.enumerate()


async def test_a_controller_that_answers_ldap_is_not_gone_round(lab):
    # Its certificate is nobody's: that has to be looked at, not avoided.
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    lab.prove(credential)
    shells = lab.shells()
    certificate = EstateCA.make("Other CA").issue([f"dc1.{DOMAIN}"])
    spec = DirectorySpec(DOMAIN, "CORP", list(ENTRIES))
    async with LdapServer(spec, lab.accounts, address=host.address, certificate=certificate) as server:
        with HostsThread([host]):
            async with enumerator(lab, host, credential, port=server.port, shells=shells) as it:
                with pytest.raises(DirectoryError) as caught:
                    await it.enumerate()
            await shells.aclose()
    assert caught.value.code == "certificate-untrusted"
    assert lab.service.attempts == []


async def test_a_controller_that_breaks_off_at_the_logon_is_not_gone_round(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    credential = evolve(credential, trusted_certificates=(TrustedCertificate(sha256=CERTIFICATE.sha256),))
    shells = lab.shells()
    spec = DirectorySpec(DOMAIN, "CORP", list(ENTRIES))
    async with LdapServer(spec, lab.accounts, address=host.address, certificate=CERTIFICATE) as server:
        server.faults.drop_at_bind = True
        with HostsThread([host]):
            async with enumerator(lab, host, credential, port=server.port, shells=shells) as it:
                with pytest.raises(LogonError) as caught:
                    await it.enumerate()
            await shells.aclose()
        assert caught.value.code == "logon-unanswered"
        assert len(server.binds) == 1
    assert lab.service.attempts == []


async def test_a_password_that_is_refused_there_ends_it(lab):
    # Lesson 32.
    host = controller_host(lab)
    credential = lab.domain_credential("wrong", type="domain_admin")
    lab.prove(credential)

    async def prove(_: Credential) -> None:
        raise LogonRejectedError("no.", code="wrong-password")

    shells = lab.shells(prove=prove)
    controllers = tuple(DomainController(f"dc{n}.{DOMAIN}", 1, (host.address,)) for n in (1, 2))
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            other = ADEnumerator(
                evolve(it.domain, controllers=controllers),
                credential,
                ledger=lab.ledger,
                options=EnumerationOptions(
                    directory=DirectoryOptions(connect_timeout_s=1, receive_timeout_s=2, ldaps_port=1), shells=shells
                ),
            )
        async with other:
            with pytest.raises(LogonRejectedError):
                await other.enumerate()
        await shells.aclose()
    assert lab.service.bad_password_count == 1


async def test_an_administrator_is_proven_by_the_controllers_own_shell(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin")
    shells = lab.shells()
    with HostsThread([host]):
        async with enumerator(lab, host, credential, shells=shells) as it:
            assert len((await it.enumerate()).computers) == 3
        await shells.aclose()
    assert lab.ledger.state(credential).state == "proven"


async def test_a_wrong_administrator_is_shown_to_one_controllers_shell_once(lab):
    host, credential = controller_host(lab), lab.domain_credential(type="domain_admin", password="wrong")
    shells = lab.shells()
    with HostsThread([host]):
        for refusal in (LogonRejectedError, LogonNotAllowedError):
            async with enumerator(lab, host, credential, shells=shells) as it:
                with pytest.raises(refusal) as caught:
                    await it.enumerate()
                assert caught.value.code == "wrong-password"
        await shells.aclose()
    assert lab.service.bad_password_count == 1
    assert lab.ledger.state(credential).state == "refused"


@pytest.mark.parametrize(
    "packed",
    [
        None,
        7,
        "",
        "not base64!",
        base64.b64encode(b"no gzip").decode(),
        base64.b64encode(gzip.compress(b"Q04=\n", mtime=0)[:-9]).decode(),
        base64.b64encode(gzip.compress(b"%%%\tname=!\n", mtime=0)).decode(),
        base64.b64encode(gzip.compress("Q04=\tname=ä\n".encode(), mtime=0)).decode(),
    ],
)
async def test_what_is_no_list_of_entries_is_an_error_and_never_an_empty_one(packed):
    # Lesson 24.
    with pytest.raises(WireError):
        parse_entries(packed)
