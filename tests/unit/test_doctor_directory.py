"""What a controller adds to an examination: the proof of a credential, service names, the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from msp_sdk.directory.session import DirectoryOptions
from msp_sdk.models.credential import TrustedCertificate
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.finding import STEPS, Examination, Finding, Step
from msp_sdk.reachability.doctor_directory import DomainDirectory
from msp_sdk.testing.accounts import LOCKOUT_THRESHOLD
from msp_sdk.testing.directory import DirectorySpec, LdapServer
from msp_sdk.testing.directory_data import make_computer_entry
from tests.unit.doctor_lab import DoctorLab, make_certificate

DOMAIN = "corp.example"
OPTIONS = DirectoryOptions(connect_timeout_s=1, receive_timeout_s=1, ldaps_port=1)


def found(examined: Examination, step: Step) -> Finding:
    return examined.findings[STEPS.index(step)]


class DirectoryLab:
    """A host, and a controller of its domain."""

    def __init__(self, folder: Path) -> None:
        self.hosts = DoctorLab.make(folder)
        self.spec = DirectorySpec(DOMAIN, "CORP")
        self.spec.put(make_computer_entry("SRV1", "Windows Server 2019 Standard", domain=DOMAIN))
        self.certificate = make_certificate("dc1.corp.example")
        self.hosts.credential = evolve(
            self.hosts.lab.domain_credential(),
            trusted_certificates=(TrustedCertificate(sha256=self.certificate.sha256),),
        )
        self.binds = 0

    def set_password(self, password: str) -> None:
        assert self.hosts.credential is not None
        listed = self.hosts.credential.trusted_certificates
        self.hosts.credential = self.hosts.lab.domain_credential(password, trusted_certificates=listed)

    def examine(self) -> Examination:
        async def go() -> Examination:
            server = LdapServer(self.spec, self.hosts.lab.accounts, certificate=self.certificate)
            async with server:
                controller = DomainController("dc1.corp.example", server.port, ("127.0.0.1",))
                self.hosts.domain = Domain(DOMAIN, (controller,), datetime.now(UTC), netbios_name="CORP")
                directory = DomainDirectory(self.hosts.domain, self.hosts.lab.ledger, options=OPTIONS)
                self.hosts.directory = directory
                try:
                    async with self.hosts.running() as doctor:
                        return await doctor.examine(self.hosts.asked, self.hosts.credential)
                finally:
                    await directory.aclose()
                    self.binds = len(server.password_binds)

        return asyncio.run(go())


@pytest.fixture
def lab(tmp_path: Path) -> DirectoryLab:
    return DirectoryLab(tmp_path)


def test_credential_is_proven_at_a_controller_once_before_the_host_sees_it(lab: DirectoryLab):
    examined = lab.examine()
    assert examined.ok
    assert "dc1.corp.example" in found(examined, "account").title
    assert found(examined, "spn").ok
    assert lab.binds == 1
    assert lab.hosts.logon_count == 1


def test_password_that_the_controller_refuses_is_never_shown_to_the_host(lab: DirectoryLab):
    # Lesson 32.
    lab.set_password("nope")
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("account", "wrong-password")
    assert lab.binds == 1
    assert lab.hosts.logon_count == 0
    assert lab.hosts.lab.service.bad_password_count == 1
    # Known by now, so that even the controller does not see it again.
    assert lab.examine().verdict.code == "wrong-password"
    assert lab.binds == 0


def test_locked_account_is_told_as_such(lab: DirectoryLab):
    lab.hosts.lab.service.bad_password_count = LOCKOUT_THRESHOLD
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("account", "account-locked")
    assert "Unlock" in examined.verdict.remedy
    assert lab.hosts.logon_count == 0


def test_nothing_is_sent_to_a_controller_whose_certificate_nobody_accepted(lab: DirectoryLab):
    assert lab.hosts.credential is not None
    lab.hosts.credential = evolve(lab.hosts.credential, trusted_certificates=())
    examined = lab.examine()
    assert examined.verdict.step == "account"
    assert lab.binds == 0
    assert lab.hosts.logon_count == 0


def test_host_that_cannot_be_logged_on_to_costs_no_bind_either(lab: DirectoryLab):
    lab.hosts.replace_host(http=False, certificate_name="other.corp.example")
    examined = lab.examine()
    assert examined.verdict.code == "wrong-host"
    assert lab.binds == 0


def _drop_names(lab: DirectoryLab) -> None:
    lab.spec.put(make_computer_entry("SRV1", "Windows", domain=DOMAIN, servicePrincipalName=None))


def _claim_twice(lab: DirectoryLab) -> None:
    lab.spec.put(
        make_computer_entry("OLD1", "Windows", domain=DOMAIN, servicePrincipalName=("HOST/srv1.corp.example",))
    )


def _claim_http(lab: DirectoryLab) -> None:
    lab.spec.put(
        make_computer_entry("WEB1", "Windows", domain=DOMAIN, servicePrincipalName=("HTTP/srv1.corp.example",))
    )


@pytest.mark.parametrize(
    ("arrange", "code", "word"),
    [
        (_drop_names, "no-service-principal", "HOST/srv1.corp.example"),
        (_claim_twice, "duplicate-service-principal", "OLD1$"),
        (_claim_http, "duplicate-service-principal", "WEB1$"),
    ],
)
def test_trouble_with_service_names_is_a_remark_where_another_mechanism_is_used(
    lab: DirectoryLab, arrange: Callable[[DirectoryLab], None], code: str, word: str
):
    arrange(lab)
    examined = lab.examine()
    names = found(examined, "spn")
    assert (names.ok, names.code) == (True, code)
    assert word in names.title
    assert examined.ok


@pytest.mark.parametrize(
    ("host_minutes", "controller_minutes", "whose"),
    [
        (20, 20, "This machine's clock is 20 min behind"),
        (20, 0, "The host's clock is 20 min ahead"),
        (0, -20, "The clock of dc1.corp.example is 20 min behind"),
    ],
)
def test_whose_clock_is_wrong_is_told_by_a_third_one(
    lab: DirectoryLab, host_minutes: int, controller_minutes: int, whose: str
):
    assert lab.hosts.host is not None
    lab.hosts.host.machine.clock.skew = timedelta(minutes=host_minutes)
    lab.spec.clock = lambda: datetime.now(UTC) + timedelta(minutes=controller_minutes)
    lab.hosts.credential = None
    examined = lab.examine()
    assert examined.verdict.code == "clock-skew"
    assert examined.verdict.title.startswith(whose)
