"""Every trouble of a host, made by real peers: the doctor names the true reason, a remedy, and logs on where it may."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen
from cryptography.hazmat.primitives import hashes

from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.finding import STEPS
from msp_sdk.models.reason import REASONS
from msp_sdk.models.target import Target
from msp_sdk.network.kdcs import Kdc
from msp_sdk.testing.dns import DnsZone
from msp_sdk.testing.loopback import take_address
from msp_sdk.windows import faults
from tests.unit.doctor_lab import (
    FQDN,
    DoctorLab,
    hangs_up,
    http_answer,
    keeps_silent,
    make_certificate,
    says,
)


def zone_of(address: str | None) -> DnsZone:
    zone = DnsZone("corp.example")
    if address is not None:
        zone.add_address("srv1", address)
    return zone


def answered_by_filter(lab: DoctorLab, address: str) -> None:
    lab.more_zones = [lab.zone]
    lab.zone = zone_of(address)


def with_proof(lab: DoctorLab, **changes: Any) -> None:
    """The domain's credential, proven at a controller."""
    lab.credential = evolve(lab.lab.domain_credential(), **changes)
    lab.lab.prove(lab.credential)


def local(lab: DoctorLab, password: str | None = None) -> None:
    lab.credential = lab.lab.local_credential() if password is None else lab.lab.local_credential(password)


def no_dns(lab: DoctorLab) -> None:
    lab.has_dns = False


def dns_silent(lab: DoctorLab) -> None:
    lab.dns = lambda server: setattr(server.faults, "silent", True)


def dns_fails(lab: DoctorLab) -> None:
    lab.dns = lambda server: setattr(server.faults, "fail", True)


def dns_refuses(lab: DoctorLab) -> None:
    import dns.rcode

    def refuse(server: Any) -> None:
        server.faults.fail, server.faults.rcode = True, dns.rcode.REFUSED

    lab.dns = refuse


def first_server_ignorant(lab: DoctorLab) -> None:
    lab.more_zones = [lab.zone]
    lab.zone = zone_of(None)


def off(lab: DoctorLab) -> None:
    lab.host = None
    lab.move_to(take_address())


def firewalled(lab: DoctorLab) -> None:
    off(lab)
    lab.silent_ports = (5985, 5986)


def own_certificate(**how: Any) -> Callable[[DoctorLab], None]:
    def arrange(lab: DoctorLab) -> None:
        certificate = make_certificate(**how)
        if "ends_in_days" in how or "begins_in_days" in how or "digest" in how:
            lab.trusts = (certificate.cert_pem.decode(),)
        lab.replace_host(http=False, certificate=certificate)

    return arrange


def trusting_nobody(lab: DoctorLab) -> None:
    lab.trusts = ()


def stale_record(lab: DoctorLab) -> None:
    lab.replace_host(http=False, certificate_name="other.corp.example")


def service(state: str) -> Callable[[DoctorLab], None]:
    def arrange(lab: DoctorLab) -> None:
        assert lab.host is not None
        lab.host.faults.service = state  # type: ignore[assignment]

    return arrange


def host_fault(**values: Any) -> Callable[[DoctorLab], None]:
    def arrange(lab: DoctorLab) -> None:
        assert lab.host is not None
        local(lab)
        for name, value in values.items():
            setattr(lab.host.faults, name, value)

    return arrange


def peer(port: int, talk: Any, *, tls: bool = False) -> Callable[[DoctorLab], None]:
    def arrange(lab: DoctorLab) -> None:
        lab.put_peer(port, talk, lab.lab.ca.issue([FQDN]) if tls else None)

    return arrange


def clock_of_host(lab: DoctorLab) -> None:
    assert lab.host is not None
    lab.host.machine.clock.skew = timedelta(minutes=20)


def our_clock_makes_it_expired(lab: DoctorLab) -> None:
    # The host and its CA live a year ago: by the host's clock the certificate is good.
    own_certificate(begins_in_days=-400, ends_in_days=-300)(lab)
    assert lab.host is not None
    lab.host.machine.clock.skew = timedelta(days=-350)


def domain_admin(lab: DoctorLab) -> None:
    with_proof(lab, type="domain_admin")


def site_wide_local_that_is_none(lab: DoctorLab) -> None:
    local(lab)
    assert lab.credential is not None
    lab.credential = evolve(lab.credential, username=r"CORP\admin")


def http_only(lab: DoctorLab) -> None:
    lab.replace_host(https=False)
    with_proof(lab)


def unproven(lab: DoctorLab) -> None:
    lab.credential = lab.lab.domain_credential()


def refused_before(lab: DoctorLab) -> None:
    lab.credential = lab.lab.domain_credential()
    lab.lab.ledger.refuse(lab.credential, "account-locked")


def no_administrator(lab: DoctorLab) -> None:
    with_proof(lab, username="plain@corp.example")


def other_machine(lab: DoctorLab) -> None:
    lab.replace_host(https=False)
    assert lab.host is not None
    lab.host.machine.name = "SRV9"
    lab.lab.local.domain = "SRV9"
    lab.lab.local.administers = frozenset({"srv9"})
    local(lab)


def machine(**values: Any) -> Callable[[DoctorLab], None]:
    def arrange(lab: DoctorLab) -> None:
        assert lab.host is not None
        local(lab)
        for name, value in values.items():
            setattr(lab.host.machine, name, value)

    return arrange


def no_shell_left(lab: DoctorLab) -> None:
    local(lab)
    assert lab.host is not None
    lab.host.shells.quotas.shells_per_user = 0


@frozen
class Trouble:
    """What is wrong, and what the doctor must say. ``logons``: how many the host may see."""

    name: str
    arrange: Callable[[DoctorLab], Any]
    step: str
    code: str
    remedy: str
    logons: int = 0
    title: str = ""
    strikes: int = field(default=0)


TROUBLES = (
    Trouble("no-dns-server", no_dns, "name", "no-dns-server", "resolver"),
    Trouble("dns-silent", dns_silent, "name", "dns-no-answer", "DNS servers"),
    Trouble("dns-refuses", dns_refuses, "name", "dns-refused", "DNS server of the domain"),
    Trouble("dns-fails", dns_fails, "name", "dns-failed", "DNS servers"),
    Trouble("no-such-name", lambda lab: setattr(lab, "asked", "srv7.corp.example"), "name", "no-address", "DNS record"),
    Trouble("filter-0.0.0.0", lambda lab: answered_by_filter(lab, "0.0.0.0"), "name", "dns-filtered", "domain's own"),  # noqa: S104
    Trouble(
        "filter-page", lambda lab: answered_by_filter(lab, "146.112.61.106"), "name", "dns-filtered", "domain's own"
    ),
    Trouble("first-server-ignorant", first_server_ignorant, "name", "dns-differs", "replication"),
    Trouble("closed", off, "ports", "winrm-closed", "Group Policy", title="refused"),
    # At an address of our own nobody else could give a sign of life; tests/lab/test_probing.py has a link.
    Trouble("firewalled", firewalled, "ports", "no-answer", "Switch it on", title="silent"),
    Trouble("tls-silent", peer(5986, keeps_silent), "tls", "winrm-silent", "Restart the WinRM service"),
    Trouble("tls-hangs-up", peer(5986, hangs_up), "tls", "connection-lost", "Bind a certificate"),
    Trouble("ssh-on-5986", peer(5986, says(b"SSH-2.0-x\r\n", first=True)), "tls", "encryption-refused", "5986"),
    Trouble("tls-1.1", own_certificate(newest=ssl.TLSVersion.TLSv1_1), "tls", "tls-too-old", "TLS 1.2"),
    Trouble("self-signed", own_certificate(), "tls", "certificate-untrusted", "List", title="signed by itself"),
    Trouble("unknown-ca", trusting_nobody, "tls", "certificate-untrusted", "List", title="Corp CA"),
    Trouble("expired", own_certificate(ends_in_days=-1), "tls", "certificate-expired", "Renew", title="has expired"),
    Trouble("not-yet-valid", own_certificate(begins_in_days=9), "tls", "certificate-expired", "clock", title="begins"),
    Trouble("weak", own_certificate(digest=hashes.SHA256(), rsa_bits=1024), "tls", "certificate-weak", "2048"),
    Trouble("certificate-of-another", stale_record, "tls", "wrong-host", "stale DNS", title="other.corp.example"),
    Trouble("no-listener", service("stopped"), "winrm", "winrm-closed", "listener", title="no listener"),
    Trouble("service-stopped", service("starting"), "winrm", "winrm-closed", "Start the WinRM service"),
    Trouble("silent", host_fault(silent=True), "winrm", "winrm-silent", "Restart"),
    Trouble("iis", peer(5985, says(http_answer(404, server="Microsoft-IIS/10.0"))), "winrm", "not-winrm", "listens"),
    Trouble("open-to-all", peer(5985, says(http_answer(200))), "winrm", "not-winrm", "listens", title="no logon"),
    Trouble("ssh-on-5985", peer(5985, says(b"SSH-2.0-x\r\n", first=True)), "winrm", "not-winrm", "listens"),
    Trouble("hangs-up", peer(5985, hangs_up), "winrm", "connection-lost", "", title="hangs up"),
    Trouble(
        "proxy",
        peer(5985, says(http_answer(502, "Via: 1.1 squid", server="squid"))),
        "winrm",
        "proxy-between",
        "without a proxy",
    ),
    Trouble(
        "basic-alone",
        peer(5986, says(http_answer(401, 'WWW-Authenticate: Basic realm="WSMAN"')), tls=True),
        "winrm",
        "no-mechanism",
        "Negotiate",
    ),
    Trouble("clock", clock_of_host, "clock", "clock-skew", "w32tm", title="20 min ahead of"),
    Trouble("our-clock", our_clock_makes_it_expired, "clock", "clock-skew", "Correct the time", title="behind"),
    Trouble("domain-admin", domain_admin, "rules", "domain-admin-not-allowed", "service account"),
    Trouble("not-local", site_wide_local_that_is_none, "rules", "not-a-local-account", "service_account"),
    Trouble("ntlm-over-http", http_only, "rules", "ntlm-not-allowed", "HTTPS listener"),
    Trouble("unproven", unproven, "logon", "credential-unproven", "once it is"),
    Trouble("refused-before", refused_before, "logon", "account-locked", "Unlock"),
    Trouble("wrong-password", lambda lab: local(lab, "nope"), "logon", "wrong-password", "exactly one", 1, strikes=1),
    Trouble("logon-cut", host_fault(drop_logons=1), "logon", "connection-lost", "", 1),
    Trouble("no-shell-left", no_shell_left, "shell", "quota-exceeded", "tried again", 1),
    Trouble(
        "no-right",
        host_fault(refuse_with={"Create": faults.ACCESS_DENIED}),
        "rights",
        "needs-local-administrator",
        "administrator",
        1,
    ),
    Trouble("no-administrator", no_administrator, "rights", "needs-local-administrator", "administrator", 1),
    Trouble("other-machine", other_machine, "identity", "wrong-host", "DNS", 1, title="SRV9"),
    Trouble("restricted", machine(language_mode="ConstrainedLanguage"), "powershell", "language-restricted", "full", 1),
    Trouble("powershell-2", machine(powershell_version="2.0"), "powershell", "unsupported-os", "5.1", 1),
)  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> DoctorLab:
    return DoctorLab.make(tmp_path)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_true_reason_and_remedy_are_named_and_no_logon_is_wasted(lab: DoctorLab, trouble: Trouble):
    # Lessons 50, 54, 57 and 32.
    trouble.arrange(lab)
    examined = lab.examine()
    verdict = examined.verdict
    assert f"{verdict.step}: {verdict.code}" == f"{trouble.step}: {trouble.code}", verdict.title
    assert trouble.remedy in verdict.remedy
    assert trouble.title in verdict.title
    assert not examined.ok
    assert lab.logon_count == trouble.logons
    assert sum(account.bad_password_count for account in lab.lab.accounts.all) == trouble.strikes
    # Whatever is wrong, each step has its finding, in its place, with reasons of the one table.
    assert tuple(found.step for found in examined.findings) == STEPS
    assert {found.code for found in examined.findings if found.code} <= set(REASONS)
    told = repr(examined)
    assert lab.lab.local.password not in told
    if lab.host is not None:
        assert lab.host.machine.violations == []


def test_there_are_at_least_eighteen_troubles():
    assert len({trouble.name for trouble in TROUBLES}) >= 18


def test_healthy_host_without_a_credential_sees_no_logon(lab: DoctorLab):
    examined = lab.examine()
    assert examined.ok
    assert [found.step for found in examined.findings if found.ok is False] == []
    assert {found.step for found in examined.findings if found.ok} >= {
        "name",
        "ports",
        "tls",
        "winrm",
        "clock",
        "rules",
    }
    assert lab.logon_count == 0


@pytest.mark.parametrize("arrange", [local, with_proof], ids=["local", "domain"])
def test_healthy_host_is_logged_on_to_once_and_every_step_after_it_is_fine(lab: DoctorLab, arrange: Any):
    arrange(lab)
    examined = lab.examine()
    assert examined.ok
    assert [found.step for found in examined.findings[-5:] if found.ok] == list(STEPS[-5:])
    assert lab.logon_count == 1
    assert lab.host is not None
    assert lab.host.shells.shells == {}


def test_refused_version_is_said_and_shown_to_nobody_again(lab: DoctorLab):
    # Lesson 32.
    local(lab, "nope")
    first, second = lab.examine_times(2)
    assert first.verdict.code == second.verdict.code == "wrong-password"
    assert lab.logon_count == 1
    assert lab.lab.local.bad_password_count == 1


def test_excluded_address_is_touched_by_nothing(lab: DoctorLab):
    # Lesson 61.
    local(lab)
    lab.excluded = (f"{lab.address}/32",)
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("ports", "address-excluded")
    assert lab.host is not None
    assert lab.host.connection_count == 0


def test_door_of_https_without_a_certificate_is_passed_by_and_said(lab: DoctorLab):
    # Lesson 36.
    lab.replace_host(https=False)
    local(lab)
    lab.peers[5986] = (hangs_up, None)
    examined = lab.examine()
    assert examined.ok
    tls = examined.findings[STEPS.index("tls")]
    assert (tls.ok, tls.code) == (True, "connection-lost")
    assert examined.findings[STEPS.index("rules")].evidence["port"] == 5985
    assert lab.logon_count == 1


def test_short_name_is_found_by_the_search_domain(lab: DoctorLab):
    lab.asked = "SRV1"
    examined = lab.examine()
    assert examined.ok
    assert examined.findings[0].evidence["name"] == FQDN


def test_address_is_examined_without_dns(lab: DoctorLab):
    lab.has_dns = False
    lab.trusts = ()
    assert lab.host is not None
    lab.asked = lab.host.address
    examined = lab.examine()
    assert examined.findings[0].ok
    # No name can be compared, and the certificate is nobody's.
    assert examined.verdict.code == "certificate-untrusted"


def test_addresses_that_are_known_already_are_gone_by_whatever_dns_says(lab: DoctorLab):
    # As the work does: a target of the directory travels with its addresses.
    lab.has_dns = False
    lab.asked = Target("SRV1", "server", fqdn=FQDN, ip_addresses=(lab.address,))
    local(lab)
    examined = lab.examine()
    assert examined.ok
    assert (examined.findings[0].ok, examined.findings[0].code) == (True, "no-dns-server")
    assert lab.logon_count == 1


def test_stale_record_of_a_target_is_a_remark(lab: DoctorLab):
    # Lesson 54.
    lab.asked = Target("SRV1", "server", fqdn=FQDN, ip_addresses=(lab.address,))
    lab.zone.remove("srv1")
    lab.zone.add_address("srv1", take_address())
    examined = lab.examine()
    assert examined.ok
    assert examined.findings[0].code == "dns-differs"


def test_domain_called_local_is_asked_of_dns_alone(lab: DoctorLab):
    # Lesson 57.
    lab.zone = DnsZone("corp.local")
    lab.zone.add_address("srv1", lab.address)
    lab.asked = "srv1.corp.local"
    examined = lab.examine()
    name = examined.findings[0]
    assert name.ok
    assert name.evidence["mdns_name"] is True


def test_filter_beside_the_domains_servers_is_a_remark(lab: DoctorLab):
    # Lesson 50.
    lab.compare_zone = zone_of("0.0.0.0")  # noqa: S104 (what filters answer)
    examined = lab.examine()
    assert examined.ok
    remark = examined.findings[STEPS.index("dns-servers")]
    assert (remark.ok, remark.code) == (True, "dns-filtered")


def test_servers_that_differ_are_a_remark_and_the_first_one_counts(lab: DoctorLab):
    lab.more_zones = [zone_of(take_address())]
    examined = lab.examine()
    assert examined.ok
    assert examined.findings[STEPS.index("dns-servers")].code == "dns-differs"


def test_target_of_the_directory_is_compared_by_its_sid(lab: DoctorLab):
    local(lab)
    assert lab.host is not None
    lab.asked = Target("SRV1", "server", fqdn=FQDN, domain_name="corp.example", sid="S-1-5-21-1-2-3-1104")
    examined = lab.examine()
    assert (examined.verdict.step, examined.verdict.code) == ("identity", "wrong-host")
    assert lab.logon_count == 1


def test_execution_policy_of_group_policy_is_a_remark_since_our_scripts_are_no_files(lab: DoctorLab):
    local(lab)
    assert lab.host is not None
    lab.host.machine.notes["group_execution_policy"] = "AllSigned"
    examined = lab.examine()
    assert examined.ok
    last = examined.findings[-1]
    assert (last.ok, last.code) == (True, "execution-policy")
    assert "AllSigned" in last.title


def test_excluded_controller_is_not_asked_for_the_time(lab: DoctorLab):
    # Lesson 61.
    with socket.create_server((take_address(), 0)) as listening:
        address, port = listening.getsockname()
        local(lab)
        controller = DomainController("dc1.corp.example", port, (address,))
        lab.domain = Domain("corp.example", (controller,), datetime.now(UTC))
        lab.kdcs = lambda _: (Kdc(address, "CORP.EXAMPLE", port),)
        lab.excluded = (address,)
        lab.examine()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
