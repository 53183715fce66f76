"""Kerberos to hosts, against a real KDC and a real acceptor: one password use, never a strike at a host."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from msp_sdk import errors
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.target import Target
from msp_sdk.network.host_pins import HostPin
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.host_lab import LAB_PASSWORD, RecordingFront
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.testing.wsman_kerberos import render_error
from msp_sdk.windows.shell import HostPolicy, Kdc, WindowsShells
from tests.unit.echo_scripts import ECHO
from tests.unit.kerberos_lab import REALM, KerberosLab, domain_with_kdc


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[KerberosLab]:
    with domain_with_kdc(tmp_path) as made:
        yield made


def refused(lab: KerberosLab, target: Target, credential: Credential, **how: object) -> errors.MspError:
    with pytest.raises(errors.MspError) as caught:
        lab.run(target, credential, ECHO, kdcs=lab.kdcs, **how)
    return caught.value


@pytest.mark.parametrize("door", ["http", "https"])
def test_an_unproven_credential_runs_a_script_with_a_ticket_and_is_proven_by_the_kdc(
    lab: KerberosLab, door: str
) -> None:
    host = lab.member("SRV1", "host", http=door == "http", https=door == "https")
    credential = lab.credential()
    with HostsThread([host]):
        (result,) = lab.run(lab.target(host), credential, ECHO, parameters={"x": 1}, kdcs=lab.kdcs)
    assert result.value["parameters"] == {"x": 1}
    assert result.host.is_administrator
    assert lab.service.attempts == [("SRV1", "ticket")]
    assert host.logons.kerberos.taken == [("svc", f"host/srv1.corp.example@{REALM}")]
    assert lab.ledger.state(credential).state == "proven"
    assert lab.password_uses() == 1
    # The logon is one request: nothing empty goes before it.
    assert host.logon_count == 1
    assert host.machine.violations == []
    assert "bad_bindings" not in host.machine.notes


def test_nothing_goes_in_clear_with_kerberos(lab: KerberosLab) -> None:
    # Lesson 34.
    host = lab.member("SRV1", "host", https=False)
    with HostsThread([host]):
        front = RecordingFront(host)
        target = lab.target(host, ip_addresses=(front.address,))
        lab.run(target, lab.credential(), ECHO, payload=bytes(range(256)) * 1000, kdcs=lab.kdcs)
        front.close()
    front.assert_nothing_in_clear()
    assert b"Authorization: Negotiate" in front.recorded
    assert host.machine.violations == []


def test_a_wrong_password_is_one_strike_at_the_kdc_and_nothing_at_the_host(lab: KerberosLab) -> None:
    # Lesson 32: a library that negotiates would make two strikes of it, and show it to the host.
    host = lab.member("SRV1", "host")
    with HostsThread([host]):
        # NTLM is allowed here, and would have been an open door.
        error = refused(lab, lab.target(host), lab.credential("wrong"), policy=_trusting(lab, allow_ntlm=True))
        assert isinstance(error, errors.LogonRejectedError)
        assert error.code == "wrong-password"
        again = refused(lab, lab.target(host), lab.credential("wrong"), policy=_trusting(lab, allow_ntlm=True))
        assert isinstance(again, errors.LogonNotAllowedError)
    assert lab.kdc.failures("svc") == 1
    assert lab.password_uses() == 1
    assert lab.service.attempts == []
    assert host.logon_count == 0
    assert lab.ledger.state(lab.credential()).state == "refused"


def test_twenty_hosts_cost_one_use_of_the_password_and_no_logon_of_the_ledger(lab: KerberosLab) -> None:
    hosts = [lab.member(f"SRV{number}", https=False) for number in range(20)]
    lab.kdc.add_service(*(f"host/srv{number}.corp.example" for number in range(20)))
    credential = lab.credential()

    async def go() -> list[str]:
        shells = lab.shells(kdcs=lab.kdcs)

        async def one(target: Target) -> str:
            async with shells.open(target, credential) as shell:
                return (await shell.run(ECHO, {}, deadline_s=30)).host.computer_name

        try:
            return await asyncio.gather(*(one(lab.target(host)) for host in hosts))
        finally:
            await shells.aclose()

    with HostsThread(hosts):
        names = asyncio.run(go())
    assert names == [host.machine.name for host in hosts]
    assert lab.password_uses() == 1
    assert len(lab.kdc.requests("TGS_REQ")) == 20
    assert {outcome for _, outcome in lab.service.attempts} == {"ticket"}


def test_a_host_that_the_kdc_knows_by_its_http_name_alone_is_logged_on_to_by_that(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "HTTP", https=False)
    with HostsThread([host]):
        lab.run(lab.target(host), lab.credential(), ECHO, kdcs=lab.kdcs)
    assert host.logons.kerberos.taken == [("svc", f"HTTP/srv1.corp.example@{REALM}")]


def test_a_host_without_a_service_name_gets_ntlm_under_its_rules_and_is_not_asked_for_again(lab: KerberosLab) -> None:
    host = lab.member("SRV1")
    credential = lab.credential()

    async def go() -> list[str]:
        shells = lab.shells(kdcs=lab.kdcs)
        ways = []
        for _ in range(2):
            async with shells.open(lab.target(host), credential) as shell:
                await shell.run(ECHO, {}, deadline_s=10)
                ways.append((shell.way.mechanism, shell.way.barred, shell.way.door.tls))
        await shells.aclose()
        return ways

    with HostsThread([host]):
        assert asyncio.run(go()) == [("ntlm", "no-service-principal", True)] * 2
    asked = len(lab.kdc.requests("TGS_REQ"))
    assert asked > 0
    assert len({line for line in lab.kdc.requests("TGS_REQ") if "host/srv1" in line or "HTTP/srv1" in line}) <= asked
    assert lab.service.attempts == [("SRV1", "ok")] * 2
    # The first opening alone asked the KDC.
    assert sum("host/srv1" in line for line in lab.kdc.requests("TGS_REQ")) <= 2


def test_ntlm_in_a_domain_without_tls_says_why_it_was_not_kerberos(lab: KerberosLab) -> None:
    host = lab.member("SRV1", https=False)
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential())
    assert error.code == "ntlm-not-allowed"
    assert error.context["kerberos"] == "no-service-principal"
    assert lab.service.attempts == []


def test_a_dead_kdc_leads_to_ntlm_under_its_rules_with_the_reason(lab: KerberosLab) -> None:
    lab.kdc.stop()
    host = lab.member("SRV1")
    credential = lab.credential()
    lab.prove(credential)
    with HostsThread([host]):
        lab.run(lab.target(host), credential, ECHO, kdcs=lab.kdcs)
        error = refused(lab, lab.target(host, doors=(5985,), port=5985), credential)
    assert lab.service.attempts == [("SRV1", "ok")]
    assert (error.code, error.context["kerberos"]) == ("ntlm-not-allowed", "kdc-unreachable")


def test_an_unproven_credential_and_a_dead_kdc_show_nothing_to_the_host(lab: KerberosLab) -> None:
    lab.kdc.stop()
    host = lab.member("SRV1")
    with HostsThread([host]):
        assert refused(lab, lab.target(host), lab.credential()).code == "credential-unproven"
    assert lab.service.attempts == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda lab: lab.kdc.change("svc", "-allow_tix"), "account-revoked"),
        (lambda lab: lab.kdc.change("svc", '-expire "2020-01-01"'), "account-revoked"),
        (lambda lab: lab.kdc.change("svc", '-pwexpire "2020-01-01"'), "password-expired"),
        (lambda lab: lab.kdc.remove("svc"), "no-such-user"),
    ],
)
def test_a_kdc_that_refuses_is_never_gone_around_by_ntlm(
    lab: KerberosLab, spoil: Callable[[KerberosLab], None], code: str
) -> None:
    host = lab.member("SRV1", "host")
    spoil(lab)
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential(), policy=_trusting(lab, allow_ntlm=True))
    assert isinstance(error, errors.LogonRejectedError)
    assert error.code in (code, "account-revoked")
    assert host.logon_count == 0
    assert lab.service.attempts == []


def test_a_host_that_refuses_the_ticket_does_so_for_itself_alone(lab: KerberosLab) -> None:
    hosts = [lab.member(name, "host") for name in ("SRV1", "SRV2")]
    hosts[0].logons.kerberos.refuses = True
    credential = lab.credential()
    with HostsThread(hosts):
        error = refused(lab, lab.target(hosts[0]), credential, policy=_trusting(lab, allow_ntlm=True))
        assert isinstance(error, errors.NotAuthorisedHereError)
        assert lab.ledger.state(credential).state == "proven"
        assert not lab.ledger.is_paused(credential)
        lab.run(lab.target(hosts[1]), credential, ECHO, kdcs=lab.kdcs)
    # Not by NTLM either.
    assert lab.service.attempts == [("SRV2", "ticket")]


def test_a_host_with_another_key_than_the_kdc_has_refuses_and_is_asked_anew_once_it_was_mended(
    lab: KerberosLab,
) -> None:
    host = lab.member("SRV1", "host", https=False)
    lab.kdc.renew_key("host/srv1.corp.example")
    credential = lab.credential()

    async def go() -> None:
        shells = lab.shells(kdcs=lab.kdcs)
        with pytest.raises(errors.NotAuthorisedHereError):
            async with shells.open(lab.target(host), credential):
                pass
        # Joined anew. A ticket that was kept would be refused for hours.
        await asyncio.to_thread(lab.kdc.give_key, "host/srv1.corp.example")
        async with shells.open(lab.target(host), credential) as shell:
            await shell.run(ECHO, {}, deadline_s=10)
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())
    assert host.machine.notes["bad_tickets"]
    assert lab.password_uses() == 1


@pytest.mark.parametrize("proof", [b"", b"\x60\x06nobody", render_error(60)])
def test_what_does_not_prove_that_it_is_the_host_gets_no_message(lab: KerberosLab, proof: bytes) -> None:
    # Who stands in between and says yes to every ticket must not get a script, sealed or not.
    host = lab.member("SRV1", "host")
    host.logons.kerberos.proof = proof
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential(), policy=_trusting(lab, allow_ntlm=True))
    assert isinstance(error, errors.EncryptionRefusedError)
    assert host.operations == []
    assert lab.service.attempts == [("SRV1", "ticket")]


def test_a_clock_that_differs_is_named_by_the_host(lab: KerberosLab) -> None:
    # Lesson 28.
    host = lab.member("SRV1", "host")
    host.logons.kerberos.error = 37
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential())
    assert (error.code, error.retryable) == ("clock-skew", True)


def test_a_host_that_offers_kerberos_alone_gets_the_ticket_by_that_name(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host", https=False)
    host.logons.schemes = ("Kerberos",)
    with HostsThread([host]):
        front = RecordingFront(host)
        lab.run(lab.target(host, ip_addresses=(front.address,)), lab.credential(), ECHO, kdcs=lab.kdcs)
        front.close()
    assert b"HTTP-Kerberos-session-encrypted" in front.recorded
    front.assert_nothing_in_clear()


def test_a_certificate_that_nobody_believes_is_passed_by_for_sealed_kerberos_and_told(lab: KerberosLab) -> None:
    # Lesson 36, and the field: sealed Kerberos beats an unverified certificate.
    host = lab.member("SRV1", "host")
    stranger = HostPolicy(trusted_cas=(EstateCA.make("Another CA").pem.decode(),))

    async def go() -> tuple[object, ...]:
        shells = lab.shells(kdcs=lab.kdcs, policy=stranger)
        async with shells.open(lab.target(host), lab.credential()) as shell:
            await shell.run(ECHO, {}, deadline_s=10)
            found = (shell.way.mechanism, shell.way.door.port, [(door.port, door.code) for door in shell.passed_by])
        await shells.aclose()
        return found

    with HostsThread([host]):
        assert asyncio.run(go()) == ("kerberos", 5985, [(5986, "certificate-untrusted")])
        # With HTTPS alone there is nothing to pass it by for.
        assert refused(lab, lab.target(host, use_ssl=True), lab.credential(), policy=stranger).code == (
            "certificate-untrusted"
        )


def test_a_changed_certificate_is_an_alarm_also_where_kerberos_could_pass_it_by(lab: KerberosLab) -> None:
    # Lesson 35.
    host = lab.member("SRV1", "host")
    pin = HostPin("srv1.corp.example", "cd" * 32, datetime(2026, 5, 4, tzinfo=UTC))
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential(), policy=HostPolicy(pins=(pin,)))
    assert error.code == "certificate-changed"
    assert lab.password_uses() == 0
    assert lab.service.attempts == []


def test_a_credential_that_was_refused_elsewhere_loses_its_ticket_at_once(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host")
    credential = lab.credential()

    async def go() -> None:
        shells = lab.shells(kdcs=lab.kdcs)
        async with shells.open(lab.target(host), credential):
            pass
        lab.ledger.refuse(credential, "wrong-password")
        with pytest.raises(errors.LogonNotAllowedError):
            async with shells.open(lab.target(host), credential):
                pass
        assert dict(shells._tickets._accounts) == {}
        await shells.aclose()

    with HostsThread([host]):
        asyncio.run(go())


@pytest.mark.parametrize("is_believed", ["believed", "unbelieved"])
def test_a_certificate_for_another_name_is_the_wrong_host_also_with_kerberos(
    lab: KerberosLab, is_believed: str
) -> None:
    # Lesson 54.
    host = lab.member("SRV1", "host", certificate_name="other.corp.example")
    policy = None if is_believed == "believed" else HostPolicy(trusted_cas=(EstateCA.make("Other").pem.decode(),))
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential(), policy=policy)
    assert isinstance(error, errors.WrongHostError)
    assert lab.service.attempts == []


def test_without_kerberos_a_certificate_that_nobody_believes_stays_what_it_was(lab: KerberosLab) -> None:
    host = lab.member("SRV1")
    stranger = HostPolicy(trusted_cas=(EstateCA.make("Another CA").pem.decode(),), allow_ntlm=True)
    credential = lab.credential()
    lab.prove(credential)
    with HostsThread([host]):
        error = refused(lab, lab.target(host), credential, policy=stranger)
    assert (error.code, error.context["kerberos"]) == ("certificate-untrusted", "no-service-principal")
    assert lab.service.attempts == []


def test_a_machine_in_between_with_the_hosts_certificate_listed_for_itself_gets_no_logon(lab: KerberosLab) -> None:
    # Channel binding: a ticket that is shown through another TLS connection is refused.
    host = lab.member("SRV1", "host", http=False)
    other = lab.host("SRV1")
    credential = lab.credential(
        trusted_certificates=(TrustedCertificate(sha256=hashlib.sha256(host.certificate.der).hexdigest()),)
    )
    host.logons.certificate = other.certificate
    with HostsThread([host]):
        error = refused(lab, lab.target(host), credential)
    assert isinstance(error, errors.NotAuthorisedHereError)


def test_what_worked_is_tried_first_for_a_while_and_forgotten_when_it_fails(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host", https=False)
    credential = lab.credential()
    dead = take_address()

    async def opened(shells: WindowsShells, target: Target) -> tuple[str, int]:
        async with shells.open(target, credential) as shell:
            await shell.run(ECHO, {}, deadline_s=10)
            return shell.way.address, shell.way.door.port

    async def go(hosts: HostsThread) -> None:
        shells = lab.shells(kdcs=lab.kdcs)
        target = lab.target(host, ip_addresses=(dead, host.address))
        assert await opened(shells, target) == (host.address, 5985)
        # It opens both doors now, and the one that worked is still the first.
        host.https_port = 5986
        await asyncio.to_thread(hosts.call, host.stop())
        await asyncio.to_thread(hosts.call, host.start())
        assert await opened(shells, target) == (host.address, 5985)
        host.http_port = None
        await asyncio.to_thread(hosts.call, host.stop())
        await asyncio.to_thread(hosts.call, host.start())
        assert await opened(shells, target) == (host.address, 5986)
        await shells.aclose()

    with HostsThread([host]) as hosts:
        asyncio.run(go(hosts))


def test_a_local_account_and_a_host_known_by_its_address_are_never_the_kdcs_business(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host")
    with HostsThread([host]):
        lab.run(lab.target(host), lab.local_credential(), ECHO, kdcs=lab.kdcs)
        credential = lab.credential()
        lab.prove(credential)
        listed = TrustedCertificate(sha256=hashlib.sha256(host.certificate.der).hexdigest())
        bare = lab.target(host, hostname=host.address, fqdn=None, domain_name=None)
        lab.run(bare, lab.credential(trusted_certificates=(listed,)), ECHO, kdcs=lab.kdcs)
    assert lab.kdc.requests("AS_REQ") == []
    assert [outcome for _, outcome in (*lab.local.attempts, *lab.service.attempts)] == ["ok", "ok"]


def test_a_password_that_a_host_refuses_by_ntlm_is_proven_again_by_the_kdc(lab: KerberosLab) -> None:
    # The first host takes no tickets and refuses; the password is right, so it does so for itself alone.
    host = lab.member("SRV1")
    host.faults.refuse_logons = True
    credential = lab.credential()
    with HostsThread([host]):
        error = refused(lab, lab.target(host), credential)
    assert isinstance(error, errors.NotAuthorisedHereError)
    assert not lab.ledger.is_paused(credential)
    assert lab.ledger.state(credential).state == "proven"
    # Once for the ticket, and once more for the proof.
    assert lab.password_uses() == 2


def test_a_password_that_was_changed_ends_at_the_kdc_after_the_first_host_that_refuses_it(lab: KerberosLab) -> None:
    host = lab.member("SRV1")
    credential = lab.credential("old")
    lab.prove(credential)

    async def go() -> errors.MspError:
        # No KDC at first, so that NTLM meets the host.
        known: list[Kdc] = []
        shells = lab.shells(kdcs=lambda _: tuple(known))
        with pytest.raises(errors.LogonNotAllowedError):
            async with shells.open(lab.target(host), credential):
                pass
        known += lab.kdcs(credential)
        with pytest.raises(errors.LogonRejectedError) as caught:
            async with shells.open(lab.target(host), credential):
                pass
        await shells.aclose()
        return caught.value

    with HostsThread([host]):
        assert asyncio.run(go()).code == "wrong-password"
    assert lab.kdc.failures("svc") == 1
    assert lab.service.bad_password_count == 1


def test_no_kdc_known_is_ntlm_as_ever(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host")
    credential = lab.credential()
    lab.prove(credential)

    def none(_: Credential) -> tuple[Kdc, ...]:
        return ()

    with HostsThread([host]):
        lab.run(lab.target(host), credential, ECHO, kdcs=none)
    assert lab.service.attempts == [("SRV1", "ok")]


def _trusting(lab: KerberosLab, **more: bool) -> HostPolicy:
    return HostPolicy(trusted_cas=(lab.ca.pem.decode(),), **more)


def test_the_password_is_in_no_text_of_a_refusal(lab: KerberosLab) -> None:
    host = lab.member("SRV1", "host")
    with HostsThread([host]):
        error = refused(lab, lab.target(host), lab.credential(LAB_PASSWORD + "x"))
    assert LAB_PASSWORD not in f"{error!r} {error.context}"
