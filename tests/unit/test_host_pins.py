"""Certificates of hosts that a person has pinned: kept, alarming, reset; and Basic, which is no way around TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from msp_sdk import errors
from msp_sdk.models.credential import Credential
from msp_sdk.network.host_pins import HostPin, HostPins, pin_of
from msp_sdk.provisioning.config import write_atomically
from msp_sdk.secret import Secret
from msp_sdk.testing.host_lab import LAB_PASSWORD, HostLab
from msp_sdk.testing.wsman import HostsThread
from msp_sdk.windows.doors import HostPolicy, basic_applies
from msp_sdk.windows.scripts import load

NOW = datetime(2026, 5, 4, tzinfo=UTC)
DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def pins(tmp_path: Path) -> HostPins:
    return HostPins(tmp_path / "pins.json", write_atomically)


@pytest.fixture
def lab(tmp_path: Path) -> HostLab:
    return HostLab(tmp_path)


def test_a_pin_is_kept_by_folded_name_replaced_and_reset(pins: HostPins) -> None:
    assert pins.all() == ()
    assert pins.pin("SRV1.corp.example.", ":".join([DIGEST[:2].upper()] * 32), now=NOW).sha256 == DIGEST
    pins.pin("srv2", DIGEST, now=NOW)
    pins.pin("srv1.CORP.example", OTHER, now=NOW)
    assert pins.all() == (HostPin("srv1.corp.example", OTHER, NOW), HostPin("srv2", DIGEST, NOW))
    assert pin_of(pins.all(), ("SRV1.corp.example", "SRV1")) == OTHER
    assert pin_of(pins.all(), ("", "SRV9")) is None
    assert pins.reset("SRV1.corp.example") is True
    assert pins.reset("srv1.corp.example") is False
    assert [pin.host for pin in pins.all()] == ["srv2"]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {}}', '{"a": {"sha256": "x", "pinned_at": "2026-05-04"}}', "\xff"])
def test_damaged_pins_are_an_error_and_not_no_pins(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pins.json"
    path.write_text(text, encoding="latin-1")
    pins = HostPins(path, write_atomically)
    with pytest.raises(errors.ConfigError) as caught:
        pins.all()
    assert caught.value.code == "bad-pins"
    with pytest.raises(errors.ConfigError):
        pins.pin("srv1", DIGEST)
    assert path.read_text(encoding="latin-1") == text


def policy_with(*pins: HostPin, **changes: object) -> HostPolicy:
    return evolve(HostPolicy(pins=pins), **changes)


def test_a_pinned_certificate_stands_in_for_a_ca_lesson_35(lab: HostLab) -> None:
    host = lab.host(http=False)
    assert host.certificate is not None
    policy = policy_with(HostPin("srv1.corp.example", host.certificate.sha256, NOW))
    with HostsThread([host]):
        (result,) = lab.run(lab.target(host), lab.local_credential(), load("identify"), policy=policy)
    assert result.host.computer_name == "SRV1"


def test_another_certificate_than_the_pinned_one_is_an_alarm_and_nothing_is_sent(lab: HostLab) -> None:
    host = lab.host()
    policy = policy_with(HostPin("srv1.corp.example", OTHER, NOW))
    with HostsThread([host]), pytest.raises(errors.WindowsError) as caught:
        lab.run(lab.target(host), lab.local_credential(), load("identify"), policy=policy)
    assert caught.value.code == "certificate-changed"
    assert caught.value.context["pinned"] == OTHER
    assert host.certificate is not None
    assert caught.value.context["sha256"] == host.certificate.sha256
    assert "reset" in (caught.value.remedy or "")
    # Not by the other door either: what shows another certificate may be another machine.
    assert host.logon_count == 0


def test_a_pin_of_one_host_opens_no_other(lab: HostLab) -> None:
    host = lab.host(http=False)
    assert host.certificate is not None
    policy = policy_with(HostPin("srv2.corp.example", host.certificate.sha256, NOW))
    with HostsThread([host]), pytest.raises(errors.WindowsError) as caught:
        lab.run(lab.target(host), lab.local_credential(), load("identify"), policy=policy)
    assert caught.value.code == "certificate-untrusted"
    assert host.logon_count == 0


def test_a_ca_that_is_trusted_renews_a_pinned_certificate_without_an_alarm(lab: HostLab) -> None:
    host = lab.host(http=False)
    policy = policy_with(HostPin("srv1.corp.example", OTHER, NOW), trusted_cas=(lab.ca.pem.decode(),))
    with HostsThread([host]):
        assert lab.run(lab.target(host), lab.local_credential(), load("identify"), policy=policy)


# Basic.


def test_basic_goes_inside_tls_alone_and_only_where_it_was_asked_for(lab: HostLab) -> None:
    trusted = HostPolicy(trusted_cas=(lab.ca.pem.decode(),))
    for asked, https in ((False, True), (True, False), (True, True)):
        host = lab.host(http=not https, https=https)
        host.logons.offers_basic, host.logons.schemes = True, ()
        policy = evolve(trusted, allow_basic=asked)
        with HostsThread([host]):
            if asked and https:
                two = (load("identify"), load("identify"))
                assert len(lab.run(lab.target(host), lab.local_credential(), *two, policy=policy)) == 2
            else:
                with pytest.raises(errors.EncryptionRefusedError):
                    lab.run(lab.target(host), lab.local_credential(), load("identify"), policy=policy)
                assert host.logon_count == 0
        assert host.machine.violations == []


def test_a_password_refused_by_basic_has_ended(lab: HostLab) -> None:
    host = lab.host(http=False)
    host.logons.offers_basic, host.logons.schemes = True, ()
    policy = HostPolicy(trusted_cas=(lab.ca.pem.decode(),), allow_basic=True)
    wrong = lab.local_credential("wrong")
    with HostsThread([host]):
        with pytest.raises(errors.LogonRejectedError):
            lab.run(lab.target(host), wrong, load("identify"), policy=policy)
        assert lab.local.bad_password_count == 1
        with pytest.raises(errors.LogonNotAllowedError):
            lab.run(lab.target(host), wrong, load("identify"), policy=policy)
    assert lab.local.bad_password_count == 1


@pytest.mark.parametrize(
    ("credential_type", "offered", "applies"),
    [
        ("local_admin", ("Basic",), True),
        ("local_admin", ("Negotiate", "Basic"), False),
        ("local_admin", (), False),
        ("service_account", ("Basic",), False),
    ],
)
def test_basic_is_for_a_hosts_own_accounts_where_nothing_better_is_offered(credential_type, offered, applies):
    credential = Credential("c", 1, credential_type, ".\\a", lambda: Secret(LAB_PASSWORD), domain_name="corp.example")
    assert basic_applies(credential, HostPolicy(allow_basic=True), tls=True, offered=offered) is applies
    assert basic_applies(credential, HostPolicy(allow_basic=True), tls=False, offered=offered) is False
    assert basic_applies(credential, HostPolicy(), tls=True, offered=offered) is False


# The command.


def msp(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runners.cli", "pins", *arguments, "--state", str(tmp_path / "state")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def test_pins_are_added_by_digest_listed_and_reset_by_hand(lab: HostLab, tmp_path: Path) -> None:
    host = lab.host(http=False)
    assert host.certificate is not None
    digest = host.certificate.sha256
    with HostsThread([host]):
        unasked = msp(tmp_path, "add", host.address)
        assert unasked.returncode == 2
        assert digest in unasked.stderr
        assert msp(tmp_path, "add", host.address, "--sha256", OTHER).returncode == 1
        added = msp(tmp_path, "add", host.address, "--sha256", digest.upper())
        assert (added.returncode, added.stderr) == (0, "")
    listed = json.loads(msp(tmp_path, "list", "--json").stdout)
    assert [(pin["host"], pin["sha256"]) for pin in listed["items"]] == [(host.address, digest)]
    assert msp(tmp_path, "reset", host.address).returncode == 0
    assert msp(tmp_path, "reset", host.address).returncode == 2
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert host.logon_count == 0
