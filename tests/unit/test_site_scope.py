"""What a site's scope means for a domain: containers and groups by domain, networks, rules."""

from __future__ import annotations

from datetime import timedelta

import pytest

from msp_sdk.enumeration import AdSubnet, Locality, narrow, place, rules_of_site, scope_of_domain
from msp_sdk.errors import ConfigError
from msp_sdk.models.computer import Computer, EnumerationScope
from msp_sdk.models.scope import SiteScope

NORTH, SOUTH = "north.test", "south.test"
NORTH_OU, SOUTH_OU = "OU=Oslo,DC=north,DC=test", "OU=Rome,DC=south,DC=test"
SUBNETS = (AdSubnet("10.1.0.0/16", "Oslo"), AdSubnet("10.1.2.0/24", "Bergen"), AdSubnet("fd00:1::/32", "Oslo"))


def computer(name: str, *addresses: str, **more: object) -> Computer:
    return Computer(
        name, f"{name}$", name, "server", True, False, False, domain_name=NORTH, ip_addresses=addresses, **more
    )


def test_a_distinguished_name_is_of_its_own_domain_and_a_path_of_each():
    scope = SiteScope(ous=(NORTH_OU, "Shared"), excluded_ous=(SOUTH_OU,))
    assert scope_of_domain(scope, NORTH) == EnumerationScope(ous=("Oslo", "Shared"))
    assert scope_of_domain(scope, SOUTH) == EnumerationScope(ous=("Shared",), excluded_ous=("Rome",))
    assert scope_of_domain(SiteScope(ous=(NORTH_OU, SOUTH_OU)), SOUTH) == EnumerationScope(ous=("Rome",))


@pytest.mark.parametrize("scope", [SiteScope(ous=(NORTH_OU,)), SiteScope(groups=(f"CN=In,{NORTH_OU}",))])
def test_a_domain_of_which_the_scope_names_nothing_is_left_out(scope):
    with pytest.raises(ConfigError) as caught:
        scope_of_domain(scope, "South.Test")
    assert caught.value.code == "domain-out-of-scope"


@pytest.mark.parametrize(
    ("locality", "addresses", "covered"),
    [
        (Locality(), ("10.9.0.1",), True),
        (Locality(subnets=("10.1.0.0/16",)), ("10.1.2.3",), True),
        (Locality(subnets=("10.1.0.0/16",)), ("10.9.0.1", "fd00::1"), False),
        (Locality(subnets=("10.1.0.0/16",)), ("10.9.0.1", "10.1.0.1"), True),
        (Locality(subnets=("10.1.0.0/16", "fd00::/8")), ("fd00::1",), True),
        # An address that nobody knows is not judged.
        (Locality(subnets=("10.1.0.0/16",)), (), True),
        (Locality(ad_sites=("OSLO",), ad_subnets=SUBNETS), ("10.1.0.1",), True),
        # The longest network decides.
        (Locality(ad_sites=("oslo",), ad_subnets=SUBNETS), ("10.1.2.1",), False),
        (Locality(ad_sites=("oslo",), ad_subnets=SUBNETS), ("fd00:1::7",), True),
        # Of an address in no network that Active Directory knows the site is not known.
        (Locality(ad_sites=("oslo",), ad_subnets=SUBNETS), ("192.168.1.1",), True),
        (Locality(subnets=("10.1.2.0/24",), ad_sites=("oslo",), ad_subnets=SUBNETS), ("10.1.2.1",), False),
        (Locality(ad_sites=("oslo",), ad_subnets=(AdSubnet("10.1.0.0/16\nCNF:1", "Rome"),)), ("10.1.0.1",), True),
    ],
)
def test_a_computer_belongs_where_one_of_its_addresses_lies(locality, addresses, covered):
    assert locality.covers(addresses) is covered


def test_a_computer_elsewhere_is_out_of_scope_and_one_with_a_reason_keeps_it():
    here = Locality(subnets=("10.1.0.0/16",), ad_subnets=SUBNETS)
    placed = place(
        [computer("A", "10.1.2.1"), computer("B", "10.9.0.1"), computer("C", "10.9.0.1", skipped_reason="stale")], here
    )
    assert [(entry.ad_site, entry.skipped_reason) for entry in placed] == [
        ("Bergen", None),
        (None, "out-of-scope"),
        (None, "stale"),
    ]


def test_what_a_narrower_scope_surely_leaves_out_is_out_of_scope():
    known = [computer("SRV1", ou_path="Oslo"), computer("SRV2", ou_path="Rome"), computer("SRV3", skipped_reason="new")]

    def left_out(scope: SiteScope) -> list[str]:
        return [entry.hostname for entry in narrow(known, scope, NORTH) if entry.skipped_reason == "out-of-scope"]

    assert left_out(SiteScope()) == []
    assert left_out(SiteScope(ous=("Oslo",))) == ["SRV2"]
    assert left_out(SiteScope(excluded_names=("*2",))) == ["SRV2"]
    assert left_out(SiteScope(groups=("In",))) == [], "who belongs to a group only the directory says"
    assert left_out(SiteScope(ous=(SOUTH_OU,))) == ["SRV1", "SRV2"]
    assert left_out(SiteScope(ous=("/",))) == [], "what cannot be meant leaves nobody out"


def test_a_site_sets_when_a_computer_is_stale_and_what_its_vendor_manages():
    rules = rules_of_site(
        SiteScope(stale_after_days=30, vendor_names=("LABEL*", "X(1)"), vendor_ous=("Praxis/Geräte", SOUTH_OU)), NORTH
    )
    assert rules.stale_after == timedelta(days=30)
    assert rules.vendor.names("label-2", None)
    assert rules.vendor.names("x(1)", None)
    assert rules.vendor.names("PACS01", None), "what is known anyway stays known"
    assert not rules.vendor.names("PC-LABEL", None)
    assert rules.vendor.holds("Praxis/GERÄTE/Keller")
    assert not rules.vendor.holds("Praxis/Gerätekammer")
    assert not rules.vendor.holds("Rome"), "a distinguished name is of its own domain"
    assert rules_of_site(SiteScope(), NORTH) == rules_of_site(SiteScope(names=("A",)), SOUTH)
