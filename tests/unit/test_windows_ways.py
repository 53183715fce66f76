"""Which door and which mechanism: rules on values, and what is remembered."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from msp_sdk.errors import LogonNotAllowedError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain, DomainController
from msp_sdk.models.target import Target
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.kdcs import kdcs_of
from msp_sdk.secret import Secret
from msp_sdk.windows.doors import (
    HTTP_PORT,
    HTTPS_PORT,
    Door,
    HostPolicy,
    Mechanism,
    check_ntlm,
    kerberos_bar,
    passes_by,
    service_host,
)
from msp_sdk.windows.ways import Way, WayMemory

HTTPS, HTTP = Door(HTTPS_PORT, tls=True), Door(HTTP_PORT, tls=False)


def credential(kind: str = "service_account", username: str = "svc@corp.example") -> Credential:
    domain = "corp.example" if kind in ("service_account", "domain_admin") else None
    return Credential("c1", 1, kind, username, lambda: Secret("x"), domain_name=domain)  # type: ignore[arg-type]


def target(**more: object) -> Target:
    given = {"hostname": "SRV1", "role": "server", "fqdn": "srv1.corp.example", **more}
    return Target(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "srv1.corp.example"),
        ({"fqdn": "SRV1.Corp.Example."}, "srv1.corp.example"),
        # What a person typed counts where it is a full name.
        ({"fqdn": None, "hostname": "srv1.corp.example"}, "srv1.corp.example"),
        ({"fqdn": None}, None),
        ({"fqdn": None, "hostname": "10.0.0.5"}, None),
        ({"fqdn": "10.0.0.5", "hostname": "10.0.0.5"}, None),
        ({"fqdn": "fd00::5", "hostname": "[fd00::5]"}, None),
        # A short name is anybody's, unless the directory itself has it.
        ({"fqdn": "srv1"}, None),
        ({"fqdn": "srv1", "object_guid": "5f0c"}, "srv1"),
        ({"fqdn": None, "object_guid": "5f0c"}, None),
    ],
)
def test_a_kdc_is_asked_for_a_host_by_its_full_name_and_never_by_an_address(given, name):
    # Lesson 57.
    assert service_host(target(**given)) == name


@pytest.mark.parametrize(
    ("given", "kind", "known", "bar"),
    [
        ({}, "service_account", True, None),
        ({}, "domain_admin", True, None),
        ({}, "service_account", False, "kdc-unknown"),
        ({"fqdn": None}, "service_account", True, "no-service-principal"),
        ({}, "local_admin", True, "local-account"),
        ({}, "winrm", True, "local-account"),
    ],
)
def test_kerberos_comes_first_wherever_nothing_bars_it(given, kind, known, bar):
    assert kerberos_bar(target(**given), credential(kind), is_kdc_known=known) == bar


@pytest.mark.parametrize(
    ("given", "mechanism", "door", "passed"),
    [
        ({}, "kerberos", HTTPS, True),
        ({}, "ntlm", HTTPS, False),
        ({}, "kerberos", HTTP, False),
        # Where nothing without TLS may be used, there is nothing to pass it by for.
        ({"use_ssl": True}, "kerberos", HTTPS, False),
        ({"port": 5986}, "kerberos", HTTPS, False),
    ],
)
def test_an_unverified_certificate_is_passed_by_for_sealed_kerberos_alone(
    given: dict[str, object], mechanism: Mechanism, door: Door, passed: object
) -> None:
    # Lesson 36.
    assert passes_by(target(**given), mechanism, door) is passed


@pytest.mark.parametrize(
    ("kind", "tls", "allowed_by_site", "goes"),
    [
        ("service_account", True, False, True),
        ("service_account", False, False, False),
        ("service_account", False, True, True),
        ("local_admin", False, False, True),
    ],
)
def test_ntlm_of_a_domain_goes_only_over_tls_or_where_the_site_allows_it(kind, tls, allowed_by_site, goes):
    def check():
        policy = HostPolicy(allow_ntlm=allowed_by_site)
        check_ntlm(target(), credential(kind), policy, tls=tls, why="kdc-unreachable")

    if goes:
        check()
        return
    with pytest.raises(LogonNotAllowedError) as caught:
        check()
    assert caught.value.code == "ntlm-not-allowed"
    # It says what to do for Kerberos, too.
    assert caught.value.context["kerberos"] == "kdc-unreachable"
    assert "88" in caught.value.remedy


def test_a_way_is_remembered_for_its_time_by_host_and_credential():
    now = [0.0]
    memory = WayMemory(600.0, clock=lambda: now[0])
    way = Way("10.0.0.5", HTTP, "kerberos", "host")
    memory.keep(target(), credential(), way)
    assert memory.get(target(fqdn="SRV1.corp.example"), credential()) == way
    assert memory.get(target(), credential("local_admin")) == way
    assert memory.get(target(fqdn="srv2.corp.example"), credential()) is None
    now[0] = 599.0
    assert memory.get(target(), credential()) == way
    now[0] = 600.0
    assert memory.get(target(), credential()) is None
    memory.keep(target(), credential(), way)
    memory.forget(target(), credential())
    assert memory.get(target(), credential()) is None


def test_nothing_is_remembered_where_nobody_wants_it():
    memory = WayMemory(0.0)
    memory.keep(target(), credential(), Way("10.0.0.5", HTTP, "ntlm"))
    assert memory.get(target(), credential()) is None


def test_memory_does_not_grow_with_hosts_that_were_met_once():
    now = [0.0]
    memory = WayMemory(60_000.0, clock=lambda: now[0])
    for number in range(10_002):
        now[0] += 1.0
        memory.keep(target(fqdn=f"srv{number}.corp.example"), credential(), Way("10.0.0.5", HTTP, "ntlm"))
    assert len(memory._known) == 10_000
    memory.keep(target(fqdn="srv2.corp.example"), credential(), Way("10.0.0.6", HTTP, "ntlm"))
    memory.keep(target(fqdn="new.corp.example"), credential(), Way("10.0.0.5", HTTP, "ntlm"))
    assert len(memory._known) == 10_000
    # The oldest gives way: not the one that was met again.
    assert memory.get(target(fqdn="srv2.corp.example"), credential()) is not None
    assert memory.get(target(fqdn="srv3.corp.example"), credential()) is None


def controller(fqdn: str, *addresses: str) -> DomainController:
    return DomainController(fqdn, addresses=addresses)


def test_the_kdcs_of_a_credential_are_its_own_domains_controllers_that_have_addresses():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ours = Domain(
        "corp.example", (controller("dc1", "10.0.0.1", "fd00::1"), controller("dc2")), at, netbios_name="CORP"
    )
    other = Domain("lab.example", (controller("dc9", "10.9.0.1"),), at)
    found = kdcs_of((other, ours), credential())
    assert [(kdc.address, kdc.realm, kdc.port, kdc.netbios_name, kdc.name) for kdc in found] == [
        ("10.0.0.1", "CORP.EXAMPLE", 88, "CORP", "dc1"),
        ("fd00::1", "CORP.EXAMPLE", 88, "CORP", "dc1"),
    ]
    # A controller of another domain would refuse the account, and that would end it.
    assert kdcs_of((other,), credential()) == ()
    left = kdcs_of((ours,), credential(), ExcludedNetworks.parse(["10.0.0.0/24"]))
    assert [kdc.address for kdc in left] == ["fd00::1"]
    assert kdcs_of((ours,), credential("local_admin", r".\admin")) == ()
    many = Domain("corp.example", tuple(controller(f"dc{n}", f"10.0.0.{n}") for n in range(1, 100)), at)
    assert len(kdcs_of((many,), credential())) == 8
