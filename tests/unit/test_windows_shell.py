"""The way onto a host: doors, certificates, logons, and nothing in clear; against real NTLM, sealing and TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msp_sdk import errors
from msp_sdk.models.credential import Credential, TrustedCertificate
from msp_sdk.models.target import Target
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab, RecordingFront
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.shell import HostPolicy
from tests.unit.echo_scripts import ECHO, WRITE


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


@contextmanager
def fronted(host: WsmanHost) -> Iterator[RecordingFront]:
    with HostsThread([host]):
        front = RecordingFront(host)
        try:
            yield front
        finally:
            front.close()
    assert host.machine.violations == []


def test_script_runs_over_https_with_a_domain_credential_and_channel_binding(lab: HostLab) -> None:
    host = lab.host(http=False)
    credential = lab.domain_credential()
    lab.prove(credential)
    with HostsThread([host]):
        (result,) = lab.run(lab.target(host), credential, ECHO, parameters={"x": 1})
    assert result.value["parameters"] == {"x": 1}
    assert result.host.computer_name == "SRV1"
    assert result.host.is_administrator
    assert lab.service.attempts == [("SRV1", "ok")]
    assert host.machine.violations == []
    assert host.shells.shells == {}


def test_script_runs_over_http_with_every_message_sealed(lab: HostLab) -> None:
    host = lab.host(https=False)
    with fronted(host) as front:
        (result,) = lab.run(
            lab.target(host, ip_addresses=(front.address,)),
            lab.local_credential(),
            ECHO,
            payload=bytes(range(256)) * 1000,
        )
        front.assert_nothing_in_clear()
    assert result.value["payload_bytes"] == 256_000
    assert result.value["sum"] == sum(range(256)) * 1000


def test_nothing_goes_in_clear_after_a_reset_of_the_first_attempt(lab: HostLab) -> None:
    # Lesson 34: a first attempt that fails must not make the second one speak in clear.
    host = lab.host(https=False)
    with fronted(host) as front:
        target = lab.target(host, ip_addresses=(front.address,))
        front.reset_next = 2
        with pytest.raises(errors.UnreachableError) as caught:
            lab.run(target, lab.local_credential(), ECHO)
        assert caught.value.code == "connection-lost"
        front.reset_next = 1
        assert lab.run(target, lab.local_credential(), ECHO)
        front.assert_nothing_in_clear()
    assert lab.local.attempts == [("SRV1", "ok")]


def test_nothing_goes_in_clear_after_a_wrong_password_and_it_is_never_shown_again(lab: HostLab) -> None:
    # Lessons 32 and 34.
    host = lab.host(https=False)
    with fronted(host) as front:
        target = lab.target(host, ip_addresses=(front.address,))
        with pytest.raises(errors.LogonRejectedError):
            lab.run(target, lab.local_credential("wrong"), ECHO)
        connections = front.connection_count
        with pytest.raises(errors.LogonNotAllowedError) as caught:
            lab.run(target, lab.local_credential("wrong"), ECHO)
        assert caught.value.code == "wrong-password"
        assert front.connection_count == connections
        front.assert_nothing_in_clear()
    assert lab.local.bad_password_count == 1


def test_nothing_goes_in_clear_in_concurrent_use(lab: HostLab) -> None:
    # Lesson 34: eight shells at once on one host, with one credential.
    host = lab.host(https=False)

    async def go(target: Target) -> list[object]:
        shells = lab.shells()

        async def one(number: int) -> object:
            async with shells.open(target, lab.local_credential()) as shell:
                return (await shell.run(ECHO, {"n": number}, deadline_s=20)).value["parameters"]

        try:
            return await asyncio.gather(*(one(number) for number in range(8)))
        finally:
            await shells.aclose()

    with fronted(host) as front:
        results = asyncio.run(go(lab.target(host, ip_addresses=(front.address,))))
        front.assert_nothing_in_clear()
    assert results == [{"n": number} for number in range(8)]


def test_connection_that_idled_out_is_renewed_by_another_logon_of_the_ledger(lab: HostLab) -> None:
    # Lesson 34: after an idle close a reconnect is a logon, and sealed.
    host = lab.host(https=False)

    async def go(target: Target, hosts: HostsThread) -> None:
        shells = lab.shells()
        async with shells.open(target, lab.local_credential()) as shell:
            await shell.run(ECHO, {}, deadline_s=10)
            await asyncio.to_thread(hosts.call, host.cut_connections())
            await shell.run(WRITE, {}, deadline_s=10)
        await shells.aclose()

    with HostsThread([host]) as hosts:
        front = RecordingFront(host)
        asyncio.run(go(lab.target(host, ip_addresses=(front.address,)), hosts))
        front.close()
    front.assert_nothing_in_clear()
    assert host.machine.violations == []
    assert host.logon_count == 2
    assert [call.script for call in host.machine.calls] == ["test-echo", "test-write"]


def test_restart_of_the_service_is_survived_with_a_new_shell(lab: HostLab) -> None:
    host = lab.host(https=False)

    async def go(target: Target, hosts: HostsThread) -> None:
        shells = lab.shells()
        async with shells.open(target, lab.local_credential()) as shell:
            await asyncio.to_thread(hosts.call, host.stop())
            await asyncio.to_thread(hosts.call, host.start())
            await shell.run(ECHO, {}, deadline_s=10)
        await shells.aclose()

    with HostsThread([host]) as hosts:
        asyncio.run(go(lab.target(host), hosts))
    assert host.machine.violations == []


def test_eight_threads_with_an_unproven_wrong_credential_make_one_logon(lab: HostLab) -> None:
    # Lesson 32: 64 threads in flight must not be 64 strikes.
    hosts = [lab.host(f"SRV{number}", https=False) for number in range(1, 9)]
    wrong = lab.local_credential("wrong", type="winrm", username=r"CORP\svc")

    async def go() -> list[object]:
        shells = lab.shells()

        async def one(host: WsmanHost) -> None:
            async with shells.open(lab.target(host), wrong):
                pass

        try:
            return await asyncio.gather(*(one(host) for host in hosts), return_exceptions=True)
        finally:
            await shells.aclose()

    with HostsThread(hosts):
        outcomes = asyncio.run(go())
    assert all(isinstance(outcome, errors.LogonError) for outcome in outcomes)
    assert lab.service.bad_password_count == 1
    assert sum(host.logon_count for host in hosts) == 1


def test_unproven_domain_credential_is_shown_to_no_host(lab: HostLab) -> None:
    host = lab.host()
    with HostsThread([host]), pytest.raises(errors.LogonNotAllowedError) as caught:
        lab.run(lab.target(host), lab.domain_credential(), ECHO)
    assert caught.value.code == "credential-unproven"
    assert host.logon_count == 0


def test_proven_credential_that_one_host_refuses_is_proven_again_and_only_that_host_is_given_up(lab: HostLab) -> None:
    # Lesson 32 and the ledger's rule: the password is right, the host says no for itself.
    refusing, good = lab.host("SRV1"), lab.host("SRV2")
    refusing.faults.refuse_logons = True
    credential = lab.domain_credential()
    lab.prove(credential)
    proven: list[str] = []

    async def prove(again: Credential) -> None:
        proven.append(again.id)
        await asyncio.to_thread(lab.prove, again)

    with HostsThread([refusing, good]):
        for _ in range(2):
            with pytest.raises(errors.NotAuthorisedHereError):
                lab.run(lab.target(refusing), credential, ECHO, prove=prove)
        assert lab.run(lab.target(good), credential, ECHO, prove=prove)
    assert proven == ["c1"]
    assert refusing.logon_count == 1


def test_proven_credential_that_a_host_and_then_the_controller_refuse_has_ended(lab: HostLab) -> None:
    host = lab.host()
    host.faults.refuse_logons = True
    credential = lab.domain_credential()
    lab.prove(credential)

    async def prove(again: Credential) -> None:
        with lab.ledger.attempt(again, place="controller", host="dc1") as attempt:
            attempt.refused("wrong-password")
        raise errors.LogonRejectedError("refused.")

    with HostsThread([host]), pytest.raises(errors.LogonRejectedError):
        lab.run(lab.target(host), credential, ECHO, prove=prove)
    assert lab.ledger.state(credential).state == "refused"


def test_host_that_refuses_a_proven_credential_pauses_it_while_no_controller_can_be_asked(lab: HostLab) -> None:
    host = lab.host()
    host.faults.refuse_logons = True
    credential = lab.domain_credential()
    lab.prove(credential)

    async def prove(again: Credential) -> None:
        raise errors.UnreachableError("no controller answers.")

    with HostsThread([host]), pytest.raises(errors.LogonNotAllowedError) as caught:
        lab.run(lab.target(host), credential, ECHO, prove=prove)
    assert (caught.value.code, caught.value.retryable) == ("credential-paused", True)


def test_logon_whose_answer_was_lost_is_not_repeated_by_itself_and_twice_lost_is_the_end(lab: HostLab) -> None:
    # Lesson 32: it may have been a strike.
    host = lab.host(https=False)
    host.faults.drop_logons = 2
    with HostsThread([host]):
        for logons in (1, 2):
            with pytest.raises(errors.UnreachableError):
                lab.run(lab.target(host), lab.local_credential(), ECHO)
            assert host.logon_count == logons
        with pytest.raises(errors.LogonNotAllowedError) as caught:
            lab.run(lab.target(host), lab.local_credential(), ECHO)
    assert caught.value.code == "logon-outcome-unknown"
    assert host.logon_count == 2


def test_domain_credential_goes_over_http_only_where_the_site_allows_ntlm(lab: HostLab) -> None:
    host = lab.host(https=False)
    credential = lab.domain_credential()
    lab.prove(credential)
    with HostsThread([host]):
        with pytest.raises(errors.LogonNotAllowedError) as caught:
            lab.run(lab.target(host), credential, ECHO)
        assert caught.value.code == "ntlm-not-allowed"
        assert (host.logon_count, host.operations) == (0, [])
        assert lab.run(lab.target(host), credential, ECHO, policy=HostPolicy(allow_ntlm=True))


def test_domain_admin_is_shown_to_controllers_and_elsewhere_only_where_allowed(lab: HostLab) -> None:
    host = lab.host()
    credential = lab.domain_credential(type="domain_admin")
    lab.prove(credential)
    trusted = (lab.ca.pem.decode(),)
    with HostsThread([host]):
        with pytest.raises(errors.LogonNotAllowedError) as caught:
            lab.run(lab.target(host), credential, ECHO)
        assert caught.value.code == "domain-admin-not-allowed"
        assert host.connection_count == 0
        assert lab.run(lab.target(host, role="domain_controller"), credential, ECHO)
        allowed = HostPolicy(allow_domain_admin_on_hosts=True, trusted_cas=trusted)
        assert lab.run(lab.target(host), credential, ECHO, policy=allowed)


def test_another_machine_by_name_is_wrong_host_and_nothing_is_written(lab: HostLab) -> None:
    # Lesson 54: a stale A record led to the wrong machine.
    host = lab.host("OTHER", https=False)
    credential = lab.local_credential(type="winrm", username=r"CORP\svc")
    with HostsThread([host]), pytest.raises(errors.WrongHostError):
        lab.run(lab.target(host, name="SRV1"), credential, WRITE)
    assert "written" not in host.machine.notes


def test_another_machine_by_sid_is_wrong_host_and_nothing_is_written(lab: HostLab) -> None:
    # Lesson 54: a re-imaged machine, or a twin with the same name.
    host = lab.host(https=False)
    with HostsThread([host]), pytest.raises(errors.WrongHostError):
        lab.run(lab.target(host, sid="S-1-5-21-1-2-3-1104"), lab.local_credential(), WRITE)
    assert "written" not in host.machine.notes


def test_certificate_for_another_name_is_wrong_host_before_any_logon(lab: HostLab) -> None:
    host = lab.host(certificate_name="other.corp.example")
    with HostsThread([host]), pytest.raises(errors.WrongHostError):
        lab.run(lab.target(host), lab.local_credential(), ECHO)
    assert (host.logon_count, host.operations, lab.local.attempts) == (0, [], [])


def test_untrusted_certificate_ends_before_any_logon_unless_it_is_listed(lab: HostLab) -> None:
    # Lesson 35: checks are never switched off; a listed certificate is believed by its digest.
    host = lab.host(http=False)
    assert host.certificate is not None
    strangers = HostPolicy(trusted_cas=(EstateCA.make("Somebody").pem.decode(),))
    listed = (TrustedCertificate(sha256=host.certificate.sha256),)
    with HostsThread([host]):
        for policy in (strangers, HostPolicy()):
            with pytest.raises(errors.WindowsError) as caught:
                lab.run(lab.target(host), lab.local_credential(), ECHO, policy=policy)
            assert caught.value.code == "certificate-untrusted"
            assert caught.value.context["sha256"] == host.certificate.sha256
        assert host.logon_count == 0
        assert lab.run(lab.target(host), lab.local_credential(trusted_certificates=listed), ECHO, policy=HostPolicy())


def test_account_without_a_shell_right_needs_local_administrator_and_the_password_counts_as_proven(
    lab: HostLab,
) -> None:
    host = lab.host()
    credential = lab.domain_credential(username=r"CORP\plain")
    lab.prove(credential)
    with HostsThread([host]), pytest.raises(errors.NotAuthorisedHereError) as caught:
        lab.run(lab.target(host), credential, ECHO)
    assert caught.value.code == "needs-local-administrator"
    assert lab.ledger.state(credential).state == "proven"


def test_closed_and_silent_doors_are_told_apart(lab: HostLab) -> None:
    # Lesson 56: silence is not "off", and a refusal says that the host is on.
    host = lab.host()
    with pytest.raises(errors.UnreachableError) as caught:
        lab.run(lab.target(host), lab.local_credential(), ECHO)
    assert (caught.value.code, caught.value.retryable) == ("winrm-closed", True)
    with pytest.raises(errors.UnreachableError) as caught:
        lab.run(lab.target(host, ip_addresses=()), lab.local_credential(), ECHO)
    assert caught.value.code == "no-address"
    with socket.create_server((host.address, 5986), backlog=1) as full:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        with pytest.raises(errors.UnreachableError) as caught:
            lab.run(lab.target(host, use_ssl=True), lab.local_credential(), ECHO)
        for filler in fillers:
            filler.close()
    assert caught.value.code == "no-answer"


def test_password_is_in_no_log_and_no_exception(lab: HostLab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("requests", "urllib3", "spnego", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    # Traces show the source, and so must not find it there.
    wrong = "terces-tub-gnorw"[::-1]
    host = lab.host(https=False)
    seen: list[str] = []
    with HostsThread([host]):
        lab.run(lab.target(host), lab.local_credential(), ECHO)
        try:
            lab.run(lab.target(host), lab.local_credential(wrong, id="c9"), ECHO)
        except errors.MspError as error:
            link: BaseException | None = error
            while link is not None:
                seen += [repr(link), str(link), *traceback.format_exception(link)]
                link = link.__cause__ or link.__context__
    assert seen
    everything = "\n".join([caplog.text, *seen])
    assert LAB_PASSWORD not in everything
    assert wrong not in everything
