"""The doctor with a real KDC: its clock, sealed Kerberos beside a certificate that nobody believes, and why not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from msp_sdk.errors import WireError
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.finding import STEPS, Examination, Finding, Step
from msp_sdk.network.kdcs import Kdc
from msp_sdk.reachability.doctor_kdc import ask_kdc_for_time, parse_time
from msp_sdk.testing.dns import DnsZone
from msp_sdk.testing.loopback import take_address
from tests.unit.doctor_lab import DoctorLab, keeps_silent, listening
from tests.unit.kerberos_lab import REALM, KerberosLab, domain_with_kdc


@pytest.fixture
def kerberos(tmp_path: Path) -> Iterator[KerberosLab]:
    with domain_with_kdc(tmp_path) as lab:
        yield lab


@pytest.fixture
def lab(kerberos: KerberosLab) -> DoctorLab:
    """A member of the domain, whose account no controller has seen yet."""
    host = kerberos.member("SRV1", "host")
    zone = DnsZone("corp.example")
    zone.add_address("srv1", host.address)
    lab = DoctorLab(kerberos, host, host.address, zone, trusts=(kerberos.ca.pem.decode(),))
    lab.credential = kerberos.credential()
    lab.kdcs = kerberos.kdcs
    return lab


def password_uses(kerberos: KerberosLab) -> int:
    """How often the account's password was proven to the KDC, rightly or not."""
    lines = [line for line in kerberos.kdc.requests("AS_REQ") if "svc@" in line]
    return sum("NEEDED_PREAUTH" not in line for line in lines)


def clocks(examined: Examination) -> list[str]:
    """Whose clocks were told, and agree."""
    ahead = cast("dict[str, int]", found(examined, "clock").evidence["controllers_ahead_s"])
    return [name for name, skew_s in ahead.items() if abs(skew_s) < 60]


def found(examined: Examination, step: Step) -> Finding:
    return examined.findings[STEPS.index(step)]


def test_kdc_tells_its_time_and_no_account_is_named(kerberos: KerberosLab):
    skew_s = asyncio.run(ask_kdc_for_time(kerberos.kdc.address, 88, REALM, 3.0))
    assert skew_s is not None
    assert abs(skew_s) < 60
    (line,) = kerberos.kdc.requests("AS_REQ")
    assert "svc" not in line


def test_what_is_no_kdc_tells_no_time():
    address = take_address()

    async def go() -> float | None:
        async with listening(address, 8888, keeps_silent, None):
            return await ask_kdc_for_time(address, 8888, REALM, 0.3)

    assert asyncio.run(go()) is None
    for nonsense in (b"", b"\x7e\x00", bytes.fromhex("7e0930070a0101a403180130")):
        with pytest.raises(WireError):
            parse_time(nonsense)


def test_host_is_logged_on_to_by_kerberos_and_the_password_goes_to_the_kdc_once(lab: DoctorLab, kerberos: KerberosLab):
    examined = lab.examine()
    assert examined.ok
    assert found(examined, "rules").evidence["mechanism"] == "kerberos"
    assert found(examined, "logon").evidence["service"] == "host"
    assert clocks(examined) == ["dc1"]
    assert password_uses(kerberos) == 1


def test_certificate_that_nobody_believes_is_passed_by_and_said(lab: DoctorLab):
    lab.trusts = ()
    examined = lab.examine()
    assert examined.ok
    tls = found(examined, "tls")
    assert (tls.ok, tls.code) == (True, "certificate-untrusted")
    assert found(examined, "logon").evidence["port"] == 5985


def test_certificate_that_nobody_believes_is_the_reason_where_no_kdc_answers(lab: DoctorLab):
    lab.trusts = ()
    lab.kdcs = lambda _: (Kdc(take_address(), REALM, netbios_name="CORP", name="dc1"),)
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("rules", "certificate-untrusted")
    assert found(examined, "rules").evidence["kerberos_bar"] == "kdc-unreachable"
    assert lab.logon_count == 0


def test_password_that_the_kdc_refuses_is_shown_to_no_host(lab: DoctorLab, kerberos: KerberosLab):
    # Lesson 32.
    lab.credential = kerberos.credential("nope")
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("logon", "wrong-password")
    assert lab.logon_count == 0
    assert lab.examine().verdict.code == "wrong-password"
    assert password_uses(kerberos) == 1


def test_kdcs_are_the_domains_controllers_where_nobody_logs_on(lab: DoctorLab, kerberos: KerberosLab):
    lab.credential = None
    controller = DomainController("dc1.corp.example", 1, (kerberos.kdc.address,))
    lab.domain = Domain("corp.example", (controller,), datetime.now(UTC), netbios_name="CORP")
    examined = lab.examine()
    assert examined.ok
    # LDAP is not there; the KDC tells the same clock.
    assert clocks(examined) == ["dc1.corp.example"]


def test_host_that_the_kdc_does_not_know_is_told_as_the_reason_against_ntlm(lab: DoctorLab, kerberos: KerberosLab):
    # Kerberos cannot apply, and NTLM without TLS is forbidden: the host sees no logon.
    stranger = kerberos.member("SRV2", https=False)
    lab.host = stranger
    lab.zone.add_address("srv2", stranger.address)
    lab.asked = "srv2.corp.example"
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("logon", "ntlm-not-allowed")
    assert "does not know this service" in examined.verdict.title
    assert "servicePrincipalName" in examined.verdict.remedy
    assert lab.logon_count == 0
