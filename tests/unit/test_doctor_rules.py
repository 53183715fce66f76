"""What findings come to, and what peers that cannot be had here would have shown: the doctor's rules alone."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from msp_sdk.errors import ConfigError, MspError, WireError
from msp_sdk.models.credential import Credential
from msp_sdk.models.finding import STEPS, Finding, Step, fine, judge, not_looked_at, remark, trouble
from msp_sdk.models.target import Target
from msp_sdk.network import probe
from msp_sdk.network.own_networks import OwnNetworks
from msp_sdk.network.resolver import Resolver
from msp_sdk.reachability.diagnosis import Sign
from msp_sdk.reachability.doctor import DoctorOptions, HostDoctor
from msp_sdk.reachability.doctor_case import make_target
from msp_sdk.reachability.doctor_doors import look_at_clock, look_at_ports, look_at_tls, look_at_winrm
from msp_sdk.reachability.doctor_logon import of_error
from msp_sdk.reachability.doctor_look import CertificateLook, DoorLook
from msp_sdk.reachability.doctor_names import (
    ServerAnswer,
    is_block_page,
    look_at_name,
    look_at_network,
    look_at_reverse,
)
from msp_sdk.reachability.doctor_rules import Ways, look_at_rules
from msp_sdk.secret import Secret
from msp_sdk.testing.loopback import take_address
from msp_sdk.windows.doors import Door, HostPolicy
from msp_sdk.wire.converter import loads, structure, unstructure

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
HTTPS, HTTP = Door(5986, tls=True), Door(5985, tls=False)
OURS = OwnNetworks(subnets=(ipaddress.IPv4Network("10.0.0.0/24"),))


# What it all comes to.


def test_nothing_found_is_nothing_wrong():
    assert judge([]).ok


def test_first_trouble_is_the_reason():
    found = [
        fine("name", "."),
        trouble("ports", "winrm-closed"),
        not_looked_at("tls", "x"),
        trouble("logon", "wrong-password"),
    ]
    verdict = judge(found)
    assert (verdict.step, verdict.code, verdict.ok) == ("ports", "winrm-closed", False)
    assert verdict.remedy


def test_remark_is_no_trouble():
    assert judge([remark("tls", "certificate-untrusted", ".")]).ok


def test_what_came_before_a_logon_that_came_about_did_not_stop_it():
    assert judge([trouble("clock", "clock-skew"), fine("logon", ".")]).ok
    verdict = judge(
        [trouble("clock", "clock-skew"), fine("logon", "."), trouble("rights", "needs-local-administrator")]
    )
    assert verdict.step == "rights"


@pytest.mark.parametrize("step", ["ports", "tls", "winrm"])
def test_trouble_at_a_public_address_is_a_strangers(step: Step):
    found = [remark("network", "public-address", "."), trouble(step, "no-answer")]
    assert judge(found).code == "public-address"


def test_clock_explains_a_certificate_that_is_valid_by_the_hosts_time():
    tls = trouble("tls", "certificate-expired")
    assert judge([tls, trouble("clock", "clock-skew", ".", {"explains_certificate": True})]).code == "clock-skew"
    assert (
        judge([tls, trouble("clock", "clock-skew", ".", {"explains_certificate": False})]).code == "certificate-expired"
    )


def test_finding_crosses_the_wire_as_it_is():
    finding = trouble("tls", "wrong-host", ".", {"names": ["a"], "port": 5986, "none": None})
    assert structure(loads(json.dumps(unstructure(finding))), Finding) == finding


# Names.


@pytest.mark.parametrize(
    ("address", "blocked"),
    [
        ("0.0.0.0", True),  # noqa: S104 (what filters answer)
        ("::", True),
        ("127.0.0.1", True),
        ("146.112.61.104", True),
        ("146.112.61.111", True),
        ("146.112.61.112", False),
        ("10.0.0.7", False),
        ("fe80::1%eth0", False),
    ],
)
def test_block_pages_are_known(address: str, blocked: bool):  # noqa: FBT001 (a column)
    # Lesson 50.
    assert is_block_page(address) is blocked


def test_right_answer_of_a_second_server_is_gone_on_with():
    look = look_at_name(
        ("srv1.corp.example",),
        [ServerAnswer("10.0.0.1", ("0.0.0.0",)), ServerAnswer("10.0.0.2", ("10.0.0.7",))],  # noqa: S104
    )
    assert look.finding.code == "dns-filtered"
    assert look.addresses == ("10.0.0.7",)


def test_answer_of_a_server_that_the_work_does_not_ask_is_not_gone_on_with():
    look = look_at_name(
        ("srv1.corp.example",), [ServerAnswer("10.0.0.1"), ServerAnswer("9.9.9.9", ("10.0.0.7",), used=False)]
    )
    assert (look.finding.code, look.addresses) == ("no-address", ())
    assert "9.9.9.9" in look.finding.title


def test_single_label_wants_the_whole_name():
    look = look_at_name(("srv1",), [ServerAnswer("10.0.0.1")])
    assert "whole name" in look.finding.remedy


def test_servers_that_fail_in_two_ways_have_failed():
    failures = [ServerAnswer("a", failure="dns-refused"), ServerAnswer("b", failure="dns-no-answer")]
    assert look_at_name(("x.y",), failures).finding.code == "dns-failed"


@pytest.mark.parametrize(
    ("address", "place", "code"),
    [
        ("10.0.0.7", "own-subnet", None),
        ("10.9.0.7", "private", None),
        ("169.254.1.1", "link-local", None),
        ("8.8.8.8", "public", "public-address"),
    ],
)
def test_place_of_an_address(address: str, place: str, code: str | None):
    finding = look_at_network([address], OURS)
    assert (finding.evidence["places"], finding.code) == ({address: place}, code)


# Doors.


def knock(port: int, state: probe.DoorState, detail: str = "") -> probe.Door:
    return probe.Door("10.0.0.7", port, state, detail)


@pytest.mark.parametrize(
    ("states", "life", "code"),
    [
        (("open", "silent"), (), None),
        (("refused", "silent"), (), "winrm-closed"),
        (("silent", "silent"), (), "no-answer"),
        (("silent", "silent"), (Sign("ping", "10.0.0.7", "answered"),), "winrm-blocked"),
        (("silent", "silent"), (Sign("neighbour", "10.0.0.7", "absent"),), "not-at-address"),
        (("excluded", "excluded"), (), "address-excluded"),
    ],
)
def test_ports_are_judged_as_probes_are(states: tuple[probe.DoorState, ...], life: tuple[Sign, ...], code: str | None):
    # Lesson 56.
    finding = look_at_ports([knock(port, state) for port, state in zip((5986, 5985), states, strict=True)], life)
    assert (finding.code, finding.ok) == (code, code is None)


def test_old_digest_of_a_believed_certificate_near_its_end_is_a_remark():
    certificate = CertificateLook(
        "ab", ("srv1",), "CN=srv1", "CN=ca", NOW, NOW + timedelta(days=5), False, "sha256", "EC 256"
    )
    finding = look_at_tls(DoorLook(HTTPS, "TLSv1.3", certificate, asked_at=NOW), None)
    assert (finding.ok, finding.code) == (True, "certificate-expired")


def test_fault_of_windows_itself_is_told_with_its_status():
    finding = look_at_winrm([DoorLook(HTTP, status=500, server="Microsoft-HTTPAPI/2.0")])
    assert (finding.code, "500" in finding.title) == ("windows-failed", True)


def test_proxy_that_hands_a_logon_on_is_told_since_logons_belong_to_connections():
    finding = look_at_winrm([DoorLook(HTTP, status=401, schemes=("Negotiate",), via="1.1 squid")])
    assert finding.code == "proxy-between"


@pytest.mark.parametrize(("ahead_s", "kerberos", "ok"), [(299, True, True), (301, True, False), (301, False, True)])
def test_five_minutes_are_the_limit_and_matter_to_kerberos_alone(ahead_s: float, kerberos: bool, ok: bool):  # noqa: FBT001 (columns)
    look = DoorLook(HTTP, status=401, date=NOW + timedelta(seconds=ahead_s), asked_at=NOW)
    finding = look_at_clock([look], {}, kerberos=kerberos)
    assert finding.ok is ok


# Rules.


def credential(**changes: object) -> Credential:
    return evolve(Credential.typed("svc@corp.example", Secret("x"), domain_name="corp.example"), **changes)


@pytest.mark.parametrize(
    ("doors", "distrusted", "bar", "allow_ntlm", "expected"),
    [
        ((HTTPS, HTTP), (), None, False, ("kerberos", 5986)),
        ((HTTPS, HTTP), (5986,), None, False, ("kerberos", 5985)),
        ((HTTPS,), (5986,), None, False, "certificate-untrusted"),
        ((HTTPS, HTTP), (5986,), "kdc-unknown", False, "certificate-untrusted"),
        ((HTTPS, HTTP), (), "kdc-unknown", False, ("ntlm", 5986)),
        ((HTTP,), (), "kdc-unknown", False, "ntlm-not-allowed"),
        ((HTTP,), (), "kdc-unknown", True, ("ntlm", 5985)),
    ],
)
def test_way_is_the_one_that_the_work_takes(
    doors: tuple[Door, ...],
    distrusted: tuple[int, ...],
    bar: str | None,
    allow_ntlm: bool,  # noqa: FBT001 (a column)
    expected: object,
):
    target = Target("SRV1", "server", fqdn="srv1.corp.example")
    ways = Ways(doors, frozenset(distrusted), bar)
    finding = look_at_rules(target, credential(), HostPolicy(allow_ntlm=allow_ntlm), ways)
    said = (finding.evidence.get("mechanism"), finding.evidence.get("port")) if finding.ok else finding.code
    assert said == expected


def test_error_without_a_reason_of_its_own_keeps_its_code_in_the_title():
    findings = of_error(MspError("it went wrong.", code="no-such-code"), "svc")
    (failed,) = [finding for finding in findings if finding.ok is False]
    assert failed.code == "internal"
    assert "no-such-code" in failed.title


# The chain.


@pytest.mark.parametrize("host", ["", "  ", "a b", "srv1:5986", "https://srv1", r"\\srv1", "me@srv1"])
def test_what_is_neither_name_nor_address_is_told(host: str):
    with pytest.raises(ConfigError):
        make_target(host, None)


@pytest.mark.parametrize("host", ["10.0.0.7", "[fe80::1]", "fe80::1", " SRV1 ", "srv1.corp.example."])
def test_names_and_addresses_are_taken(host: str):
    assert make_target(host, None).hostname == host.strip().rstrip(".").strip("[]")


def test_whole_is_bounded_and_what_is_left_out_is_said():
    address = take_address()

    async def go() -> list[Finding]:
        doctor = HostDoctor(resolver=Resolver([]), options=DoctorOptions(total_s=0.6, connect_s=0.3, compare=()))
        with closing(socket.create_server((address, 5986))):
            return list((await doctor.examine(address)).findings)

    findings = asyncio.run(go())
    assert [finding.step for finding in findings] == list(STEPS)
    late = [finding for finding in findings if finding.code == "deadline-exceeded" or "in all" in finding.title]
    assert late


def test_examination_that_is_left_early_leaves_nothing_running():
    address = take_address()

    async def go() -> int:
        doctor = HostDoctor(resolver=Resolver([]), options=DoctorOptions(compare=()))
        with closing(socket.create_server((address, 5986))):
            found = doctor.findings(address)
            async for finding in found:
                if finding.step == "ports":
                    break
            await found.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(go()) == 1


def test_time_of_no_kdc_is_an_error_of_the_wire():
    from msp_sdk.reachability.doctor_kdc import parse_time

    with pytest.raises(WireError):
        parse_time(b"\x7e\x02\x30\x00")


def test_reverse_dns_that_could_not_be_asked_is_not_a_name_that_is_not_there():
    nothing, unknown = look_at_reverse("srv1", {"10.0.0.1": ()}), look_at_reverse("srv1", {"10.0.0.1": None})
    assert (nothing.ok, unknown.ok) == (True, None)
    assert "no name" in nothing.title
    half = look_at_reverse("srv1", {"10.0.0.1": None, "10.0.0.2": ("srv2",)})
    assert (half.code, half.evidence) == ("reverse-name-differs", {"names": {"10.0.0.2": ["srv2"]}})
